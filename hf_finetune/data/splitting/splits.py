"""The data section of a run -> train, validation and test rows, and statistics of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.config.sections import DataSection, Run
from hf_finetune.data.reading.arrow import GROUP, SOURCE, STRATUM, FileStats, ReadSettings, read_role
from hf_finetune.data.reading.format_detection import build_row_settings, choose_decoder
from hf_finetune.data.reading.formats import Kind, get_features
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.sources import DataFile, resolve_sources
from hf_finetune.data.splitting.assignment import Hashes, Rows, repeat_rows, sort_distinct, split_rows
from hf_finetune.data.splitting.batches import encode_values
from hf_finetune.data.splitting.leakage import (
    RowLocations,
    Selection,
    check_files_differ,
    check_groups_disjoint,
    check_rows_differ,
    check_sizes,
    count_train_duplicates,
    drop_train_duplicates,
    get_row_hashes,
    hash_membership,
    locate_rows,
    log_repeated_rows,
)
from hf_finetune.data.splitting.train_prints import read_user_key
from hf_finetune.data.streaming.plan import StreamPlan, plan_stream
from hf_finetune.data.streaming.prints import hash_held_out
from hf_finetune.data.streaming.shards import list_shards
from hf_finetune.data.streaming.stream import RowStream
from hf_finetune.errors import DataError, Problem

logger = logging.getLogger(__name__)

_MAX_PLACES_SHOWN = 5
SHARDS_ASKED = 8
"""Of a stream, in which the first row is looked for."""


@dataclass(frozen=True)
class Splits:
    """The rows of a run by split: "train", and "validation" and "test" if the run has them."""

    rows: dict[str, Dataset]
    format: str
    files: tuple[FileStats, ...]
    unused_keys: tuple[str, ...]
    """Keys of the rows that are not read."""
    hashes: dict[str, Hashes]
    """The 64-bit blake2b hash of each row of a split: uint64 (rows,)."""
    places: dict[str, RowLocations]
    overlap: dict[str, dict[str, int]]
    """For each split but train: the rows that share a 13-gram with training rows, and the duplicates of training rows
    that were dropped from it (labelled rows: that are in it, and how many of these have another label)."""
    groups: dict[str, Rows] = field(default_factory=dict)
    """With `data.group_by`, for each split the group of each row, a number from 0: (rows,); else {}."""
    label_map: Mapping[str, str] = field(default_factory=dict)
    """`data.labels`: the labels of the files, as the rows have them here."""
    unused_labels: tuple[str, ...] = ()
    """Keys of it that no row has."""
    stream: RowStream | None = None
    """With `data.stream` the training rows, which are in none of the others then."""

    def locate(self, split: str, row: int) -> tuple[str, int]:
        """Return the path, as the user wrote it, and the (first) line of a row of `split`."""
        if split == "train" and self.stream is not None:
            return self.stream.locate(row)
        return self.places[split].locate(row)

    def format_row_hashes(self, split: str) -> list[str]:
        """Format the hash of each row of `split`, in its order, as 16 hexadecimal digits."""
        return [f"{value:016x}" for value in self.hashes[split].tolist()]

    def summarize(self) -> dict[str, Any]:
        """Return the data section of the manifest and the report, JSON-ready."""
        return {
            "format": self.format,
            "files": [asdict(file) for file in self.files],
            "unused_keys": list(self.unused_keys),
            **({"labels": dict(self.label_map)} if self.label_map else {}),
            **({"stream": self.stream.summarize()} if self.stream is not None else {}),
            "overlap": self.overlap,
            "splits": {
                name: {
                    "rows": len(hashes),
                    "distinct": len(sort_distinct(hashes)),
                    # Of all rows together: by the hash of each one a text could be tried (`data.splitting.seen_rows`).
                    "sha256": hash_membership(hashes),
                }
                for name, hashes in self.hashes.items()
            },
        }


def load_splits(
    data: DataSection,
    becomes: Kind,
    seed: int,
    also_read: Sequence[str] = (),
    *,
    of_hub: str = "train",
    trained: tuple[Run, Any] | None = None,
) -> Splits:
    """Read, check and split the data of a run; `becomes` is the kind of row that the recipe takes.

    A recipe for conversations takes prompts with completions too, which keep their own columns. `also_read`:
    fields that the caller reads from the files itself. `of_hub`: the split of a Hub data set that `data.train` reads.
    `trained`: the run that trains on them and its `TrainingArguments`, for `data.stream`, under which nothing but the
    first one is read of the training rows. Raises DataError naming every problem of the files.
    """
    if data.stream and trained is not None:
        return _load_beside_stream(data, becomes, plan_stream(*trained))
    data = _rename_keys(data)
    files = _resolve_files(data, of_hub)
    check_files_differ(files)
    decoder = choose_decoder(data, becomes, files["train"])
    settings = build_row_settings(data)
    reading = ReadSettings(decoder, data.on_bad_line, settings, data.stratify_by, data.group_by, data.num_proc)
    tables, facts = _read_files(files, reading)
    # Leakage between files is an error; between splits drawn from one file, duplicates are dropped below.
    check_rows_differ(tables, facts)
    check_groups_disjoint(tables, data.group_by)
    if becomes == "document":
        _check_some_text(tables)
    chosen = _assign_rows(tables, data, seed, files["train"], decoder.row_format.label)
    overlap: dict[str, Any] = {}
    if decoder.row_format.becomes in ("conversation", "prompt_completion"):
        chosen, overlap = drop_train_duplicates(tables, chosen, files)
    elif becomes == "labelled":
        overlap = count_train_duplicates(tables, chosen, files)
    check_sizes(chosen)
    log_repeated_rows(tables["train"], chosen["train"][1], files["train"])
    # Hashes, places and the values of stratify_by and group_by are columns of the tables, but not of the splits.
    own = list(get_features(decoder.row_format.becomes, decoder.labels.run_kind))
    rows = {name: _select_rows(tables[role], own, numbers) for name, (role, numbers) in chosen.items()}
    hashes = {name: get_row_hashes(tables[role])[numbers] for name, (role, numbers) in chosen.items()}
    places = {name: locate_rows(tables[role], files[role], numbers) for name, (role, numbers) in chosen.items()}
    unused = _list_unused(decoder, also_read)
    groups = {}
    if data.group_by is not None:
        groups = {name: number_groups(tables[role], numbers) for name, (role, numbers) in chosen.items()}
    split = (rows, decoder.row_format.name, facts, unused, hashes, places, overlap, groups)
    return Splits(*split, label_map=decoder.labels.names.names, unused_labels=decoder.labels.names.find_unused())


def _list_unused(decoder: RowDecoder, also_read: Sequence[str]) -> tuple[str, ...]:
    """List the keys of the rows that nothing reads, and log them."""
    unused = tuple(sorted(decoder.unused_keys - {field.partition(".")[0] for field in also_read}))
    of_messages = [key for key in unused if "[]." in key]
    if of_rows := [key for key in unused if key not in of_messages]:
        logger.info("keys of the rows that are not read: %s", ", ".join(of_rows))
    if of_messages:
        logger.warning("keys of messages that nothing but a chat template reads: %s", ", ".join(of_messages))
    return unused


def _load_beside_stream(data: DataSection, becomes: Kind, plan: StreamPlan) -> Splits:
    """Load the splits that are evaluated, and open the shards of the training rows."""
    shards = list_shards(data)
    files = _resolve_files(data.model_copy(update={"train": None}), "train")
    local = [DataFile(each.path, each.shown, 0, 1.0) for each in shards if isinstance(each.path, Path)]
    check_files_differ({"train": local, **files})
    decoder = choose_decoder(data, becomes, shards[:SHARDS_ASKED])
    reading = ReadSettings(decoder, data.on_bad_line, build_row_settings(data), None, None)
    tables, facts = _read_files(files, reading)
    check_rows_differ(tables, facts)
    if becomes == "document":
        _check_some_text(tables)
    own = list(get_features(decoder.row_format.becomes))
    rows = {role: table.select_columns(own) for role, table in tables.items()}
    every = {role: np.arange(len(table), dtype=np.int64) for role, table in tables.items()}
    key = read_user_key()
    return Splits(
        rows,
        decoder.row_format.name,
        facts,
        tuple(sorted(decoder.unused_keys)),
        {role: get_row_hashes(table) for role, table in tables.items()},
        {role: locate_rows(table, files[role], every[role]) for role, table in tables.items()},
        {},
        stream=RowStream(plan, shards, reading, hash_held_out(rows, key), key),
    )


def _rename_keys(data: DataSection) -> DataSection:
    """Name the fields that `stratify_by` and `group_by` mean as `data.columns` renames them."""
    fields = {column: field for field, column in data.columns.items()}
    renamed = {name: fields.get(getattr(data, name), getattr(data, name)) for name in ("stratify_by", "group_by")}
    return data.model_copy(update=renamed)


def _resolve_files(data: DataSection, of_hub: str) -> dict[str, list[DataFile]]:
    files: dict[str, list[DataFile]] = {}
    problems: list[Problem] = []
    for role in ("train", "validation", "test"):
        sources = getattr(data, role)
        if sources is None:
            continue
        try:
            files[role] = resolve_sources(sources, of_hub if role == "train" else role, data.format)
        except DataError as error:  # the other roles are checked too: all problems in one run
            problems += error.problems
            continue
        if role != "train" and any(file.weight != 1.0 for file in files[role]):
            problems.append(Problem("weights apply to data.train only", "leave the weight out", key=f"data.{role}"))
    if problems:
        raise DataError(problems)
    return files


def _read_files(
    files: Mapping[str, Sequence[DataFile]], reading: ReadSettings
) -> tuple[dict[str, Dataset], tuple[FileStats, ...]]:
    tables: dict[str, Dataset] = {}
    facts: list[FileStats] = []
    problems: list[Problem] = []
    total = 0
    for role, sources in files.items():
        try:
            tables[role], found = read_role(sources, role, reading)
        except DataError as error:
            problems += error.problems
            total += error.total
        else:
            facts += found
    if problems:
        raise DataError(problems, total=total)
    for file in facts:
        _log_left_out(file)
    return tables, tuple(facts)


def _log_left_out(file: FileStats) -> None:
    if not file.rejected:
        return
    first = file.rejected_lines[:_MAX_PLACES_SHOWN]
    listed = ", ".join(f"{line} ({reason})" for line, reason in first)
    more = ", ..." if file.rejected > len(first) else ""
    logger.warning("%s: %d of %d lines left out: %s%s", file.path, file.rejected, file.lines, listed, more)


def _encode_column(table: Dataset, column: str) -> tuple[Rows, list[str]]:
    """Encode a column as the rank of each row's value: codes (rows,) from 0, and the sorted values."""
    # ["b", "a", "b"] -> [1, 0, 1], ["a", "b"]. Not Arrow's own codes, which follow the order of the rows.
    codes, values = encode_values(table, column)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(np.array(values, dtype=object))] = np.arange(len(values))
    return ranks[codes], sorted(values)


def _check_some_text(tables: Mapping[str, Dataset]) -> None:
    for role, table in tables.items():
        chunks: Sequence[pa.Array] = table.data.column("text").chunks
        if not any(pc.any(pc.not_equal(pc.utf8_trim_whitespace(chunk), "")).as_py() for chunk in chunks):
            raise DataError(Problem("no row has any text", "fill the `text` fields", key=f"data.{role}"))


def _assign_rows(
    tables: Mapping[str, Dataset], data: DataSection, seed: int, files: Sequence[DataFile], label: str | None
) -> Selection:
    """Assign rows to splits: for each split the role whose files it comes from, and its row numbers there (rows,)."""
    weights = list({file.source: file.weight for file in files}.values())
    wanted = {"validation": data.validation_fraction, "test": data.test_fraction}
    table, fractions = tables["train"], {name: share for name, share in wanted.items() if share is not None}
    chosen = {role: (role, np.arange(len(each), dtype=np.int64)) for role, each in tables.items()}
    if fractions:
        strata = np.broadcast_to(np.int64(0), len(table))  # one for all, which takes no memory
        if data.stratify_by is not None:
            strata = _compute_strata(table, files, data.stratify_by, is_label=data.stratify_by == label)
        groups = _compute_groups(table, data.group_by, len(fractions)) if data.group_by is not None else None
        parts = split_rows(get_row_hashes(table), strata, groups, fractions, seed)
        _check_no_part_empty(parts, fractions, len(table))
        chosen |= {name: ("train", rows) for name, rows in parts.items()}
    chosen["train"] = ("train", _apply_weights(chosen["train"][1], table, weights, seed))
    return {name: chosen[name] for name in ("train", "validation", "test") if name in chosen}


def _compute_strata(table: Dataset, files: Sequence[DataFile], key: str, *, is_label: bool) -> Rows:
    """Return the stratum of each row, a number from 0 by its value of `key`: (rows,).

    Labels of a single row, or sets of them, are pooled in one stratum: sets cannot all be frequent, and a rare label is
    reported where labels are frozen. Raises DataError for values of another field that have a single row.
    """
    codes, values = _encode_column(table, STRATUM)
    alone = np.bincount(codes) == 1
    if is_label:
        # The labels [a a b c], where b and c are alone, are the strata [0 0 1 1].
        strata: Rows = np.where(alone, len(values), np.arange(len(values)))[codes]
        return np.unique(strata, return_inverse=True)[1]
    if alone.any():
        rows = np.flatnonzero(alone[codes])
        places = locate_rows(table, files, rows)
        first = ", ".join("{}:{}".format(*places.locate(row)) for row in range(min(len(rows), _MAX_PLACES_SHOWN)))
        first += ", ..." if len(rows) > _MAX_PLACES_SHOWN else ""
        what = f"{len(rows):,} of {len(values):,} values of `{key}` have a single row, which cannot be in two splits"
        remedy = "merge rare values, add rows, or stratify by another field"
        raise DataError(Problem(f"{what} ({first})", remedy, key="data.stratify_by"))
    return codes


def _compute_groups(table: Dataset, key: str, fractions: int) -> Rows:
    """Return the group of each row, a number from 0: (rows,). Raises DataError for fewer groups than splits."""
    codes, values = _encode_column(table, GROUP)
    if len(values) <= fractions:
        what = f"`{key}` has {len(values)} groups, too few for {fractions + 1} splits"
        raise DataError(Problem(what, "group by a field with more values", key="data.group_by"))
    return codes


def number_groups(table: Dataset, numbers: Rows) -> Rows:
    """Number the groups of the rows `numbers`, (rows,), of a table from 0: (rows,)."""
    codes, _ = _encode_column(table, GROUP)
    return np.asarray(np.unique(codes[numbers], return_inverse=True)[1], dtype=np.int64)


def _check_no_part_empty(parts: Mapping[str, Rows], fractions: Mapping[str, float], rows: int) -> None:
    problems = [
        Problem(
            f"{fractions[name]} of {rows:,} rows gives {name} no row",
            "change the fraction, add rows, or cut text into smaller documents (data.format paragraphs or lines)",
            key=f"data.{name}_fraction",
        )
        for name, numbers in parts.items()
        if not len(numbers)
    ]
    if problems:
        raise DataError(problems)


def _apply_weights(rows: Rows, table: Dataset, weights: Sequence[float], seed: int) -> Rows:
    """Repeat or thin out the training rows (rows,) by the weight of their source."""
    if all(weight == 1.0 for weight in weights):
        return rows
    sources, hashes = table.data.column(SOURCE).to_numpy()[rows], get_row_hashes(table)
    parts = [repeat_rows(rows[sources == number], hashes, weight, seed) for number, weight in enumerate(weights)]
    empty = [number for number, part in enumerate(parts) if not len(part)]
    if empty:
        what = f"the weight {weights[empty[0]]} of source {empty[0] + 1} leaves it no row"
        raise DataError(Problem(what, "raise the weight, or take the source out", key="data.train"))
    return np.concatenate(parts)


def _select_rows(table: Dataset, columns: list[str], numbers: Rows) -> Dataset:
    """Select columns, and the rows of `numbers` (rows,) unless these are all in order: `select` slows reading down."""
    plain = table.select_columns(columns)
    whole = len(numbers) == len(table) and np.array_equal(numbers, np.arange(len(table)))
    return plain if whole else plain.select(numbers)
