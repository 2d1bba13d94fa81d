"""The thread that generates: who waits, who runs, who is stopped."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from hf_finetune.release.serve.engine.batch import Batch
from hf_finetune.release.serve.engine.choice import Chooser, choose_tokens, make_chooser, score_token
from hf_finetune.release.serve.engine.jobs import Asked, Event, Failed, Failure, Finished, Job, Piece, TokenScore
from hf_finetune.release.serve.engine.lanes import Lane
from hf_finetune.release.serve.engine.text import AnswerText
from hf_finetune.release.serve.faults import log_fault

logger = logging.getLogger(__name__)

# Tokens that are read at once for answers that begin, padding included: others go on in between.
JOINED_TOKENS = 4096
SECONDS_BETWEEN_LOOKS = 1.0


class QueueFull(Exception):
    """More answers wait than may."""


class NotServing(Exception):
    """The server ends, or has ended."""


@dataclass(slots=True)
class _Row:
    job: Job
    chooser: Chooser
    text: AnswerText


@dataclass(slots=True)
class _Lot:
    """What runs in a lane: row number `i` of the batch is `rows[i]`."""

    lane: Lane
    batch: Batch
    rows: list[_Row]


class Scheduler:
    """Answers jobs in a thread of its own; `submit` and `counts` are for any thread."""

    def __init__(self, lanes: Mapping[str, Lane], *, running: int, waiting: int) -> None:
        """`running`: answers that are generated at once; `waiting`: others that may wait for a place."""
        self._lots = {name: _Lot(lane, Batch(lane.model, plain_cache=lane.batches), []) for name, lane in lanes.items()}
        self._most_running, self._most_waiting = running, waiting
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed, self._ended = False, False
        # A daemon: a fault elsewhere must not leave a process that never ends.
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def counts(self) -> tuple[int, int]:
        """How many answers wait, and how many are generated."""
        with self._changed:
            return len(self._waiting), self._running

    @property
    def _running(self) -> int:
        return sum(len(lot.rows) for lot in self._lots.values())

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take in all jobs of a request, or none. Raises `QueueFull` and `NotServing`."""
        with self._changed:
            if self._closed or not self.is_alive:
                raise NotServing
            # All or none: of a request with three answers, two would be of no use.
            if len(self._waiting) + self._running + len(jobs) > self._most_running + self._most_waiting:
                raise QueueFull
            self._waiting += jobs
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more jobs; those that were taken are finished."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until nothing runs or waits; returns whether that came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._running, seconds)

    def end(self) -> None:
        """Tell all that still run or wait that the server ends, and end the thread."""
        with self._changed:
            self._closed = self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                # With a bound: a deadline passes without anybody's saying so.
                self._changed.wait_for(lambda: self._ended or self._waiting or self._running, SECONDS_BETWEEN_LOOKS)
                if self._ended:
                    break
            self._drop_unwanted()
            # New ones first: a step of all costs little more than a step of those that run.
            for name, jobs in self._take_waiting().items():
                self._guard(self._lots[name], jobs, self._join)
            for lot in self._lots.values():
                if lot.rows:
                    self._guard(lot, [], self._advance)
            with self._changed:
                self._changed.notify_all()
        self._fail_all("stopping")

    def _drop_unwanted(self) -> None:
        """End what nobody waits for any longer, and what has taken too long."""
        with self._changed:
            failed = [(job, why) for job in self._waiting if (why := job.failure)]
            self._waiting = deque(job for job in self._waiting if all(job is not each for each, _ in failed))
        for lot in self._lots.values():
            found = [row.job.failure for row in lot.rows]
            failed += [(row.job, why) for row, why in zip(lot.rows, found, strict=True) if why]
            self._keep(lot, [place for place, why in enumerate(found) if not why])
        for job, why in failed:
            _send(job, Failed(why))

    def _take_waiting(self) -> dict[str, list[Job]]:
        """Take jobs for the free places, in their order, as many as can be read at once; by lane."""
        taken: dict[str, list[Job]] = {}
        left: deque[Job] = deque()
        with self._changed:
            free = self._most_running - self._running
            for job in self._waiting:
                mine = taken.get(job.asked.model, [])
                lot = self._lots[job.asked.model]
                longest = max(len(each.asked.ids) for each in [*mine, job])
                # Padded to the longest: a prompt of 4,000 tokens beside one of 10 would be read as 8,000.
                fits = not mine or longest * (len(mine) + 1) <= JOINED_TOKENS
                if free and fits and (lot.lane.batches or not (lot.rows or mine)):
                    taken[job.asked.model] = [*mine, job]
                    free -= 1
                else:
                    left.append(job)
            self._waiting = left
            # Counted as running from here on: nobody may see a moment at which they do neither.
            for name, jobs in taken.items():
                self._lots[name].rows += [_make_row(self._lots[name].lane, job) for job in jobs]
        return taken

    def _join(self, lot: _Lot, jobs: Sequence[Job]) -> None:
        # Lanes of one base share its weights: the one before may have left another adapter on.
        lot.lane.switch()
        lot.batch.join([job.asked.ids for job in jobs])

    def _advance(self, lot: _Lot, _: Sequence[Job]) -> None:
        """Choose the next token of each row, send what is certain, and compute the logits of those that go on."""
        rows = lot.rows
        tokens = choose_tokens(lot.batch.logits, [row.chooser for row in rows])
        ends = [
            Failed("non_finite") if token is None else _take_token(row, token, lot.batch.logits[place])
            for place, (row, token) in enumerate(zip(rows, tokens, strict=True))
        ]
        self._keep(lot, [place for place, end in enumerate(ends) if end is None])
        for row, end in zip(rows, ends, strict=True):
            if end is not None:  # said once its place is free
                _send(row.job, end)
        if lot.rows:
            lot.lane.switch()
            lot.batch.step([row.chooser.new[-1] for row in lot.rows])

    def _keep(self, lot: _Lot, places: list[int]) -> None:
        if len(places) == len(lot.rows):
            return
        lot.batch.keep(places)
        with self._changed:
            lot.rows = [lot.rows[place] for place in places]

    def _guard(self, lot: _Lot, jobs: Sequence[Job], work: Callable[[_Lot, Sequence[Job]], None]) -> None:
        """Do `work`; where it fails, all answers of the lane fail, and the others go on."""
        try:
            work(lot, jobs)
        except Exception as error:  # a thread that ends would leave everybody waiting
            out_of_memory = isinstance(error, RuntimeError) and should_reduce_batch_size(error)
            if out_of_memory:
                logger.warning("out of memory with %d answers at once", len(lot.rows), extra={"code": "HF703"})
            else:
                log_fault(f"{lot.lane.name} has failed", error)
            with self._changed:
                failed, lot.rows = lot.rows, []
            # Its cache may be half written.
            lot.batch = Batch(lot.lane.model, plain_cache=lot.lane.batches)
            for row in failed:
                _send(row.job, Failed("memory" if out_of_memory else "fault"))
            if out_of_memory:
                clear_device_cache(garbage_collection=True)

    def _fail_all(self, why: Failure) -> None:
        with self._changed:
            jobs = [*self._waiting, *(row.job for lot in self._lots.values() for row in lot.rows)]
            self._waiting.clear()
            for lot in self._lots.values():
                lot.rows = []
            self._changed.notify_all()
        for job in jobs:
            _send(job, Failed(why))


def _make_row(lane: Lane, job: Job) -> _Row:
    return _Row(job, make_chooser(job.asked), AnswerText(lane.decoder, job.asked.ids, job.asked.stops))


def _take_token(row: _Row, token: int, logits: torch.Tensor) -> Finished | None:
    """Add a token to an answer and send what is certain; returns its end, if that is it. `logits`: (vocab,)."""
    asked, new = row.job.asked, row.chooser.new
    new.append(token)
    ended = token in asked.ends
    text = "" if ended else row.text.add(token)
    scores = _score(asked, logits, token)
    if not (ended or row.text.stopped or len(new) >= asked.settings.max_new_tokens):
        if text or scores:
            _send(row.job, Piece(text, scores))
        return None
    text += "" if row.text.stopped else row.text.end()
    if text or scores:
        _send(row.job, Piece(text, scores))
    return Finished("stop" if ended or row.text.stopped else "length", len(new))


def _score(asked: Asked, logits: torch.Tensor, token: int) -> tuple[TokenScore, ...]:
    # The token that ends an answer is none of its text.
    if asked.top_logprobs is None or token in asked.ends:
        return ()
    return (score_token(logits, token, asked.top_logprobs),)


def _send(job: Job, event: Event) -> None:
    try:
        job.send(event)
    except RuntimeError:  # the loop of a client is closed: nobody waits
        job.dropped.set()
