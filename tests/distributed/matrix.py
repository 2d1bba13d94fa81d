"""Every recipe under every strategy, with even and uneven rows, plain and accumulated, against one process.

    python tests/distributed/matrix.py [--out FOLDER] [--only fsdp2,zero3] [--cells lora-uneven-plain,...]

Two gloo processes on the CPU, float32, or with --gpu as many as there are GPUs, which may be one. A single launch makes
the runs of all strategies, one behind the other, so that what a start takes is paid once. Prints a line for each: how
far the losses of its steps and evaluations are from those of one process, and its weights, relative to the largest;
exit code 1 where that is above `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
DEEPSPEED = ROOT / ".venv" / "deepspeed"
"""Where `make` installs it."""
TOLERANCE = 1e-5
RECIPES = ("continued_pretraining", "sft", "lora", "classification")
# Of 8 rows a step: 41 leave one for the last.
ROWS = {"even": 40, "uneven": 41}
# Rows of a process at once, and micro-batches of a step, of two processes.
BATCHES = {"plain": (4, 1), "accumulated": (2, 2)}
# Of SFT, where no other recipe has them.
EXTRAS: dict[str, dict[str, Any]] = {
    "packed": {"train.packing": "true"},
    "grouped": {"train.train_sampling_strategy": "group_by_length"},
    "muon": {"train.optim": "muon"},
    "poisoned": {"train.on_nonfinite": "skip"},  # the gradients of one step are NaN
    "quantized": {"model.load_in_4bit": "true"},
    "pissa": {"lora.init_lora_weights": "pissa", "lora.use_rslora": "true"},
    "olora": {"lora.init_lora_weights": "olora"},
    "converted": {"model.save_dtype": "float32"},  # from a base in bfloat16
    "dora": {"lora.use_dora": "true", "lora.modules_to_save": "[lm_head]"},
    # A new head on a base that is there, with all that is fitted in it.
    "decided": {
        "model.scratch": "null", "model.tokenizer": "null", "data.max_length": 32,
        "eval.calibrate": "true", "eval.threshold_metric": "f1_macro",
    },
}  # fmt: skip
ROUNDED_BASE = "base-bfloat16"
RECIPE_OF = dict.fromkeys(("quantized", "pissa", "olora", "dora"), "lora") | {"decided": "classification"}
WORDS = ("the", "a", "red", "blue", "small", "large", "cat", "dog", "house", "tree", "runs", "sleeps", "sees", "likes")

ON_CPU = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "-1,-1", "ACCELERATE_MIXED_PRECISION": "no"}
FSDP = ON_CPU | {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false", "FSDP_MIN_NUM_PARAMS": "0", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT", "FSDP_SYNC_MODULE_STATES": "true", "FSDP_USE_ORIG_PARAMS": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}  # fmt: skip
ZERO = ON_CPU | {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "false"}
STRATEGIES: dict[str, dict[str, str]] = {
    "one": {},
    "ddp": ON_CPU,
    "fsdp2": FSDP,
    "zero2": ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}
"""The environment that `accelerate launch` makes of a launch file."""
GPUS = "HF_FINETUNE_MATRIX_GPUS"
"""How many processes have a GPU each; not set on the CPU."""
TOLERANCE_ON_GPUS = 1e-3
"""Kernels of other shapes sum in another order, and so do atomic additions."""
READ = ("ACCELERATE_", "FSDP_", "DS_ACCELERATOR", "CUDA_VISIBLE_DEVICES")


def make_environment(strategy: str) -> dict[str, str]:
    """The environment of a strategy here."""
    named = STRATEGIES[strategy]
    return {
        name: value
        for name, value in named.items()
        if GPUS not in os.environ or name not in (*ON_CPU, "DS_ACCELERATOR")
    }


def count_processes() -> int:
    """Of a launch under every strategy but that of one process."""
    return int(os.environ.get(GPUS, 2))


def list_strategies() -> list[str]:
    """Those that can run here: DeepSpeed is an extra, and compiles a part of itself."""
    there = (DEEPSPEED.is_dir() or find_spec("deepspeed") is not None) and shutil.which("g++") is not None
    return [name for name in STRATEGIES if there or not name.startswith("zero")]


def list_cells() -> list[str]:
    """The names of all cells of a strategy."""
    cells = [f"{recipe}-{rows}-{batch}" for recipe in RECIPES for rows in ROWS for batch in BATCHES]
    kinds = [(RECIPE_OF.get(extra, "sft"), extra) for extra in EXTRAS]
    return [
        *cells,
        *(f"{recipe}-{rows}-{batch}-{extra}" for rows in ROWS for batch in BATCHES for recipe, extra in kinds),
    ]


def write_rows(folder: Path) -> None:
    """Write conversations, labeled texts and documents of uneven length, from a seed."""
    draw = random.Random(0)

    def say(least: int, most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))

    for kind, rows in (ROWS | {"held": 13}).items():
        made: dict[str, list[dict[str, str]]] = {
            "chats": [{"user": say(2, 8), "assistant": say(2, 16)} for _ in range(rows)],
            "labels": [{"text": say(2, 16), "label": draw.choice(["good", "bad", "neither"])} for _ in range(rows)],
            "documents": [{"text": say(40, 40)} for _ in range(rows)],
        }
        for name, each in made.items():
            text = "".join(json.dumps(row) + "\n" for row in each)
            (folder / f"{name}-{kind}.jsonl").write_text(text, encoding="utf-8")


def make_arguments(cell: str, folder: Path, strategy: str, **more: Any) -> list[str]:
    """The command line of a cell; `more` settings take the place of its own."""
    recipe, rows, batch, *extra = cell.split("-")
    per_device, accumulated = BATCHES[batch] if strategy != "one" else (8, 1)
    if strategy != "one":  # as many rows a step, whatever the number of processes
        per_device = per_device * 2 // count_processes()
    kind = {"continued_pretraining": "documents", "classification": "labels"}.get(recipe, "chats")
    settings: dict[str, Any] = {
        "output_dir": folder / strategy / cell, "data.train": folder / f"{kind}-{rows}.jsonl",
        "data.validation": folder / f"{kind}-held.jsonl", "data.validation_fraction": "null",
        "train.per_device_train_batch_size": per_device, "train.gradient_accumulation_steps": accumulated,
        "train.per_device_eval_batch_size": 4, "train.num_train_epochs": 1, "train.max_steps": -1,
        "train.logging_steps": 1, "train.eval_strategy": "epoch", "train.learning_rate": 1e-3,
        "train.optim": "adamw_torch", "train.warmup_steps": 0, "train.bf16": "false",
        # Of a gradient of 1e-9 AdamW would make a step of its rounding.
        "train.adam_epsilon": 1e-6, "train.save_strategy": "steps",
        "train.save_steps": 3, "train.load_best_model_at_end": "false",
    }  # fmt: skip
    if recipe == "continued_pretraining":
        settings |= {"data.block_size": 32}
    if recipe == "classification":
        settings |= {"data.test_fraction": "null", "data.stratify_by": "null", "eval.calibrate": "false"}
    else:
        settings |= {"eval.max_new_tokens": 4}
    if recipe in ("sft", "lora"):
        settings |= {"train.max_length": 64}
    if recipe in ("sft", "lora") or "decided" in extra:
        settings |= {"model.path": folder / (ROUNDED_BASE if "converted" in extra else "base")}
    if strategy in ("one", "ddp") and GPUS not in os.environ:
        settings |= {"train.use_cpu": "true"}
    settings |= {name: value for each in extra for name, value in EXTRAS[each].items()} | more
    return [f"recipes/configs/{recipe}.yaml", *(f"{name}={value}" for name, value in settings.items())]


def run_all(runs: Sequence[Sequence[Any]], folder: Path) -> None:
    """Make runs, (strategy, recipe, arguments) each, in this process of a launch; the first that fails ends it."""
    from accelerate.state import AcceleratorState, GradientState
    from engines_on_cpu import allow_fsdp_on_cpu

    from hf_finetune.folders.lock import release_run_folders

    allow_fsdp_on_cpu()
    for strategy, recipe, arguments in runs:
        for name in [name for name in os.environ if name.startswith(READ)]:
            del os.environ[name]
        os.environ.update(make_environment(strategy))
        before = read_written()
        output = next(each for each in arguments if each.startswith("output_dir=")).partition("=")[2]
        try:
            with poison_step() if output.endswith("-poisoned") else nullcontext():
                runpy.run_path(f"recipes/{recipe}.py")["main"](arguments)
        except BaseException:  # the other rank waits for this one
            traceback.print_exc()
            os._exit(1)
        else:
            Path(f"{output}.written-{os.environ.get('RANK', 0)}").write_text(str(read_written() - before))
        finally:
            release_run_folders()
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


@contextmanager
def poison_step() -> Iterator[None]:
    """Within the block the gradients of the second step of a run are NaN."""
    from hf_finetune.training.trainers.meeting import MeetingTrainer

    backward = MeetingTrainer._backward

    def poisoned(self: Any, run: Any, loss: Any, **kwargs: Any) -> None:
        backward(self, run, loss * (math.nan if self.state.global_step == 1 else 1.0), **kwargs)

    with patch.object(MeetingTrainer, "_backward", poisoned):
        yield


def read_written() -> int:
    """The bytes that this process has written so far, into files and into connections."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("wchar"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/io has no wchar")


def measure_bytes(folder: Path, strategies: Sequence[str]) -> dict[str, float]:
    """Bytes a parameter that one process sends in a step of continued pretraining, by strategy: (4 per number)."""
    counts = (2, 10)
    quiet = {
        "train.eval_strategy": "no",
        "train.save_strategy": "no",
        "train.logging_steps": 100,
        "eval.prompts": "null",
    }
    cell = "continued_pretraining-even-plain"
    runs = [
        [name, cell.split("-")[0], make_arguments(cell, folder, name, **quiet, **{
            "output_dir": folder / name / f"steps-{count}", "train.max_steps": count})]
        for name in strategies for count in counts
    ]  # fmt: skip
    processes = count_processes()
    launch(runs, folder, processes)
    found = {}
    for name in strategies:
        written = [
            [int((folder / name / f"steps-{count}.written-{rank}").read_text()) for rank in range(processes)]
            for count in counts
        ]
        parameters = read_report(folder / name / "steps-2")["parameters"]["total"]
        of_a_step = (sum(written[1]) - sum(written[0])) / processes / (counts[1] - counts[0])
        found[name] = of_a_step / parameters
    return found


def launch(runs: Sequence[Sequence[Any]], folder: Path, processes: int) -> str:
    """Make runs in a launch of so many processes; returns what it has said. Raises where one of them fails."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(DEEPSPEED)]),
        "PATH": os.pathsep.join([str(DEEPSPEED / "bin"), os.environ["PATH"]]),  # for ninja
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": "ERROR", "HF_DATASETS_CACHE": str(folder / "cache"),
    }  # fmt: skip
    # --standalone: on a port that is free.
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    plan = folder / "plan.json"
    plan.write_text(json.dumps([[*run[:2], list(map(str, run[2]))] for run in runs]), encoding="utf-8")
    command = [sys.executable, *(ranks if processes > 1 or GPUS in os.environ else []), __file__, "--plan", str(plan)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-6000:])
    return done.stdout


def plan_cells(strategies: Sequence[str], cells: Sequence[str], folder: Path) -> list[list[Any]]:
    """The runs of the cells of some strategies."""
    return [
        [name, cell.split("-")[0], make_arguments(cell, folder, name)]
        for name in strategies
        for cell in cells
        if can_run(name, cell)
    ]


def can_run(strategy: str, cell: str) -> bool:
    """Whether a cell is not refused under a strategy."""
    # DeepSpeed has no whole matrices for Muon, and whole numbers, which quantized weights are, cannot be split; DoRA
    # reads weights that ZeRO-3 has taken apart.
    refused = {"zero2": ("muon",), "zero3": ("muon", "quantized", "dora"), "fsdp2": ("quantized",)}
    return not cell.endswith(refused.get(strategy, ("never",)))


def make_references(cells: Sequence[str], folder: Path) -> None:
    """Write the rows, make the bases of SFT and LoRA, and the runs of one process."""
    write_rows(folder)
    base = {"output_dir": folder / "base", "train.save_strategy": "no", "train.max_steps": 2}
    made = make_arguments("continued_pretraining-even-plain", folder, "one", **base)
    rounded = [*made[:1], *(each for each in made[1:] if not each.startswith("output_dir="))]
    rounded += [f"output_dir={folder / ROUNDED_BASE}", "model.save_dtype=bfloat16"]
    bases = [["one", "continued_pretraining", each] for each in (made, rounded)]
    launch([*bases, *plan_cells(["one"], cells, folder)], folder, 1)


def read_losses(run: Path) -> list[float]:
    """The losses of all steps and evaluations of a run, and that at its end."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [entry[key] for entry in entries for key in ("loss", "eval_loss") if key in entry]
    return [*losses, read_report(run)["evaluation"]["validation"]["loss"]]


def read_report(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report


def compare(run: Path, reference: Path) -> tuple[float, float]:
    """How far losses and weights of a run are from those of another, relative to the largest."""
    ours, theirs = read_losses(run), read_losses(reference)
    assert len(ours) == len(theirs), f"{len(ours)} losses for {len(theirs)}"
    of_losses = max(abs(one - other) / max(1.0, abs(other)) for one, other in zip(ours, theirs, strict=True))
    return of_losses, compare_weights(run, reference)


def compare_weights(run: Path, reference: Path) -> float:
    import torch

    weights, expected = read_weights(run), read_weights(reference)
    assert weights.keys() == expected.keys()
    found = [(weights[key] - each).abs().max() / each.abs().max().clamp(min=1.0) for key, each in expected.items()]
    return float(torch.stack(found).max())


def read_weights(run: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    return {name: each for path in run.glob("*model.safetensors") for name, each in load_file(path).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(list_strategies()))
    parser.add_argument("--cells", default=",".join(list_cells()))
    parser.add_argument("--bytes", action="store_true", help="what a process sends in a step instead, of each strategy")
    parser.add_argument("--gpu", action="store_true", help="a process on each GPU")
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        run_all(json.loads(options.plan.read_text()), options.plan.parent)
        return 0
    folder, cells = options.out or Path(tempfile.mkdtemp()), options.cells.split(",")
    folder.mkdir(exist_ok=True)
    strategies = [name for name in options.only.split(",") if name != "one"]
    tolerance = TOLERANCE
    if options.gpu:
        import torch

        os.environ[GPUS], tolerance = str(torch.cuda.device_count()), TOLERANCE_ON_GPUS
    for strategy in ("one", "base", ROUNDED_BASE, *strategies):
        shutil.rmtree(folder / strategy, ignore_errors=True)
    if options.bytes:
        write_rows(folder)
        for name, each in measure_bytes(folder, strategies).items():
            print(f"{name:6} {each:.2f} bytes a parameter and step")
        return 0
    make_references(cells, folder)
    launch(plan_cells(strategies, cells, folder), folder, count_processes())
    far = done = 0
    for strategy in strategies:
        for cell in (each for each in cells if can_run(strategy, each)):
            losses, weights = compare(folder / strategy / cell, folder / "one" / cell)
            done += 1
            far += max(losses, weights) > tolerance
            said = "  TOO FAR" if max(losses, weights) > tolerance else ""
            print(f"{strategy:6} {cell:42} losses {losses:.1e}  weights {weights:.1e}{said}", flush=True)
    print(f"{done} cells, {far} too far, {len(strategies) * len(cells) - done} that are refused")
    return int(far > 0)


if __name__ == "__main__":
    sys.exit(main())
