"""The exceptions that a user may see.

    FinetuneError            base: one clear message, never a traceback      exit code 2
    ├── ConfigError          problems of the run file or the command line
    ├── RunFinished          there is nothing left to do                     exit code 0
    ├── DataError            problems of data files
    ├── ModelError           a model or tokenizer that cannot be loaded or used
    ├── FolderInUse          another process writes into the folder          exit code 3
    ├── NonFiniteError       a loss or gradient is NaN or infinite           exit code 4
    ├── HubError             the Hub refuses a request, or cannot be reached
    │   └── NotPushedError   the model is complete, and was not pushed       exit code 6
    └── MachineError         the machine or its folders
        ├── LeftAlone        another process of the run is gone, or its machine
        ├── CannotWriteError no space, or no permission to write             exit code 5
        └── OutOfMemory      the memory of the machine or its GPU is used up exit code 7

Each carries every `Problem` that was found, so that all of them are named at once.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any, NoReturn

from hf_finetune.interruption import (
    LAUNCHER,
    catch_signals,
    describe_kept,
    describe_next,
    end_stopped,
    find_signal,
    let_signals_end,
)
from hf_finetune.memory import describe_memory_error, forget_advice
from hf_finetune.option_names import name_key, name_remedy, name_settings
from hf_finetune.privacy import escape_control_characters, hide_secrets, shorten
from hf_finetune.ranks import describe_lost, is_first_rank, note_said, was_said
from hf_finetune.shell import wrap_for

EXIT_REFUSED = 2
EXIT_IN_USE = 3
EXIT_NON_FINITE = 4
EXIT_CANNOT_WRITE = 5
EXIT_NOT_PUSHED = 6
EXIT_OUT_OF_MEMORY = 7
EXIT_LEFT_ALONE = 8

MAX_PROBLEMS_SHOWN = 100
MAX_ALIKE, MAX_RANGES = 3, 10
MAX_FILES_ALIKE = 10
MOST_READ = 100_000
"""Characters of one message that are looked at for secrets; fewer are shown."""
MOST_OF_ONE = 2_000
MOST_CHARACTERS = 40_000
"""Of all messages of one error together."""
MOST_COMPARED = 1_000

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""What room helps against."""
NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.EROFS)
# How libraries in Rust end what the system says: `SafetensorError: ... No space left on device (os error 28)` of
# safetensors 0.8, a plain `Exception` of tokenizers 0.23.
NUMBER_OF_THE_SYSTEM = re.compile(r"\(os error (\d+)\)")

RUST_PANIC = "pyo3_runtime"
"""The module of `PanicException`."""

# Of several processes that fail alike only rank 0 is to print the message: the others wait so long, and are killed by
# the launcher before, once rank 0 has ended.
SECONDS_BEHIND_THE_FIRST = 5.0
SECONDS_BETWEEN = 0.5
"""Behind each other those speak that are still there then: the launcher ends the rest after one."""
# `torch.save` (2.13): a RuntimeError without the number, of a file that has not grown as it was written.
_BY_TORCH_SAVE = re.compile(r"PytorchStreamWriter failed|inline_container\.cc:\d+\] \. unexpected pos")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it is, what is wrong, and what to do about it."""

    what: str
    remedy: str = ""
    path: str | None = None
    line: int | None = None
    key: str | None = None
    code: str = ""
    """What kind of fault it is: `hf-finetune explain HF601` says more (`hf_finetune.codes`)."""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.path, self.line) if part is not None)
        parts = [part for part in (place, name_key(self.key)) if part]
        what, remedy = name_settings(self.what), name_remedy(self.remedy)
        # A library's sentence that is quoted ends with a point: "... cached files.; name a folder".
        message = f"{what if what.endswith('..') else what.removesuffix('.')}; {remedy}" if remedy else what
        # Escapes are six times as long as what they stand for.
        shown = hide_secrets(escape_control_characters(shorten(": ".join([*parts, message]), MOST_READ)))
        return add_code(shorten(shown, MOST_OF_ONE), self.code)


def add_code(message: str, code: str) -> str:
    """A message with its code behind it: `... [HF601]`."""
    return f"{message} [{code}]" if code else message


def format_problems(problems: Iterable[Problem]) -> list[str]:
    """Format problems, a line each; of more than three lines of a file with one fault, the first names the others.

    Of more than ten files with one fault the tenth says how many more there are.
    """
    # What differs in the line alone is one fault: "rows.jsonl:2: label: ... (and 497 more lines: 3-498, 500)".
    listed = list(problems)
    alike: dict[Problem, list[int]] = {}
    for problem in listed:
        if problem.line is not None:
            alike.setdefault(replace(problem, line=None), []).append(problem.line)
    shown, files = [], Counter[Problem]()
    total = Counter(replace(problem, path=None) for problem in listed if problem.line is None)
    for problem in listed:
        if problem.line is None:
            fault = replace(problem, path=None)
            files[fault] += 1
            if files[fault] <= MAX_FILES_ALIKE:
                more = total[fault] - MAX_FILES_ALIKE if files[fault] == MAX_FILES_ALIKE else 0
                shown.append(_say_with(problem, f"and the same of {more:,} more") if more > 0 else str(problem))
            continue
        lines = alike.get(replace(problem, line=None), [])
        if len(lines) <= MAX_ALIKE:
            shown.append(str(problem))
        elif problem.line == lines[0]:
            shown.append(_say_with(problem, f"and {len(lines) - 1:,} more lines: {_format_ranges(lines[1:])}"))
    return shown


def _say_with(problem: Problem, others: str) -> str:
    """A problem and how many are like it, with the code behind both: that is where a message has it."""
    return add_code(f"{replace(problem, code='')} ({others})", problem.code)


def _keep_within(lines: Sequence[str]) -> list[str]:
    """The first lines, as many as are read by anybody; the first is always one of them."""
    ends = list(accumulate(map(len, lines)))
    kept = [line for line, end in zip(lines, ends, strict=True) if end <= MOST_CHARACTERS or end == ends[0]]
    return [*kept, f"... and {len(lines) - len(kept):,} more"] if len(kept) < len(lines) else kept


def _format_ranges(numbers: Sequence[int]) -> str:
    """Format rising numbers, at most ten ranges of them: [3, 4, 5, 9] -> "3-5, 9"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:MAX_RANGES]]
    return ", ".join(shown) + (", ..." if len(ranges) > MAX_RANGES else "")


class FinetuneError(Exception):
    """Base of the errors that a user can correct. `str()` is the whole message, one problem per line."""

    exit_code = EXIT_REFUSED

    def __init__(
        self, problems: Problem | Sequence[Problem], *, total: int | None = None, summary: Problem | None = None
    ) -> None:
        """`total` is the number of problems, if more were found than are in `problems`; `summary` is said first."""
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.total = len(self.problems) if total is None else total
        super().__init__(self._format_message(summary))

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes: an exception is made anew of its message otherwise, which has no problems in it.
        return _make_again, (type(self), self.args, self.__dict__)

    def _format_message(self, summary: Problem | None) -> str:
        first = self.problems[:MAX_PROBLEMS_SHOWN]
        shown = [str(summary)] if summary else []
        shown += _keep_within(format_problems(first))
        if self.total > len(first):
            shown.append(f"... and {self.total - len(first):,} more")
        if self.total > 1:
            shown.append(f"{self.total:,} problems")
        return "\n".join(shown)


def _make_again(kind: type[FinetuneError], said: tuple[Any, ...], values: dict[str, Any]) -> FinetuneError:
    made = kind.__new__(kind)
    made.args = said
    made.__dict__.update(values)
    return made


class ConfigError(FinetuneError):
    """The run file or the command line asks for something that cannot be done."""


class RunFinished(FinetuneError):
    """A run that is to be resumed has come to its end: nothing is done, and nothing is wrong."""

    exit_code = 0


class DataError(FinetuneError):
    """A data file cannot be used as it stands."""


class ModelError(FinetuneError):
    """A model or tokenizer cannot be loaded, or does not fit the run."""


class FolderInUse(FinetuneError):
    """Another process writes into the folder of a run: nothing is done."""

    exit_code = EXIT_IN_USE


class NonFiniteError(FinetuneError):
    """A loss or gradient is NaN or infinite, and has not reached the weights; or the loss explodes."""

    exit_code = EXIT_NON_FINITE


class HubError(FinetuneError):
    """The Hub refuses a request or cannot be reached, or a repository there does not allow the push."""


class NotPushedError(HubError):
    """The model is complete in its folder, but was not pushed."""

    exit_code = EXIT_NOT_PUSHED


class MachineError(FinetuneError):
    """The machine cannot do what was asked."""


class LeftAlone(MachineError):
    """Another process of the run has ended, its machine is gone, or it stands still: this one cannot go on."""

    exit_code = EXIT_LEFT_ALONE
    here = False
    """Whether it was a process of this machine, whose launcher ends this one now."""


class CannotWriteError(MachineError):
    """The output folder cannot be written, or has no space left."""

    exit_code = EXIT_CANNOT_WRITE


class OutOfMemory(MachineError):
    """The memory of the machine, of its GPU or of this process's limit is used up."""

    exit_code = EXIT_OUT_OF_MEMORY


@contextmanager
def machine_errors() -> Iterator[None]:
    """`translate_machine_errors` around a whole run, whose advice for a lack of memory ends with it."""
    try:
        with translate_machine_errors():
            yield
    finally:
        forget_advice()


@contextmanager
def translate_machine_errors() -> Iterator[None]:
    """Raise `OutOfMemory` where an allocation has failed, `CannotWriteError` where a disk is full or does not allow it.

    And `LeftAlone` where another process of the run is gone. Whatever their libraries call that.
    """
    try:
        yield
    except FinetuneError:
        raise
    except Exception as raised:
        if (described := describe_memory_error(raised)) is not None:
            raise OutOfMemory(Problem(*described, code="HF703")) from raised
        if (lost := describe_lost(raised)) is not None:
            why = "what that one says is why; " if lost.what.endswith("and this one with it") else ""
            left = LeftAlone(Problem(lost.what, f"{why}{describe_next()}", code="HF713"))
            left.here = lost.here
            raise left from raised
        if (what := _describe_full_disk(raised)) is None:
            raise
        number = _find_number(raised)
        remedy = f"{advise_writing(number)}; {describe_kept()}"
        raise CannotWriteError(Problem(what, remedy, code=find_writing_code(number))) from raised
    except BaseException as raised:
        # No `Exception`, and nowhere to import: Oniguruma gives up on a tokenizer's pattern such as `(a+)+$`.
        if type(raised).__module__ != RUST_PANIC:
            raise
        what = f"the code of a library gave up on this model, or on a text under it ({str(raised)[:200]})"
        raise ModelError(Problem(what, "name another model, or another tokenizer", code="HF715")) from raised


def _describe_full_disk(raised: BaseException) -> str | None:
    """What could not be written, and why; None where `raised` is neither lack of space nor a lack of permission."""
    if _BY_TORCH_SAVE.search(str(raised)):
        return "a file cannot be written (PyTorch does not say why, a full disk as a rule)"
    number = _find_number(raised)
    if number not in (*NO_SPACE, *NOT_ALLOWED, errno.EFBIG):
        return None
    name = raised.filename if isinstance(raised, OSError) else None
    # Of EACCES nothing tells whether the file was to be read or written; who reads one says so in a message of its own.
    refused = "opened or written" if number in (errno.EPERM, errno.EACCES) else "written"
    return f"{name or 'a file'} cannot be {refused} ({os.strerror(number)})"


def _find_number(raised: BaseException) -> int | None:
    found = NUMBER_OF_THE_SYSTEM.search(str(raised))
    return raised.errno if isinstance(raised, OSError) else int(found[1]) if found else None


def advise_writing(number: int | None, room: str = "make room, or write to another disk") -> str:
    """What to do where the system refuses a write with this number; `room` is what helps against a full disk."""
    if number in NOT_ALLOWED:
        return "room does not help: allow writing there, or write to another folder"
    return advise_unless_limited(number, room)


def advise_unless_limited(number: int | None, otherwise: str) -> str:
    """What to do about a limit to the size of files, which no other place helps against; else `otherwise`."""
    if number == errno.EFBIG:
        return "room does not help, the system limits the size of files: raise it (ulimit -f)"
    return otherwise


def find_writing_code(number: int | None) -> str:
    """The code of a write that the system refuses with this number."""
    return "HF702" if number in NO_SPACE else "HF701"


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with the message and exit code of a `FinetuneError`, or as `interruption` says for a signal.

    Anything else keeps its traceback.
    """
    with catch_signals():
        try:
            with machine_errors():
                yield
        except BaseException as raised:
            # The launcher ends those that are left alone by a signal as well.
            if not isinstance(raised, LeftAlone) and (number := find_signal(raised)) is not None:
                end_stopped(number)
            if not isinstance(raised, FinetuneError):
                raise
            _end_refused(raised)


def _end_refused(problem: FinetuneError) -> NoReturn:
    if not is_first_rank() and problem.exit_code == 0:
        raise SystemExit(0)
    # What has ended first here is said by itself, or by the launcher where that is ours: it ends this process now.
    if not is_first_rank() or (isinstance(problem, LeftAlone) and problem.here and LAUNCHER in os.environ):
        let_signals_end()
        time.sleep(SECONDS_BEHIND_THE_FIRST + SECONDS_BETWEEN * int(os.environ.get("LOCAL_RANK", "0")))
        # The end of a process with an engine of several threads takes longer than that.
        if was_said(str(problem)):
            raise SystemExit(problem.exit_code)
    # Where the log goes may be full or closed as well; the exit code says it still.
    with suppress(OSError, ValueError):
        sys.stderr.write(wrap_for(sys.stderr, f"{problem}\n"))
        sys.stderr.flush()
        note_said(str(problem))
    raise SystemExit(problem.exit_code)


def find_closest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """Return the name in `known` that is closest to `name`, or None if none is close (difflib ratio >= `cutoff`)."""
    import difflib  # not before something was misspelled

    # difflib is quadratic in the length of the names, and `name` comes from outside: 100 characters are enough.
    # Nor of the first thousand candidates: a row may have ten thousand keys, and a likeness takes some microseconds.
    folded = {candidate.lower().replace("-", "_"): candidate for candidate in islice(known, MOST_COMPARED)}
    close = difflib.get_close_matches(name.lower().replace("-", "_")[:100], list(folded), n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def suggest(name: str, known: Iterable[str], otherwise: str = "", *, show: Callable[[str], str] = str) -> str:
    """The remedy for a name that is not among the `known`: the closest of them, or `otherwise` where none is close."""
    close = find_closest(name, known)
    return f"did you mean {show(close)}?" if close else otherwise
