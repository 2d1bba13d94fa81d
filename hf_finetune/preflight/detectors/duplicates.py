"""Rows that are there twice: in one split, or in one that is trained and one that is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.data.splitting.assignment import Rows
from hf_finetune.data.splitting.leakage import SHARED_WORDS
from hf_finetune.data.splitting.overlap import Overlap
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.splitting.train_prints import compare_splits, read_user_key
from hf_finetune.metric_info import choose_verb, say_count
from hf_finetune.preflight.detectors.near_rows import NearRows, find_near_rows
from hf_finetune.preflight.detectors.texts import list_pairs, list_places, number_rows
from hf_finetune.preflight.findings import Finding

_TRAIN = "train"
Flags = npt.NDArray[np.bool_]


def detect_duplicates(splits: Splits) -> tuple[list[Finding], dict[str, Any]]:
    """Look for rows that are in the training rows twice, in them and in another split, or in two that are evaluated.

    Counts: `{"train": {"repeated"}, split: {"copies", "near", "shares_13_words"}, "test in validation": ...}`. Of rows
    that share words the copies are not counted, and near copies are, as a run does. Of a stream's training rows none
    are at hand.
    """
    findings: list[Finding] = []
    counts: dict[str, Any] = {}
    if _TRAIN in splits.rows:
        repeated = _find_repeated(splits)
        counts[_TRAIN] = {"repeated": len(repeated[0])}
        findings += _report_repeated(splits, *repeated)
        others = [name for name in splits.rows if name != _TRAIN]
        for name, overlap in _compare(splits, _TRAIN, others).items():
            found = _Compared(splits, _TRAIN, name, overlap)
            counts[name] = found.count()
            findings += found.report_train()
    if {"validation", "test"} <= splits.rows.keys():
        overlap = _compare(splits, "validation", ["test"])["test"]
        found = _Compared(splits, "validation", "test", overlap)
        counts["test in validation"] = found.count()
        findings += found.report_evaluated()
    return findings, counts


def _find_repeated(splits: Splits) -> tuple[Rows, Rows]:
    """Find the training rows that are there already, and the first of each: (repeated,) both."""
    _, own = number_rows(splits.rows[_TRAIN])
    hashes = splits.hashes[_TRAIN][own]
    # The hashes [7 3 7 7] in their order are [3 7 7 7]: the rows 2 and 3 repeat row 0. A stable sort keeps the first
    # row of equal ones in front.
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    copies = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    firsts = order[np.searchsorted(ordered, ordered[copies])]
    # In the order of the rows, of which the first are shown: whoever corrects a file goes through it from the top.
    by_row = np.argsort(order[copies])
    return own[order[copies][by_row]], own[firsts[by_row]]


def _report_repeated(splits: Splits, copies: Rows, firsts: Rows) -> Iterator[Finding]:
    if len(copies):
        every = say_count(len(number_rows(splits.rows[_TRAIN])[0]), "training row")
        what = f"{len(copies):,} of {every} {choose_verb(len(copies), 'is', 'are')} there already"
        pairs = list_pairs((splits, _TRAIN, copies), (splits, _TRAIN, firsts))
        yield Finding("HF201", what, _TRAIN, len(copies), pairs, pairs=True)


def _compare(splits: Splits, one: str, others: list[str]) -> dict[str, Overlap]:
    tables = {name: (splits.rows[name], number_rows(splits.rows[name])[0]) for name in (one, *others)}
    return compare_splits(tables[one], {name: tables[name] for name in others}, read_user_key()) if others else {}


class _Compared:
    """The rows of one split, `name`, that those of another have too: as copies, nearly, or 13 words of them."""

    def __init__(self, splits: Splits, one: str, name: str, overlap: Overlap) -> None:
        self.splits, self.one, self.name = splits, one, name
        (self.numbers, self.own), (ones, self.own_of_one) = (number_rows(splits.rows[each]) for each in (name, one))
        self.copy_of = overlap.copy_of
        near = (splits.rows[name], self.numbers), (splits.rows[one], ones)
        self.near: NearRows = find_near_rows(*near, self.copy_of >= 0)
        # As a run counts them, which looks for no near copies.
        self.shares: Flags = overlap.shares_ngram & (self.copy_of < 0)

    def count(self) -> dict[str, int]:
        """Count what is reported."""
        found = {"copies": self.copy_of >= 0, "near": self.near.near >= 0, "shares_13_words": self.shares}
        return {kind: int(rows.sum()) for kind, rows in found.items()}

    def report_train(self) -> Iterator[Finding]:
        """Report rows that are evaluated and trained."""
        yield from self._report_pairs("HF202", self.copy_of, "a copy of a training row", "copies of training rows")
        yield from self._report_pairs("HF203", self.near.near, *2 * ("nearly the same as a training row",))
        rows = np.flatnonzero(self.shares)
        if len(rows):
            what = f"{self._say(len(rows))} {choose_verb(len(rows), 'shares', 'share')} {SHARED_WORDS}"
            yield Finding("HF204", what, self.name, len(rows), list_places(self.splits, self.name, self.own[rows]))

    def report_evaluated(self) -> Iterator[Finding]:
        """Report rows that are evaluated twice."""
        both = np.where(self.copy_of >= 0, self.copy_of, self.near.near)
        said = f"in {self.one}, too, or nearly the same as a row there"
        yield from self._report_pairs("HF205", both, said, said)

    def _report_pairs(self, code: str, pair_of: Rows, one_is: str, several_are: str) -> Iterator[Finding]:
        """`pair_of`: for each row that of the other split, or -1, (rows,)."""
        rows = np.flatnonzero(pair_of >= 0)
        if len(rows):
            one = (self.splits, self.name, self.own[rows])
            are = choose_verb(len(rows), f"is {one_is}", f"are {several_are}")
            pairs = list_pairs(one, (self.splits, self.one, self.own_of_one[pair_of[rows]]))
            yield Finding(code, f"{self._say(len(rows))} {are}", self.name, len(rows), pairs, pairs=True)

    def _say(self, count: int) -> str:
        return f"{self.name}: {count:,} of {say_count(len(self.numbers), 'row')}"
