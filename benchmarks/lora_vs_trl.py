"""A LoRA on a real chat model: `hf-finetune train` against `trl sft --use_peft`, on the same rows.

    python benchmarks/lora_vs_trl.py --model models/smollm2-135m --rows instructions.jsonl --steps 20
    python benchmarks/lora_vs_trl.py --model Llama-3.1-8B-Instruct --rows instructions.jsonl --packing --liger

Rank, scaling, modules, learning rate, batch, length and precision are the same; both train the steps that are asked for
on what the assistant says, and take turns. What is printed is the wall time of the processes, the time in training as
each reports it, and the most memory: of the device where there is a GPU, else of the processes. With `--liger` TRL
trains with Liger's kernels, where they are installed; ours decides by itself.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from instructions import CHAT_TEMPLATE, Conversation, read_conversations, row_losses, run, train_ours, write_rows
from machine import bf16_is_fast, describe_machine

RANK, ALPHA, MODULES = 16, 32, "all-linear"
LEARNING_RATE = 2e-4
SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True)
class Side:
    seconds: float
    """From the start of the process to its end."""
    training_seconds: float
    peak_mib: float


@contextmanager
def watch_device() -> Iterator[list[float]]:
    """Yield a list whose one number becomes the MiB of the GPU that were taken within the block, at most."""
    peak = [0.0]
    if not torch.cuda.is_available():
        yield peak
        return
    free_before, _ = torch.cuda.mem_get_info()
    done = threading.Event()

    def look() -> None:
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            peak[0] = max(peak[0], (free_before - torch.cuda.mem_get_info()[0]) / 2**20)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def train_with_ours(folder: Path, rows: Path, options: argparse.Namespace) -> Side:
    settings: dict[str, object] = {
        "max_steps": options.steps, "per_device_train_batch_size": options.batch_size, "learning_rate": LEARNING_RATE,
        "bf16": bf16_is_fast(), "max_length": options.max_length, "packing": options.packing, "save_strategy": "no",
        "lora.r": RANK, "lora.lora_alpha": ALPHA, "lora.target_modules": MODULES,
        "data.chat_template": str(folder / "template.jinja"), "data.validation_fraction": None, "eval.prompts": [],
    }  # fmt: skip
    with watch_device() as peak:
        cost, report = train_ours("lora", folder / "ours", Path(options.model), rows, **settings)
    return Side(cost.seconds, report["train"]["runtime_s"], peak[0] or cost.peak_mib)


def train_with_trl(folder: Path, rows: Path, options: argparse.Namespace) -> Side:
    shutil.rmtree(folder / "trl", ignore_errors=True)
    named = {
        "model_name_or_path": options.model, "dataset_name": rows.parent, "output_dir": folder / "trl",
        "max_steps": options.steps, "per_device_train_batch_size": options.batch_size, "learning_rate": LEARNING_RATE,
        "bf16": bf16_is_fast(), "max_length": options.max_length, "packing": options.packing, "save_strategy": "no",
        "lora_r": RANK, "lora_alpha": ALPHA, "lora_target_modules": MODULES, "use_liger_kernel": options.liger,
        "chat_template_path": folder / "template.jinja", "report_to": "none", "logging_steps": options.steps,
    }  # fmt: skip
    words = [part for name, value in named.items() for part in (f"--{name}", value)]
    words += ["--use_peft", "--assistant_only_loss", *([] if torch.accelerator.is_available() else ["--use_cpu"])]
    with watch_device() as peak:
        cost = run(["trl", "sft", *words])
    said = re.search(r"'train_runtime': '?([\d.]+)", cost.said)
    if said is None:
        raise SystemExit(f"trl sft said no train_runtime:\n{cost.said}")
    return Side(cost.seconds, float(said[1]), peak[0] or cost.peak_mib)


def prepare_rows(folder: Path, options: argparse.Namespace) -> tuple[Path, list[Conversation]]:
    train, held_out = read_conversations(options.rows)
    # TRL needs a template that marks what the assistant says, and few models come with one.
    (folder / "template.jinja").write_text(CHAT_TEMPLATE)
    return write_rows(folder / "rows" / "train.jsonl", train), held_out[: options.held_out]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or a Hub id of a model that knows ChatML")
    parser.add_argument("--rows", type=Path, required=True, help="JSONL of instruction, input and output")
    for name, value in {"steps": 20, "batch-size": 8, "max-length": 512, "rounds": 3, "held-out": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--liger", action="store_true")
    options = parser.parse_args()
    print(f"{describe_machine()}; both in {'bf16' if bf16_is_fast() else 'float32'}")
    found: list[tuple[Side, Side]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows, held_out = prepare_rows(folder, options)
        for _ in range(options.rounds):
            found.append((train_with_ours(folder, rows, options), train_with_trl(folder, rows, options)))
            for name, side in zip(("ours", "trl "), found[-1], strict=True):
                print(f"{name}: {side.seconds:6.1f} s, {side.training_seconds:6.1f} s of them in training, "
                      f"{side.peak_mib:,.0f} MiB", flush=True)  # fmt: skip
        losses = [row_losses(folder / name, held_out) for name in ("ours", "trl")]
    for name in ("seconds", "training_seconds", "peak_mib"):
        ratio = statistics.median(getattr(ours, name) / getattr(trl, name) for ours, trl in found)
        print(f"ours / trl sft, {name}: {ratio:.3f} (median of {options.rounds})")
    ours, trl = (float(nll.sum() / tokens.sum()) for nll, tokens in losses)
    print(f"held-out loss of the last round: ours {ours:.4f}, trl sft {trl:.4f}")


if __name__ == "__main__":
    main()
