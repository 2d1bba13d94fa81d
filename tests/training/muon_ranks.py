"""Processes that talk through gloo, started once and then asked for many things: for the tests of Muon's shards."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Autograd of a machine with a GPU has threads, which a fork would lose.
PROCESSES = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
SECONDS = 60


class Ranks:
    """As many processes as there are `pipes`, all in one group."""

    def __init__(self, pipes: list[Connection]) -> None:
        self.pipes = pipes

    def __len__(self) -> int:
        return len(self.pipes)

    def ask(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Call a function of a module in all processes; returns what each returned, or raised."""
        for pipe in self.pipes:
            pipe.send((function, args))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(SECONDS), f"rank {rank} hangs in {function.__name__}"
            answers.append(pipe.recv())
        return answers

    def get(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """As `ask`, but nothing may have been raised."""
        answers = self.ask(function, *args)
        assert not [answer for answer in answers if isinstance(answer, BaseException)], answers
        return answers


@contextmanager
def start_ranks(count: int, folder: Path) -> Iterator[Ranks]:
    """Start them, and end them after the block."""
    ours, theirs = zip(*(PROCESSES.Pipe() for _ in range(count)), strict=True)
    arguments = [(rank, count, folder / "store", pipe, ours) for rank, pipe in enumerate(theirs)]
    processes = [PROCESSES.Process(target=_serve, args=each, daemon=True) for each in arguments]
    for process in processes:
        process.start()
    try:
        yield Ranks(list(ours))
    finally:
        for process in processes:
            process.kill()
            process.join()


def _serve(rank: int, count: int, store: Path, pipe: Connection, others: tuple[Connection, ...]) -> None:
    for each in others:  # with a copy of them here, the end of the tests' process would not be seen
        each.close()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    with suppress(EOFError):
        while True:
            function, args = pipe.recv()
            try:
                answer = function(*args)
            except Exception as raised:
                traceback.print_exc()
                answer = raised
            pipe.send(answer)
