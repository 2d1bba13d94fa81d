"""Write a corpus whole or not at all."""

from __future__ import annotations

from pathlib import Path

from hf_finetune.errors import CannotWriteError
from hf_finetune.files import explain_unwritable, make_parents, write_atomically


def write_corpus_file(path: Path, content: bytes) -> None:
    """Write a file of rows, for its owner alone, and its folder. Raises `CannotWriteError`; an old file stays then."""
    try:
        with make_parents(path):
            write_atomically(path, content, private=True)
    except OSError as problem:
        raise CannotWriteError(explain_unwritable(path, problem, "name a file in a folder of yours")) from problem
