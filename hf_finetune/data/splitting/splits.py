"""The data section of a run -> train, validation and test rows, and statistics of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.cache.arrays import iterate_pieces
from hf_finetune.config.sections import DataSection, Run
from hf_finetune.data.reading.arrow import (
    FILE,
    LINE,
    ROW_HASH,
    FileStats,
    ReadSettings,
    read_role,
)
from hf_finetune.data.reading.format_detection import build_row_settings, choose_decoder
from hf_finetune.data.reading.formats import Kind, get_features
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.sources import DataFile, resolve_sources
from hf_finetune.data.splitting.assignment import Hashes, Rows
from hf_finetune.data.splitting.chosen_rows import (
    Choice,
    ChosenRows,
    load_choice,
    select_rows,
)
from hf_finetune.data.splitting.division import assign_rows, number_groups
from hf_finetune.data.splitting.leakage import (
    RowLocations,
    check_files_differ,
    check_groups_disjoint,
    check_rows_differ,
    check_sizes,
    count_repeated_rows,
    count_train_duplicates,
    drop_train_duplicates,
    get_row_hashes,
    locate_rows,
    log_overlap,
    log_repeated_rows,
)
from hf_finetune.data.splitting.spill import hash_membership
from hf_finetune.data.splitting.train_prints import name_files, read_user_key
from hf_finetune.data.streaming.plan import StreamPlan, plan_stream
from hf_finetune.data.streaming.prints import hash_held_out
from hf_finetune.data.streaming.shards import list_shards
from hf_finetune.data.streaming.stream import RowStream
from hf_finetune.errors import DataError, Problem, add_code

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
    trained: tuple[Dataset, Rows] | None = None
    """The table of the training rows, and the numbers of these there, (rows,): ascending, each once."""
    num_proc: int | None = 1
    """`data.num_proc`."""

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
            "splits": {name: _summarize_rows(hashes) for name, hashes in self.hashes.items()},
        }


def _summarize_rows(hashes: Hashes) -> dict[str, Any]:
    distinct, digest = hash_membership(piece for _, piece in iterate_pieces(hashes))
    # Of all rows together: by the hash of each one a text could be tried (`data.splitting.seen_rows`).
    return {"rows": len(hashes), "distinct": distinct, "sha256": digest}


def load_splits(
    data: DataSection,
    becomes: Kind,
    seed: int,
    also_read: Sequence[str] = (),
    *,
    of_hub: str = "train",
    trained: tuple[Run, Any] | None = None,
    refuse_copies: bool = True,
) -> Splits:
    """Read, check and split the data of a run; `becomes` is the kind of row that the recipe takes.

    A recipe for conversations takes prompts with completions too, which keep their own columns. `also_read`:
    fields that the caller reads from the files itself. `of_hub`: the split of a Hub data set that `data.train` reads.
    `trained`: the run that trains on them and its `TrainingArguments`, for `data.stream`, under which nothing but the
    first one is read of the training rows. Without `refuse_copies` copies of training rows stay in a file of their
    own, for who counts them. Raises DataError naming every problem of the files.
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
    made_from = {
        "tables": {role: name_files(table) for role, table in tables.items()},
        "seed": seed,
        "becomes": becomes,
        "label": decoder.row_format.label,
        "weights": [file.weight for file in files["train"]],
        **data.model_dump(include={"validation_fraction", "test_fraction", "stratify_by", "group_by"}),
    }
    if not refuse_copies:
        made_from["refuse_copies"] = False
    chosen = load_choice(made_from, tables, partial(_choose_rows, tables, data, seed, files, decoder, refuse_copies))
    splits = _build_splits(chosen, tables, files, decoder, facts)
    splits = replace(splits, unused_keys=_list_unused(decoder, also_read), num_proc=data.num_proc)
    if data.group_by is None:
        return splits
    groups = {name: number_groups(tables[role], rows) for name, (role, rows) in chosen.choice.splits.items()}
    return replace(splits, groups=groups)


def _choose_rows(
    tables: Mapping[str, Dataset],
    data: DataSection,
    seed: int,
    files: Mapping[str, Sequence[DataFile]],
    decoder: RowDecoder,
    refuse_copies: bool,
) -> Choice:
    """Divide the rows, and look for copies of training rows among them, and between splits."""
    choice = assign_rows(tables, data, seed, files["train"], decoder.row_format.label)
    if decoder.row_format.becomes in ("conversation", "prompt_completion"):
        choice = drop_train_duplicates(tables, choice, files, data.num_proc, refuse=refuse_copies)
    elif decoder.row_format.becomes == "labelled":
        choice = count_train_duplicates(tables, choice, data.num_proc)
    repeated = count_repeated_rows(tables["train"], choice.trained)
    return replace(choice, facts={"overlap": {}, **choice.facts, "repeated": repeated})


def _build_splits(
    chosen: ChosenRows,
    tables: Mapping[str, Dataset],
    files: Mapping[str, Sequence[DataFile]],
    decoder: RowDecoder,
    facts: tuple[FileStats, ...],
) -> Splits:
    """Say what was found while the rows were chosen, and put the splits together."""
    splits, found, columns = chosen.choice.splits, chosen.choice.facts, chosen.columns
    log_overlap(found["overlap"], tables, splits, files)
    check_sizes(splits)
    log_repeated_rows(found["repeated"], tables["train"], files["train"])
    # Hashes, places and the values of stratify_by and group_by are columns of the tables, but not of the splits.
    own = list(get_features(decoder.row_format.becomes, decoder.labels.run_kind))
    rows = {
        name: select_rows(tables[role], own, numbers, [chosen.path.stem, name])
        for name, (role, numbers) in splits.items()
    }
    shown = {role: tuple(each.shown for each in sources) for role, sources in files.items()}
    places = {
        name: RowLocations(shown[role], columns[f"{name}/{FILE}"], columns[f"{name}/{LINE}"])
        for name, (role, _) in splits.items()
    }
    return Splits(
        rows,
        decoder.row_format.name,
        facts,
        (),
        {name: columns[f"{name}/{ROW_HASH}"] for name in splits},
        places,
        {name: each["counts"] for name, each in found["overlap"].items()},
        label_map=decoder.labels.names.names,
        unused_labels=decoder.labels.names.find_unused(),
        trained=(tables["train"], chosen.choice.trained),
    )


def _list_unused(decoder: RowDecoder, also_read: Sequence[str]) -> tuple[str, ...]:
    """List the keys of the rows that nothing reads, and log them."""
    unused = tuple(sorted(decoder.unused_keys - {field.partition(".")[0] for field in also_read}))
    of_messages = [key for key in unused if "[]." in key]
    if of_rows := [key for key in unused if key not in of_messages]:
        logger.info("keys of the rows that are not read: %s", ", ".join(of_rows))
    if of_messages:
        logger.warning(
            "keys of messages that nothing but a chat template reads: %s",
            ", ".join(of_messages),
            extra={"code": "HF034"},
        )
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
            problems.append(
                Problem("weights apply to data.train only", "leave the weight out", key=f"data.{role}", code="HF215")
            )
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
    listed = ", ".join(f"{line} ({add_code(reason, code)})" for line, reason, code in first)
    more = ", ..." if file.rejected > len(first) else ""
    logger.warning(
        "%s: %d of %d lines left out: %s%s", file.path, file.rejected, file.lines, listed, more, extra={"code": "HF052"}
    )


def _check_some_text(tables: Mapping[str, Dataset]) -> None:
    for role, table in tables.items():
        chunks: Sequence[pa.Array] = table.data.column("text").chunks
        if not any(pc.any(pc.not_equal(pc.utf8_trim_whitespace(chunk), "")).as_py() for chunk in chunks):
            raise DataError(Problem("no row has any text", "fill the `text` fields", key=f"data.{role}", code="HF037"))
