"""A part of a stream: so many examples as an entry of the cache, and the position at which the next one begins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_finetune.cache.entries import remove_files
from hf_finetune.data.cache import Batches, build_cached_dataset, place_dataset
from hf_finetune.data.reading.arrow import name_rejected_lines
from hf_finetune.data.splitting.assignment import Hashes
from hf_finetune.data.streaming.chunks import Chunk, ChunkReader
from hf_finetune.data.streaming.examples import ExampleMaker
from hf_finetune.data.streaming.left_out import Keep, LeftOut, keep_left_out
from hf_finetune.data.streaming.position import Position
from hf_finetune.data.streaming.prints import PartPrints, find_copies, find_prints
from hf_finetune.environment.versions import __version__
from hf_finetune.errors import CannotWriteError, DataError, Problem, advise_writing, find_writing_code
from hf_finetune.row_prints import map_arrays

KIND, BESIDE = "part", (".prints.npz", ".rejected.jsonl")


class StoppedReading(Exception):
    """The part is not needed any more."""


@dataclass(frozen=True)
class Part:
    """So many examples of a stream."""

    rows: Dataset
    path: Path
    """Of its file in the cache."""
    start: Position
    end: Position
    sha256: str
    """Of that file."""
    texts: Hashes
    ngrams: Hashes
    """Prints of its rows and of runs of their words, mapped."""
    left_out: LeftOut

    def remove(self) -> None:
        """Take its files out of the cache; who reads them goes on reading. Raises OSError."""
        remove_files(self.path)


def name_prints(arrow: Path) -> Path:
    """The file of prints beside that of a part."""
    return arrow.with_suffix(BESIDE[0])


@dataclass(frozen=True)
class PartBuilder:
    """Builds the parts of a run, or finds them in the cache."""

    reader: ChunkReader
    maker: ExampleMaker
    examples: int
    """Of each part."""
    held_out: Hashes
    """Prints of rows that are evaluated: those of the stream are left out."""
    key: bytes
    made_from: Any
    """What tells the run's parts from those of all others, JSON-ready."""

    def build(self, start: Position, stopped: Callable[[], bool] = lambda: False) -> Part:
        """The part that begins at `start`.

        Raises `DataError` for bad rows and lost shards, `CannotWriteError` where the cache cannot be written, and
        `StoppedReading` once `stopped` returns True; nothing of it is left then.
        """
        # The folder of the run is part of it: two runs on the same shards would remove each other's parts.
        made_from = {
            "version": __version__,
            "run": self.made_from,
            "examples": [self.maker.made_from, self.examples, self.reader.chunk_bytes],
            "start": start.as_dict(),
        }
        try:
            arrow = place_dataset(KIND, made_from)
            build = partial(self._write_beside, arrow, start, stopped)
            rows, counts = build_cached_dataset(KIND, made_from, self.maker.features, build, BESIDE)
            # Now: `hf-finetune cache` may remove them while the run goes on.
            prints, left_out = map_arrays(name_prints(arrow)), LeftOut.map(name_rejected_lines(arrow), *counts["lines"])
            facts = json.loads(arrow.with_suffix(".json").read_text())
        except (OSError, CannotWriteError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            number = cause.errno if isinstance(cause, OSError) else None
            why = (cause.strerror if isinstance(cause, OSError) else None) or error
            what = f"a part of the stream cannot be written into the datasets cache: {why}"
            remedy = "make room or set HF_DATASETS_CACHE, as three parts are there at once, and type the command again"
            remedy, code = advise_writing(number, remedy), find_writing_code(number)
            raise CannotWriteError(Problem(what, remedy, code=code)) from error
        end = Position.from_dict(counts["end"])
        return Part(rows, arrow, start, end, facts["sha256"], prints["texts"], prints["ngrams"], left_out)

    def _write_beside(self, arrow: Path, start: Position, stopped: Callable[[], bool]) -> Batches:
        """Yield the examples of a part, and write its prints and the lines left out of it; return its counts."""
        collected = PartPrints()
        with keep_left_out(name_rejected_lines(arrow)) as keep:
            counts = yield from self._build_batches(start, collected, keep, stopped)
        collected.write(name_prints(arrow))
        return counts

    def _build_batches(
        self, start: Position, collected: PartPrints, keep: Keep, stopped: Callable[[], bool]
    ) -> Batches:
        """Yield the examples of a part, and return its end, and which of the lines that `keep` took are its own."""
        maker, of_part = self.maker.begin(self.reader.locate), Counter[str]()
        carried, skip, left, before = start.carried, start.skip, self.examples, 0
        for chunk in self.reader.iterate(start, keep):
            if stopped():
                raise StoppedReading
            kept, dropped = self._leave_out(chunk, collected)
            examples, behind, counts = maker.make(kept, carried)
            if skip:  # it was counted with the part that it began in
                before = chunk.rejected
            else:
                of_part += counts + Counter(rows=len(chunk.ids), rejected=chunk.rejected, held_out=dropped)
            batch = examples.slice(skip, left)
            left -= len(batch)
            if len(batch):
                yield batch
            # Examples follow from a chunk and from what was carried into it, so that a part may end behind any of them.
            used, read = skip + len(batch), start.read + of_part
            if used == len(examples):
                end = replace(chunk.end, skip=0, carried=behind, read=read)
            else:
                end = replace(chunk.begin, skip=used, carried=carried, read=read)
            if not left:
                break
            if left == self.examples and chunk.begin.pass_number > start.pass_number + 1:
                what = "no row of a whole pass gives an example"
                raise DataError(
                    Problem(what, "look at the rows with `hf-finetune check`", key="data.train", code="HF071")
                )
            carried, skip = behind, 0
        maker.check(start.read + of_part)
        return {"end": end.as_dict(), "part": dict(of_part), "lines": [before, of_part["rejected"]]}

    def _leave_out(self, chunk: Chunk, collected: PartPrints) -> tuple[Chunk, int]:
        """The chunk without rows that are evaluated, and how many those were."""
        prints = find_prints(chunk.rows, self.key)
        kept = ~find_copies(prints.rows, self.held_out)
        collected.add(prints, kept)
        return chunk.keep(kept), int((~kept).sum())
