"""Rows given to several processes, whose results come in the order of the rows, for any number of processes.

They are forked, as those of `datasets` and of torch's data loaders are: each has the tokenizer, the template and the
rest from the start, in memory that is shared. Where the system forks none, or rows are few, this process does it all.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import pyarrow as pa

from hf_finetune.environment.progress_lines import show_progress
from hf_finetune.environment.threads import count_cores
from hf_finetune.errors import DataError, FinetuneError, MachineError, OutOfMemory, Problem
from hf_finetune.metric_info import choose_verb

logger = logging.getLogger(__name__)

FEWEST_BATCHES = 4
"""Of rows, for which processes are started: fewer are done before they would be."""
FEWEST_PRINTED = 8
"""The same of record batches of some thousand rows, which are only hashed."""
MOST_PROCESSES = 64
"""More wait for this one, which takes their results in turn."""
LARGE = 8 * 2**20
"""Bytes of a batch, of which one at a time is worked on: a tokenizer takes a hundred bytes of memory for each."""
AHEAD = 2
"""Batches of rows for each process that are given out before their results are taken."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)
Batch = tuple[int, pa.Table]
"""The number of its first row, and the rows."""


class RowWork(Protocol[Made]):
    """What becomes of batches of rows: three steps, the second of which lets go of the interpreter.

    What it counts meanwhile does not depend on the order of the batches.
    """

    def read(self, first: int, table: pa.Table) -> Any:
        """Take a batch, whose first row is number `first`."""

    def encode(self, read: Any) -> Any:
        """Tokenize what was read. Counts nothing: another thread may do it."""

    def build(self, encoded: Any) -> Made:
        """Make the result of a batch."""

    def collect(self) -> Any:
        """What was counted so far."""

    def merge(self, collected: Any) -> None:
        """Add what another process has counted."""


def count_processes(wanted: int | None) -> int:
    """How many processes rows are given to: `wanted`, or as many as this one has cores, and no more than that.

    On Linux; elsewhere it is 1.
    """
    if sys.platform != "linux":  # the libraries of a Mac bear no fork (https://bugs.python.org/issue33725)
        return 1
    cores = count_cores()
    if wanted is not None and wanted > cores:
        used = f"{cores} {choose_verb(cores, 'is', 'are')} used"
        _say_once(f"data.num_proc is {wanted}, and {used}: this process has no more cores")
    return min(cores, MOST_PROCESSES, wanted or cores)


@cache
def _say_once(line: str) -> None:
    logger.info(line)


def map_rows(
    work: RowWork[Result], batches: Iterable[Batch], processes: int = 1, total: int | None = None
) -> Iterator[Result]:
    """Yield the result of each batch, in order; behind the last one `work` has counted them all.

    Progress is shown of a `total` of rows. Raises what `work` raises, in its place, and `MachineError` where a process
    ends before its time.
    """
    if total is None:
        yield from _map(work, iter(batches), processes)
        return
    sizes, done = deque[int](), 0
    with show_progress("rows tokenized", total) as show:
        for result in _map(work, _note_sizes(batches, sizes), processes):
            yield result
            done += sizes.popleft()
            show(done)


def _note_sizes(batches: Iterable[Batch], sizes: deque[int]) -> Iterator[Batch]:
    for first, table in batches:
        sizes.append(len(table))
        yield first, table


def _map(work: RowWork[Result], source: Iterator[Batch], processes: int) -> Iterator[Result]:
    source, enough = look_ahead(source, FEWEST_BATCHES)
    if processes > 1 and enough:
        yield from _map_elsewhere(work, source, processes)
        return
    for encoded in map_ahead(work.encode, (work.read(*batch) for batch in source)):
        yield work.build(encoded)


def _map_elsewhere(work: RowWork[Result], batches: Iterator[Batch], processes: int) -> Iterator[Result]:
    def do(packed: tuple[int, bytes]) -> Result:
        return work.build(work.encode(work.read(packed[0], _unpack(packed[1]))))

    large = Lock()

    def give(batch: Batch) -> Result:
        packed = batch[0], _pack(batch[1])
        with large if len(packed[1]) > LARGE else nullcontext():
            return pool.do(packed)

    with WorkerPool(do, processes, work.collect) as pool:
        try:
            yield from map_ahead(give, batches, processes)
        except DataError:
            for counted in pool.collect():  # what was refused before is said as well
                work.merge(counted)
            raise
        for counted in pool.collect():
            work.merge(counted)


def map_batches(
    do: Callable[[pa.RecordBatch], Result], batches: Iterable[tuple[int, pa.RecordBatch]], processes: int
) -> Iterator[tuple[int, Result]]:
    """Yield what `do` makes of each record batch, with its number, in order; raises what it raises."""
    source, enough = look_ahead(iter(batches), FEWEST_PRINTED)
    if processes == 1 or not enough:
        for number, batch in source:
            yield number, do(batch)
        return

    def unpack(item: tuple[int, bytes]) -> tuple[int, Result]:
        return item[0], do(pa.ipc.open_stream(item[1]).read_next_batch())

    with WorkerPool(unpack, processes) as pool:
        yield from pool.map((number, _pack(batch)) for number, batch in source)


def look_ahead(
    items: Iterator[Item], amount: int, size: Callable[[Item], int] = lambda item: 1
) -> tuple[Iterator[Item], bool]:
    """The same items, and whether their sizes add up to `amount` or more; none is held once it was given on."""
    first, found = deque[Item](), 0
    for item in items:
        first.append(item)
        found += size(item)
        if found >= amount:
            break

    def iterate() -> Iterator[Item]:
        while first:
            yield first.popleft()
        yield from items

    return iterate(), found >= amount


def map_ahead(do: Callable[[Item], Result], items: Iterable[Item], threads: int = 1) -> Iterator[Result]:
    """Yield what `do` makes of each item, in order; threads do it meanwhile, two items ahead for each at most.

    Raises what it raises, in its place. Items are made, and results used, by the caller's own thread.
    """
    # A tokenizer lets go of the interpreter: the two do not take turns. Ctrl-C waits for one batch.
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(do, item))
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:  # what was not begun is wanted no more
                each.cancel()


class WorkerPool(Generic[Item, Result]):
    """Processes that do one work; they end with the block of `with`."""

    def __init__(self, do: Callable[[Item], Result], count: int, collect: Callable[[], Any] = lambda: None) -> None:
        """`do` gives the result of an item; `collect` what was counted of all that one process was given."""
        self.count = count
        self._do_here, self._collect_here = do, collect
        self._workers: list[tuple[BaseProcess, Connection]] = []
        self._idle: SimpleQueue[tuple[BaseProcess, Connection]] = SimpleQueue()

    def __enter__(self) -> Self:
        # Where the end of a program comes before the end of the block: multiprocessing would wait for them there.
        atexit.register(self.close)
        context = multiprocessing.get_context("fork")
        for _ in range(self.count):
            ours, theirs = context.Pipe()
            not_theirs = [ours, *(pipe for _, pipe in self._workers)]
            process = context.Process(
                target=_serve, args=(self._do_here, self._collect_here, theirs, not_theirs), daemon=True
            )
            with warnings.catch_warnings():
                # Of a process with threads: none of them holds a lock that is taken over there.
                warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
                process.start()
            theirs.close()
            self._workers.append((process, ours))
            self._idle.put((process, ours))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they do."""
        atexit.unregister(self.close)
        for process, pipe in self._workers:
            process.kill()
            process.join()
            pipe.close()

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """Yield the result of each item, in order. Raises what the work raises, and `MachineError`; see `map_rows`."""
        # A thread for each process gives it an item and waits for the result: this one makes the next items.
        return map_ahead(self.do, items, self.count)

    def do(self, item: Item) -> Result:
        """Give an item to a process that has none."""
        process, pipe = worker = self._idle.get()
        try:
            answer: Result | _Raised = _ask(process, pipe, item)
        finally:
            self._idle.put(worker)
        if isinstance(answer, _Raised):
            raise answer.remake()
        return answer

    def collect(self) -> list[Any]:
        """What each process has counted."""
        return [_ask(process, pipe, None) for process, pipe in self._workers]


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a process has raised: an exception of Python's own, or one of ours by what it is made of."""

    error: Exception | type[FinetuneError]
    problems: tuple[Problem, ...] = ()
    total: int = 0

    def remake(self) -> Exception:
        """The exception, made here."""
        return self.error if isinstance(self.error, Exception) else self.error(self.problems, total=self.total)


def _ask(process: BaseProcess, pipe: Connection, question: Any) -> Any:
    try:
        pipe.send(question)
        return pipe.recv()
    except (EOFError, OSError) as gone:
        process.join(1.0)
        code = process.exitcode
        how = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit code {code})"
        what = f"a process that was given rows has ended before its time{how}, possibly for want of memory"
        remedy = "start the run again, with data.num_proc: 1 if there is too little"
        # Who kills a process by a signal that it cannot hear is nearly always the system, for its memory.
        killed = code is not None and -code == getattr(signal, "SIGKILL", 9)
        raise (OutOfMemory if killed else MachineError)(Problem(what, remedy, code="HF093")) from gone


def _serve(
    do: Callable[[Any], Any], collect: Callable[[], Any], pipe: Connection, not_ours: Sequence[Connection]
) -> None:
    """Do what is asked until the other end is closed: that is how it ends, too, where the run is killed."""
    for each in not_ours:
        each.close()
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the run as well, which ends its processes
        signal.signal(number, signal.SIG_IGN)
    logging.disable(logging.INFO)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each has a core
    while True:
        try:
            item = pipe.recv()
            pipe.send(collect() if item is None else _catch(do, item))
        except (EOFError, OSError):
            return


def _catch(do: Callable[[Any], Any], item: Any) -> Any:
    try:
        return do(item)
    except FinetuneError as error:
        return _Raised(type(error), error.problems, error.total)
    except Exception as error:
        trace = f"in a process that was given rows:\n{traceback.format_exc()}"
        if type(error).__module__ != "builtins":  # it may not come through a pipe
            return _Raised(RuntimeError(trace))
        error.add_note(trace)
        return _Raised(error)


def _pack(table: pa.Table | pa.RecordBatch) -> bytes:
    # Not by pickle, which sends the whole file of which the table is a part.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return bytes(sink.getvalue())


def _unpack(packed: bytes) -> pa.Table:
    return pa.ipc.open_stream(packed).read_all()
