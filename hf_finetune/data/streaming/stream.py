"""The training split of a run that streams: its shards, its parts, and the prints of its rows."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePath
from typing import Any

from hf_finetune.data.reading.arrow import ReadSettings
from hf_finetune.data.splitting.assignment import Hashes
from hf_finetune.data.streaming.chunks import ChunkReader
from hf_finetune.data.streaming.examples import ExampleMaker
from hf_finetune.data.streaming.facts import StreamFacts
from hf_finetune.data.streaming.feed import PartedRows, PartFeed, PartSizes
from hf_finetune.data.streaming.left_out import LeftOutNames
from hf_finetune.data.streaming.parts import Part, PartBuilder
from hf_finetune.data.streaming.plan import SavedStream, StreamPlan
from hf_finetune.data.streaming.position import Position
from hf_finetune.data.streaming.prints import keep_part_prints
from hf_finetune.data.streaming.shards import Shard, order_shards
from hf_finetune.data.tokenization.batches import count_row_bytes
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem
from hf_finetune.folders import read_manifest
from hf_finetune.metric_info import say_count
from hf_finetune.ranks import is_first_rank

logger = logging.getLogger(__name__)

PART_BYTES = 64 * 2**20
"""Of text in a part, about, where `data.stream_part` does not say how many steps it has."""
CHUNK_BYTES = 64 * 2**10, 4 * 2**20
"""Of text in a chunk, at least and at most: rows that are read again where a part ends inside of one."""
CHUNKS_PER_PART = 16


@dataclass(frozen=True)
class RowStream:
    """The rows of a run that are read on the way to the trainer."""

    plan: StreamPlan
    shards: Sequence[Shard]
    reading: ReadSettings
    held_out: Hashes
    """Prints of the rows of the other splits."""
    key: bytes

    def locate(self, row: int) -> tuple[str, int]:
        """The shard, as the user wrote it, and the line of a row, by its id."""
        return self._read(1).locate(row)

    def open(self, maker: ExampleMaker, longest: int) -> tuple[PartedRows, StreamFacts]:
        """Open the stream at its beginning, or where the checkpoint stands that the run goes on from.

        `longest`: the most tokens of an example. Raises `DataError` where the part of the checkpoint is made of other
        rows now, and what building one raises.
        """
        saved = self.plan.saved
        if saved is not None:
            self._check_shards()
        sizes = self._choose_sizes(maker, saved)
        steps = sizes.examples // sizes.rows_per_step
        each = say_count(sizes.examples, "example"), say_count(steps, "optimizer step")
        logger.info("train: a stream of %s, in parts of %s (%s)", say_count(len(self.shards), "shard"), *each)
        # By the step: a checkpoint at the end of a part stands in the next one.
        starts, number = {0: Position()}, 0
        if saved is not None:
            found = map(Position.restore, (saved.start, saved.next))
            starts, number = dict(enumerate(found, saved.part)), saved.part + (self.plan.step // steps > saved.part)
        builder = PartBuilder(
            self._read(sizes.chunk_bytes), maker, sizes.examples, self.held_out, self.key, self._describe()
        )
        names = LeftOutNames(self.plan.folder, self.locate)
        feed = PartFeed(builder.build, sizes, starts, partial(self._keep_records, names))
        part = feed.select(number)
        if saved is not None and number == saved.part and part.sha256 != saved.sha256:
            raise DataError(self._explain_other(part))
        return PartedRows.of(feed), StreamFacts(feed, longest)

    def summarize(self) -> dict[str, Any]:
        """The shards, for the manifest."""
        return {"bytes": sum(each.size or 0 for each in self.shards), "shards": [each.shown for each in self.shards]}

    def _read(self, chunk_bytes: int) -> ChunkReader:
        return ChunkReader(self.shards, self.reading, self.plan.seed, chunk_bytes)

    def _describe(self) -> list[Any]:
        """What tells the parts of this run from all others, JSON-ready."""
        shards = [[each.shown, each.size, each.stamp] for each in self.shards]
        return [str(self.plan.folder.resolve()), shards, self.key.hex(), self.reading.describe(), self.plan.seed]

    def _choose_sizes(self, maker: ExampleMaker, saved: SavedStream | None) -> PartSizes:
        """Choose how many examples a part has, a multiple of the rows of a step; those of a resumed run are its own."""
        rows, plan = self.plan.rows_per_step, self.plan
        if saved is not None:
            examples, chunk_bytes = saved.examples, saved.chunk_bytes
        else:
            size = maker.bytes_per_example or self._measure_row()
            # No more than the run takes: a short one begins as soon as its own rows are there. Of a part of few rows a
            # chunk is small, too, as up to a whole one is read again where the next part begins.
            steps = plan.steps_per_part or max(1, PART_BYTES // size // rows)
            examples = min(steps, plan.max_steps) * rows
            chunk_bytes = min(max(examples * size // CHUNKS_PER_PART, CHUNK_BYTES[0]), CHUNK_BYTES[1])
        last = math.ceil(plan.max_steps / (examples // rows)) - 1
        return PartSizes(examples, rows, chunk_bytes, last, len(self.shards))

    def _measure_row(self) -> int:
        """The bytes of text of a row, by the first ones."""
        chunks = islice(self._read(CHUNK_BYTES[0]).iterate(Position()), 1)
        sizes = [count_row_bytes(batch) for chunk in chunks for batch in chunk.rows.data.table.to_batches()]
        return max(1, sum(int(each.sum()) for each in sizes) // sum(map(len, sizes)))

    def _check_shards(self) -> None:
        """Raise `DataError` where shards have vanished since the run began, or come: the order is of those it had."""
        began = read_manifest(self.plan.folder).get("data", {}).get("stream", {}).get("shards")
        if began is None:
            return
        then, now = (Counter(PurePath(name).name for name in names) for names in (began, self.summarize()["shards"]))
        gone, new = (sorted((one - other).elements()) for one, other in ((then, now), (now, then)))
        remedy = "put it back: the run goes on with the shards that it began with"
        problems = [
            Problem("the shard is not there any more", remedy, name, key="data.train", code="HF902") for name in gone
        ]
        remedy = "take it away, or name the shards as they were: the run goes on with those that it began with"
        what = "the shard was not there when the run began"
        problems += [Problem(what, remedy, name, key="data.train", code="HF902") for name in new]
        if problems:
            raise DataError(problems[:MAX_PROBLEMS_SHOWN], total=len(problems))

    def _explain_other(self, part: Part) -> Problem:
        names = list(dict.fromkeys(self._name_shard(position) for position in (part.start, part.end)))
        what = f"the rows that the checkpoint stands in are others now (from {' to '.join(names)})"
        remedy = "put the shards and the settings of data back as they were, or start a new run in another output_dir"
        return Problem(what, remedy, names[0], key="data.train", code="HF902")

    def _name_shard(self, position: Position) -> str:
        order = order_shards(len(self.shards), self.plan.seed, position.pass_number)
        return self.shards[order[min(position.turn, len(order) - 1)]].shown

    def _keep_records(self, names: LeftOutNames, number: int, part: Part) -> None:
        # One process writes for all, into the folder of the run.
        if is_first_rank():
            names.add(number, part.left_out)
            keep_part_prints(self.plan.folder, number, part.texts, part.ngrams)
