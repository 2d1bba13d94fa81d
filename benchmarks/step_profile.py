"""What a training step at nanoGPT's shape is made of: our model by operations, and what our Trainer adds to it.

    python benchmarks/step_profile.py
    python benchmarks/step_profile.py --bf16 --steps 200

Both loops take the same batches of 12 rows of 64 random tokens, on one thread and in turns; a step is its median of
processor time, which another process on the machine lengthens least. The parts of the raw step are torch.profiler's
self times, scaled to it; those of the Trainer's are by subtraction.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from machine import describe_machine
from torch.profiler import ProfilerActivity, profile
from transformers import TrainingArguments

from hf_finetune.data import BlockCollator
from hf_finetune.models.scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM
from hf_finetune.training import Trainer

VOCABULARY, ROWS, BLOCK = 65, 12, 64
# The first part that an operation's name has one of the words of.
PARTS = {
    "attention": ("attention",),
    "matrix products": ("mm", "linear", "matmul", "mkldnn"),  # in bf16 those of attention too
    "optimizer": ("adam",),
    "clipping": ("norm_except", "linalg_vector_norm", "foreach", "clamp", "stack"),
    "norms": ("layer_norm",),
    "activation": ("gelu",),
    "softmax and loss": ("softmax", "nll_loss"),
    "embeddings": ("embedding", "index"),
    "copies and sums": ("copy", "add", "sum", "mul", "fill", "zero", "empty", "transpose", "view", "slice"),
}


def build_model(bf16: bool) -> ScratchGPTForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": BLOCK}
    model = ScratchGPTForCausalLM(ScratchGPTConfig(family="gpt2", vocab_size=VOCABULARY, **sizes))
    if bf16:  # as the recipes choose it
        model.set_attn_implementation("eager")
    return model.train()


def time_raw_steps(tokens: torch.Tensor, bf16: bool) -> list[float]:
    """Seconds of each step of a loop that is written out; `tokens` (rows, BLOCK)."""
    model, seconds = build_model(bf16), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for batch in tokens.split(ROWS):
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.process_time() - started)
    return seconds


class TimedTrainer(Trainer):
    """Ours, with the processor time that each of its parts takes in each step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.parts: dict[str, list[float]] = defaultdict(list)
        self.starts: list[float] = []
        super().__init__(*args, **kwargs)

    def _time(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        result = call(*args, **kwargs)
        self.parts[part].append(time.process_time() - started)
        return result

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.starts.append(time.process_time())
        return self._time("loading a batch", super().get_batch_samples, *args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._time("forward and backward", super().training_step, *args, **kwargs)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        return self._time("guard and clipping", super()._get_grad_norm, *args, **kwargs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> Any:
        return self._time("logging and saving", super()._maybe_log_save_evaluate, *args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().create_optimizer(*args, **kwargs)
        step = optimizer.step
        optimizer.step = lambda *args, **kwargs: self._time("optimizer", step, *args, **kwargs)
        return optimizer


def time_trainer(tokens: torch.Tensor, bf16: bool) -> tuple[float, dict[str, float]]:
    """Median seconds of a step of our Trainer, and of its parts."""
    values = tokens.tolist()
    rows = Dataset.from_dict({"input_ids": values, "labels": values, "rows": [[0]] * len(values)})
    steps = len(rows) // ROWS
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=ROWS,
            learning_rate=1e-3,
            optim="adamw_torch_fused",
            bf16=bf16,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            logging_nan_inf_filter=False,
        )
        trainer = TimedTrainer(model=build_model(bf16), args=args, train_dataset=rows, data_collator=BlockCollator())
        trainer.train()
    whole = statistics.median(after - before for before, after in zip(trainer.starts, trainer.starts[1:], strict=False))
    return whole, {part: statistics.median(seconds) for part, seconds in trainer.parts.items()}


def split_raw_step(tokens: torch.Tensor, bf16: bool) -> dict[str, float]:
    """Share of the profiler's self time that each of `PARTS` has."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        time_raw_steps(tokens[: 20 * ROWS], bf16)
    seconds: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        part = next((part for part, words in PARTS.items() if any(word in event.key.lower() for word in words)), "rest")
        seconds[part] += event.self_cpu_time_total
    total = sum(seconds.values())
    return {part: share / total for part, share in sorted(seconds.items(), key=lambda each: -each[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe_machine()}; one thread, {'bf16' if arguments.bf16 else 'float32'}")
    tokens = torch.randint(VOCABULARY, (arguments.steps * ROWS, BLOCK))
    raw, ours, parts = [], [], []
    for _ in range(arguments.rounds):
        raw.append(statistics.median(time_raw_steps(tokens, arguments.bf16)))
        whole, named = time_trainer(tokens, arguments.bf16)
        ours.append(whole)
        parts.append(named)
    step, whole = min(raw), min(ours)
    for part, share in split_raw_step(tokens, arguments.bf16).items():
        print(f"raw step      {part:22} {1000 * share * step:7.2f} ms {share:6.1%}")
    print(f"raw step      {'in all':22} {1000 * step:7.2f} ms")
    named = {part: min(each[part] for each in parts) for part in parts[0]}
    named["the rest"] = whole - sum(named.values())
    for part, seconds in named.items():
        print(f"our Trainer   {part:22} {1000 * seconds:7.2f} ms {seconds / whole:6.1%}")
    print(f"our Trainer   {'in all':22} {1000 * whole:7.2f} ms")
    print(f"our Trainer / raw loop, time of a step: {whole / step:.3f}")


if __name__ == "__main__":
    main()
