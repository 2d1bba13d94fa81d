"""Shards -> chunks of checked rows: what follows a position, the same however often it is read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable

from hf_finetune.data.reading.arrow import ReadSettings
from hf_finetune.data.reading.formats import get_features
from hf_finetune.data.reading.lines import ReadPlace
from hf_finetune.data.reading.reader import LineCounts, RowBlock, TextCut, describe_rejected_lines, read_rows, read_text
from hf_finetune.data.reading.sources import TEXT_FORMATS
from hf_finetune.data.streaming.left_out import Keep, LineTally
from hf_finetune.data.streaming.position import Position
from hf_finetune.data.streaming.shards import Shard, check_there, order_shards
from hf_finetune.data.tokenization.batches import count_row_bytes
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem

logger = logging.getLogger(__name__)

# 2**40 lines of 2**23 shards make 63 bits.
LINE_BITS = 40
"""The id of a row is the number of its shard, and its line in so many bits below: no table says where a row stands."""
ROWS_PER_CHUNK = 4_000


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a shard, at most `ROWS_PER_CHUNK` of them."""

    rows: Dataset
    ids: npt.NDArray[np.int64]
    """Shard and line of each row, (rows,); see `LINE_BITS`."""
    begin: Position
    """With nothing used of the chunk, nor carried into it."""
    end: Position
    rejected: int
    """Lines that were left out between the last row of the chunk before and its own."""

    def keep(self, kept: npt.NDArray[np.bool_]) -> Chunk:
        """The same chunk with some of its rows alone; `kept`: (rows,)."""
        if kept.all():
            return self
        # Nearly no chunk has a row that is evaluated, and nothing is copied of it.
        table = self.rows.data.table.filter(pa.array(kept))
        return replace(self, rows=_as_dataset(table), ids=self.ids[kept])


@dataclass(frozen=True)
class ChunkReader:
    """Reads the shards of a run."""

    shards: Sequence[Shard]
    reading: ReadSettings
    seed: int
    chunk_bytes: int
    """Of text, after which a chunk ends."""

    def locate(self, row: int) -> tuple[str, int]:
        """The shard and the line of a row, by its id."""
        return self.shards[row >> LINE_BITS].shown, row & (2**LINE_BITS - 1)

    def iterate(self, start: Position, keep: Keep | None = None) -> Iterator[Chunk]:
        """Yield the chunks from `start` on, without end: behind the last shard the next pass begins.

        `keep` takes the lines that are left out, in their order, ahead of the chunk that they are counted with. Raises
        `DataError` for a bad line under `on_bad_line: fail`, a shard that has vanished, and where a whole pass has no
        row.
        """
        begin, passes_without_rows = replace(start, skip=0), 0
        left_out = LineTally(keep)
        while True:
            found = False
            # Of each pass anew, by its number alone: a run that goes on in the tenth one draws none of the nine before.
            order = order_shards(len(self.shards), self.seed, begin.pass_number)
            for turn in range(begin.turn, len(order)):
                for chunk in self._read_shard(order[turn], replace(begin, turn=turn), left_out):
                    found, begin = True, chunk.end
                    yield chunk
                begin = replace(begin, turn=turn + 1, row=0, byte=0, line=1)
            passes_without_rows = 0 if found else passes_without_rows + 1
            if passes_without_rows == 2:  # the first may have begun behind the last row
                raise DataError(_explain_no_rows(left_out.count_until(2**LINE_BITS)))
            begin = replace(begin, pass_number=begin.pass_number + 1, turn=0)
            logger.info("every shard has been read: pass %d begins", begin.pass_number + 1)

    def _read_shard(self, number: int, begin: Position, left_out: LineTally) -> Iterator[Chunk]:
        """Yield the chunks of a shard from `begin` on."""
        shard, place = self.shards[number], ReadPlace(begin.byte, begin.line)
        check_there(shard)
        fails = self.reading.on_bad_line == "fail"
        tally = LineCounts(keep=None if fails else left_out.add)
        left_out.enter(tally, begin.pass_number, number << LINE_BITS, begin.row)
        waiting = _Waiting(number << LINE_BITS)
        for block in self._read_blocks(shard, tally, place):
            # Nothing is made of the rows behind a bad line: the run ends, and reads them again once it is mended.
            if tally.rejected and fails:
                break
            waiting.add(self._build_batch(block), np.asarray(block.line_numbers, np.int64), begin.row)
            for rows, ids in waiting.cut(self.chunk_bytes):
                last = int(ids[-1]) & (2**LINE_BITS - 1)
                # From the last row on, and not from the line behind it, which may lie inside of a paragraph.
                found = place.find(last)
                end = replace(begin, row=last + 1, byte=found.byte, line=found.line)
                yield Chunk(rows, ids, begin, end, left_out.count_until(last))
                begin = end
        if tally.rejected and fails:
            problems = describe_rejected_lines(shard.shown, tally, MAX_PROBLEMS_SHOWN)
            raise DataError(problems, total=tally.rejected)
        if waiting.count:
            end = replace(begin, turn=begin.turn + 1, row=0, byte=0, line=1)
            rows, ids = waiting.cut_off(waiting.count)
            yield Chunk(rows, ids, begin, end, left_out.count_until(2**LINE_BITS))

    def _read_blocks(self, shard: Shard, tally: LineCounts, place: ReadPlace) -> Iterator[RowBlock]:
        decoder, settings = self.reading.decoder, self.reading.rows
        name = decoder.row_format.name
        if name in TEXT_FORMATS:
            cut: TextCut = name  # type: ignore[assignment]
            return read_text(shard.path, shard.shown, cut, settings.max_line_bytes, tally, place)
        return read_rows(shard.path, shard.shown, decoder, settings, tally, place)

    def _build_batch(self, block: RowBlock) -> pa.RecordBatch:
        columns = self.reading.decoder.row_format.columns(block.rows)
        schema = get_features(self.reading.decoder.row_format.becomes).arrow_schema
        return pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


class _Waiting:
    """Rows of a shard that make no chunk yet."""

    def __init__(self, shard: int) -> None:
        self.shard, self.count = shard, 0
        self.batches: list[pa.RecordBatch] = []
        self.lines = np.empty(0, np.int64)
        self.sizes = np.empty(0, np.int64)

    def add(self, batch: pa.RecordBatch, lines: npt.NDArray[np.int64], first: int) -> None:
        """Add the rows of a block, those before the line `first` left out."""
        used = int(np.searchsorted(lines, first))
        self.batches.append(batch.slice(used))
        self.lines = np.concatenate([self.lines, lines[used:]])
        self.sizes = np.concatenate([self.sizes, count_row_bytes(batch)[used:]])
        self.count = len(self.lines)

    def cut(self, size: int) -> Iterator[tuple[Dataset, npt.NDArray[np.int64]]]:
        """Yield the rows of each chunk of `size` bytes or `ROWS_PER_CHUNK`, and leave the others."""
        while self.count:
            stop = min(int(np.searchsorted(np.cumsum(self.sizes), size)) + 1, ROWS_PER_CHUNK)
            if stop > self.count:
                return
            yield self.cut_off(stop)

    def cut_off(self, stop: int) -> tuple[Dataset, npt.NDArray[np.int64]]:
        """Take the first `stop` rows, with the id of each."""
        # Views of the blocks, of which nothing is copied.
        table = pa.Table.from_batches(self.batches)
        rows, ids = _as_dataset(table.slice(0, stop)), self.lines[:stop] + self.shard
        self.batches = table.slice(stop).to_batches()
        self.lines, self.sizes = self.lines[stop:], self.sizes[stop:]
        self.count = len(self.lines)
        return rows, ids


def _as_dataset(table: pa.Table) -> Dataset:
    return Dataset(InMemoryTable(table), fingerprint="chunk")


def _explain_no_rows(left_out: int) -> Problem:
    if left_out:
        remedy = "run with data.on_bad_line=fail to see why their lines are left out"
        return Problem("no shard has a row", remedy, key="data.train", code="HF007")
    return Problem("no shard has a row", "put rows into them", key="data.train", code="HF007")
