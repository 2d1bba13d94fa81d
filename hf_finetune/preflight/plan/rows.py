"""All rows of the files: counts, repeats, lengths, labels, and fields that a split should respect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, List

from hf_finetune.config.sections import DataSection
from hf_finetune.data.early_check import hide_messages
from hf_finetune.data.reading.arrow import FileStats, ReadSettings, read_role
from hf_finetune.data.reading.format_detection import build_row_settings, choose_decoder
from hf_finetune.data.reading.sources import DataFile
from hf_finetune.data.splitting.assignment import Rows, sort_distinct
from hf_finetune.data.splitting.batches import iterate_batches
from hf_finetune.data.splitting.leakage import get_row_hashes
from hf_finetune.errors import DataError, add_code
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.detectors.texts import tally_labels
from hf_finetune.preflight.plan.columns import Reading
from hf_finetune.preflight.plan.contents import Column

SAMPLED = 1_000
# Whose rows are alike: a conversation cut into turns, the texts of one person, the parts of one document.
_GROUP_WORDS = (
    *("conversation", "dialog", "dialogue", "thread", "session", "chat", "user", "author", "customer", "speaker"),
    *("patient", "doc", "document", "article", "book", "group", "family", "module", "case", "ticket", "chapter"),
)
_STRATA = ("language", "lang", "domain", "locale")
MOST_STRATA = 20


@dataclass(frozen=True, slots=True)
class Spread:
    """Lengths of rows."""

    median: int
    p95: int
    p99: int
    longest: int
    total: int


class FileNote(NamedTuple):
    """What is not as usual about a file: its encoding, its delimiter, its compression."""

    role: str
    path: str
    others: int
    """Files of the role of which the same is true."""
    what: str

    @property
    def more(self) -> str:
        """How many others, for behind the name of the file."""
        return f" and {say_count(self.others, 'more file')}" if self.others else ""


@dataclass(frozen=True, slots=True)
class RowsFound:
    """What the rows are."""

    counts: dict[str, int]
    """Rows by role."""
    rejected: int
    first_rejected: str
    """The place and reason of the first."""
    notes: tuple[FileNote, ...]
    repeats: int
    """Training rows that repeat an earlier one."""
    characters: Spread
    labels: tuple[tuple[str, int], ...] = ()
    """Rows of each label, the most frequent first."""
    several_labels: bool = False
    allow_empty: bool = False
    group_by: str | None = None
    groups: int = 0
    stratify_by: str | None = None
    sample: Dataset | None = None
    sampled: Rows | None = None
    """The numbers of its rows."""


def look_at_rows(files: Mapping[str, Sequence[DataFile]], data: DataSection, reading: Reading) -> RowsFound:
    """Read all rows, as a run will, and count what is in them. Raises DataError where not one is accepted."""
    data, tables, stats = _read(files, data, reading)
    train = tables["train"]
    # Hashes, for the rows themselves may not fit into the memory.
    hashes = get_row_hashes(train)
    labels = tally_labels(train) if reading.becomes == "labelled" and reading.task != "regression" else Counter()
    used = {*reading.columns.values(), *reading.columns}
    group = _find_group(reading.fields, used, len(reading.first))
    several = reading.becomes == "labelled" and has_several_labels(train)
    # Evenly over all rows: files are often sorted, and their beginning is not what the rest is.
    numbers = np.unique(np.linspace(0, len(train) - 1, min(len(train), SAMPLED)).astype(np.int64))
    rejected = [each for each in stats if each.rejected]
    place = ""
    if rejected:
        line, reason, code = rejected[0].rejected_lines[0]
        place = add_code(f"{rejected[0].path}:{line}: {reason}", code)
    return RowsFound(
        counts={role: len(table) for role, table in tables.items()},
        rejected=sum(each.rejected for each in stats),
        first_rejected=place,
        notes=_gather_notes(stats),
        repeats=len(train) - len(sort_distinct(hashes)),
        characters=measure(_count_characters(train)),
        labels=tuple(labels.most_common()),
        several_labels=several,
        allow_empty=data.allow_empty,
        group_by=None if group is None else group.name,
        groups=0 if group is None else group.distinct,
        stratify_by=_find_strata(reading, used) if not several else None,
        sample=train.select(numbers),
        sampled=numbers,
    )


def _gather_notes(stats: Sequence[FileStats]) -> tuple[FileNote, ...]:
    files: dict[tuple[str, str], list[str]] = {}
    for each in stats:
        for note in each.notes:
            files.setdefault((each.role, note), []).append(each.path)
    return tuple(FileNote(role, paths[0], len(paths) - 1, what) for (role, what), paths in files.items())


def measure(lengths: npt.NDArray[np.int64]) -> Spread:
    """Measure how lengths, (rows,), are spread."""
    if not len(lengths):
        return Spread(0, 0, 0, 0, 0)
    at = np.percentile(lengths, [50, 95, 99], method="higher").astype(int)
    return Spread(int(at[0]), int(at[1]), int(at[2]), int(lengths.max()), int(lengths.sum()))


def _read(
    files: Mapping[str, Sequence[DataFile]], data: DataSection, reading: Reading
) -> tuple[DataSection, dict[str, Dataset], list[FileStats]]:
    """Read the files of each role as a run would; where lines are rejected, once more without them."""
    with hide_messages():
        try:
            return _read_roles(files, data, reading)
        except DataError as refused:
            data = data.model_copy(update={"on_bad_line": "skip"})
            try:
                kept = _read_roles(files, data, reading)
            except DataError:  # not one is left, and the first says why
                raise refused from None
        if reading.becomes == "labelled" and any(each.rejected for each in kept[2]):
            # A row with the label [] is one that none fits, where a row has several.
            more = _read_roles(files, data.model_copy(update={"allow_empty": True}), reading)
            if has_several_labels(more[1]["train"]) and _count_rejected(more[2]) < _count_rejected(kept[2]):
                return more
    return kept


def has_several_labels(table: Dataset) -> bool:
    """Whether rows have several labels each."""
    return isinstance(table.features["label"], List)


def _count_rejected(stats: Sequence[FileStats]) -> int:
    return sum(each.rejected for each in stats)


def _read_roles(
    files: Mapping[str, Sequence[DataFile]], data: DataSection, reading: Reading
) -> tuple[DataSection, dict[str, Dataset], list[FileStats]]:
    kind = "conversation" if reading.becomes == "prompt_completion" else reading.becomes
    decoder = choose_decoder(data, kind, files["train"])
    settings = ReadSettings(decoder, data.on_bad_line, build_row_settings(data), None, None, data.num_proc)
    tables: dict[str, Dataset] = {}
    stats: list[FileStats] = []
    for role, of_role in files.items():
        tables[role], facts = read_role(of_role, role, settings)
        stats += facts
    return data, tables, stats


def _count_characters(table: Dataset) -> npt.NDArray[np.int64]:
    """Count the characters of each row's text: (rows,)."""
    counts = np.zeros(len(table), np.int64)
    for start, batch in iterate_batches(table, np.arange(len(table), dtype=np.int64)):
        counts[start : start + len(batch)] = _measure_batch(batch)
    return counts


def _measure_batch(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    names = batch.schema.names
    if "messages" in names:
        column = batch.column("messages")
        turns = pc.utf8_length(column.flatten().field("content")).fill_null(0).to_numpy(zero_copy_only=False)
        ends = np.cumsum(column.value_lengths().to_numpy(zero_copy_only=False))
        # Turns of [3 4 5] characters in rows of [2 1] turns: [7 5]. np.add.reduceat would give a row without turns the
        # first turn of the next one.
        sums = np.concatenate([[0], np.cumsum(turns)])
        return np.asarray(np.diff(sums[np.concatenate([[0], ends])]), np.int64)
    total = np.zeros(len(batch), np.int64)
    for name in ("text", "text_pair", "prompt", "completion"):
        if name in names:
            total += pc.utf8_length(batch.column(name)).fill_null(0).to_numpy(zero_copy_only=False)
    return total


def _find_group(fields: Mapping[str, Column], used: set[str], rows: int) -> Column | None:
    """Find the field whose equal values belong together: one of the usual names, each value in several rows."""
    for each in fields.values():
        # `user_id` and `Thread` name a group, and `user_comment` does not.
        words = each.name.lower().replace("-", "_").split("_")
        named = any(word in _GROUP_WORDS for word in words) and (words[-1] in {*_GROUP_WORDS, "id", "name"})
        # Of fewer than five groups none can be spared, and where nearly each row has its own, none is in two splits.
        repeated = 5 <= each.distinct <= 0.8 * each.values and each.values == rows
        if named and repeated and not each.lists and each.name not in used and each.longest <= 200:
            return each
    return None


def _find_strata(reading: Reading, used: set[str]) -> str | None:
    """Find the field whose proportions every split should keep: the label of a class, or a language."""
    if reading.becomes == "labelled":
        if reading.task == "regression":
            return None
        return "output" if reading.format == "input_output" else reading.columns.get("label", "label")
    for each in reading.fields.values():
        whole = each.values == len(reading.first) and 2 <= each.distinct <= min(MOST_STRATA, each.values // 3)
        if each.name.lower() in _STRATA and whole and each.name not in used and not each.lists:
            return each.name
    return None


def get_texts(row: Mapping[str, Any]) -> list[str]:
    """The texts of a row of whatever kind."""
    if "messages" in row:
        return [str(message["content"] or "") for message in row["messages"]]
    return [str(row[name]) for name in ("text", "text_pair", "prompt", "completion") if row.get(name) is not None]
