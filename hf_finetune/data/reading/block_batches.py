"""Blocks of lines -> record batches, by several processes; what is said of a line does not depend on which reads it.

This process cuts a file into blocks and takes what was found in the order of the file. Which kind labels have to be was
decided by the first one; as long as none has, it reads alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.lines import LineBlock
from hf_finetune.data.reading.reader import LineCounts, RowBlock, decode_block
from hf_finetune.data.reading.row_decoder import MAX_UNUSED_KEYS, RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.data.reading.sources import DataFile
from hf_finetune.data.workers import WorkerPool, look_ahead

FEWEST_BYTES = 2**24
"""Of lines, for which processes are started."""
BYTES_AT_ONCE = 2**21
"""Of the blocks that are given to a process, or one: a record batch has columns of some megabytes then."""
BYTES_OF_A_BLOCK = 256
"""Beside its lines: one that stands for a line that is rejected has none."""

Build = Callable[[RowBlock], pa.RecordBatch]
Rejected = tuple[int, str, str, str, str | None, str | None]
"""A line, and what `LineError` is made of."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a process has found in some blocks."""

    batches: list[pa.RecordBatch]
    lines: int
    accepted: int
    blank: int
    rows: int
    bytes: int
    rejected: list[Rejected]
    unused_keys: set[str]
    labels: set[str]
    """Those that `data.labels` has renamed."""


def read_batches(
    file: DataFile, decoder: RowDecoder, settings: RowSettings, tally: LineCounts, build: Build, processes: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file as `build` makes record batches of them; `tally` counts its lines, see `read_rows`."""
    blocks, enough = look_ahead(
        iterate_row_blocks(file.path, file.shown, settings, note=tally.note), FEWEST_BYTES, _count_bytes
    )
    reader = _BlockReader(file.shown, decoder, settings.max_line_bytes, build)
    settled = decoder.row_format.label is None or decoder.labels.is_settled
    if processes > 1 and enough and settled:
        yield from _read_elsewhere(reader, blocks, tally, processes)
        return
    for block in blocks:
        yield from reader.read([block], tally)


def _read_elsewhere(
    reader: _BlockReader, blocks: Iterable[LineBlock], tally: LineCounts, processes: int
) -> Iterator[pa.RecordBatch]:
    given = deque[list[LineBlock]]()
    with WorkerPool(reader.find, processes) as pool:
        for found in pool.map(_gather(blocks, given)):
            some = given.popleft()
            if reader.may_count(found):
                reader.count(found, tally)
                yield from found.batches
            else:
                yield from reader.read(some, tally)


def _gather(blocks: Iterable[LineBlock], given: deque[list[LineBlock]]) -> Iterator[list[LineBlock]]:
    """Yield some blocks at once, and keep them until their result is taken."""
    some, size = list[LineBlock](), 0
    for block in blocks:
        some.append(block)
        size += _count_bytes(block)
        if size >= BYTES_AT_ONCE:
            given.append(some)
            yield some
            some, size = [], 0
    if some:
        given.append(some)
        yield some


def _count_bytes(block: LineBlock) -> int:
    return len(block.data) + BYTES_OF_A_BLOCK


class _BlockReader:
    """Reads blocks of a file, here or in another process."""

    def __init__(self, shown: str, decoder: RowDecoder, max_line_bytes: int, build: Build) -> None:
        self.shown, self.decoder, self.max_line_bytes, self.build = shown, decoder, max_line_bytes, build
        self.expected = frozenset(decoder.unused_keys)

    def read(self, blocks: Iterable[LineBlock], tally: LineCounts) -> Iterator[pa.RecordBatch]:
        """Yield their rows, and count their lines."""
        for block in blocks:
            rows = decode_block(block, self.shown, self.decoder, self.max_line_bytes, tally)
            if rows is not None:
                yield self.build(rows)

    def find(self, blocks: list[LineBlock]) -> Found:
        """Read blocks in another process: what is found must not depend on those that it was given before."""
        self.decoder.unused_keys = set(self.expected)
        labels = self.decoder.labels.names
        labels.seen = set()
        rejected: list[Rejected] = []

        def keep(line: int, bad: LineError) -> None:
            rejected.append((line, bad.reason, bad.remedy, bad.code, bad.key, bad.misspelled))

        tally = LineCounts(keep=keep)
        batches = list(self.read(blocks, tally))
        counts = tally.lines, tally.accepted, tally.blank, tally.rows, tally.bytes
        return Found(batches, *counts, rejected, self.decoder.unused_keys - self.expected, labels.seen)

    def may_count(self, found: Found) -> bool:
        """Whether all keys that were found are noted; which of more come first, only their lines tell."""
        new = found.unused_keys - self.decoder.unused_keys
        return not new or len(self.decoder.unused_keys) + len(new) < MAX_UNUSED_KEYS

    def count(self, found: Found, tally: LineCounts) -> None:
        """Count what was found."""
        for line, reason, remedy, code, key, misspelled in found.rejected:
            tally.reject(line, LineError(reason, remedy, code=code, key=key, misspelled=misspelled))
        tally.lines += found.lines
        tally.accepted += found.accepted
        tally.blank += found.blank
        tally.rows += found.rows
        tally.bytes += found.bytes
        self.decoder.unused_keys |= found.unused_keys
        self.decoder.labels.names.seen |= found.labels
