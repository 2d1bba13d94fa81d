"""Runs made to go wrong in a known way, and healthy ones, against what `hf-finetune diagnose` says of them.

    python benchmarks/diagnosis.py --seeds 5 6 7

Small models learn the text of Python's own library, by characters, under transformers' Trainer: ten kinds of run that
go wrong, one of each for each seed, which also draws the model's size, the schedule, the rates and the logging
interval; and five kinds of healthy runs, two of each for each seed. The log is read back from trainer_state.json alone,
as that of any Trainer's run; where a base is tuned and scored, from report.json as well. A run is named right where the
first finding, notes aside, is of its kind; on a healthy one every problem and every warning is a false alarm. Ratios,
then the table. Seconds a run.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import random
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed

from hf_finetune.evaluation.language_modeling.metrics import make_language_statistic
from hf_finetune.evaluation.language_modeling.trainer_metrics import reduce_logits
from hf_finetune.evaluation.statistics.paired_test import compare_models
from hf_finetune.folders import REPORT
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
WRONG = {
    "overfit": {"overfitting"},
    "overfit_without_rise": {"overfitting"},
    "memorized": {"memorized"},
    "underfit": {"underfitting"},
    "diverge": {"divergence"},
    "plateau": {"plateau"},
    "low_rate": {"learning_rate_too_low"},
    "base_better": {"model_worse"},
    "tiny_data": {"few_rows"},
    "long_warmup": {"warmup_not_over"},
}
HEALTHY = ("healthy", "classifier", "adapter", "finished_cosine", "several_epochs")
EXPECTED = WRONG | {kind: {"healthy"} for kind in HEALTHY}
SECOND_SEED = 100
"""Added to a seed for the second healthy run of a kind."""
NEXT_DRAW = 1_000_000
"""Added to a seed where the run was none of its kind."""


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
    scored_at_end: bool = False
    """Validation is scored once, after the last step."""
    beside_base: bool = False
    """The model is compared with what it was tuned from, as our recipes do."""
    unseen: Rows | None = None
    """Rows in neither split; if they gain half of what the training rows gain, the run is none of its kind."""


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
        "hidden_size": draw.choice([24, 32]),
        "num_hidden_layers": draw.choice([1, 2]),
        "num_attention_heads": 4,
        "max_position_embeddings": WIDTH,
        "pad_token_id": 0,
    }


def settings(draw: random.Random, **fields: Any) -> dict[str, Any]:
    every = draw.choice([5, 10])
    return {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 64,
        "learning_rate": 10 ** draw.uniform(-2.7, -2.2),
        "lr_scheduler_type": draw.choice(["cosine", "linear"]),
        "warmup_steps": 0.05,
        "max_steps": draw.choice([120, 160]),
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
    if kind in BASE_PLANS:
        return BASE_PLANS[kind](draw, seed)
    ids = blocks(library_text(seed, 400_000))
    config = ScratchGPTConfig(**sizes(draw))
    if kind == "plateau" and draw.random() < 0.3:
        return guessing_plan(draw, ids, {"lr_scheduler_type": draw.choice(["constant", "cosine"])})
    if kind == "plateau":
        ids = ids.flatten()[torch.randperm(ids.numel())].view(-1, WIDTH)  # letters as frequent, in no order
    few = {"overfit": [24, 48, 64], "memorized": [8, 16, 24], "tiny_data": [4, 6, 8, 12], "several_epochs": [600, 900]}
    if kind in few:
        ids = torch.cat([ids[: draw.choice(few[kind])], ids[-128:]])
    fields = settings(draw, **draw_fields(kind, draw))
    return Plan(*language_rows(ids), ScratchGPTForCausalLM(config), fields, scored_at_end=kind == "memorized")


def draw_fields(kind: str, draw: random.Random) -> dict[str, Any]:
    """The settings that make a run one of its kind."""
    every = draw.choice([1, 2])
    if kind == "overfit":
        return {"lr_scheduler_type": draw.choice(["cosine", "constant"]), "max_steps": 200}
    if kind == "memorized":
        return {"eval_strategy": "no", "learning_rate": 10 ** draw.uniform(-2.1, -1.9), "max_steps": 240}
    if kind == "underfit":
        fields: dict[str, Any] = {"max_steps": draw.choice([20, 30, 40]), "logging_steps": every}
        return fields | {
            "eval_steps": 2 * every,
            "lr_scheduler_type": draw.choice(["constant", "constant_with_warmup"]),
        }
    if kind == "diverge":
        steep = {"optim": "sgd", "learning_rate": 10 ** draw.uniform(1, 2), "max_grad_norm": 0.0}
        wild = {"learning_rate": 10 ** draw.uniform(0, 1), "max_grad_norm": draw.choice([0.0, 1.0])}
        return {**draw.choice([steep, wild]), "lr_scheduler_type": "constant_with_warmup"}
    if kind == "plateau":  # the floor is reached in half of the rate: later, the run ends as it comes to its floor
        rate = 10 ** draw.uniform(-2.3, -1.9)
        return {"lr_scheduler_type": draw.choice(["constant", "cosine"]), "learning_rate": rate}
    if kind == "low_rate":
        return {"learning_rate": 10 ** draw.uniform(-6, -4.7)}
    if kind == "tiny_data":
        return {"max_steps": draw.choice([20, 30]), "logging_steps": every, "eval_steps": 4 * every}
    if kind == "long_warmup":
        steps = draw.choice([80, 120])
        return {"max_steps": steps, "warmup_steps": round(draw.uniform(1.2, 4) * steps)}
    if kind == "finished_cosine":
        rate = 10 ** draw.uniform(-2.3, -1.9)
        return {"lr_scheduler_type": "cosine", "max_steps": draw.choice([240, 320]), "learning_rate": rate}
    if kind == "several_epochs":
        return {"max_steps": 160, "learning_rate": 10 ** draw.uniform(-2.9, -2.5)}
    return {}


@functools.cache
def train_base(seed: int) -> PreTrainedModel:
    """A model of the library's text."""
    set_seed(seed)
    rows = language_rows(blocks(library_text(seed, 400_000)))
    model = ScratchGPTForCausalLM(ScratchGPTConfig(**sizes(random.Random(seed))))
    with tempfile.TemporaryDirectory() as folder:
        base = {"max_steps": 160, "learning_rate": 5e-3, "per_device_train_batch_size": 16, "eval_strategy": "no"}
        trainer = Trainer(model=model, args=TrainingArguments(folder, **QUIET, **base), train_dataset=rows[0])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model


def adapter_plan(draw: random.Random, seed: int) -> Plan:
    """An adapter, on a base of other text."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(copy.deepcopy(train_base(seed)), config)
    return Plan(*language_rows(prose_blocks(draw)), model, settings(draw, learning_rate=10 ** draw.uniform(-2.3, -1.9)))


def quiet_plan(draw: random.Random, seed: int) -> Plan:
    """A base tuned on few rows of other text, gently: they are learned by heart, and what it knows stays."""
    ids = prose_blocks(draw)
    unseen = ids[-640:-128]
    ids = torch.cat([ids[: draw.choice([16, 24, 32])], ids[-128:]])
    fields = {"learning_rate": 10 ** draw.uniform(-3.1, -2.9), "max_steps": 160, "lr_scheduler_type": "cosine"}
    model = copy.deepcopy(train_base(seed))
    return Plan(*language_rows(ids), model, settings(draw, **fields), unseen=Rows(unseen, unseen))


def spoiled_plan(draw: random.Random, seed: int) -> Plan:
    """A base tuned on other text than it is used for, and scored on what it is used for."""
    known = blocks(library_text(seed, 400_000))[-128:]
    fields = {"learning_rate": 10 ** draw.uniform(-2.7, -2.3), "max_steps": draw.choice([60, 100])}
    fields["eval_strategy"] = draw.choice(["no", "steps"])
    rows, validation = Rows(prose := prose_blocks(draw), prose), Rows(known, known)
    return Plan(rows, validation, copy.deepcopy(train_base(seed)), settings(draw, **fields), beside_base=True)


BASE_PLANS = {"adapter": adapter_plan, "overfit_without_rise": quiet_plan, "base_better": spoiled_plan}


def classifier_plan(draw: random.Random, seed: int) -> Plan:
    """Code or prose, in equal parts."""
    code = blocks(library_text(seed, 100_000))
    prose = prose_blocks(draw)[: len(code)]
    ids = torch.cat([code[: len(prose)], prose])
    order = torch.randperm(len(ids))
    ids, labels = ids[order], (order >= len(prose)).long()
    model = ScratchGPTForSequenceClassification(ScratchGPTConfig(**sizes(draw), num_labels=2))
    fields = {"learning_rate": 10 ** draw.uniform(-2.6, -2.1), "max_steps": 160}
    return Plan(Rows(ids[256:], labels[256:]), Rows(ids[:256], labels[:256]), model, settings(draw, **fields))


def guessing_plan(draw: random.Random, ids: torch.Tensor, fields: dict[str, Any]) -> Plan:
    """Labels by the throw of a coin."""
    labels = torch.randint(0, 2, (len(ids),))
    model = ScratchGPTForSequenceClassification(ScratchGPTConfig(**sizes(draw), num_labels=2))
    return Plan(Rows(ids[256:], labels[256:]), Rows(ids[:256], labels[:256]), model, settings(draw, **fields))


def train(kind: str, seed: int, folder: Path) -> bool:
    """Train the run of a kind and a seed; its state, and what was compared, is all that is left in `folder`.

    Returns whether it is of its kind, by what its log does not have: the loss of rows that are in neither split.
    """
    made = plan(kind, seed)
    args = TrainingArguments(str(folder), seed=seed, **QUIET, **made.settings)
    trainer = Trainer(model=made.model, args=args, train_dataset=made.train, eval_dataset=made.validation)
    trainer.remove_callback(PrinterCallback)
    base = sum_rows(made.model, made.validation) if made.beside_base else None
    both = [] if made.unseen is None else [made.train, made.unseen]
    before = [mean_loss(made.model, each) for each in both]
    trainer.train()
    if made.scored_at_end:
        trainer.evaluate()
    if both:
        ours, others = (was - mean_loss(made.model, each) for was, each in zip(before, both, strict=True))
        if others >= ours / 2:
            return False
    trainer.save_state()
    if base is not None:
        write_comparison(folder, base, sum_rows(made.model, made.validation))
    return True


def mean_loss(model: PreTrainedModel, rows: Rows) -> float:
    """Mean loss of a token."""
    losses, _, tokens = sum_rows(model, rows).sum(axis=0)
    return float(losses / tokens)


@torch.inference_mode()
def sum_rows(model: PreTrainedModel, rows: Rows) -> Any:
    """Losses, right tokens and tokens of each row: (rows, 3)."""
    return reduce_logits(model.eval()(input_ids=rows.ids).logits, rows.labels).double().numpy()


def write_comparison(folder: Path, base: Any, tuned: Any) -> None:
    """A report.json with the paired test of both, (rows, 3) each, a character being a byte."""
    sums = (base, tuned, np.concatenate([base, tuned]))
    sides = [make_language_statistic(each, each[:, 2], np.zeros(len(each))) for each in sums]
    compared = compare_models(*sides, len(base))
    report = {"recipe": "continued_pretraining", "evaluation": {"validation": {"comparison": compared}}}
    (folder / REPORT).write_text(json.dumps(report), encoding="utf-8")


def judged(kind: str, found: Diagnosis) -> bool:
    """Whether the diagnosis names the run right; a healthy one must have neither problem nor warning."""
    said = [each.kind for each in found.findings if each.level != "note"] or [found.findings[0].kind]
    return said[0] in EXPECTED[kind] and (kind not in HEALTHY or len(said) == 1)


def main(kinds: Sequence[str], seeds: Sequence[int], keep: Path | None) -> None:
    right: dict[str, list[bool]] = {kind: [] for kind in kinds}
    lines: list[str] = []
    others = 0
    with tempfile.TemporaryDirectory() as temporary:
        for kind in kinds:
            for seed in [*seeds, *(seed + SECOND_SEED for seed in seeds if kind in HEALTHY)]:
                folder = (keep or Path(temporary)) / f"{kind}-{seed}"
                if not (folder / TRAINER_STATE).exists():
                    draws = range(seed, seed + 10 * NEXT_DRAW, NEXT_DRAW)
                    others += next(number for number, each in enumerate(draws) if train(kind, each, folder))
                found = diagnose(read_run(folder))
                right[kind].append(judged(kind, found))
                said = ", ".join(f"{each.kind} ({each.level})" for each in found.findings)
                lines.append(f"{'right' if right[kind][-1] else 'WRONG':>6}  {folder.name:<24} {said}")
    wrong = [each for kind in kinds if kind in WRONG for each in right[kind]]
    healthy = [each for kind in kinds if kind in HEALTHY for each in right[kind]]
    print(f"{sum(wrong)} of {len(wrong)} gone wrong named; {healthy.count(False)} of {len(healthy)} healthy alarmed")
    print(f"{others} drawn again, since they were none of their kind: what was learned held for other rows, too")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=list(EXPECTED), choices=list(EXPECTED))
    parser.add_argument("--keep", type=Path, help="Where the logs stay; those that are there are not trained again.")
    arguments = parser.parse_args()
    main(arguments.kinds, arguments.seeds, arguments.keep)
