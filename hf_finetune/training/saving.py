"""Save a model and verify that the files hold what was trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.classification_head import find_classification_head, fold_decision
from hf_finetune.models.decision import DECISION, Decision, write_decision
from hf_finetune.models.files.adapter import is_adapter
from hf_finetune.models.verification import compute_probe_logits, verify_saved

logger = logging.getLogger(__name__)

# Relative to the largest logit, in float32; weights of lower precision have been rounded once more each.
FOLDING_TOLERANCE = 1e-5
ROUNDINGS = 16


def save_verified(trainer: Trainer) -> None:
    """Save model or adapter and tokenizer to `output_dir`, reload them and compare logits; call it on every rank.

    For an adapter, the base is loaded a second time. Raises `ModelError` where the logits differ, and `NonFiniteError`
    where they are NaN or infinite.
    """
    folder = Path(str(trainer.args.output_dir))
    trainer.save_model()
    if trainer.is_world_process_zero():
        # transformers 5.23 pickles its arguments, with Hub token and local paths, which a shared folder would leak.
        # Can go when `Trainer._save` writes no pickle.
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / DECISION).unlink(missing_ok=True)  # of an earlier run
        model = trainer.accelerator.unwrap_model(trainer.model)
        if is_adapter(folder):
            from hf_finetune.models.adapters.attach import save_adapter, verify_adapter  # peft: only for an adapter

            (folder / "README.md").unlink(missing_ok=True)  # peft's template, not filled in
            save_adapter(model, folder)
            verify_adapter(model, folder)
        else:
            verify_saved(model, folder)
    trainer.accelerator.wait_for_everyone()


def save_decision(trainer: Trainer, decision: Decision | None) -> None:
    """Fold a classifier's decision into its head and save it again, with `decision.json`; call it on every rank.

    The model is changed in place: its logits are then those that `Decision.compute_saved_probabilities` takes. Does
    nothing without a decision. Raises `ModelError` where the folded logits are not `logits / temperature` (plus the
    offsets, if the head has a bias), or the saved logits differ from them.
    """
    if decision is None:
        return
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    before = compute_probe_logits(model)
    folded = fold_decision(model, decision)
    _check_folded(model, before, folded)
    if trainer.is_world_process_zero():
        logger.info("what was fitted to validation goes into its head, and it is saved once more")
    save_verified(trainer)
    if trainer.is_world_process_zero():
        write_decision(folded, str(trainer.args.output_dir))
    trainer.accelerator.wait_for_everyone()


def _check_folded(model: Any, before: Tensor, decision: Decision) -> None:
    """Raise `ModelError` where the logits are not those expected from `before`, (2, labels)."""
    expected = before.cpu().double() / decision.temperature
    if decision.offsets_in_weights:
        expected += torch.as_tensor(decision.offsets).to(expected)
    difference = (compute_probe_logits(model).cpu().double() - expected).abs().max().item()
    dtype = find_classification_head(model).weight.dtype
    tolerance = FOLDING_TOLERANCE if dtype == torch.float32 else ROUNDINGS * torch.finfo(dtype).eps
    if not difference <= tolerance * max(1.0, expected.abs().max().item()):
        what = (
            f"with temperature and thresholds in its head the model's logits are {difference:.2e} from those expected"
        )
        raise ModelError(Problem(what, "set eval.calibrate: false and no eval.threshold_metric", key="eval"))
