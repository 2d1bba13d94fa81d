"""Ctrl-C and SIGTERM: one line that says what is kept and how to go on, exit code 130 or 143, no traceback.

Until there is something to clean up the process ends where it stands: what is raised in the middle of an import may
come out as another error, or not at all. After `unwind_when_stopped` they are raised: Ctrl-C as `KeyboardInterrupt`,
SIGTERM as `Terminated`. Of several processes one alone speaks: the launcher where it is ours, else the first rank.

While a run trains, a signal is only noted: all ranks stop at the same step, save, and then raise it (`hold_signals`).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hf_finetune.ranks import describe_gone, find_gone, is_first_rank

# Set by `hf-finetune train` to its own process id, for the processes that it launches.
LAUNCHER = "HF_FINETUNE_LAUNCHER"
RESTART = "HF_FINETUNE_RESTART"
"""Set by `hf-finetune train --max-restarts` for what it starts: the number of the restart, then the machines left."""
NOTHING_KEPT = "nothing was finished; the same command begins again"
SECONDS_TO_ARRIVE = 10.0
"""So long what was raised for a signal may take to arrive, possibly as another exception."""

SECONDS_TO_CLEAN_UP = 15
"""So long may threads and callbacks of `atexit` take in one of several processes that has failed."""

SECONDS_OF_ONE_CTRL_C = 0.5
"""What comes twice within them was typed once: a launcher passes on what its processes have got from the terminal."""

RECIPES = ("continued_pretraining.py", "classification.py", "sft.py", "lora.py", "score.py")

_COMMANDS, _MODULE = ("hf-finetune", "hf-finetune.exe"), "hf_finetune.cli"
_LAUNCHED = "ACCELERATE_MIXED_PRECISION"  # accelerate sets it for whatever it launches
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_DEFAULTS: dict[int, tuple[Any, ...]] = {
    signal.SIGINT: (signal.default_int_handler,),
    signal.SIGTERM: (signal.SIG_DFL,),
}


class Terminated(BaseException):
    """SIGTERM has come. A BaseException, as KeyboardInterrupt is: no `except Exception` takes it for its own."""


@dataclass
class _State:
    """Of this process; a forked one has another process id."""

    process: int = 0
    unwinds: bool = False
    number: int | None = None
    """Of the last signal."""
    came: float = 0.0
    ending: bool = False
    """The line is said: another signal ends the process at once."""
    holds: bool = False
    """A signal is noted in `number`, and raised by whoever holds it."""
    describe: Callable[[], str] | None = field(default=None)
    answer: str | None = None


_state = _State()
_failed: list[int] = []
"""The id of this process and its exit code, once it has failed as one of several."""


@contextmanager
def catch_signals() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM as this module says, where nobody else does and this is the main thread.

    Behind the block a script of ours has done its work: one signal more changes nothing while Python ends.
    """
    before = _install()
    try:
        yield
    except BaseException as raised:
        _end_soon(raised)
        raise
    finally:
        # Once the line is said ours stay: Python's would show a traceback for a Ctrl-C while its threads are joined.
        if not _state.ending and is_script_of_a_run():
            _let_python_end()
        elif before and not _state.ending:
            for number, handler in before.items():
                signal.signal(number, handler)
            _reset()


def _end_soon(raised: BaseException) -> None:
    """Let nothing keep one of several processes that has failed, once Python ends it.

    Where a step is left in the middle, the destructor of gloo's group waits for what is in flight to another process,
    up to `train.ddp_timeout` (ProcessGroupGloo.cpp, torch 2.13): half an hour behind the last line, in which this
    process holds its launcher, and the others, who see no end of its connections.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) < 2 or not {"RANK", _LAUNCHED} <= os.environ.keys():
        return
    code = raised.code if isinstance(raised, SystemExit) else 1
    if code in (0, None, *(128 + number for number in _DEFAULTS)):
        return
    _failed[:] = [os.getpid(), code if isinstance(code, int) else 1]
    # Of the system, and not of Python, which takes no signal while it waits in a destructor or for a thread.
    if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS_TO_CLEAN_UP)


@atexit.register  # among the first to be imported, it is called behind what others have registered
def _leave_destructors_out() -> None:
    if _failed and _failed[0] == os.getpid():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, full or None
                stream.flush()
        os._exit(_failed[1])


def is_script_of_a_run() -> bool:
    """Whether this process runs our command, a recipe or what `accelerate launch` started, and nothing else."""
    if threading.current_thread() is not threading.main_thread() or _is_worker():
        return False
    name = Path(sys.argv[0]).name if sys.argv else ""
    return _LAUNCHED in os.environ or name in (*RECIPES, *_COMMANDS) or _MODULE in sys.orig_argv[1:3]


def _is_worker() -> bool:
    """Whether multiprocessing has spawned this process, which imports the recipe again: its parent speaks for it."""
    # By the command itself: what it imports is imported by torch, too, and `sys.argv` is that of its parent.
    return any(word.startswith("from multiprocess") for word in sys.orig_argv)


def catch_signals_of_a_script() -> None:
    """Handle the signals of this process for as long as it lives, and end with the `accelerate launch` that started it.

    Ranks other than the first have nothing to say and nothing to clean up: the signal itself ends them, at once.
    """
    # accelerate 1.15: `simple_launcher` is `Popen(...).wait()`; terminated, it leaves its child to itself.
    if _LAUNCHED in os.environ:
        end_with_parent()
    if is_first_rank():
        _install()
        return
    for number in _DEFAULTS:
        signal.signal(number, signal.SIG_DFL)


def end_with_parent() -> None:
    """Let the system send this process SIGTERM when the one that started it has ended, however that was ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def adopt_orphans() -> None:
    """From here on what the children of this process leave behind when they end is a child of this process."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


@contextmanager
def pass_signals_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Within the block Ctrl-C and SIGTERM go to `process`, which says what becomes of them; yields those that came.

    In the main thread. What a shell or nohup lets this process ignore stays ignored.
    """
    came: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        process.send_signal(number)  # which does nothing where it has ended

    before = {number: signal.getsignal(number) for number in _DEFAULTS}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, pass_on)
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def unwind_when_stopped(describe: Callable[[], str] | None = None) -> None:
    """From here on there is something to clean up, so that a signal is raised; `describe` says what is kept.

    What has been said first stays: the launcher knows the command that was typed.
    """
    _state.unwinds = True
    _state.describe = _state.describe or describe


@contextmanager
def unwind_within() -> Iterator[None]:
    """Raise a signal within the block, at whose end something is cleaned up; behind it all is as it was before."""
    before, _state.unwinds = _state.unwinds, True
    try:
        yield
    finally:
        _state.unwinds = _state.unwinds and before


@contextmanager
def hold_signals() -> Iterator[None]:
    """Within the block a signal is only noted, for work that asks `get_held_signal` and ends at the next good moment.

    A second Ctrl-C is raised at once, and what was noted when the block ends. On every rank, and in a notebook, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = _install(every_rank=True)
    _state.holds, _state.number, _state.answer = True, None, None
    try:
        yield
        raise_held_signal()
    finally:
        _state.holds = False
        for number, handler in before.items():
            signal.signal(number, handler)


def get_held_signal() -> int | None:
    """The signal that has come while signals are held."""
    return _state.number if _state.holds else None


def take_answer() -> str | None:
    """The line that a noted signal was answered with, below whatever stood in the terminal; once."""
    answer, _state.answer = _state.answer, None
    return answer


def raise_held_signal(number: int | None = None) -> None:
    """Raise the signal that was noted, or `number`, which another rank has noted; do nothing without one."""
    number = get_held_signal() or number
    if number is not None:
        _state.holds, _state.number, _state.came = False, number, time.monotonic()
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def describe_when_stopped(describe: Callable[[], str]) -> None:
    """Let `describe` say what is kept; the process still ends where it stands."""
    _state.describe = _state.describe or describe


def describe_kept() -> str:
    """What is kept of what was done, and how to go on."""
    with suppress(Exception):  # whatever is wrong with the run folder
        return _state.describe() if _state.describe is not None else NOTHING_KEPT
    return NOTHING_KEPT


def describe_next() -> str:
    """What is kept, and how to go on, for a run that has lost a process; under `--max-restarts` nobody has to."""
    # Whoever types the command that this would name starts a second run into the folder of the one that goes on.
    if RESTART in os.environ:
        return "it starts again by itself while restarts are left (--max-restarts)"
    return describe_kept()


def find_signal(raised: BaseException) -> int | None:
    """The number of the signal that `raised` comes from; None where no signal does."""
    if isinstance(raised, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(raised, Terminated):
        return signal.SIGTERM
    if type(raised).__name__ == "SignalException":  # of torchrun, whose handlers have taken the place of ours
        return int(getattr(raised, "sigval", signal.SIGTERM))
    if isinstance(raised, SystemExit) and raised.code != 128 + (_state.number or 0):  # typer's of a KeyboardInterrupt
        return None
    # pybind11 makes an ImportError of what is raised while a module of its own is initialized.
    late = time.monotonic() - _state.came > SECONDS_TO_ARRIVE
    return None if _state.number is None or late else _state.number


def end_stopped(number: int) -> NoReturn:
    """Say the line, unless it is said already, and end with the exit code of the signal."""
    if not _state.ending:
        _say(number)
    _state.ending = True
    raise SystemExit(128 + number)


def let_signals_end() -> None:
    """From here on a signal ends the process at once, without a word; one that has come already does it now."""
    if _state.process != os.getpid() or threading.current_thread() is not threading.main_thread():
        return
    for number in _DEFAULTS:
        if signal.getsignal(number) == _stop:
            signal.signal(number, signal.SIG_DFL)
    if _state.number is not None:
        os.kill(os.getpid(), _state.number)


def forget_signal() -> None:
    """Forget a Ctrl-C that was meant for a line or an answer: no later error comes from it."""
    _state.number = None


def _install(*, every_rank: bool = False) -> dict[int, Any]:
    """Take over the signals that nobody has taken; returns the handlers that were there."""
    before: dict[int, Any] = {}
    if threading.current_thread() is not threading.main_thread() or not (is_first_rank() or every_rank):
        return before
    _state.process = os.getpid()
    for number, defaults in _DEFAULTS.items():
        handler = signal.getsignal(number)
        if handler in (
            *defaults,
            *([signal.SIG_DFL] if every_rank else []),
        ):  # a shell lets what it runs in the background ignore Ctrl-C, and nohup SIGHUP
            before[number] = handler
            signal.signal(number, _stop)
    return before


def _reset() -> None:
    _state.unwinds, _state.holds, _state.number, _state.describe = False, False, None, None


def _stop(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _state.process:  # a worker that was forked: its parent has the signal as well
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    if _state.ending:
        os._exit(128 + number)
    if _state.holds and not _insists(number):
        if _state.number is None:
            _state.number, _state.came = number, time.monotonic()
            _say_held(number)
        return
    _state.holds = False
    _state.number, _state.came = number, time.monotonic()
    if not _state.unwinds:
        _state.ending = True
        _say(number)
        os._exit(128 + number)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _let_python_end() -> None:
    _reset()
    for number in _DEFAULTS:
        if signal.getsignal(number) == _stop:
            signal.signal(number, _let_it_end)


def _let_it_end(number: int, frame: FrameType | None) -> None:
    """Go on ending: what is raised in callbacks of `atexit` is shown as a traceback. The second one ends at once."""
    if _state.number is not None and time.monotonic() - _state.came > SECONDS_OF_ONE_CTRL_C:
        os._exit(128 + number)
    _state.number, _state.came = number, time.monotonic()


def _insists(number: int) -> bool:
    """Whether a signal that comes while one is noted is a second Ctrl-C of whoever does not want to wait."""
    return (
        number == signal.SIGINT and _state.number is not None and time.monotonic() - _state.came > SECONDS_OF_ONE_CTRL_C
    )


def _say_held(number: int) -> None:
    # Where another process has ended, the launcher ends this one for it: no step can be finished.
    if is_first_rank() and not find_gone():
        said = {int(signal.SIGINT): "Ctrl-C: this step is finished and saved first; once more ends the run at once"}
        _state.answer = said.get(number, f"{signal.Signals(number).name}: this step is finished and saved")
        _write("\n" * os.isatty(2) + _state.answer)  # "^C" stands there


def _say(number: int) -> None:
    launcher = os.environ.get(LAUNCHER, str(os.getpid()))
    if launcher != str(os.getpid()) or not is_first_rank():
        return
    what = "interrupted (Ctrl-C)" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    if number == signal.SIGTERM and (gone := find_gone()):
        what += f", since {describe_gone(gone)}"
    _write(f"{what}: {describe_kept()}")


def _write(line: str) -> None:
    # Not through `sys.stderr`, in the middle of whose write the signal may have come.
    with suppress(OSError, ValueError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{line}\n".encode())


# A recipe imports everything, which takes seconds, before it can say what is to become of its signals.
if is_script_of_a_run():
    catch_signals_of_a_script()
