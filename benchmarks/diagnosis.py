"""Runs made to go wrong in a known way, and healthy ones, against what `hf-finetune diagnose` says of their logs.

    python benchmarks/diagnosis.py --seeds 5 6 7 8 9

Small models learn the text of Python's own library, by characters, under transformers' Trainer: six kinds of run, one
of each for each seed, which also draws the model's size, the schedule, the rates and the logging interval. The log is
read back from trainer_state.json alone, as that of any Trainer's run. Then healthy runs of two more kinds: a
classifier, and an adapter on a base of other text. A run is named right where the first finding, notes aside, is of
its kind; on a healthy one every problem and every warning is a false alarm. Ratios, then the table. Seconds a run.
"""

from __future__ import annotations

import argparse
import random
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed

from hf_finetune.models.scratch_gpt import (
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchGPTForSequenceClassification,
)
from hf_finetune.reporting.diagnosis import Diagnosis, diagnose
from hf_finetune.reporting.run_record import TRAINER_STATE, read_run

WIDTH = 64
VOCABULARY = 128
QUIET = {
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "use_cpu": True,
    "logging_nan_inf_filter": False,
}
# The kind of run -> kinds of finding that name it right, the first of the diagnosis.
EXPECTED = {
    "healthy": {"healthy"},
    "overfit": {"overfitting"},
    "underfit": {"underfitting"},
    "diverge": {"divergence"},
    "plateau": {"plateau"},
    "low_rate": {"learning_rate_too_low"},
    "classifier": {"healthy"},
    "adapter": {"healthy"},
}
SIX = tuple(EXPECTED)[:6]


class Rows(Dataset):
    def __init__(self, ids: torch.Tensor, labels: torch.Tensor) -> None:
        self.ids, self.labels = ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[number], "labels": self.labels[number]}


@dataclass
class Plan:
    """One run: its rows, its model, and what TrainingArguments takes."""

    train: Rows
    validation: Rows
    model: PreTrainedModel
    settings: dict[str, Any]


def library_text(seed: int, size: int) -> str:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    random.Random(seed).shuffle(files)
    text = ""
    for file in files:
        text += file.read_text(encoding="utf-8", errors="ignore")
        if len(text) >= size:
            break
    return text[:size]


def prose_blocks(draw: random.Random) -> torch.Tensor:
    """Python's reference manual, from another place on for each draw."""
    manual = "".join(topics.values())
    start = draw.randrange(len(manual))
    return blocks(manual[start:] + manual[:start])


def blocks(text: str) -> torch.Tensor:
    ids = torch.tensor([min(ord(character), VOCABULARY - 1) for character in text])
    return ids[: len(ids) // WIDTH * WIDTH].view(-1, WIDTH)  # (rows, width)


def language_rows(ids: torch.Tensor, validation: int = 128) -> tuple[Rows, Rows]:
    """The last rows are the validation split."""
    return Rows(ids[:-validation], ids[:-validation]), Rows(ids[-validation:], ids[-validation:])


def sizes(draw: random.Random) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": draw.choice([32, 48, 64]),
        "num_hidden_layers": draw.choice([1, 2]),
        "num_attention_heads": 4,
        "max_position_embeddings": WIDTH,
        "pad_token_id": 0,
    }


def settings(draw: random.Random, **fields: Any) -> dict[str, Any]:
    every = draw.choice([5, 10, 20])
    return {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "learning_rate": 10 ** draw.uniform(-2.7, -2.2),
        "lr_scheduler_type": draw.choice(["cosine", "linear"]),
        "warmup_steps": 0.05,
        "max_steps": draw.choice([300, 400]),
        "logging_steps": every,
        "eval_strategy": "steps",
        "eval_steps": every * draw.choice([2, 4]),
        **fields,
    }


def plan(kind: str, seed: int) -> Plan:
    """The run of a kind and a seed, which draws everything else about it."""
    draw = random.Random(f"{kind} {seed}")
    set_seed(seed)
    if kind == "classifier":
        return classifier_plan(draw, seed)
    ids = blocks(library_text(seed, 600_000))
    config = ScratchGPTConfig(**sizes(draw))
    fields: dict[str, Any] = {}
    if kind == "overfit":
        ids = torch.cat([ids[: draw.choice([24, 48, 64])], ids[-128:]])
        fields = {"lr_scheduler_type": draw.choice(["cosine", "constant"]), "max_steps": 400}
    elif kind == "underfit":
        every = draw.choice([1, 2])
        fields = {"max_steps": draw.choice([20, 30, 40]), "logging_steps": every, "eval_steps": 2 * every}
        fields |= {"lr_scheduler_type": draw.choice(["constant", "constant_with_warmup"])}
    elif kind == "diverge":
        steep = {"optim": "sgd", "learning_rate": 10 ** draw.uniform(1, 2), "max_grad_norm": 0.0}
        wild = {"learning_rate": 10 ** draw.uniform(0, 1), "max_grad_norm": draw.choice([0.0, 1.0])}
        fields = {**draw.choice([steep, wild]), "lr_scheduler_type": "constant_with_warmup"}
    elif kind == "plateau":
        fields = {"lr_scheduler_type": draw.choice(["constant", "cosine"])}
        if draw.random() < 0.3:
            return guessing_plan(draw, ids, fields)
        ids = ids.flatten()[torch.randperm(ids.numel())].view(-1, WIDTH)  # letters as frequent, in no order
    elif kind == "low_rate":
        fields = {"learning_rate": 10 ** draw.uniform(-6, -4.7)}
    model: PreTrainedModel = ScratchGPTForCausalLM(config)
    if kind == "adapter":
        model, fields = adapter_of(model, ids), {"learning_rate": 10 ** draw.uniform(-2.3, -1.9)}
        ids = prose_blocks(draw)
    return Plan(*language_rows(ids), model, settings(draw, **fields))


def adapter_of(model: PreTrainedModel, ids: torch.Tensor) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        rows = language_rows(ids)
        base = {"max_steps": 300, "learning_rate": 5e-3, "per_device_train_batch_size": 16, "eval_strategy": "no"}
        trainer = Trainer(model=model, args=TrainingArguments(folder, **QUIET, **base), train_dataset=rows[0])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))


def classifier_plan(draw: random.Random, seed: int) -> Plan:
    """Code or prose, in equal parts."""
    code = blocks(library_text(seed, 150_000))
    prose = prose_blocks(draw)[: len(code)]
    ids = torch.cat([code[: len(prose)], prose])
    order = torch.randperm(len(ids))
    ids, labels = ids[order], (order >= len(prose)).long()
    model = ScratchGPTForSequenceClassification(ScratchGPTConfig(**sizes(draw), num_labels=2))
    fields = {"learning_rate": 10 ** draw.uniform(-2.6, -2.1), "max_steps": 300}
    return Plan(Rows(ids[256:], labels[256:]), Rows(ids[:256], labels[:256]), model, settings(draw, **fields))


def guessing_plan(draw: random.Random, ids: torch.Tensor, fields: dict[str, Any]) -> Plan:
    """Labels by the throw of a coin."""
    labels = torch.randint(0, 2, (len(ids),))
    model = ScratchGPTForSequenceClassification(ScratchGPTConfig(**sizes(draw), num_labels=2))
    return Plan(Rows(ids[256:], labels[256:]), Rows(ids[:256], labels[:256]), model, settings(draw, **fields))


def train(kind: str, seed: int, folder: Path) -> None:
    """Train the run of a kind and a seed; its state is all that is left in `folder`."""
    made = plan(kind, seed)
    args = TrainingArguments(str(folder), seed=seed, **QUIET, **made.settings)
    trainer = Trainer(model=made.model, args=args, train_dataset=made.train, eval_dataset=made.validation)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_state()


def judged(kind: str, found: Diagnosis) -> bool:
    """Whether the diagnosis names the run right; a healthy one must have neither problem nor warning."""
    said = [each.kind for each in found.findings if each.level != "note"] or [found.findings[0].kind]
    return said[0] in EXPECTED[kind] and (EXPECTED[kind] != {"healthy"} or len(said) == 1)


def main(kinds: Sequence[str], seeds: Sequence[int], keep: Path | None) -> None:
    lines: list[str] = []
    right = dict.fromkeys(kinds, 0)
    with tempfile.TemporaryDirectory() as temporary:
        for kind in kinds:
            for seed in seeds:
                folder = (keep or Path(temporary)) / f"{kind}-{seed}"
                if not (folder / TRAINER_STATE).exists():
                    train(kind, seed, folder)
                found = diagnose(read_run(folder))
                right[kind] += judged(kind, found)
                said = ", ".join(f"{each.kind} ({each.level})" for each in found.findings)
                lines.append(f"{'right' if judged(kind, found) else 'WRONG':>6}  {folder.name:<14} {said}")
    six = [right[kind] for kind in kinds if kind in SIX]
    healthy = [kind for kind in kinds if EXPECTED[kind] == {"healthy"}]
    alarms = sum(len(seeds) - right[kind] for kind in healthy)
    print(f"{sum(six)} of {len(six) * len(seeds)} named right; {alarms} of {len(healthy) * len(seeds)} healthy alarmed")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--kinds", nargs="+", default=list(EXPECTED), choices=list(EXPECTED))
    parser.add_argument("--keep", type=Path, help="Where the logs stay; those that are there are not trained again.")
    arguments = parser.parse_args()
    main(arguments.kinds, arguments.seeds, arguments.keep)
