"""Small runs of SFTTrainer, and as a program: the same in each of several processes.

accelerate launch ... tests/training/trainers/sft_runs.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from models.scratch_models import tiny_model
from safetensors.torch import save_file
from transformers import PreTrainedModel
from trl.trainer.sft_config import SFTConfig
from tuned_adapters import TOKENIZER

from hf_finetune.data.tokenization.collators import RowCollator
from hf_finetune.data.tokenization.packing import pack_bfd
from hf_finetune.evaluation.language_modeling.trainer_metrics import language_model_metrics
from hf_finetune.training.trainers.sft import SFTTrainer

PLAIN = RowCollator(pad_token_id=0)
FLAT = RowCollator(pad_token_id=0, flatten=True)
OURS = {"max_length": None, "packing": False, "bf16": False, "activation_checkpointing": False, "use_cpu": True}
QUIET = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
# It moves the weights by their gradients.
ONE_SGD_STEP = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}

Weights = dict[str, torch.Tensor]


def uneven_rows(count: int = 8) -> Dataset:
    """Rows of 2 to 24 tokens that train two of them or nearly all in turn, so that a mean of means goes wrong."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number, length in enumerate(torch.randint(2, 25, (count,), generator=generator).tolist()):
        ids = torch.randint(3, 61, (length,), generator=generator).tolist()
        start = 1 if number % 2 else max(1, length - 2)
        rows.append({"input_ids": ids, "labels": [-100] * start + ids[start:], "length": length})
    return Dataset.from_list(rows)


def packed_rows() -> Dataset:
    return pack_bfd(uneven_rows(), 32)[0]


def trainer_of(
    model: PreTrainedModel,
    folder: Path,
    rows: Dataset | None = None,
    *,
    kind: type = SFTTrainer,
    collator: Any = PLAIN,
    **settings: Any,
) -> Any:
    """A trainer of `kind`; `rows` are what it trains on and evaluates."""
    rows = uneven_rows() if rows is None else rows
    return kind(
        model=model,
        args=SFTConfig(output_dir=str(folder), **{**OURS, **QUIET, **settings}),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=TOKENIZER,
        data_collator=collator,
        compute_metrics=language_model_metrics(SimpleNamespace(scored_bytes=1)) if kind is SFTTrainer else None,
    )


def trained_weights(model: PreTrainedModel) -> Weights:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def gradient_of_one_step(
    folder: Path, rows: Dataset, collator: Any = PLAIN, kind: type = SFTTrainer, **settings: Any
) -> tuple[list[float], Weights]:
    """Loss and gradient of one optimizer step of a real run."""
    model = tiny_model(attention="sdpa")
    start = trained_weights(model)
    trainer = trainer_of(model, folder, rows, kind=kind, collator=collator, max_steps=1, **ONE_SGD_STEP, **settings)
    trainer.train()
    end = trained_weights(model)
    return losses_of(trainer), {name: start[name] - end[name] for name in end}


def epoch_of_odd_rows(folder: Path, collator: Any, batch: int) -> tuple[list[float], Weights, int]:
    """Losses and weights of an epoch of rows that do not fill the batches of its last step, and how many were seen."""
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    settings = ONE_SGD_STEP | {"learning_rate": 0.1} | sizes
    trainer = trainer_of(tiny_model(attention="sdpa"), folder, uneven_rows(13), collator=collator, **settings)
    trainer.train()
    trainer.seen.sum_up()
    return losses_of(trainer), trained_weights(trainer.model), trainer.seen.total.rows


def evaluated(folder: Path, rows: Dataset, collator: Any = PLAIN, batch: int = 2) -> dict[str, float]:
    trainer = trainer_of(
        tiny_model(attention="sdpa"), folder, rows, collator=collator, per_device_eval_batch_size=batch
    )
    names = ("eval_loss", "eval_token_accuracy", "eval_bits_per_byte")
    scores = trainer.evaluate()
    return {name: scores[name] for name in names}


def main(folder: Path) -> None:
    losses, gradient = gradient_of_one_step(
        folder, uneven_rows(), per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    many_losses, many_gradient = gradient_of_one_step(
        folder, uneven_rows(32), per_device_train_batch_size=1, gradient_accumulation_steps=16
    )
    packed_losses, packed_gradient = gradient_of_one_step(folder, packed_rows(), per_device_train_batch_size=2)
    odd = {name: epoch_of_odd_rows(folder, each, batch=2) for name, each in (("padded", PLAIN), ("flat", FLAT))}
    seen = {
        "processes": torch.distributed.get_world_size(),
        "backend": torch.distributed.get_backend(),
        "losses": losses,
        "packed_losses": packed_losses,
        "many_losses": many_losses,
        "odd": {name: (each, rows) for name, (each, _, rows) in odd.items()},
        "scores": evaluated(folder, uneven_rows(11)),
        "flat_scores": evaluated(folder, packed_rows().select(range(3)), FLAT, batch=1),
    }
    if torch.distributed.get_rank() == 0:
        save_file(gradient, folder / "gradient.safetensors")
        save_file(many_gradient, folder / "many_gradient.safetensors")
        for name, (_, weights, _) in odd.items():
            save_file(weights, folder / f"odd_{name}.safetensors")
        save_file(packed_gradient, folder / "packed_gradient.safetensors")
        (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
