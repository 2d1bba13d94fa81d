"""A run of a recipe that is watched, and hurt where a test asks for it: a process of its own, started by runs.py.

    python tests/faults/trial.py '{"recipe": "sft", "record": "FOLDER", "hurt": {...}}' run.yaml overrides...

Into `record` go its process id, a line for each micro-batch (step, rows, loss), and two bytes that say what is being
done at this moment: they outlast a kill.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import transformers

import hf_finetune.run
from hf_finetune.errors import user_errors
from hf_finetune.interruption import catch_signals_of_a_script
from hf_finetune.training.checkpoints import writer
from hf_finetune.training.trainers.base import TrainerMixin
from hf_finetune.training.trainers.resumable import ResumableTrainer

PHASES = ("reading", "loading", "first step", "step", "evaluation", "save", "end", "done")
SECONDS = 600
MADE = "made by a test"
ERRORS = {"MemoryError": MemoryError, "RuntimeError": RuntimeError}


class Watch:
    """What a run is doing, and what it has computed."""

    def __init__(self, record: Path, rank: str) -> None:
        record.mkdir(parents=True, exist_ok=True)
        with open(record / f"phase{rank}", "wb+") as file:
            file.write(bytes(2))
            file.flush()
            self.now = mmap.mmap(file.fileno(), 2)
        self.trace = os.open(record / f"trace{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        aside = record / f"pid{rank}.aside"
        aside.write_text(str(os.getpid()))
        aside.rename(record / f"pid{rank}")

    def enter(self, phase: str) -> int:
        before = self.now[0]
        self.now[0] = PHASES.index(phase)
        return before

    def note(self, step: int, inputs: dict[str, Any], loss: Any) -> None:
        digest = hashlib.sha256(inputs["input_ids"].numpy().tobytes() + inputs["labels"].numpy().tobytes())
        line = json.dumps([step, digest.hexdigest()[:16], float(loss).hex()])
        os.write(self.trace, f"{line}\n".encode())  # one call: a kill leaves no half of a line


def watch_run(watch: Watch) -> None:
    record_inputs, train = hf_finetune.run.record_inputs, TrainerMixin.train
    step, save, evaluate = (
        TrainerMixin.training_step,
        ResumableTrainer._save_checkpoint,
        transformers.Trainer.evaluation_loop,
    )
    write = writer.write_checkpoint

    def recorded(*args: Any, **kwargs: Any) -> None:
        record_inputs(*args, **kwargs)
        watch.enter("loading")

    def trained(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch.enter("first step")
        result = train(self, *args, **kwargs)
        watch.enter("end")
        return result

    def stepped(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        watch.enter("step")
        loss = step(self, model, inputs, *args, **kwargs)
        watch.note(self.state.global_step, inputs, loss)
        return loss

    def within(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            before = watch.enter(phase)
            try:
                return call(*args, **kwargs)
            finally:
                watch.now[0] = before

        return called

    def written(*args: Any, **kwargs: Any) -> None:
        watch.now[1] = 1
        try:
            write(*args, **kwargs)
        finally:
            watch.now[1] = 0

    hf_finetune.run.record_inputs, TrainerMixin.train, TrainerMixin.training_step = recorded, trained, stepped
    ResumableTrainer._save_checkpoint = within("save", save)
    transformers.Trainer.evaluation_loop = within("evaluation", evaluate)
    writer.write_checkpoint = written


def measure_run(record: str, output: Path, every: int) -> None:
    """Note what the run holds of the machine: open files, memory, threads, and what is in its folder."""
    process, step = psutil.Process(), TrainerMixin.training_step

    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step % every == 0:
            self.checkpoints.writer.wait()
            size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
            held = [process.num_fds(), process.memory_info().rss, process.num_threads(), size]
            with open(Path(record) / "held", "a") as file:
                file.write(json.dumps([self.state.global_step, *held]) + "\n")
        return step(self, *args, **kwargs)

    TrainerMixin.training_step = stepped


def hurt_run(hurt: dict[str, Any], rank: str, record: str) -> None:
    """Do what `hurt` says, where it says so: `{"in": "forward", "step": 3, "error": "MemoryError"}`, of one rank."""
    if not hurt or hurt.get("rank", 0) != int(rank or 0):
        return
    where, at = hurt["in"], hurt["step"]

    def strike() -> None:
        (Path(record) / "struck").touch()
        if "signal" in hurt:
            os.kill(os.getpid(), hurt["signal"])
        elif "sleep" in hurt:
            time.sleep(hurt["sleep"])
        else:
            raise ERRORS[hurt["error"]](MADE)

    def struck(call: Callable[..., Any], get_step: Callable[..., int]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if get_step(*args) == at:
                strike()
            return call(*args, **kwargs)

        return called

    if where == "save":
        writer.write_checkpoint = struck(writer.write_checkpoint, lambda snapshot, _: snapshot.facts["step"])
    else:
        TrainerMixin.training_step = strike_later(where, at, strike, TrainerMixin.training_step)


def strike_later(where: str, at: int, strike: Callable[[], None], step: Callable[..., Any]) -> Callable[..., Any]:
    """Strike in the forward or the backward pass, or in the optimizer's step, of training step `at`."""

    def stepped(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == at:
            places = {"forward": (self, "compute_loss"), "backward": (self.accelerator, "backward")}
            owner, name = places.get(where, (self.optimizer, "step"))
            real = getattr(owner, name)
            setattr(owner, name, lambda *args, **kwargs: (strike(), real(*args, **kwargs))[1])
        return step(self, model, inputs, *args, **kwargs)

    return stepped


def main() -> None:
    spec = json.loads(sys.argv[1])
    rank = os.environ.get("RANK", "")
    signal.alarm(SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
    script = f"recipes/{spec['recipe']}.py"
    sys.argv = [script, *sys.argv[2:]]
    if not rank:
        os.setsid()
    catch_signals_of_a_script()
    watch = Watch(Path(spec["record"]), rank)
    watch_run(watch)
    hurt_run(spec.get("hurt") or {}, rank, spec["record"])
    if every := spec.get("measure"):
        output = next(word.partition("=")[2] for word in sys.argv if word.startswith("output_dir="))
        measure_run(spec["record"], Path(output), every)
    with user_errors():
        runpy.run_path(script)["main"](sys.argv[1:])
    watch.enter("done")


if __name__ == "__main__":
    main()
