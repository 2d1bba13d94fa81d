"""One worker that renders chat templates: started, watched, ended.

A thread kills it when it has worked for a second without an answer: that stops C code too, on every system, whatever
the calling thread waits for. It inherits no secret of the environment, no file and no Ctrl-C of this process, and ends
with it: its standard input is closed then.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import psutil

from hf_finetune.chat import worker
from hf_finetune.environment.bare_process import keep_variables
from hf_finetune.errors import MachineError, Problem

logger = logging.getLogger(__name__)

TIME_LIMIT_SECONDS = 1.0
"""From one answer to the next; half of it must be processor time of the worker, lest a machine under load look slow."""
MAX_WAIT_SECONDS = 30.0
"""The same in wall time alone; also how long a worker may take to start."""
POLL_SECONDS = 0.05
PIPE_BYTES = 2**16
OUT_OF_TIME = getattr(signal, "SIGXCPU", 0)
"""The signal by which the system ends it then; Windows limits no processor time."""
# Not run by `-m`, which would import this package: 0.3 s of modules that the worker does not need.
BOOT = "import sys, runpy; sys.path[:] = sys.argv[2:]; runpy.run_path(sys.argv[1], run_name='__main__')"


class WorkerDied(Exception):
    """The worker ended before it answered; `what` says how, `exceeded` that it came to a limit.

    It was `started` if it had come so far that it could answer.
    """

    def __init__(self, what: str, *, started: bool, exceeded: bool = False) -> None:
        super().__init__(what)
        self.what, self.started, self.exceeded = what, started, exceeded


@dataclass(eq=False)
class WorkerProcess:
    """A running worker; one thread may use it at a time."""

    process: subprocess.Popen[bytes]
    requests: int
    answers: int
    """File descriptors of its standard input and output. Python's buffers have locks, which a forked process may find
    taken for ever, and what is in them would be written by that one too."""
    received: bytearray = field(default_factory=bytearray)
    progress: int = 0
    """How often something came from it."""
    busy: threading.Event = field(default_factory=threading.Event)
    started: bool = False
    stopped_at: int = -1
    """The `progress` at which it was stopped, since no more came for too long."""

    def send(self, lines: Sequence[str]) -> None:
        """Send a batch of lines of JSON. Raises `WorkerDied`."""
        payload = "\n".join(lines).encode("utf-8", "surrogatepass")
        self.busy.set()
        try:
            if not self.started:
                _note_missing_limits(self._read_frame(10_000)["missing"])
                self.started = True
            rest = memoryview(len(payload).to_bytes(8, "big") + payload)
            while rest:
                rest = rest[os.write(self.requests, rest) :]
        except OSError:
            self._explain_death()

    def receive(self, most: int) -> Any:
        """Return the next answer, of at most `most` bytes. Raises `WorkerDied`."""
        return self._read_frame(most)

    def rest(self) -> None:
        """Wait for the next batch: no answer is due until then."""
        self.busy.clear()

    def _read_frame(self, most: int) -> Any:
        while True:
            size = int.from_bytes(self._read(8), "big")
            if size > most:
                raise WorkerDied(f"writes {size:,} bytes ({most:,} at most)", started=self.started, exceeded=True)
            payload = self._read(size)
            if size:  # an empty one says that work goes on
                return json.loads(payload)

    def _read(self, size: int) -> bytes:
        while len(self.received) < size:
            some = os.read(self.answers, PIPE_BYTES)
            if not some:
                self._explain_death()
            self.progress += 1
            self.received += some
        taken = bytes(memoryview(self.received)[:size])
        del self.received[:size]
        return taken

    def _explain_death(self) -> NoReturn:
        self.process.kill()
        code = self.process.wait()
        if self.stopped_at == self.progress:  # and not where an answer came just then
            raise WorkerDied(f"did not end within {TIME_LIMIT_SECONDS:g} s", started=True, exceeded=True)
        if code == -OUT_OF_TIME:
            what = f"did not end within {TIME_LIMIT_SECONDS:g} s"  # by the system, which counts whole seconds
            raise WorkerDied(what, started=self.started, exceeded=self.started)
        raise WorkerDied(f"ended the process that renders it ({_name_exit(code)})", started=self.started)

    def end(self) -> None:
        """End the worker, whatever it does."""
        self.process.kill()
        self._close_pipes()
        self.process.wait()
        self.busy.set()  # so that the thread that watches it sees its end

    def leave(self) -> None:
        """Leave the worker to the process that this one was forked from."""
        self._close_pipes()
        self.process.returncode = 0  # its end is nothing to wait for here

    def _close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def start_worker() -> WorkerProcess:
    """Start a worker. Raises `MachineError` where the system starts no process."""
    paths = [os.path.abspath(path) for path in sys.path]
    command = [sys.executable, "-I", "-S", "-c", BOOT, str(Path(worker.__file__).resolve()), *paths]
    try:
        process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=keep_variables(),
        )
    except OSError as problem:
        raise explain_no_start(str(problem.strerror)) from problem
    assert process.stdin is not None
    assert process.stdout is not None
    started = WorkerProcess(process, process.stdin.fileno(), process.stdout.fileno())
    threading.Thread(target=_watch, args=(started,), name="templates", daemon=True).start()
    return started


def explain_no_start(why: str) -> MachineError:
    """Say that no template can be rendered here."""
    what = f"the process in which chat templates are rendered does not start ({why})"
    return MachineError(Problem(what, "see whether this machine lets Python start another Python", code="HF139"))


def _note_missing_limits(missing: Sequence[str]) -> None:
    if missing:
        what = "chat templates are bounded by a clock alone: this system lets no process limit its %s"
        logger.warning(what, " and its ".join(map(str, missing)), extra={"code": "HF138"})


def _name_exit(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _watch(watched: WorkerProcess) -> None:
    """Kill a worker that gives no answer for too long."""
    seen, since, processor = -1, 0.0, 0.0
    while watched.process.returncode is None:
        watched.busy.wait(MAX_WAIT_SECONDS)
        if not watched.busy.is_set():
            seen = -1
            continue
        now = time.monotonic()
        if watched.progress != seen:
            seen, since, processor = watched.progress, now, _read_processor_time(watched.process.pid)
        elif now - since > TIME_LIMIT_SECONDS and watched.started:
            used = _read_processor_time(watched.process.pid) - processor
            if used > TIME_LIMIT_SECONDS / 2 or now - since > MAX_WAIT_SECONDS:
                watched.stopped_at = seen
                watched.process.kill()
                return
        elif now - since > MAX_WAIT_SECONDS:
            watched.process.kill()
            return
        time.sleep(POLL_SECONDS)


def _read_processor_time(number: int) -> float:
    try:
        times = psutil.Process(number).cpu_times()
    except psutil.Error:  # it has just ended
        return 0.0
    return float(times.user + times.system)
