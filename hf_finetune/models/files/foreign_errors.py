"""What libraries raise on files of others, which may be anything: said in one line, as an error of the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hf_finetune.errors import FinetuneError
from hf_finetune.memory import describe_memory_error

LONGEST_REASON = 200


class ForeignError(ValueError):
    """A library could not use the files; `str()` is the reason, in one line."""


def shorten_reason(said: str) -> str:
    """What a library says, in one line, which ends with a word and `...` where it is long."""
    reason = " ".join(said.split())
    if len(reason) <= LONGEST_REASON:
        return reason or "no reason given"
    return reason[:LONGEST_REASON].rpartition(" ")[0] + " ..."


@contextmanager
def foreign_errors() -> Iterator[None]:
    """Raise `ForeignError` for whatever a library raises on files that others wrote.

    Our own errors pass, as do a lack of memory, Ctrl-C and what the system says of a file (OSError).
    """
    try:
        yield
    except (FinetuneError, OSError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # A KeyError for a missing value, a TypeError for one of another type, a panic of Rust, which is no `Exception`.
    except BaseException as problem:
        if describe_memory_error(problem) is not None:
            raise
        reason = shorten_reason(str(problem))
        named = reason if isinstance(problem, ValueError) else f"{type(problem).__name__}: {reason}"
        raise ForeignError(named) from problem
