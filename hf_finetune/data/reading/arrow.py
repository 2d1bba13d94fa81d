"""Files of one role (train, validation or test) -> one memory-mapped data set in the intermediate form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, Value
from msgspec import UNSET, Struct

from hf_finetune.data.cache import Batches, build_cached_dataset, place_dataset
from hf_finetune.data.file_hashes import hash_data_file
from hf_finetune.data.reading.block_batches import Build, read_batches
from hf_finetune.data.reading.file_kinds import get_ending
from hf_finetune.data.reading.formats import encode_row, get_features
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.lines import is_compressed
from hf_finetune.data.reading.reader import (
    LineCounts,
    RowBlock,
    TextCut,
    describe_rejected_lines,
    read_rows,
    read_text,
)
from hf_finetune.data.reading.row_checks.labels import find_similar_labels
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings, log_note
from hf_finetune.data.reading.sources import TEXT_FORMATS, DataFile
from hf_finetune.data.workers import count_processes
from hf_finetune.environment.progress_lines import show_progress
from hf_finetune.environment.versions import __version__
from hf_finetune.errors import (
    MAX_PROBLEMS_SHOWN,
    CannotWriteError,
    DataError,
    Problem,
    advise_unless_limited,
    find_writing_code,
)
from hf_finetune.files import open_atomically

# Columns besides those of the intermediate form; they are removed from the rows of a split.
ROW_HASH, SOURCE, STRATUM, GROUP = "_row_hash", "_source", "_stratum", "_group"
FILE, LINE = "_file", "_line"


_FORM = 3
"""Of what is kept beside the rows: since 2 rejected lines have their codes, since 3 it has what is said of a file."""
_EXTRA_FEATURES = {
    ROW_HASH: Value("uint64"),
    SOURCE: Value("int32"),
    FILE: Value("int32"),
    LINE: Value("int32"),
    STRATUM: Value("string"),
    GROUP: Value("string"),
}


BATCH_BYTES = 2**23


Keep = Callable[[int, int, LineError], None]
"""Takes a rejected line: the number of its file, its own, and the reason."""


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """The settings with which the files of a run are read."""

    decoder: RowDecoder
    on_bad_line: str
    rows: RowSettings
    stratify_by: str | None
    group_by: str | None
    num_proc: int | None = 1
    """Processes that read, see `count_processes`."""

    def describe(self) -> dict[str, Any]:
        """What of it decides which rows a file has, JSON-ready."""
        row_format = self.decoder.row_format
        return {
            "format": [row_format.name, list(row_format.required), self.decoder.labels.kind],
            "splits": [self.stratify_by, self.group_by],
            "lines": [self.on_bad_line, self.rows.max_line_bytes, self.decoder.allow_empty],
            "columns": self.rows.columns,
            "labels": list(self.decoder.labels.names.names.items()),
        }


@dataclass(frozen=True, slots=True)
class FileStats:
    """Counts of one file: accepted + rejected + blank == lines."""

    role: str
    path: str
    """As the user wrote it."""
    weight: float
    sha256: str
    bytes: int
    lines: int
    accepted: int
    rejected: int
    blank: int
    rows: int
    rejected_lines: tuple[tuple[int, str, str], ...]
    """The number of each of the first dropped lines, the reason, and its code."""
    notes: tuple[str, ...] = ()
    """What is not as usual about it: its encoding, its delimiter, its compression."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Size, time and inode of a file: if one differs, it was changed while it was read."""

    size: int
    modified: int
    inode: int


def _read_stamp(file: DataFile) -> _Stamp:
    status = file.path.stat()
    return _Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def _is_as_before(file: DataFile, stamp: _Stamp) -> bool:
    try:
        return _read_stamp(file) == stamp
    except FileNotFoundError:
        return False


def read_role(files: Sequence[DataFile], role: str, reading: ReadSettings) -> tuple[Dataset, tuple[FileStats, ...]]:
    """Read the files of one role, or load their rows from the cache by the files' content.

    Raises DataError naming every rejected line, unless bad lines are skipped, and CannotWriteError where the cache
    cannot be written.
    """
    # Before the hash: a file that changes after this is noticed when its rows have been read.
    stamps = [_read_stamp(file) for file in files]
    hashes = [hash_data_file(file.path) for file in files]
    row_format, decoder = reading.decoder.row_format, reading.decoder
    own = get_features(row_format.becomes, decoder.labels.run_kind)
    # The version is part of the key: another one may read the same file differently.
    made_from = {
        "version": (__version__, _FORM),
        "files": [(sha256, file.source) for sha256, file in zip(hashes, files, strict=True)],
        **reading.describe(),
        # The ending of a name decides how text is read: a .csv and a .jsonl of the same bytes are other rows.
        # And what is said of its compression is said of its name.
        "endings": [(get_ending(file.shown), PurePath(file.shown.lower()).suffix) for file in files],
    }
    features = Features({**own, **_EXTRA_FEATURES})
    build = partial(_build_batches, files, stamps, reading, features.arrow_schema)
    try:
        rejected = name_rejected_lines(place_dataset("rows", made_from))
        dataset, counts = build_cached_dataset("rows", made_from, features, partial(_keep_rejected, build, rejected))
    except OSError as error:
        what = f"the datasets cache cannot be written: {error.strerror or error}"
        remedy, code = advise_unless_limited(error.errno, "set HF_DATASETS_CACHE"), find_writing_code(error.errno)
        raise CannotWriteError(Problem(what, remedy, code=code)) from error
    decoder.labels.names.found.update(counts["labels"])
    facts = tuple(
        FileStats(
            role=role,
            path=file.shown,
            weight=file.weight,
            sha256=sha256,
            bytes=stamp.size,
            rejected_lines=tuple((line, reason, code) for line, reason, code in count.pop("rejected_lines")),
            notes=tuple(count.pop("notes")),
            **count,
        )
        for file, sha256, stamp, count in zip(files, hashes, stamps, counts["files"], strict=True)
    )
    # Of rows in the cache, too: who read them first, such as the check before the imports, may have said nothing.
    for fact in facts:
        for note in fact.notes:
            log_note(fact.path, note)
    return dataset, facts


def name_rejected_lines(rows: Path) -> Path:
    """The file beside that of a role's rows in the cache, where `data.on_bad_line` is skip: all lines left out."""
    return rows.with_suffix(".rejected.jsonl")


def _keep_rejected(build: Callable[[Keep], Batches], path: Path) -> Batches:
    """Write each rejected line, as JSON with the number of its file, to `path`: there may be as many as rows."""
    with open_atomically(path, private=True) as out:

        def keep(file: int, line: int, bad: LineError) -> None:
            out.write(json.dumps({"file": file, "line": line, "reason": bad.reason, "code": bad.code}).encode() + b"\n")

        return (yield from build(keep))


def _build_batches(
    files: Sequence[DataFile], stamps: Sequence[_Stamp], reading: ReadSettings, schema: pa.Schema, keep: Keep
) -> Batches:
    """Yield the rows of all files as record batches, and return the counts of each file."""
    counts: list[dict[str, Any]] = []
    problems: list[Problem] = []
    total = 0
    reading.decoder.labels.names.seen.clear()
    for number, (file, stamp) in enumerate(zip(files, stamps, strict=True)):
        notes: list[str] = []
        tally = LineCounts(keep=partial(keep, number), note=notes.append)
        build = partial(_build_batch, file=file, number=number, reading=reading, schema=schema)
        size = _count_bytes_of_lines(file, stamp, reading)
        with show_progress(f"rows of {file.shown} read") as show:
            for batch in _join_batches(_read_batches(file, reading, tally, build)):
                yield batch
                show(tally.rows, min(1.0, tally.bytes / size) if size and tally.bytes else None)
        if not _is_as_before(file, stamp):
            raise DataError(
                Problem("the file changed while it was read", "run again when it is complete", file.shown, code="HF008")
            )
        if tally.rejected and reading.on_bad_line == "fail":
            problems += describe_rejected_lines(file.shown, tally, MAX_PROBLEMS_SHOWN - len(problems))
            total += tally.rejected
        elif not tally.rows:
            problems.append(_explain_no_rows(file, tally))
            total += 1
        counts.append(
            {
                "lines": tally.lines,
                "accepted": tally.accepted,
                "blank": tally.blank,
                "rows": tally.rows,
                "rejected": tally.rejected,
                "rejected_lines": [(line.line, line.reason, line.code) for line in tally.first],
                "notes": notes,
            }
        )
    if problems:
        similar = _find_similar_labels(files, reading)  # said in the same try as the rows that are wrong
        raise DataError([*problems, *similar][:MAX_PROBLEMS_SHOWN], total=total + len(similar))
    return {"files": counts, "labels": sorted(reading.decoder.labels.names.seen)}


def _count_bytes_of_lines(file: DataFile, stamp: _Stamp, reading: ReadSettings) -> int:
    """The bytes of which `LineCounts` counts those that were read; 0 where they are not those of the file."""
    with suppress(OSError):  # its reader says so
        return 0 if reading.rows.columns or is_compressed(file.path) else stamp.size
    return 0


def _read_batches(file: DataFile, reading: ReadSettings, tally: LineCounts, build: Build) -> Iterator[pa.RecordBatch]:
    if reading.decoder.row_format.name in TEXT_FORMATS:
        yield from map(build, _read_blocks(file, reading, tally))
    else:
        processes = count_processes(reading.num_proc)
        yield from read_batches(file, reading.decoder, reading.rows, tally, build, processes)


def _join_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Join record batches to some of `BATCH_BYTES`: a column of a small one shares its pages with all others."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        waiting.append(batch)
        size += batch.nbytes
        if size >= BATCH_BYTES:
            yield pa.concat_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_batches(waiting)


def _find_similar_labels(files: Sequence[DataFile], reading: ReadSettings) -> list[Problem]:
    """Read the rows once more for labels that probably are one; [] of rows without labels of text."""
    field = reading.decoder.row_format.label
    if field is None or not str(reading.decoder.labels.run_kind).endswith(("string", "strings")):
        return []
    get_label: attrgetter[Any] = reading.decoder.get_field_getter(field)
    found: dict[str, tuple[int, str, int]] = {}
    for file in files:
        for block in _read_blocks(file, reading, LineCounts(note=list[str]().append)):
            for row, line in zip(block.rows, block.line_numbers, strict=True):
                given = get_label(row)
                for label in given if isinstance(given, list) else [given]:
                    rows, path, first = found.get(label, (0, file.shown, line))
                    found[label] = (rows + 1, path, first)
    return find_similar_labels(found)


def _explain_no_rows(file: DataFile, tally: LineCounts) -> Problem:
    if not tally.lines:
        return Problem("the file is empty", "put rows into it, or leave it out", file.shown, code="HF007")
    if not tally.rejected:
        return Problem("the file has only blank lines", "put rows into it, or leave it out", file.shown, code="HF007")
    return Problem(
        "its only line is rejected" if tally.rejected == 1 else f"all {tally.rejected:,} lines are rejected",
        "run with data.on_bad_line=fail to see why",
        file.shown,
        code="HF053",
    )


def _read_blocks(file: DataFile, reading: ReadSettings, tally: LineCounts) -> Iterator[RowBlock]:
    name = reading.decoder.row_format.name
    if name in TEXT_FORMATS:
        cut: TextCut = name  # type: ignore[assignment]
        return read_text(file.path, file.shown, cut, reading.rows.max_line_bytes, tally)
    return read_rows(file.path, file.shown, reading.decoder, reading.rows, tally)


def _build_batch(
    block: RowBlock, file: DataFile, number: int, reading: ReadSettings, schema: pa.Schema
) -> pa.RecordBatch:
    """Convert a block of file `number` to the intermediate form, with the columns of `_EXTRA_FEATURES`."""
    columns = reading.decoder.row_format.columns(block.rows)
    # The hash is of the intermediate form: one row in two formats, or with other unused keys, is one row.
    contents = map(encode_row, zip(*columns.values(), strict=True))
    columns[ROW_HASH] = [int.from_bytes(blake2b(content, digest_size=8).digest(), "big") for content in contents]
    columns[SOURCE] = [file.source] * len(block.rows)
    columns[FILE] = [number] * len(block.rows)
    columns[LINE] = list(block.line_numbers)
    columns[STRATUM] = _read_split_values(block, file, reading, reading.stratify_by, "stratify_by")
    columns[GROUP] = _read_split_values(block, file, reading, reading.group_by, "group_by")
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def _read_split_values(
    block: RowBlock, file: DataFile, reading: ReadSettings, key: str | None, setting: str
) -> list[str | None]:
    """Read the field that rows are stratified or grouped by, as JSON text: 1 and "1" differ.

    Raises DataError for a row without it.
    """
    if key is None:
        return [None] * len(block.rows)
    value_of: attrgetter[Any] = reading.decoder.get_field_getter(key)
    values = [_encode_value(row, value_of) for row in block.rows]
    if None in values:
        line = block.line_numbers[values.index(None)]
        remedy = f"give every row the field, or leave out data.{setting}"
        raise DataError(
            Problem(f"the row has no `{key}`", remedy, file.shown, line, key=f"data.{setting}", code="HF024")
        )
    return values


def _encode_value(row: Struct, value_of: attrgetter[Any]) -> str | None:
    value = value_of(row)
    if value is UNSET or value is None:
        return None
    # Of several labels the set counts, not the order: ["b", "a"] and ["a", "b"] are one stratum.
    return json.dumps(sorted(value) if isinstance(value, list) else value, ensure_ascii=False)
