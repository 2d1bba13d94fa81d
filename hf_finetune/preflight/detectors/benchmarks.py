"""Training rows that share text with a file of rows, such as a benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import Kind
from hf_finetune.data.splitting.assignment import Hashes, Rows
from hf_finetune.data.splitting.one_split import SPLIT, load_rows
from hf_finetune.data.splitting.overlap import Fingerprints, iterate_fingerprints
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import DataError
from hf_finetune.metric_info import choose_verb, say_count
from hf_finetune.preflight.detectors.lookup import Lookup
from hf_finetune.preflight.detectors.texts import list_pairs, number_rows
from hf_finetune.preflight.findings import MAX_PLACES, Finding


def read_against(path: str, as_in: DataSection | None = None) -> Splits:
    """Read a file of rows of any format as one split, `test`, first with the names of columns that a run has.

    Raises DataError, of the kind of row it is closest to.
    """
    plain = DataSection(train=path)
    own = plain if as_in is None else plain.model_copy(update=as_in.model_dump(include={"columns", "format", "task"}))
    # Labelled rows are asked for by name: without a kind, conversations and documents alone are taken.
    tries: tuple[tuple[DataSection, Kind | None], ...] = ((own, "labelled"), (own, None), (plain, "labelled"))
    for data, becomes in tries:
        try:
            return load_rows(path, data, becomes)
        except DataError:
            continue
    return load_rows(path, plain, None)


def detect_benchmark_overlap(splits: Splits, against: Splits, name: str) -> tuple[list[Finding], dict[str, Any]]:
    """Look for training rows that are copies of a row of `against`, or share 13 words in a row with one.

    `name`: the file as the user wrote it. Counts: `{"rows", "shared", "train_rows"}`: the rows of `against`, how many
    of them are shared, and how many training rows share one. Memory grows with `against` alone.
    """
    rows = against.rows[SPLIT]
    shared = _Shared(*_index(against))
    if "train" in splits.rows:
        numbers, own = number_rows(splits.rows["train"])
        for start, prints in iterate_fingerprints(splits.rows["train"], numbers):
            shared.compare(start, prints)
    counts = {"rows": len(rows), "shared": int(shared.seen.sum()), "train_rows": shared.train_rows}
    if not shared.train_rows:
        return [], counts
    trained, benched = (np.array(each, np.int64) for each in zip(*shared.pairs, strict=True))
    pairs = list_pairs((splits, "train", own[trained]), (against, SPLIT, number_rows(rows)[1][benched]))
    are = choose_verb(counts["shared"], "is", "are")
    what = (
        f"{counts['shared']:,} of {say_count(counts['rows'], 'row')} of {name} {are} in the training rows, or"
        f" {choose_verb(counts['shared'], 'shares', 'share')} 13 words in a row with one:"
        f" {say_count(shared.train_rows, 'training row')}"
    )
    return [Finding("HF206", what, "train", shared.train_rows, pairs, pairs=True)], counts


def _index(against: Splits) -> tuple[Hashes, Rows, int]:
    """The hashes of all rows and of their 13-grams, sorted, with the row of each: (hashes,) both; and how many rows."""
    table = against.rows[SPLIT]
    numbers, _ = number_rows(table)
    hashes, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for start, prints in iterate_fingerprints(table, numbers):
        # Both in one index: a row of fewer than 13 words has no run, and can be found as a whole alone.
        hashes += [prints.rows, prints.runs]
        rows += [start + np.arange(len(prints.rows)), start + prints.run_rows]
    every, row_of = np.concatenate(hashes), np.concatenate(rows)
    order = np.argsort(every, kind="stable")
    return every[order], row_of[order], len(numbers)


class _Shared:
    """What rows that are read one after another share with those of an index."""

    def __init__(self, hashes: Hashes, rows: Rows, count: int) -> None:
        self.index, self.rows = Lookup(hashes), rows
        self.seen = np.zeros(count, np.bool_)
        self.train_rows = 0
        self.pairs: list[tuple[int, int]] = []  # the first of them: a training row, and one of the index

    def compare(self, start: int, prints: Fingerprints) -> None:
        """Look consecutive training rows up, from number `start` on."""
        row_of = np.concatenate([np.arange(len(prints.rows)), prints.run_rows])
        found, left, right = self.index.find(np.concatenate([prints.rows, prints.runs]))
        # Of each training row its first match is named. Hashes of whole rows stand in front: a copy is named before a
        # run.
        trained, first = np.unique(row_of[found], return_index=True)
        self.train_rows += len(trained)
        room = MAX_PLACES // 2 - len(self.pairs)
        for row, at in zip(trained[:room].tolist(), left[first][:room].tolist(), strict=True):
            self.pairs.append((start + row, int(self.rows[at])))
        for one, stop in set(zip(left.tolist(), right.tolist(), strict=True)):
            self.seen[self.rows[one:stop]] = True
