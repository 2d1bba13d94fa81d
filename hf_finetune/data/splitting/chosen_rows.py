"""Which rows of which table each split has, with their hashes and places: mapped from a file of the cache.

Made once for the files of a run and the settings that divide them. 24 bytes a row on disk, and none in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable

from hf_finetune.cache.arrays import PIECE, give_back_pages, iterate_pieces, map_numbers
from hf_finetune.cache.entries import explain_removed, explain_unwritten, mark_used
from hf_finetune.cache.holding import find_or_make
from hf_finetune.cache.keys import compute_cache_key, place_in_cache
from hf_finetune.data.reading.arrow import FILE, LINE, ROW_HASH
from hf_finetune.data.splitting.assignment import Rows
from hf_finetune.data.splitting.batches import gather_columns, iterate_columns
from hf_finetune.environment.versions import __version__
from hf_finetune.row_prints import UNREADABLE, map_arrays, write_arrays

Facts = dict[str, Any]
Selection = dict[str, tuple[str, Rows]]
"""For each split the role whose files it comes from, and its row numbers there: (rows,)."""

_COLUMNS: dict[str, type[np.generic]] = {ROW_HASH: np.uint64, FILE: np.int32, LINE: np.int32}
_ROWS, _TRAINED, _FACTS = "rows", "trained", "facts"


@dataclass(frozen=True, slots=True)
class Choice:
    """The rows that were chosen for each split."""

    splits: Selection
    trained: Rows
    """The rows of "train", each once and ascending: a weight repeats them."""
    facts: Facts
    """What was seen on the way, JSON-ready."""


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """A `Choice` as the cache has it, with the columns of its rows."""

    path: Path
    choice: Choice
    columns: Mapping[str, npt.NDArray[Any]]
    """`_row_hash`, `_file` and `_line` by split, as "train/_line": (rows,)."""


def load_choice(made_from: Any, tables: Mapping[str, Dataset], choose: Callable[[], Choice]) -> ChosenRows:
    """Load what `choose` has returned for the inputs `made_from`, or call it and keep what it returns.

    Raises what `choose` raises, and CannotWriteError where the cache cannot be written.
    """
    try:
        path = place_in_cache(f"chosen-{compute_cache_key([__version__, made_from])}.npz")

        def make() -> ChosenRows:
            write_arrays(path, _build_arrays(choose(), tables))
            if (made := _read(path)) is None:
                raise explain_removed(path)
            return made

        return find_or_make(path, lambda: _read(path), make)
    except OSError as error:
        raise explain_unwritten("the rows of each split", error) from error


def _build_arrays(choice: Choice, tables: Mapping[str, Dataset]) -> dict[str, npt.NDArray[Any]]:
    roles = {name: role for name, (role, _) in choice.splits.items()}
    facts = json.dumps({"roles": roles, **choice.facts}).encode()
    arrays: dict[str, npt.NDArray[Any]] = {_FACTS: np.frombuffer(facts, np.uint8)}
    for name, (role, numbers) in choice.splits.items():
        arrays[f"{name}/{_ROWS}"] = numbers
        # A pass for each column: a row's three stand side by side in the table, and apart here.
        for column, kind in _COLUMNS.items():
            pieces = (some[column] for some in gather_columns(tables[role], [column], numbers))
            arrays[f"{name}/{column}"] = map_numbers(pieces, kind)
    if choice.trained is not choice.splits["train"][1]:
        arrays[_TRAINED] = choice.trained
    return arrays


def _read(path: Path) -> ChosenRows | None:
    try:
        arrays = map_arrays(path)
        mark_used(path)
        facts = json.loads(arrays.pop(_FACTS).tobytes())
        splits = {name: (role, arrays[f"{name}/{_ROWS}"]) for name, role in facts.pop("roles").items()}
        choice = Choice(splits, arrays.get(_TRAINED, splits["train"][1]), facts)
        return ChosenRows(
            path, choice, {f"{name}/{each}": arrays[f"{name}/{each}"] for name in splits for each in _COLUMNS}
        )
    except UNREADABLE:
        return None


def select_rows(table: Dataset, columns: list[str], numbers: Rows, made_from: Any) -> Dataset:
    """Select columns, and the rows of `numbers`, (rows,) and mapped, unless these are all in order.

    `Dataset.select` would copy them three times, and walk them in Python.
    """
    plain = table.select_columns(columns)
    if len(numbers) == len(table) and all(
        bool((piece == np.arange(start, start + len(piece))).all()) for start, piece in iterate_pieces(numbers)
    ):
        return plain  # a selection slows reading down
    indices = pa.Array.from_buffers(pa.uint64(), len(numbers), [None, pa.py_buffer(numbers)])
    return Dataset(
        plain.data,
        info=plain.info.copy(),
        split=plain.split,
        indices_table=InMemoryTable(pa.table({"indices": indices})),
        fingerprint=compute_cache_key([plain._fingerprint, made_from]),
    )


def number_all(count: int) -> Rows:
    """The numbers from 0 to below `count`, mapped: (count,)."""
    pieces = (np.arange(start, min(start + PIECE, count)) for start in range(0, count, PIECE))
    return map_numbers(pieces, np.int64)


def number_others(count: int, taken: Rows) -> Rows:
    """The numbers from 0 to below `count` that are not in `taken`, (taken,) and ascending; mapped."""

    def iterate() -> Iterator[Rows]:
        for start in range(0, count, PIECE):
            left = np.ones(min(PIECE, count - start), np.bool_)
            first, behind = np.searchsorted(taken, [start, start + PIECE])
            left[taken[first:behind] - start] = False
            yield start + np.flatnonzero(left)

    return map_numbers(iterate(), np.int64)


def iterate_hashes(table: Dataset, numbers: Rows) -> Iterator[tuple[npt.NDArray[np.uint64], Rows]]:
    """Yield the hashes of the rows `numbers`, (rows,), with these, some at a time."""
    done = 0
    for some in gather_columns(table, [ROW_HASH], numbers):
        hashes = some[ROW_HASH]
        yield hashes, np.array(numbers[done : done + len(hashes)])
        done += len(hashes)
        give_back_pages(numbers)


def read_hashes(table: Dataset) -> Iterator[tuple[Rows, npt.NDArray[np.uint64]]]:
    """Yield the numbers and hashes of all rows, some at a time."""
    for first, columns in iterate_columns(table, [ROW_HASH]):
        hashes = columns[ROW_HASH]
        yield np.arange(first, first + len(hashes)), hashes
