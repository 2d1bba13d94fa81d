"""What looking at each step costs: our guard against transformers' own clipping, in turns within one run.

    python benchmarks/guard_cost.py --steps 200
    python benchmarks/guard_cost.py --steps 400 --hidden 64 --layers 2 --batch 2 --length 32

Every other step of a ScratchGPT's training is taken as `transformers.Trainer` takes it, with no guard. Prints the
median step of each kind and their ratio, the ratio of two halves of the unguarded steps (what chance gives), and the
highest window of losses as a share of the first, which the guard compares (`loss_watch.py`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.models.scratch_gpt.configuration_scratch_gpt import ScratchGPTConfig
from hf_finetune.models.scratch_gpt.modeling_scratch_gpt import ScratchGPTForCausalLM
from hf_finetune.training import Trainer
from hf_finetune.training.callbacks.loss_watch import WINDOW
from hf_finetune.training.seen import COUNTS

VOCABULARY = 512
WARM = 10


class EveryOther(Trainer):
    """A Trainer that is guarded in every other step."""

    @property
    def guarded(self) -> bool:
        return bool(self.state.global_step % 2)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self.guarded:
            return super().training_step(model, inputs, num_items_in_batch)
        self.seen.add(inputs[COUNTS].counts)
        return transformers.Trainer.training_step(self, model, inputs, num_items_in_batch)

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.guarded:
            return super()._clip_grad_norm(model)
        return transformers.Trainer._clip_grad_norm(self, model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if self.guarded:
            return super()._get_grad_norm(model, grad_norm)
        return transformers.Trainer._get_grad_norm(self, model, grad_norm)


class Clock(TrainerCallback):
    """The seconds of each step, its optimizer's included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def make_rows(count: int, length: int) -> Dataset:
    """Sequences that can be learned: each token follows from the one before, with some noise."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (count, length), generator=generator)
    for place in range(1, length):
        known = torch.rand(count, generator=generator) < 0.8
        ids[known, place] = (7 * ids[known, place - 1] + 3) % VOCABULARY
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist(), "row": list(range(count))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"steps": 200, "hidden": 256, "layers": 4, "batch": 8, "length": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    config = ScratchGPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=4,
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch,
            learning_rate=arguments.learning_rate,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
        )
        rows = make_rows(64 * arguments.batch, arguments.length)
        model = ScratchGPTForCausalLM(config)
        trainer = EveryOther(model, args, train_dataset=rows, data_collator=BlockCollator(), callbacks=[clock])
        trainer.train()
    plain, guarded = (clock.seconds[WARM + first :: 2] for first in (0, 1))
    median = statistics.median
    print(f"{sum(each.numel() for each in model.parameters()):,} parameters, {arguments.steps} steps")
    print(f"without {1e3 * median(plain):.2f} ms, guarded {1e3 * median(guarded):.2f} ms a step")
    print(f"ratio {median(guarded) / median(plain):.4f}  (chance: {median(plain[::2]) / median(plain[1::2]):.4f})")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    first = median(losses[:WINDOW])
    highest = max((median(losses[n : n + WINDOW]) for n in range(WINDOW, len(losses) - WINDOW)), default=first)
    print(f"highest window of losses: {highest / first:.2f} of the first")


if __name__ == "__main__":
    main()
