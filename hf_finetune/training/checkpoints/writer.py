"""Write checkpoints beside training: the state is copied in memory, and a thread puts it on the disk.

The copy takes a fiftieth of the time that writing takes, once its memory has been used before: a system gives a process
new memory slowly. What the optimizer alone changes is copied by the thread, too, while the next step is computed, and
the optimizer waits for it. Where there is no room for a second copy, training waits for the disk.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import Tensor

from hf_finetune.training.checkpoints.disk import Key, Snapshot, write_checkpoint
from hf_finetune.training.checkpoints.model_files import Weights

MEMORY_KEPT_FREE = 2**30
"""Bytes that training may still need beside the copy of its state."""
NICENESS = 10


class CheckpointWriter:
    """Writes one checkpoint at a time. What goes wrong is raised by the next call in the training thread."""

    def __init__(self, limit: int | None) -> None:
        """`limit` is `train.save_total_limit`: older checkpoints are removed once a newer one is verified."""
        self.limit = limit
        self.waited_s: list[float] = []
        """How long training waited for each save."""
        self.took_s: list[float] = []
        """How long each save took until the checkpoint was verified."""
        self._held: dict[Key, Tensor] = {}
        # One thread for all: where the processors are busy, a new one takes longer to start than a small state to copy.
        self._thread = ThreadPoolExecutor(1, "checkpoint", _give_way)
        self._pending: Future[Any] | None = None
        self._copied = threading.Event()
        self._copied.set()

    def save(self, snapshot: Snapshot) -> None:
        """Copy the state and write it in the background; without memory for a copy, at once.

        Waits for the save before. Nothing of `snapshot.still` may change before `wait_for_copy` has returned. Raises
        `CannotWriteError` where this one or the one before cannot be written.
        """
        began = time.perf_counter()
        self.wait()
        # Copying, writing, fsync and sha256 let go of Python's lock (torch 2.13, safetensors 0.8): the thread takes no
        # more from training than the processors do.
        if snapshot.owned:
            self._pending = self._thread.submit(self._write, snapshot, began)
        elif self.prepare(snapshot):
            tensors = _name_tensors(snapshot)
            self._copy(tensors, tensors.keys() - snapshot.still)
            self._copied.clear()
            self._pending = self._thread.submit(self._copy_rest, snapshot, tensors, began)
        else:
            self._write(snapshot, began)
        self.waited_s.append(time.perf_counter() - began)

    def wait_for_copy(self) -> None:
        """Wait until nothing of the last save is read from the live state any more."""
        if not self._copied.is_set():
            began = time.perf_counter()
            self._copied.wait()
            self.waited_s[-1] += time.perf_counter() - began

    def wait(self) -> None:
        """Wait until the last checkpoint is verified. Raises what has gone wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def poll(self) -> None:
        """Raise what has gone wrong with the last checkpoint, if anything has by now."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def prepare_in_background(self, snapshot: Snapshot) -> None:
        """Take memory for the copy of the first save, which would wait for it."""
        self.wait()
        self._pending = self._thread.submit(self.prepare, snapshot)

    def release(self) -> None:
        """Wait, and give back the memory of the copy."""
        self.wait()
        self._held = {}

    def close(self) -> None:
        """The same where something has gone wrong already: nothing is raised."""
        with suppress(BaseException):
            self.wait()
        self._held = {}

    def prepare(self, snapshot: Snapshot) -> bool:
        """Take memory for a copy of what `snapshot` holds; False where there is not enough."""
        tensors = _name_tensors(snapshot)
        self._held = {key: held for key, held in self._held.items() if key in tensors and _fits(held, tensors[key])}
        new = {key: each for key, each in tensors.items() if key not in self._held}
        needed = sum(each.nbytes for each in new.values())
        if needed and needed + MEMORY_KEPT_FREE > psutil.virtual_memory().available:
            self._held = {}
            return False
        for key, each in new.items():
            # `zero_` touches the memory: a system hands it out only then.
            self._held[key] = torch.empty(each.shape, dtype=each.dtype, pin_memory=each.device.type == "cuda").zero_()
        return True

    def _copy_rest(self, snapshot: Snapshot, tensors: Mapping[Key, Tensor], began: float) -> None:
        # An optimizer that waits for a copy which has failed would wait for ever: the error comes by the future.
        try:
            self._copy(tensors, tensors.keys() & snapshot.still)
        finally:
            self._copied.set()
        weights = {
            file: Weights({name: self._held[file, name] for name in each.tensors}, each.metadata)
            for file, each in snapshot.weights.items()
        }
        self._write(replace(snapshot, weights=weights), began)

    def _write(self, snapshot: Snapshot, began: float) -> None:
        write_checkpoint(snapshot, self.limit)
        self.took_s.append(time.perf_counter() - began)

    @torch.no_grad()
    def _copy(self, tensors: Mapping[Key, Tensor], keys: Collection[Key]) -> None:
        for key in keys:
            self._held[key].copy_(tensors[key])


def _give_way() -> None:
    """Let training go before the thread that calls this."""
    if sys.platform == "linux":  # which alone has priorities by thread
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _name_tensors(snapshot: Snapshot) -> dict[Key, Tensor]:
    return {(file, name): each for file, weights in snapshot.weights.items() for name, each in weights.tensors.items()}


def _fits(held: Tensor, tensor: Tensor) -> bool:
    return held.shape == tensor.shape and held.dtype == tensor.dtype
