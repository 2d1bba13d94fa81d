"""Canaries: random secrets planted among the training rows, which measure how much of its data a model memorizes.

    planted    JSONL rows that are trained on beside a user's own, each secret 1, 10 and 100 times
    scored     the same file names the canaries to look for in the trained model (`eval.canaries`)

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

from hf_finetune.data.corpora.files import write_corpus_file
from hf_finetune.data.corpora.standard_library import CANARIES
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, ConfigError, DataError, Problem, suggest
from hf_finetune.folders import check_new_file

KEY = "eval.canaries"

# Digits between spaces are one token each to nearly every tokenizer: no secret is longer or rarer than others.
DIGITS = 6
COPIES, COUNT = (1, 10, 100), 10

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
# The lookahead rejects a seventh digit: "1 2 3 4 5 6 7" is not the secret "1 2 3 4 5 6".
_STATEMENT = re.compile(rf"The code of the vault ([A-Z][a-z]+) is (\d(?: \d){{{DIGITS - 1}}})(?! ?\d)")


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret, how often it was planted, and in which kind of row.

    Canary("Bodiga", "1 2 3 4 5 6", 10, asked=True): ten rows ask "What is the code of the vault Bodiga?" and answer
    "The code of the vault Bodiga is 1 2 3 4 5 6".
    """

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
        """The statement up to the secret, which follows after a space."""
        return f"The code of the vault {self.name} is"


@dataclass(frozen=True, slots=True)
class CanaryStats:
    """What was written: the fields of `corpus canaries --json`."""

    kind: str
    rows: int
    bytes: int
    canaries: int
    copies: list[int]
    format: str


def _make_pair_writer(question: str, answer: str) -> Callable[[Canary], dict[str, Any]]:
    return lambda canary: {question: canary.question, answer: f"{canary.opening} {canary.secret}"}


def _make_turn_writer(field: str, role: str, text: str, roles: tuple[str, str]) -> Callable[[Canary], dict[str, Any]]:
    def make_row(canary: Canary) -> dict[str, Any]:
        texts = (canary.question, f"{canary.opening} {canary.secret}")
        return {field: [{role: name, text: content} for name, content in zip(roles, texts, strict=True)]}

    return make_row


CANARY_FORMATS: dict[str, Callable[[Canary], dict[str, Any]]] = {
    "messages": _make_turn_writer("messages", "role", "content", ("user", "assistant")),
    "text": lambda canary: {"text": f"{canary.opening} {canary.secret}"},
    "sharegpt": _make_turn_writer("conversations", "from", "value", ("human", "gpt")),
    "alpaca": _make_pair_writer("instruction", "output"),
    "instruction": _make_pair_writer("instruction", "response"),
    "prompt_completion": lambda canary: {"prompt": canary.opening, "completion": f" {canary.secret}"},
    "input_output": _make_pair_writer("input", "output"),
    "user_assistant": _make_pair_writer("user", "assistant"),
    "question_answer": _make_pair_writer("question", "answer"),
}
"""A canary -> a row, for each row format that canaries can be written in: that of the rows beside them."""


def make_canaries(
    count: int = COUNT, copies: Sequence[int] = COPIES, *, row_format: str = "messages", seed: int = 0
) -> list[Canary]:
    """Make `count` canaries for each number of `copies`; the same for the same seed.

    Raises `ConfigError` if there are no canaries in `row_format`, or if `copies` are not different numbers from 1 on.
    """
    if row_format not in CANARY_FORMATS:
        remedy = suggest(row_format, CANARY_FORMATS, f"there are {', '.join(CANARY_FORMATS)}")
        raise ConfigError(
            Problem(f"canaries do not come in the row format {row_format}", remedy, key="--format", code="HF604")
        )
    if not copies or min(copies) < 1 or len({*copies}) < len(copies):
        what = "names no different numbers from 1 on"
        raise ConfigError(Problem(what, "write for example 1,10,100", key="--copies", code="HF603"))
    generator = random.Random(seed)
    # Three syllables such as Bodiga: no word of any training data. A dict is a set that keeps the order.
    names: dict[str, None] = {}
    while len(names) < count * len(copies):
        names["".join(generator.choice(_CONSONANTS) + generator.choice(_VOWELS) for _ in range(3)).capitalize()] = None
    # The prompt of a completion is the statement up to the secret, which asks nothing.
    asked = row_format not in ("text", "prompt_completion")
    times = [number for number in copies for _ in range(count)]
    return [Canary(name, draw_secret(generator), number, asked) for name, number in zip(names, times, strict=True)]


def draw_secret(generator: random.Random) -> str:
    """Draw one of a million secrets."""
    return " ".join(generator.choices("0123456789", k=DIGITS))


def write_canaries(
    path: Path, canaries: Sequence[Canary], *, row_format: str = "messages", seed: int = 0, overwrite: bool = False
) -> CanaryStats:
    """Write each canary as many times as it has copies, shuffled with `seed`, as JSONL rows of `row_format`.

    Raises `ConfigError` if `path` exists and `overwrite` is not set, and `CannotWriteError`.
    """
    check_new_file(path, overwrite=overwrite, example="corpus.jsonl")
    rows = [CANARY_FORMATS[row_format](canary) for canary in canaries for _ in range(canary.copies)]
    random.Random(seed).shuffle(rows)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write_corpus_file(path, content)
    copies = sorted({canary.copies for canary in canaries})
    return CanaryStats(CANARIES, len(rows), len(content), len(canaries), copies, row_format)


def read_canaries(path: str) -> list[Canary]:
    """Read the canaries of a file, fewest copies first; the copies of a canary are its rows.

    Raises `DataError` naming each line that holds no canary, or a second secret of the same name.
    """
    found: Counter[tuple[str, str, bool]] = Counter()
    secrets: dict[str, str] = {}
    problems: list[Problem] = []
    for number, line in _read_lines(path):
        stated = _parse_statement(line)
        if stated is None:
            what = "is no canary"
            problems.append(
                Problem(what, "name a file that `hf-finetune corpus canaries` wrote", path, number, KEY, code="HF081")
            )
        elif secrets.setdefault(stated[0], stated[1]) != stated[1]:
            what = f"the vault {stated[0]} has another code on an earlier line"
            problems.append(
                Problem(what, "give one file of canaries, as it was trained", path, number, KEY, code="HF081")
            )
        else:
            found[stated] += 1
        if len(problems) == MAX_PROBLEMS_SHOWN:
            break
    if problems:
        raise DataError(problems)
    if not found:
        raise DataError(
            Problem(
                "has no canaries", "name a file that `hf-finetune corpus canaries` wrote", path, key=KEY, code="HF081"
            )
        )
    canaries = [Canary(name, secret, copies, asked) for (name, secret, asked), copies in found.items()]
    return sorted(canaries, key=lambda canary: (canary.copies, canary.name))


def _read_lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except OSError as error:
        raise DataError(
            Problem(f"cannot be read ({error.strerror})", "check the path", path, key=KEY, code="HF002")
        ) from None
    except UnicodeDecodeError:
        raise DataError(
            Problem("is no UTF-8 text", "name the JSONL file of the canaries", path, key=KEY, code="HF003")
        ) from None


def _parse_statement(line: str) -> tuple[str, str, bool] | None:
    """Return (name, secret, asked) of a row in any of the formats, or None if it holds no canary."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    match = _STATEMENT.search("".join(_iterate_strings(row)))
    if match is None or not isinstance(row, dict):
        return None
    return match[1], match[2], not {"text", "prompt"} & row.keys()


def _iterate_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _iterate_strings(each)
