"""How long training waits for a checkpoint: ours, verified and written beside it, against the Trainer's own save.

    python benchmarks/save_wait.py --hidden-size 768 --layers 12 --rounds 5

One ScratchGPT with AdamW's state in float32, one step trained. In turns, in one process: transformers'
`_save_checkpoint` of that state, and how long ours lets the next step wait: before its forward pass, and before its
optimizer (and how long the thread takes until the checkpoint is verified). Then steps are trained with either, and
without saves, in turns: what a save costs of the time of a run, what the thread takes from the steps included.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import TrainingArguments

from hf_finetune.models.scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from hf_finetune.training import Trainer

VOCABULARY = 4_096


class Plain(transformers.Trainer):
    """transformers' own."""


def build(kind: type[Any], folder: Path, options: argparse.Namespace, steps: int, save_every: int | None) -> Any:
    transformers.set_seed(0)
    config = ScratchGPTConfig(
        vocab_size=VOCABULARY, hidden_size=options.hidden_size, num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.hidden_size // 64), max_position_embeddings=64,
    )  # fmt: skip
    rows = [{"input_ids": [(7 * row + at) % VOCABULARY for at in range(64)]} for row in range(256)]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    args = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=options.batch_size,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no" if save_every is None else "steps", save_steps=save_every or 500, save_total_limit=2,
        logging_strategy="no", report_to="none", disable_tqdm=True, optim="adamw_torch",
    )  # fmt: skip
    return kind(model=ScratchGPTForCausalLM(config), args=args, train_dataset=Dataset.from_list(rows),
                data_collator=transformers.default_data_collator)  # fmt: skip


def time_saves(options: argparse.Namespace, folder: Path) -> tuple[list[float], list[float], list[float]]:
    """Seconds of the Trainer's own save, of the wait for ours, and until ours is verified: one of each a round."""
    plain, ours = (build(kind, folder / kind.__name__, options, 1, 10**6) for kind in (Plain, Trainer))
    plain.train()
    ours.train()
    theirs, waited = [], []
    batch = next(iter(ours.get_train_dataloader()))
    for step in range(2, options.rounds + 3):
        for trainer in (plain, ours):
            trainer.state.global_step = step
        began = time.perf_counter()
        plain._save_checkpoint(plain.model, None)
        theirs.append(time.perf_counter() - began)
        began = time.perf_counter()
        ours._save_checkpoint(ours.model, None)
        waited.append(time.perf_counter() - began)
        ours.training_step(ours.model, dict(batch))
        began = time.perf_counter()
        ours.checkpoints.writer.wait_for_copy()
        waited[-1] += time.perf_counter() - began
        ours.checkpoints.writer.wait()
    return theirs[1:], waited[1:], ours.checkpoints.writer.took_s[1:]  # the first of each takes new memory


def time_run(kind: type[Any], folder: Path, options: argparse.Namespace, save_every: int | None) -> float:
    trainer = build(kind, folder / "run", options, options.steps, save_every)
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {
        "hidden-size": 512,
        "layers": 8,
        "rounds": 5,
        "steps": 40,
        "save-every": 10,
        "batch-size": 4,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        theirs, waited, took = time_saves(options, Path(name))
    wait = statistics.median(mine / other for mine, other in zip(waited, theirs, strict=True))
    print(f"their save {statistics.median(theirs):.3f} s, wait for ours {statistics.median(waited):.4f} s, "
          f"verified after {statistics.median(took):.3f} s: a wait of {wait:.1%} of their save")  # fmt: skip
    ratios = []
    for _ in range(options.rounds if options.steps else 0):
        with tempfile.TemporaryDirectory() as name:
            without, plain, ours = (
                time_run(kind, Path(name, str(number)), options, every)
                for number, (kind, every) in enumerate(
                    [(Plain, None), (Plain, options.save_every), (Trainer, options.save_every)]
                )
            )
        ratios.append((ours - without) / (plain - without))
        print(f"run without saves {without:.2f} s, with theirs {plain:.2f} s, with ours {ours:.2f} s")
    if ratios:
        print(f"a save of ours costs a run {statistics.median(ratios):.0%} of what one of theirs costs")


if __name__ == "__main__":
    main()
