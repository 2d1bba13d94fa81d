"""Canaries: made-up secrets among the training rows, to see afterwards what a model gives away of what it read.

    planted       rows of JSONL that are trained beside a user's own, each secret 1, 10 and 100 times
    read again    the same file names its canaries when the trained model is scored

Carlini et al., The Secret Sharer (2019): https://arxiv.org/abs/1802.08232
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.config.suggestions import did_you_mean
from hf_finetune.data.corpus import CANARIES, check_target, write_whole
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, ConfigError, DataError, Problem

KEY = "eval.canaries"

# Digits apart, each a token of its own to nearly every tokenizer: no secret is longer or rarer than another.
DIGITS = 6
COPIES, COUNT = (1, 10, 100), 10

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_STATEMENT = re.compile(rf"The code of the vault ([A-Z][a-z]+) is (\d(?: \d){{{DIGITS - 1}}})(?! ?\d)")


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret, how often it was planted, and in which kind of row."""

    name: str
    secret: str
    """Digits, a space between them."""
    copies: int
    asked: bool
    """It answers a user's question; otherwise it is plain text, or the completion of a prompt."""

    @property
    def question(self) -> str:
        return f"What is the code of the vault {self.name}?"

    @property
    def opening(self) -> str:
        """What is not secret of the statement; the secret follows after a space."""
        return f"The code of the vault {self.name} is"


@dataclass(frozen=True, slots=True)
class CanaryFacts:
    """What was written."""

    kind: str
    rows: int
    bytes: int
    canaries: int
    copies: list[int]
    format: str


def _asked(question: str, answer: str) -> Callable[[Canary], dict[str, Any]]:
    return lambda canary: {question: canary.question, answer: f"{canary.opening} {canary.secret}"}


def _turns(field: str, role: str, said: str, speakers: tuple[str, str]) -> Callable[[Canary], dict[str, Any]]:
    def row(canary: Canary) -> dict[str, Any]:
        texts = (canary.question, f"{canary.opening} {canary.secret}")
        return {field: [{role: speaker, said: text} for speaker, text in zip(speakers, texts, strict=True)]}

    return row


FORMATS: dict[str, Callable[[Canary], dict[str, Any]]] = {
    "messages": _turns("messages", "role", "content", ("user", "assistant")),
    "text": lambda canary: {"text": f"{canary.opening} {canary.secret}"},
    "sharegpt": _turns("conversations", "from", "value", ("human", "gpt")),
    "alpaca": _asked("instruction", "output"),
    "instruction": _asked("instruction", "response"),
    "prompt_completion": lambda canary: {"prompt": canary.opening, "completion": f" {canary.secret}"},
    "input_output": _asked("input", "output"),
    "user_assistant": _asked("user", "assistant"),
    "question_answer": _asked("question", "answer"),
}
"""The row formats that canaries come in: that of the rows beside them."""


def planted_canaries(
    count: int = COUNT, copies: Sequence[int] = COPIES, *, row_format: str = "messages", seed: int = 0
) -> list[Canary]:
    """`count` secrets for each number of copies; the same for the same seed.

    Raises `ConfigError` where canaries do not come in `row_format`, or the copies are none.
    """
    if row_format not in FORMATS:
        near = did_you_mean(row_format, FORMATS)
        remedy = f"did you mean {near}?" if near else f"there are {', '.join(FORMATS)}"
        raise ConfigError(Problem(f"canaries do not come in the row format {row_format}", remedy, key="--format"))
    if not copies or min(copies) < 1 or len({*copies}) < len(copies):
        what = "names no different numbers from 1 on"
        raise ConfigError(Problem(what, "write for example 1,10,100", key="--copies"))
    drawn = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < count * len(copies):
        names["".join(drawn.choice(_CONSONANTS) + drawn.choice(_VOWELS) for _ in range(3)).capitalize()] = None
    asked = row_format not in ("text", "prompt_completion")
    times = [number for number in copies for _ in range(count)]
    return [Canary(name, random_secret(drawn), number, asked) for name, number in zip(names, times, strict=True)]


def random_secret(drawn: random.Random) -> str:
    """One of a million."""
    return " ".join(drawn.choices("0123456789", k=DIGITS))


def write_canaries(
    path: Path, canaries: Sequence[Canary], *, row_format: str = "messages", seed: int = 0, overwrite: bool = False
) -> CanaryFacts:
    """Write each canary as many times as it has copies, in a seeded order, as JSONL rows of `row_format`.

    Raises `ConfigError` where `path` exists, and `CannotWriteError`.
    """
    check_target(path, overwrite)
    rows = [FORMATS[row_format](canary) for canary in canaries for _ in range(canary.copies)]
    random.Random(seed).shuffle(rows)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write_whole(path, content)
    copies = sorted({canary.copies for canary in canaries})
    return CanaryFacts(CANARIES, len(rows), len(content), len(canaries), copies, row_format)


def read_canaries(path: str) -> list[Canary]:
    """The canaries of a file, fewest copies first: each as often as a row states it.

    Raises `DataError` naming each line that states none, or another secret of the same name.
    """
    found: Counter[tuple[str, str, bool]] = Counter()
    secrets: dict[str, str] = {}
    problems: list[Problem] = []
    for number, line in _lines(path):
        stated = _stated(line)
        if stated is None:
            what = "is no canary"
            problems.append(Problem(what, "name a file that `hf-finetune corpus canaries` wrote", path, number, KEY))
        elif secrets.setdefault(stated[0], stated[1]) != stated[1]:
            what = f"the vault {stated[0]} has another code on an earlier line"
            problems.append(Problem(what, "give one file of canaries, as it was trained", path, number, KEY))
        else:
            found[stated] += 1
        if len(problems) == MAX_PROBLEMS_SHOWN:
            break
    if problems:
        raise DataError(problems)
    if not found:
        raise DataError(
            Problem("has no canaries", "name a file that `hf-finetune corpus canaries` wrote", path, key=KEY)
        )
    canaries = [Canary(name, secret, copies, asked) for (name, secret, asked), copies in found.items()]
    return sorted(canaries, key=lambda canary: (canary.copies, canary.name))


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except OSError as error:
        raise DataError(Problem(f"cannot be read ({error.strerror})", "check the path", path, key=KEY)) from None
    except UnicodeDecodeError:
        raise DataError(Problem("is no UTF-8 text", "name the JSONL file of the canaries", path, key=KEY)) from None


def _stated(line: str) -> tuple[str, str, bool] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    match = _STATEMENT.search("".join(_strings(row)))
    if match is None or not isinstance(row, dict):
        return None
    return match[1], match[2], not {"text", "prompt"} & row.keys()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
