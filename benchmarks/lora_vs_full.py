"""LoRA against full fine-tuning: one base, one data set, one run; size, quality, time and memory of both.

    python benchmarks/lora_vs_full.py --rows instructions.jsonl

Rows are objects of `instruction`, `input` and `output`; a tenth is held out. The base (a Llama, 6 layers, 512 wide)
first reads the others, every token of them, as a pretrained model has read its field; then they fine-tune it on what
the assistant says, with `recipes/sft.py` and with `recipes/lora.py`, in turns. The learning rate of each is the best of
those tried, by rows that train nothing. The difference of the held-out losses comes with a 95 % interval, bootstrapped
over rows, and so does what either gained over the base. A base that has read other rows than those it is fine-tuned on
gains more from full fine-tuning: an adapter learns less that is new.

A larger gain in time than 1.5 would be false: of the three products of matrices in a step (forward, gradient of the
inputs, gradient of the weights; Kaplan et al., 2020) a frozen base saves the last alone, and the adapter adds its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from instructions import (
    Conversation,
    Cost,
    make_base,
    read_conversations,
    row_losses,
    train_ours,
    write_rows,
)
from machine import bf16_is_fast

SIDES = ("sft", "lora")
RATES = {"sft": (3e-5, 1e-4, 3e-4), "lora": (3e-4, 1e-3, 3e-3)}
# Rank 4 on all linear layers of the base: a hundredth of its parameters.
ADAPTER = {"lora.r": 4, "lora.lora_alpha": 8}
WEIGHTS = {"sft": "model.safetensors", "lora": "adapter_model.safetensors"}
EPOCHS = 1
RESAMPLES = 10_000


def train(side: str, folder: Path, base: Path, rows: Path, **settings: object) -> tuple[Cost, dict[str, Any]]:
    shared: dict[str, object] = {"per_device_train_batch_size": 8, "save_strategy": "no", "bf16": bf16_is_fast()}
    shared |= {"data.validation_fraction": None, "eval.prompts": [], "lr_scheduler_type": "cosine"}
    adapter = ADAPTER if side == "lora" else {}
    return train_ours(side, folder, base, rows, **{**shared, "num_train_epochs": EPOCHS, **adapter, **settings})


def pretrain(folder: Path, rows: list[Conversation], path: Path, epochs: int) -> Path:
    base = make_base(folder / "random", rows, hidden=512, layers=6)
    settings = {"data.loss_on": "all", "learning_rate": 1e-3, "num_train_epochs": epochs, "warmup_steps": 0.1}
    train("sft", folder / "base", base, path, **settings)
    return folder / "base"


def best_rate(side: str, folder: Path, base: Path, path: Path, unseen: list[Conversation]) -> float:
    """The learning rate of the lowest loss on rows that neither the base nor the fine-tuning has seen."""
    losses = {}
    for rate in RATES[side]:
        train(side, folder / "tried", base, path, learning_rate=rate)
        losses[rate] = mean_loss(*row_losses(folder / "tried", unseen))
    best = min(losses, key=losses.__getitem__)
    print(f"{side}: loss {', '.join(f'{loss:.4f} at {rate:g}' for rate, loss in losses.items())}", flush=True)
    return best


def mean_loss(nll: np.ndarray, tokens: np.ndarray) -> float:
    return float(nll.sum() / tokens.sum())


def interval(difference: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference of mean losses, rows drawn with replacement."""
    drawn = np.random.default_rng(0).integers(len(tokens), size=(RESAMPLES, len(tokens)))
    low, high = np.quantile(difference[drawn].sum(axis=1) / tokens[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def compare(
    folder: Path, base: Path, path: Path, rates: dict[str, float], held_out: list[Conversation], rounds: int
) -> None:
    costs: dict[str, list[tuple[float, float, float]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES:
            cost, report = train(side, folder / side, base, path, learning_rate=rates[side], seed=number)
            costs[side].append((report["train"]["runtime_s"], cost.seconds, cost.peak_mib))
    medians = {side: [statistics.median(values) for values in zip(*costs[side], strict=True)] for side in SIDES}
    sizes = {side: (folder / side / WEIGHTS[side]).stat().st_size for side in SIDES}
    losses = {side: row_losses(folder / side, held_out) for side in SIDES}
    losses["base"] = row_losses(base, held_out)
    means = {side: mean_loss(*found) for side, found in losses.items()}
    training, process, memory = (one / other for one, other in zip(medians["lora"], medians["sft"], strict=True))
    print(f"size: full / LoRA {sizes['sft'] / sizes['lora']:.0f} ({sizes['sft']:,} and {sizes['lora']:,} bytes)")
    print(f"held-out loss: base {means['base']:.4f}, full {means['sft']:.4f}, LoRA {means['lora']:.4f}")
    # Where neither is better than the base beyond doubt, that they are equal says little.
    for one, other in (("lora", "sft"), ("sft", "base"), ("lora", "base")):
        low, high = interval(losses[one][0] - losses[other][0], losses[one][1])
        print(f"{one} - {other}: {means[one] - means[other]:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
    print(f"LoRA / full: {training:.2f} of the time in training, {process:.2f} of the process's, {memory:.2f} of its")
    print(f"peak memory ({medians['lora'][2]:.0f} and {medians['sft'][2]:.0f} MiB); medians of {rounds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL of instruction, input and output")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base-epochs", type=int, default=4, help="how long the base learns first")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows, held_out = read_conversations(arguments.rows)
        unseen, rows = rows[: len(rows) // 10], rows[len(rows) // 10 :]
        path = write_rows(folder / "rows.jsonl", rows)
        base = pretrain(folder, rows, path, arguments.base_epochs)
        rates = {side: best_rate(side, folder, base, path, unseen) for side in SIDES}
        compare(folder, base, path, rates, held_out, arguments.rounds)


if __name__ == "__main__":
    main()
