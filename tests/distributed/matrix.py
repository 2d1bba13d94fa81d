"""Every recipe under every strategy, with even and uneven rows, plain and accumulated, against one process.

    python tests/distributed/matrix.py [--out FOLDER] [--only fsdp2,zero3] [--cells lora-uneven-plain,...]

Two gloo processes on the CPU, float32. Each launch runs all its cells, one behind the other, so that what a start takes
is paid once. Prints a line for each cell: the largest difference of the losses of its steps and of its evaluations, and
of its weights, relative to those of one process; exit code 1 where one is above `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-5
RECIPES = ("continued_pretraining", "sft", "lora", "classification")
# Of 8 rows a step: 41 leave one for the last.
ROWS = {"even": 40, "uneven": 41}
# Rows of a process at once, and steps that are accumulated, of two processes.
BATCHES = {"plain": (4, 1), "accumulated": (2, 2)}
FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false", "FSDP_MIN_NUM_PARAMS": "0", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT", "FSDP_SYNC_MODULE_STATES": "true", "FSDP_USE_ORIG_PARAMS": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}  # fmt: skip
ZERO = {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "false"}
ON_CPU = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "-1,-1", "ACCELERATE_MIXED_PRECISION": "no"}
STRATEGIES: dict[str, dict[str, str]] = {
    "one": {},
    "ddp": ON_CPU,
    "fsdp2": ON_CPU | FSDP | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "false"},
    "fsdp2_from_one": ON_CPU | FSDP | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
    "zero2": ON_CPU | ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": ON_CPU | ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}
"""The environment that `accelerate launch` makes of a launch file."""


def write_rows(folder: Path) -> None:
    """Write conversations, labeled texts and documents of uneven length, from a seed."""
    draw = random.Random(0)
    words = "the a red blue small large cat dog house tree runs sleeps sees likes finds under over near".split()

    def say(most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(2, most)))

    for kind, rows in ROWS.items():
        made: dict[str, list[dict[str, Any]]] = {
            "chats": [{"user": say(8), "assistant": say(16)} for _ in range(rows)],
            "labels": [{"text": say(16), "label": draw.choice(["good", "bad", "neither"])} for _ in range(rows)],
            # One block of 33 tokens each, about: the rows of continued pretraining are blocks.
            "documents": [{"text": " ".join(draw.choices(words, k=40))} for _ in range(rows)],
        }
        for name, each in made.items():
            text = "".join(json.dumps(row) + "\n" for row in each)
            (folder / f"{name}-{kind}.jsonl").write_text(text, encoding="utf-8")
    held_out = [{"user": say(8), "assistant": say(16)} for _ in range(13)]
    (folder / "chats-held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out), encoding="utf-8")
    texts = [{"text": say(16), "label": draw.choice(["good", "bad", "neither"])} for _ in range(13)]
    (folder / "labels-held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    documents = [{"text": " ".join(draw.choices(words, k=40))} for _ in range(7)]
    (folder / "documents-held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")


def list_cells() -> list[str]:
    """The names of all cells of a strategy."""
    return [f"{recipe}-{rows}-{batch}" for recipe in RECIPES for rows in ROWS for batch in BATCHES]


def make_arguments(cell: str, folder: Path, strategy: str) -> list[str]:
    """The command line of a cell: its recipe and what it is given."""
    recipe, rows, batch = cell.split("-")
    per_device, accumulated = BATCHES[batch] if strategy != "one" else (8, 1)
    kind = {"continued_pretraining": "documents", "classification": "labels"}.get(recipe, "chats")
    settings: dict[str, Any] = {
        "output_dir": folder / strategy / cell, "data.train": folder / f"{kind}-{rows}.jsonl",
        "data.validation": folder / f"{kind}-held.jsonl", "data.validation_fraction": "null",
        "train.per_device_train_batch_size": per_device, "train.gradient_accumulation_steps": accumulated,
        "train.per_device_eval_batch_size": 4, "train.num_train_epochs": 1, "train.max_steps": -1,
        "train.logging_steps": 1, "train.eval_strategy": "epoch", "train.learning_rate": 1e-3,
        "train.optim": "adamw_torch", "train.warmup_steps": 0, "train.bf16": "false", "train.save_strategy": "epoch",
        "train.save_total_limit": 1, "train.load_best_model_at_end": "false",
    }  # fmt: skip
    if recipe == "continued_pretraining":
        settings |= {"data.block_size": 32}
    elif recipe == "classification":
        settings |= {"data.test_fraction": "null", "data.stratify_by": "null", "eval.calibrate": "false"}
    if recipe != "classification":
        settings |= {"eval.max_new_tokens": 4}
    if recipe in ("sft", "lora"):
        settings |= {"model.path": folder / "base", "train.max_length": 64}
    if strategy in ("one", "ddp"):
        settings |= {"train.use_cpu": "true"}
    return [f"recipes/configs/{recipe}.yaml", *(f"{name}={value}" for name, value in settings.items())]


def run_cells(strategy: str, cells: Sequence[str], folder: Path) -> None:
    """Run cells one behind the other in this process, of a launch; what fails is written beside what does not."""
    from accelerate.state import AcceleratorState, GradientState

    from hf_finetune.folders.lock import release_run_folders

    sys.path.insert(0, str(Path(__file__).parent))
    from engines_on_cpu import allow_fsdp_on_cpu

    if "ACCELERATE_USE_FSDP" in os.environ:
        allow_fsdp_on_cpu()
    import runpy

    for cell in cells:
        failed = folder / strategy / f"{cell}.failed"
        failed.parent.mkdir(exist_ok=True)
        try:
            runpy.run_path(f"recipes/{cell.split('-')[0]}.py")["main"](make_arguments(cell, folder, strategy))
        except BaseException:
            failed.write_text(traceback.format_exc(), encoding="utf-8")
            if strategy != "one":  # the other rank may wait for this one
                traceback.print_exc()
                os._exit(1)
        finally:
            release_run_folders()
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def launch(strategy: str, cells: Sequence[str], folder: Path) -> int:
    """Run the cells of a strategy in one process, or in two; returns the exit code."""
    environment = os.environ | STRATEGIES[strategy] | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": "ERROR", "HF_DATASETS_CACHE": str(folder / "cache"),
    }  # fmt: skip
    ranks = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29655"] if strategy != "one" else []
    inner = [__file__, "--inner", strategy, "--out", str(folder), "--cells", ",".join(cells)]
    with (folder / f"{strategy}.log").open("a") as log:
        return subprocess.run(
            [sys.executable, *ranks, *inner], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        ).returncode


def read_losses(run: Path) -> list[float]:
    """The losses of all steps and evaluations of a run, and those at its end."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [entry[key] for entry in entries for key in ("loss", "eval_loss") if key in entry]
    report = json.loads((run / "report.json").read_text())
    return [*losses, report["evaluation"]["validation"]["loss"]]


def compare(run: Path, reference: Path) -> tuple[float, float]:
    """How far the losses and the weights of a run are from those of another, relative to the largest."""
    import torch
    from safetensors.torch import load_file

    ours, theirs = read_losses(run), read_losses(reference)
    assert len(ours) == len(theirs), f"{len(ours)} losses for {len(theirs)}"
    of_losses = max(abs(one - other) / max(1.0, abs(other)) for one, other in zip(ours, theirs, strict=True))
    name = "adapter_model.safetensors" if (reference / "adapter_model.safetensors").exists() else "model.safetensors"
    weights, expected = load_file(run / name), load_file(reference / name)
    assert weights.keys() == expected.keys()
    differences = [(weights[key] - expected[key]).abs().max() / expected[key].abs().max().clamp(min=1.0) for key in expected]
    return of_losses, float(torch.stack(differences).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(STRATEGIES))
    parser.add_argument("--cells", default=",".join(list_cells()))
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cells = options.cells.split(",")
    if options.inner:
        run_cells(options.inner, cells, options.out)
        return 0
    folder = options.out or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    write_rows(folder)
    strategies = ["one", *(name for name in options.only.split(",") if name != "one")]
    worst = 0
    for strategy in strategies:
        shutil.rmtree(folder / strategy, ignore_errors=True)
        if strategy == "one" and not (folder / "base").exists():
            make_base(folder)
        todo = list(cells)
        while todo:  # of a launch that fails, the next one does the cells behind
            launch(strategy, todo, folder)
            done = [cell for cell in todo if (folder / strategy / cell / "report.json").exists()]
            todo = todo[len(done) + 1 :]
        for cell in cells:
            worst = max(worst, say_cell(folder, strategy, cell))
    return worst


def say_cell(folder: Path, strategy: str, cell: str) -> int:
    """Say how a cell came out; 1 where it failed."""
    run = folder / strategy / cell
    if not (run / "report.json").exists():
        failed = run.with_name(f"{cell}.failed")
        why = failed.read_text().strip().splitlines()[-1] if failed.exists() else "did not run"
        print(f"{strategy:15} {cell:35} FAILED {why}", flush=True)
        return 1
    if strategy == "one":
        return 0
    losses, weights = compare(run, folder / "one" / cell)
    bad = max(losses, weights) > TOLERANCE
    print(f"{strategy:15} {cell:35} losses {losses:.1e}  weights {weights:.1e}{'  TOO FAR' if bad else ''}", flush=True)
    return int(bad)


def make_base(folder: Path) -> None:
    """A small model that SFT and LoRA begin with, of two steps."""
    argv = make_arguments("continued_pretraining-even-plain", folder, "one")
    given = [f"output_dir={folder / 'base'}", "train.save_strategy=no", "train.max_steps=2"]
    argv = [*(each for each in argv if each.split("=")[0] not in [one.split("=")[0] for one in given]), *given]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "recipes/continued_pretraining.py", *argv], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])


if __name__ == "__main__":
    sys.exit(main())
