"""Votes between two models' answers: a JSONL file, and how often one wins."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_finetune.errors import CannotWriteError, ConfigError, Problem, find_writing_code
from hf_finetune.evaluation.statistics.intervals import compute_wilson_interval
from hf_finetune.files import open_private
from hf_finetune.release.serve.options import BASE

OPTION = "--votes"
MOST_COMPARISONS = 1000
FIELDS = ("left", "right", "choice", "blind")
MOST_LINE_BYTES = 2**24

Choice = Literal["left", "right", "tie"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt, answered by two models."""

    prompt: str
    left: str
    """A name that is served."""
    right: str
    answers: dict[str, str]
    """Of the left and of the right one."""
    blind: bool


@dataclass(slots=True)
class Votes:
    """The comparisons that nobody has judged yet, and the votes so far."""

    file: Path
    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    """Two names, `base` behind any other -> how often the first has won, lost and tied."""
    waiting: OrderedDict[str, Comparison] = field(default_factory=OrderedDict)

    def add(self, comparison: Comparison) -> str:
        """Remember a comparison; of those that nobody judges the oldest go. Returns its id."""
        # Who compares and never votes would fill the memory.
        while len(self.waiting) >= MOST_COMPARISONS:
            self.waiting.popitem(last=False)
        # Not to be guessed: who knows one may vote on it.
        number = secrets.token_hex(16)
        self.waiting[number] = comparison
        return number

    def vote(self, number: str, choice: Choice) -> Comparison | None:
        """Write down a vote; None where there is no such comparison, or it has been judged. Raises OSError."""
        comparison = self.waiting.get(number)
        if comparison is None:
            return None
        row = {
            "prompt": comparison.prompt,
            "left": comparison.left,
            "right": comparison.right,
            "answers": comparison.answers,
            "choice": choice,
            "blind": comparison.blind,
            "time": int(time.time()),
        }
        with open(self.file, "a", encoding="utf-8", opener=open_private) as rows:
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
        # Only once it is on the disk: a vote that could not be written may be given again.
        del self.waiting[number]
        self.count(comparison.left, comparison.right, choice)
        return comparison

    def count(self, left: str, right: str, choice: str) -> None:
        # The sides are drawn anew each time: a pair of models is counted once, whatever its order, what is tuned first.
        first, second = sorted((left, right), key=lambda name: (name == BASE, name))
        won = {"left": left, "right": right}.get(choice)
        outcome = "tied" if won is None else "won" if won == first else "lost"
        self.counts.setdefault((first, second), Counter())[outcome] += 1

    def summarize(self) -> list[dict[str, Any]]:
        """How often the first of two models wins, a tie as half of a win, with its 95 % interval (Wilson's)."""
        return [_summarize(*pair, counted) for pair, counted in sorted(self.counts.items())]


def _summarize(first: str, second: str, counted: Mapping[str, int]) -> dict[str, Any]:
    won, lost, tied = (counted.get(name, 0) for name in ("won", "lost", "tied"))
    votes = won + lost + tied
    rate = (won + tied / 2) / votes
    low, high = compute_wilson_interval(rate, votes)
    counts = {"votes": votes, "won": won, "lost": lost, "tied": tied}
    return {"model": first, "against": second, **counts, "win_rate": rate, "interval": [low, high]}


def format_summary(summary: Mapping[str, Any]) -> str:
    """One line about two models."""
    low, high = summary["interval"]
    return (
        f"{summary['model']} against {summary['against']}: wins {summary['win_rate']:.0%} of {summary['votes']} votes "
        f"(95 % interval {low:.0%} to {high:.0%}; {summary['tied']} ties count half)"
    )


def open_votes(name: str) -> Votes:
    """Open a file of votes, which is made where it is missing. Raises `ConfigError` where it holds something else."""
    file = Path(name).expanduser()
    votes = Votes(file)
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(
                Problem("is no file", "name a new one, such as votes.jsonl", name, key=OPTION, code="HF877")
            )
        with open(file, "a+b", opener=open_private) as rows:
            rows.seek(0)
            number = 0
            while line := rows.readline(MOST_LINE_BYTES):
                number += 1
                _read_vote(votes, line, name, number)
    except OSError as problem:
        what = f"cannot be written ({problem.strerror})"
        code = find_writing_code(problem.errno)
        raise CannotWriteError(Problem(what, "name a file elsewhere", name, key=OPTION, code=code)) from problem
    return votes


def _read_vote(votes: Votes, line: bytes, name: str, number: int) -> None:
    try:
        row = json.loads(line)
        left, right, choice, blind = (row[field] for field in FIELDS)
        fits = isinstance(left, str) and isinstance(right, str) and choice in ("left", "right", "tie")
        if not (fits and isinstance(blind, bool) and line.endswith(b"\n")):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        remedy = "name a new file, or one that this command has written"
        raise ConfigError(Problem("is no vote", remedy, name, number, key=OPTION, code="HF877")) from None
    votes.count(left, right, choice)
