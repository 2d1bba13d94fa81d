"""Rows of a run, token by token, as the trainer is given them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.config import DataSection
from hf_finetune.data import Splits
from hf_finetune.data.reading.file_kinds import TABLE_ENDINGS, get_ending
from hf_finetune.data.reading.lines import read_chunks
from hf_finetune.data.reading.sources import resolve_sources
from hf_finetune.errors import DataError, Problem
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.token_view.conversations import ConversationViewer, pack_training_rows, view_packed
from hf_finetune.preflight.token_view.documents import join_notes, pack_documents, view_block, view_window
from hf_finetune.preflight.token_view.labelled import view_labelled
from hf_finetune.preflight.token_view.settings import TokenSettings, name_row_kind
from hf_finetune.preflight.token_view.spans import TokenView

MOST_BLOCKS = 3
"""That are shown of one row: a long document goes on in thousands."""
_LINES = ("paragraphs", "file")
"""Formats whose rows have several lines."""
_TABLES_OF_LINES = (".csv", ".tsv")


def view_rows(splits: Splits, split: str, settings: TokenSettings, numbers: Sequence[int]) -> list[TokenView]:
    """View the rows `numbers` of a split after template, truncation and packing.

    Of documents, and of conversations that are packed, the blocks that have tokens of them: for these all rows of the
    split are tokenized, as the run will. Raises `DataError` where the recipe does.
    """
    kind = name_row_kind(settings.run)
    if kind == "labelled":
        return view_labelled(splits, split, settings, numbers)
    if kind == "document":
        blocks = pack_documents(splits, settings, split)
        if split == "train":
            return [
                join_notes(view_block(splits, settings, blocks, number), *notes)
                for number, notes in _find_blocks(blocks, numbers)
            ]
        found = _find_blocks(blocks, numbers, "row")
        return [join_notes(view_window(splits, settings, blocks, number, split), *notes) for number, notes in found]
    if settings.packing and split == "train":
        blocks = pack_training_rows(splits, settings)
        found = _find_blocks(blocks, numbers)
        return [join_notes(view_packed(splits, settings, blocks, number), *notes) for number, notes in found]
    return [view for row in ConversationViewer(splits, split, settings, numbers).view() for view in row]


def _find_blocks(blocks: Dataset, rows: Sequence[int], column: str = "rows") -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the numbers of the blocks that have tokens of any of these rows, and what is to be said of each."""
    shown: set[int] = set()
    counts = dict.fromkeys(rows, 0)
    wanted = pa.array(
        rows, blocks.features[column].feature.dtype if column == "rows" else blocks.features[column].dtype
    )
    first = 0
    # The column alone, or all tokens of a corpus would be read for it.
    for table in blocks.select_columns([column]).with_format("arrow").iter(1_000):
        values = table.column(column)
        flat, parents = (
            (pc.list_flatten(values), pc.list_parent_indices(values)) if column == "rows" else (values, None)
        )
        for place in np.flatnonzero(pc.is_in(flat, wanted).to_numpy()).tolist():
            # Flattened, the rows [[4 4] [4 7]] are [4 4 4 7]: place 3 is of block 1.
            number = first + (place if parents is None else parents[place].as_py())
            row = flat[place].as_py()
            counts[row] += 1
            if counts[row] <= MOST_BLOCKS and number not in shown:
                shown.add(number)
        first += len(table)
    notes = tuple(
        f"a row goes on in {count:,} blocks; the first {MOST_BLOCKS} are shown"
        for count in counts.values()
        if count > MOST_BLOCKS
    )
    yield from ((number, notes if place == 0 else ()) for place, number in enumerate(sorted(shown)))


def find_row(splits: Splits, path: str, line: int) -> tuple[str, int]:
    """Find the split and the number there of the row that stands in a line of a file; of copies the first.

    Raises `DataError` where no row of the run does.
    """
    for split, places in splits.places.items():
        # The run file may call rows.jsonl what is typed as ./rows.jsonl, and name it twice.
        files = [number for number, name in enumerate(places.files) if _is_same(path, name)]
        of_file = np.flatnonzero(np.isin(places.file, files))
        lines = places.line[of_file]
        # Paragraphs that begin at the lines 1, 4 and 9: what stands in line 6 is of that of line 4.
        if splits.format in _LINES and len(lines) and (lines <= line).any():
            line_of_row = int(lines[lines <= line].max())
        else:
            line_of_row = line
        if len(found := of_file[lines == line_of_row]):
            return split, int(found[0])
    raise DataError(_describe_missing(splits, path, line))


def check_line(data: DataSection, path: str, line: int) -> None:
    """Raise `DataError` where a line is of no file of a run, or behind its end: before any row is read.

    Of files that are no lines, as of Parquet, it is known when they are read.
    """
    of_run = {
        file.shown: file.path
        for role in ("train", "validation", "test")
        if (sources := getattr(data, role)) is not None
        for file in resolve_sources(sources, role, data.format)
    }
    named = next((shown for shown in of_run if _is_same(path, shown)), None)
    if named is None:
        raise DataError(_describe_stranger(path, of_run))
    if get_ending(named) in TABLE_ENDINGS and get_ending(named) not in _TABLES_OF_LINES:
        return
    lines, ended = 0, True
    for chunk in read_chunks(of_run[named], named):
        lines, ended = lines + chunk.count(b"\n"), chunk.endswith(b"\n")
        if lines >= line:
            return
    if (lines := lines + (not ended)) < line:
        raise DataError(_describe_end(path, line, lines))


def _describe_stranger(path: str, files: Iterable[str]) -> Problem:
    return Problem("is no file of this run", f"its files are {', '.join(dict.fromkeys(files))}", path, code="HF094")


def _describe_end(path: str, line: int, lines: int) -> Problem:
    return Problem(f"the file has {say_count(lines, 'line')}", "name one of them", path, line, code="HF094")


def _is_same(path: str, name: str) -> bool:
    return path == name or Path(path).resolve() == Path(name).resolve()


def _describe_missing(splits: Splits, path: str, line: int) -> Problem:
    files = [file for file in splits.files if _is_same(path, file.path)]
    if not files:
        return _describe_stranger(path, (file.path for file in splits.files))
    rejected = [(reason, code) for number, reason, code in files[0].rejected_lines if number == line]
    if rejected:
        reason, code = rejected[0]
        return Problem(f"the row is left out: {reason}", "correct it, or name another", path, line, code=code)
    if line > files[0].lines:
        return _describe_end(path, line, files[0].lines)
    what = "no row of the run stands here: the line is blank, or its row is left out or repeats another"
    return Problem(what, "name another line", path, line, code="HF094")
