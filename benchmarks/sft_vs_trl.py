"""Wall time of instruction fine-tuning, from process start to saved model: `hf-finetune train` against `trl sft`.

    python benchmarks/sft_vs_trl.py --rows instructions.jsonl
    python benchmarks/sft_vs_trl.py --rows instructions.jsonl --levers

Rows are objects of `instruction`, `input` and `output`; a tenth is held out. Both train the same model folder (a Llama
of random weights, 4 layers, 256 wide, with a tokenizer trained on the rows) for one epoch of the same rows, 8 a batch,
on what the assistant says, at the same learning rate and in the precision that is fastest here; everything else is
each side's own default. With `--trl-defaults` so is TRL's precision, bf16, which a CPU may have to emulate. They take
turns, and one scorer, which is neither's, reads the held-out loss of both saved models. `--levers` turns one of our
settings at a time into TRL's or into another.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from instructions import (
    Conversation,
    Cost,
    make_base,
    read_conversations,
    rendered,
    row_losses,
    run,
    train_ours,
    write_rows,
)
from machine import bf16_is_fast, describe_machine

from hf_finetune.config.sections import ModelSection
from hf_finetune.models.tokenizers import load_tokenizer

SAME = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
LEVERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "batches in random order": {"train_sampling_strategy": "random"},
    "packed": {"packing": True, "max_length": 256, "per_device_train_batch_size": 2},
    "float32": {"bf16": False},
    "bf16": {"bf16": True},
    "eager attention": {"model.attn_implementation": "eager"},
    "sdpa attention": {"model.attn_implementation": "sdpa"},
    "activations recomputed": {"activation_checkpointing": True},
    "optimizer not fused": {"optim": "adamw_torch"},
    "optimizer Muon": {"optim": "muon"},
    "one thread": {"variables": {"OMP_NUM_THREADS": "1"}},
    # As often as GNU's OpenMP does where nothing is said: TRL's threads.
    "threads that spin": {"variables": {"GOMP_SPINCOUNT": "300000"}},
}


@dataclass(frozen=True)
class Bench:
    folder: Path
    base: Path
    rows: Path
    train: list[Conversation]
    held_out: list[Conversation]
    bf16: bool
    trl_defaults: bool = False

    def ours(self, **settings: Any) -> tuple[Cost, dict[str, Any]]:
        # TRL evaluates nothing and asks nothing either.
        settings = {**SAME, "bf16": self.bf16, "data.validation_fraction": None, "eval.prompts": [], **settings}
        return train_ours("sft", self.folder / "ours", self.base, self.rows, **settings)

    def theirs(self) -> Cost:
        shutil.rmtree(self.folder / "trl", ignore_errors=True)
        options = [part for name, value in SAME.items() for part in (f"--{name}", value)]
        paths = ["--model_name_or_path", self.base, "--dataset_name", self.rows.parent]
        paths += ["--output_dir", self.folder / "trl"]
        options += [] if self.trl_defaults else ["--bf16", self.bf16]
        options += [] if torch.accelerator.is_available() else ["--use_cpu"]
        return run(["trl", "sft", *paths, "--assistant_only_loss", "--report_to", "none", *options])

    def loss(self, side: str) -> float:
        nll, tokens = row_losses(self.folder / side, self.held_out)
        return float(nll.sum() / tokens.sum())


def prepare(folder: Path, rows: Path, *, trl_defaults: bool) -> Bench:
    train, held_out = read_conversations(rows)
    base = make_base(folder / "base", train, hidden=256, layers=4)
    written = write_rows(folder / "rows" / "train.jsonl", train)
    return Bench(folder, base, written, train, held_out, bf16_is_fast(), trl_defaults)


def check_same_tokens(bench: Bench, report: dict[str, Any]) -> None:
    """TRL trains what the template marks; ours must have trained as many tokens."""
    tokenizer = load_tokenizer(ModelSection(path=str(bench.base)))
    marked = sum(int(trained.sum()) for _, trained in rendered(bench.train, tokenizer))
    trained = report["data"]["train"]["trained_tokens"]
    if trained != marked:
        raise SystemExit(f"ours trained {trained:,} tokens, TRL {marked:,}")


def compare(bench: Bench, rounds: int) -> None:
    ratios: list[float] = []
    losses: dict[str, list[float]] = {"ours": [], "trl": []}
    for number in range(rounds):
        cost, report = bench.ours()
        peer = bench.theirs()
        check_same_tokens(bench, report)
        for side in losses:
            losses[side].append(bench.loss(side))
        seconds = report["train"]["runtime_s"]
        print(f"round {number + 1}: ours {cost.seconds:.1f} s ({seconds:.1f} s in training), ", end="")
        print(f"trl sft {peer.seconds:.1f} s; held-out loss {losses['ours'][-1]:.4f} and {losses['trl'][-1]:.4f}")
        ratios.append(cost.seconds / peer.seconds)
    ours, theirs = (statistics.median(losses[side]) for side in ("ours", "trl"))
    print(f"ours / trl sft, process start to saved model: {statistics.median(ratios):.3f} (median of {rounds})")
    print(f"held-out loss: ours {ours:.4f}, trl sft {theirs:.4f}")


def measure_levers(bench: Bench, rounds: int) -> None:
    """Each lever's median, its rounds taken in turns with the others'."""
    seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in LEVERS}
    for _ in range(rounds):
        for name, settings in LEVERS.items():
            cost, report = bench.ours(**settings)
            training = report["train"]["runtime_s"]
            seen[name].append((training, cost.seconds - training, bench.loss("ours")))
    print(f"{'lever':25} training s   rest s   held-out loss")
    for name, figures in seen.items():
        training, rest, loss = (statistics.median(values) for values in zip(*figures, strict=True))
        print(f"{name:25} {training:10.1f} {rest:8.1f} {loss:15.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL of instruction, input and output")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trl-defaults", action="store_true", help="TRL in bf16, whatever the machine computes in")
    parser.add_argument("--levers", action="store_true", help="measure one of our settings at a time instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bench = prepare(Path(temporary), arguments.rows, trl_defaults=arguments.trl_defaults)
        print(f"{describe_machine()}; ours in {'bf16' if bench.bf16 else 'float32'}")
        (measure_levers if arguments.levers else compare)(bench, arguments.rounds)


if __name__ == "__main__":
    main()
