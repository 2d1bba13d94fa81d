"""Small runs of the four recipes, each in a process of its own, and what two of them must have in common."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from accelerate.utils.other import get_free_port
from models.scratch_models import save_chat_base
from same_runs import flatten
from trial import PHASES

from hf_finetune.folders.checkpoints import find_verified, get_step

ROOT = Path(__file__).resolve().parent.parent.parent
TRIAL = "tests/faults/trial.py"
SECONDS = 120
SMALL = (
    "train.use_cpu=true", "train.bf16=false", "train.logging_steps=1", "train.save_strategy=steps",
    "train.save_steps=1", "train.save_total_limit=3", "eval.max_new_tokens=4", "train.eval_strategy=steps",
)  # fmt: skip
SCRATCH = (
    "model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2",
    "model.scratch.hidden_dropout=0.1",
)  # fmt: skip
BEST = ("train.load_best_model_at_end=true", "train.metric_for_best_model=eval_loss", "train.greater_is_better=false")
CHAT = (
    "model.path={base}",
    "train.per_device_train_batch_size=4",
    "train.num_train_epochs=3",
    "train.eval_steps=2",
    "train.save_steps=2",
)
RECIPES: dict[str, tuple[str, ...]] = {
    "continued_pretraining": (*SCRATCH, "train.max_steps=8", "train.eval_steps=3", 'eval.prompts=["The "]'),
    "classification": (*SCRATCH, "train.num_train_epochs=3", "train.eval_steps=1", "train.early_stopping_patience=7"),
    "sft": (*CHAT, *BEST, 'eval.prompts=["How?"]'),
    "lora": (*CHAT, *BEST, "lora.lora_dropout=0.1", "eval.prompts=[]"),
}


@dataclass(frozen=True)
class Ended:
    """An attempt at a run that has come to an end."""

    code: int
    said: str
    phase: str
    """What it was doing in the end."""
    saving: bool
    """Whether a checkpoint was being written beside it."""
    trace: list[tuple[int, str, str]]
    """Step, rows and loss of each micro-batch."""
    seconds: float


@dataclass
class Attempt:
    """A process that runs a recipe."""

    process: subprocess.Popen[str]
    record: Path
    rank: str = ""
    """The rank that is looked at, of several."""

    def find_pid(self, rank: str | None = None) -> int:
        path = self.record / f"pid{self.rank if rank is None else rank}"
        while not path.exists():
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.002)
        return int(path.read_text())

    def wait_until(self, phase: str) -> None:
        """Until the run does this or has come further."""
        self.find_pid()
        while PHASES.index(self.read_phase()) < PHASES.index(phase) and self.process.poll() is None:
            time.sleep(0.002)

    def wait_until_struck(self) -> None:
        """Until what was to hurt the run has begun to."""
        while not (self.record / "struck").exists():
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.002)

    def read_phase(self) -> str:
        return PHASES[(self.record / f"phase{self.rank}").read_bytes()[0]]

    def send(self, number: int) -> bool:
        """Send a signal to the group of the run; False where it has ended."""
        try:
            os.killpg(self.find_pid(), number)
        except ProcessLookupError:
            return False
        return True

    def end(self, seconds: float = SECONDS) -> Ended:
        try:
            said, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            raise
        now = (
            (self.record / f"phase{self.rank}").read_bytes()
            if (self.record / f"phase{self.rank}").exists()
            else bytes(2)
        )
        trace = read_trace(self.record / f"trace{self.rank}")
        return Ended(self.process.returncode, said, PHASES[now[0]], bool(now[1]), trace, self._read_age())

    def _read_age(self) -> float:
        path = self.record / f"pid{self.rank}"
        return time.time() - path.stat().st_mtime if path.exists() else 0.0


class Runs:
    """Starts runs; `base` is the chat model that two of the recipes train."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.base = save_chat_base(folder / "base", ROOT / "data_templates/user_assistant.jsonl", hidden_dropout=0.1)
        self._numbers = count()
        self._wholes: dict[tuple[str, ...], tuple[Ended, Path]] = {}

    def new_folder(self) -> Path:
        return self.folder / f"run{next(self._numbers)}"

    def start(
        self,
        recipe: str,
        run: Path,
        *settings: str,
        hurt: Mapping[str, Any] | None = None,
        launch: Sequence[str] = (),
        measure: int = 0,
    ) -> Attempt:
        """Type the command of the run in `run`; `launch` is what it is launched by, instead of Python."""
        record = self.folder / f"record{next(self._numbers)}"
        spec = json.dumps({"recipe": recipe, "record": str(record), "hurt": hurt, "measure": measure})
        words = [f"recipes/configs/{recipe}.yaml", *list_settings(recipe, self.base, settings), f"output_dir={run}"]
        process = subprocess.Popen(
            [*(launch or ["python"]), TRIAL, spec, *words], cwd=ROOT, env=dict(self.environment), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return Attempt(process, record, "0" if launch else "")

    def run(self, recipe: str, run: Path, *settings: str, launch: Sequence[str] = ()) -> Ended:
        ended = self.start(recipe, run, *settings, launch=launch).end()
        assert ended.code == 0, ended.said
        return ended

    def whole(self, recipe: str, *settings: str, launch: Sequence[str] = ()) -> tuple[Ended, Path]:
        """The uninterrupted run of these settings, and its folder; it is made once."""
        key = recipe, *settings, *launch[:1]
        if key not in self._wholes:
            folder = self.new_folder()
            self._wholes[key] = self.run(recipe, folder, *settings, launch=launch), folder
        return self._wholes[key]


def list_settings(recipe: str, base: Path, more: Sequence[str]) -> list[str]:
    """The settings of a small run: `more` take the place of those of the same name."""
    settings = [*SMALL, *(each.format(base=base) for each in RECIPES[recipe]), *more]
    return [f"{name}={value}" for name, value in dict(each.split("=", 1) for each in settings).items()]


def read_trace(path: Path) -> list[tuple[int, str, str]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(json.loads(line)) for line in lines]


def read_last_step(run: Path) -> int:
    """The step of the newest checkpoint that verifies; 0 where there is none."""
    found, _ = find_verified(run)
    return 0 if found is None else get_step(found)


def describe(run: Path) -> dict[str, Any]:
    """All of a finished run that must be the same: weights, the state of its last checkpoint, every figure."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8").replace(str(run), "RUN"))
    report["settings"]["train"].pop("resume_from_checkpoint", None)
    report.get("distributed", {}).pop("waited_s", None)
    found, passed = find_verified(run)
    assert found is not None
    assert not passed
    files = [*run.glob("*.safetensors"), *found.glob("*.safetensors")]
    digests = {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    state = re.sub(r'\["(runtime_s|training_seconds|joules)", [^\]]*\]', "", (found / "state.json").read_text())
    state = re.sub(r'\["(waited|kept_others)", \[[^\]]*\]\]|\["seconds", [^\]]*\]', "", state)
    return dict(flatten(report)) | digests | {"state.json": state}


def compare(run: Path, attempts: Sequence[Ended], whole: tuple[Ended, Path], begin: int = 0) -> str:
    """What differs between a run of several attempts, from step `begin` on, and the uninterrupted one: lines, or ""."""
    ended, folder = whole
    want, got = describe(folder), describe(run)
    lines = [
        f"{place}: {want.get(place)!r} != {got.get(place)!r}"
        for place in want | got
        if want.get(place) != got.get(place)
    ]
    rows = {step: each for step, each in group_by_step(ended.trace).items() if step >= begin}
    made: dict[int, list[tuple[str, str]]] = {}
    for number, attempt in enumerate(attempts):
        for step, found in group_by_step(attempt.trace).items():
            made[step] = max(made.get(step, []), found, key=len)
            if found != rows.get(step, [])[: len(found)]:
                lines.append(f"attempt {number}: step {step}: {found} instead of {rows.get(step)}")
    lines += [] if made == rows else [f"steps {sorted(rows)} were to be made, {sorted(made)} were"]
    return "\n".join(lines)


def group_by_step(trace: Sequence[tuple[int, str, str]]) -> dict[int, list[tuple[str, str]]]:
    steps: dict[int, list[tuple[str, str]]] = {}
    for step, rows, loss in trace:
        steps.setdefault(step, []).append((rows, loss))
    return steps


def get_launch() -> list[str]:
    """What launches two processes on the CPU, at a free port."""
    config = "accelerate_configs/cpu_2proc.yaml"
    return ["accelerate", "launch", "--config_file", config, "--main_process_port", str(get_free_port())]
