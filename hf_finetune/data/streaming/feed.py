"""The data set that a trainer sees: the part of each epoch, the next of which is made meanwhile.

By a thread, and not by processes: a part takes a small share of the time that it is trained for, the tokenizer lets go
of the interpreter, nothing is held twice in memory or has to be sent, and no worker can be killed without the run. One
that is forked while the trainer computes would have the locks that its threads hold at that moment, and wait for ever.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

from hf_finetune.data.streaming.parts import Part, StoppedReading
from hf_finetune.data.streaming.position import Position

logger = logging.getLogger(__name__)

SECONDS_UNSAID = 5.0
"""For which the trainer waits for a part without a word."""

Build = Callable[[Position, Callable[[], bool]], Part]
Trained = Callable[[int, Part], None]
"""Called with each part that training begins, and its number."""


@dataclass(frozen=True)
class PartSizes:
    """What decides how a stream is cut; the same for all of a run."""

    examples: int
    rows_per_step: int
    chunk_bytes: int
    last: int
    """The number of the last part, which the run may train a piece of."""
    shards: int


class PartFeed:
    """Holds the part that is trained, and makes the next one.

    Each process of a run has one; on each machine the first makes parts ahead and removes them, the others find them.
    """

    def __init__(self, build: Build, sizes: PartSizes, starts: dict[int, Position], trained: Trained) -> None:
        """`starts` has where parts begin, by their number, as far as it is known; `trained` is told of each part."""
        self._build, self.sizes, self._starts, self._trained = build, sizes, starts, trained
        # Launchers number the processes of each machine; without one there is only this.
        self._leads = os.environ.get("LOCAL_RANK", "0") == "0"
        self._ahead: _Ahead | None = None
        self.number = self._begun = -1
        self.part: Part | None = None

    def select(self, number: int) -> Part:
        """The part of this number, which is waited for; the one before is removed, and the next one begun.

        Raises what building it has raised.
        """
        if self.part is None or number != self.number:
            # Where the next part fails, this one stays: the run is saved as it is.
            before, self.part = self.part, self._take(number)
            self.number = number
            self._starts[number + 1] = self.part.end
            if before is not None:
                self._remove(before)
        return self.part

    def begin(self) -> None:
        """Training of the part begins, if it has not: the next one is made meanwhile."""
        # Not in `select`: a loader forks its workers in between, and whoever is forked has no thread but one.
        if self._begun == self.number:
            return
        assert self.part is not None
        self._begun = self.number
        self._trained(self.number, self.part)
        if self._leads and self.number < self.sizes.last and self._ahead is None:
            self._ahead = _Ahead(self._build, self._starts[self.number + 1])
            self._ahead.start()

    def close(self, *, finished: bool) -> None:
        """Stop what is made ahead; of a run that has come to its end, remove the part."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None
        if finished and self.part is not None:
            self._remove(self.part)

    @property
    def passes(self) -> float:
        """How many passes over the shards were read up to the end of the part."""
        assert self.part is not None
        return self.part.end.pass_number + self.part.end.turn / self.sizes.shards

    def save(self) -> dict[str, Any]:
        """Where the part begins, and the next one: plain JSON."""
        assert self.part is not None
        return {
            "part": self.number,
            "start": self.part.start.as_dict(),
            "sha256": self.part.sha256,
            "next": self.part.end.as_dict(),
            **asdict(self.sizes),
        }

    def _take(self, number: int) -> Part:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and number == self.number + 1:
            began = time.monotonic()
            part = ahead.wait()
            if (waited := time.monotonic() - began) > SECONDS_UNSAID:
                what = "part %d was waited for, for %.0f s: it takes longer to make than the one before to train"
                logger.info(what, number + 1, waited)
            return part
        if ahead is not None:
            ahead.stop()
        return self._build(self._starts[number], lambda: False)

    def _remove(self, part: Part) -> None:
        if self._leads:
            with suppress(OSError):  # Windows keeps files that are open; `hf-finetune cache` removes them
                part.remove()


class _Ahead:
    """One part, as a thread makes it."""

    def __init__(self, build: Build, start: Position) -> None:
        self._build, self._start = build, start
        self._stopped = threading.Event()
        self._part: Part | None = None
        self._problem: BaseException | None = None
        # A daemon: where the main thread is torn away, nobody is left to wait for this one.
        self._thread = threading.Thread(target=self._run, name="part", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._part = self._build(self._start, self._stopped.is_set)
        except BaseException as problem:  # raised where the part is waited for
            self._problem = problem

    def wait(self) -> Part:
        """The part; raises what making it has raised."""
        # With a timeout: Ctrl-C and a signal of a scheduler come in between.
        while self._thread.is_alive():
            self._thread.join(0.2)
        if self._problem is not None:
            raise self._problem
        assert self._part is not None
        return self._part

    def stop(self) -> None:
        """Stop at the next chunk, and wait until it has."""
        self._stopped.set()
        self._thread.join()
        if self._problem is not None and not isinstance(self._problem, StoppedReading):
            logger.debug("the part that was made ahead: %s", self._problem)


class PartedRows(Dataset):  # type: ignore[misc]  # `datasets` has no types
    """The rows of one part after another, in one object: a trainer and its loaders keep the data set they are given."""

    feed: PartFeed

    @classmethod
    def of(cls, feed: PartFeed) -> PartedRows:
        """The rows of the part that `feed` has selected."""
        rows: Any = cls.__new__(cls)
        rows.feed = feed
        rows.show()
        shown: PartedRows = rows
        return shown

    def show(self) -> None:
        """Become the rows of the part that is selected now."""
        assert self.feed.part is not None
        self.__dict__.update(vars(self.feed.part.rows))

    def remove_columns(self, column_names: Any, *args: Any, **kwargs: Any) -> Dataset:
        """These rows themselves where nothing is removed: transformers (5.23) asks for no columns to be."""
        # A copy would stay at its part for ever, in the loader of the trainer.
        return super().remove_columns(column_names, *args, **kwargs) if column_names else self

    def __getstate__(self) -> dict[str, Any]:
        # Workers of a loader are given the rows alone: a thread and its locks cannot be sent.
        return {name: value for name, value in vars(self).items() if name != "feed"}
