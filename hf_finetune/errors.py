"""The exceptions a user may see.

    FinetuneError            base: one clear message, never a traceback      exit code 2
    ├── ConfigError          problems of the run file or the command line
    ├── DataError            problems of data files
    ├── ModelError           a model or tokenizer that cannot be loaded or used
    ├── NonFiniteError       a loss or gradient that is no finite number     exit code 4
    ├── HubError             the Hub refuses, or cannot be reached
    │   └── NotPushedError   trained, or ready to push, and not pushed       exit code 6
    └── EnvironmentProblem   the machine or its folders (5 where nothing can be written)

Each carries every `Problem` that was found, so that one pass names them all.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

EXIT_REFUSED = 2
EXIT_NON_FINITE = 4
EXIT_CANNOT_WRITE = 5
EXIT_NOT_PUSHED = 6
EXIT_INTERRUPTED = 130

MAX_PROBLEMS_SHOWN = 100

# Where several processes refuse the same thing, the launcher ends the others once the first has said so.
SECONDS_BEHIND_THE_FIRST = 5.0


# What grants access to something, by the shape that whoever issues it gives it. Case matters in all of them.
SECRETS = {
    "a Hugging Face token": r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Stripe key": r"\b[rs]k_live_[0-9A-Za-z]{16,}",
    # With a digit and a capital, so that a name-of-many-words-after-sk is none.
    "an API key (sk-)": r"\bsk-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}",
    "a PyPI token": r"\bpypi-AgE[0-9A-Za-z_-]{30,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a signed web token": r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
}
SECRET = re.compile("|".join(f"(?:{shape})" for shape in SECRETS.values()), re.ASCII)


def kind_of_secret(text: str) -> str | None:
    """What kind of secret stands in `text`, of those in SECRETS; None where there is none."""
    found = SECRET.search(text)
    if found is None:
        return None
    return next(kind for kind, shape in SECRETS.items() if re.search(shape, found[0], re.ASCII))


def escape_control_characters(text: str) -> str:
    """Make `text` safe to print: control and ANSI escape characters become `\\x1b`-style escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it is, what is wrong, and what to do about it."""

    what: str
    remedy: str = ""
    path: str | None = None
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.path, self.line) if part is not None)
        parts = [part for part in (place, self.key) if part]
        message = f"{self.what}; {self.remedy}" if self.remedy else self.what
        return SECRET.sub("(a secret)", escape_control_characters(": ".join([*parts, message])))


class FinetuneError(Exception):
    """Something the user can put right. `str()` is the whole message, one problem a line."""

    exit_code = EXIT_REFUSED

    def __init__(self, problems: str | Problem | Sequence[Problem], *, total: int | None = None) -> None:
        """`total` is how many problems there are where only some of them were kept."""
        if isinstance(problems, str):
            problems = [Problem(problems)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.total = len(self.problems) if total is None else total
        super().__init__(self._message())

    def _message(self) -> str:
        shown = [str(problem) for problem in self.problems[:MAX_PROBLEMS_SHOWN]]
        if self.total > len(shown):
            shown.append(f"... and {self.total - len(shown):,} more")
        if self.total > 1:
            shown.append(f"{self.total:,} problems")
        return "\n".join(shown)


class ConfigError(FinetuneError):
    """The run file or the command line asks for something that cannot be done."""


class DataError(FinetuneError):
    """A data file cannot be used as it stands."""


class ModelError(FinetuneError):
    """A model or tokenizer cannot be loaded, or does not fit the run."""


class NonFiniteError(FinetuneError):
    """A loss or gradient is infinite or no number; it has not reached the weights."""

    exit_code = EXIT_NON_FINITE


class HubError(FinetuneError):
    """The Hub, or what goes there, is not as a push needs it."""


class NotPushedError(HubError):
    """All is done and lies in its folder, but it was not pushed."""

    exit_code = EXIT_NOT_PUSHED


class EnvironmentProblem(FinetuneError):
    """The machine cannot do what was asked."""


class CannotWriteError(EnvironmentProblem):
    """The output folder cannot be written, or has no space left."""

    exit_code = EXIT_CANNOT_WRITE


@contextmanager
def user_errors() -> Iterator[None]:
    """End the process with the message and exit code of a `FinetuneError`; anything else keeps its traceback."""
    try:
        yield
    except FinetuneError as problem:
        if os.environ.get("RANK", "0") != "0":
            time.sleep(SECONDS_BEHIND_THE_FIRST)
        sys.stderr.write(f"{problem}\n")
        raise SystemExit(problem.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
