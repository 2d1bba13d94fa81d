"""Runs the two sides of the nanoGPT benchmarks: nanoGPT's own train.py, and our recipe on the same text."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "continued_pretraining.py"
CHAR_MODEL = ROOT / "recipes" / "configs" / "char_model.yaml"


@dataclass(frozen=True)
class Text:
    """The usual split of a text: its first 90 % for training, the rest for validation."""

    train: str
    validation: str

    @classmethod
    def read(cls, path: Path) -> Text:
        text = path.read_text(encoding="utf-8")
        cut = int(0.9 * len(text))
        return cls(text[:cut], text[cut:])


@dataclass(frozen=True)
class NanoGPTRun:
    seconds: float
    """From the first evaluation to the end of the last step: start-up is left out."""
    tokens_per_s: float
    """By the median of the steps' own times."""
    checkpoint: Path


def prepare_nanogpt(checkout: Path, text: Path, folder: Path) -> Path:
    """Copy nanoGPT to `folder` and let it prepare the text."""
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"))
    shutil.copy(text, copy / "data" / "shakespeare_char" / "input.txt")
    subprocess.run([sys.executable, "data/shakespeare_char/prepare.py"], cwd=copy, check=True, capture_output=True)
    return copy


def run_nanogpt(copy: Path, *options: str, tokens_per_step: int) -> NanoGPTRun:
    """Run nanoGPT's train.py and read its log."""
    command = [sys.executable, "-u", "train.py", "config/train_shakespeare_char.py", *options, "--log_interval=1"]
    process = subprocess.Popen(command, cwd=copy, stdout=subprocess.PIPE, text=True, env=_environment())
    assert process.stdout is not None
    started, step_ms = 0.0, []
    for line in process.stdout:
        if line.startswith("step 0:"):
            started = time.perf_counter()
        if match := re.match(r"iter \d+: loss [\d.]+, time ([\d.]+)ms", line):
            step_ms.append(float(match[1]))
            ended = time.perf_counter()
    if process.wait() or not step_ms:
        raise SystemExit("nanoGPT did not run")
    median = sorted(step_ms)[len(step_ms) // 2]
    return NanoGPTRun(ended - started, 1000 * tokens_per_step / median, copy / "out-shakespeare-char" / "ckpt.pt")


def run_ours(folder: Path, text: Text, *overrides: str) -> dict[str, object]:
    """Run our recipe on the text, as one process of `python`, and return its report."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text(text.train, encoding="utf-8")
    (folder / "validation.txt").write_text(text.validation, encoding="utf-8")
    settings = {
        "output_dir": folder / "run",
        "data.train": folder / "train.txt",
        "data.validation": folder / "validation.txt",
        "data.validation_fraction": "null",
        "data.format": "file",
        "eval.prompts": "[]",
        "train.eval_strategy": "no",
        "train.per_device_eval_batch_size": 128,
    }
    command = [sys.executable, RECIPE, CHAR_MODEL, *(f"{key}={value}" for key, value in settings.items()), *overrides]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise SystemExit(done.stderr)
    report: dict[str, object] = json.loads((folder / "run" / "report.json").read_text())
    return report


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), "HF_HUB_OFFLINE": "1"}
