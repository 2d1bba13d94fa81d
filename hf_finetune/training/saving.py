"""Save a model and verify that the files hold what was trained."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from hf_finetune.errors import ModelError, Problem
from hf_finetune.files import sync_file, sync_folder, write_atomically
from hf_finetune.folders import REPORT
from hf_finetune.folders.decision_record import DECISION
from hf_finetune.models.classification_head import find_classification_head, fold_decision
from hf_finetune.models.decision import Decision, write_decision
from hf_finetune.models.files.adapter import is_adapter
from hf_finetune.models.verification import compute_probe_logits, find_save_dtype, verify_saved
from hf_finetune.models.weights.sharding import get_own_part, iterate_whole, split_again
from hf_finetune.training.allocator import return_freed_memory
from hf_finetune.training.sharding.gather import is_split, on_one, save_whole
from hf_finetune.training.sharding.saved import verify_tensors

logger = logging.getLogger(__name__)

ASIDE = ".model.aside"
"""The folder in a run folder in which its model is written."""
# The index of several files comes last: without it they are no model.
_WEIGHTS = re.compile(r"(?:adapter_)?model(?:-\d{5}-of-\d{5})?\.safetensors(?:\.index\.json)?")

# Relative to the largest logit, in float32; weights of lower precision have been rounded once more each.
FOLDING_TOLERANCE = 1e-5
ROUNDINGS = 16


def save_verified(trainer: Trainer, decision: Decision | None = None) -> None:
    """Save model or adapter and tokenizer to `output_dir`, reload them and compare logits; call it on every rank.

    They are written and compared aside, with a classifier's `decision`, and then take the place of what was there. For
    an adapter, the base is loaded a second time. Of a model that is split over processes the files are read back and
    their tensors compared, so that no process needs a second model. Raises `ModelError` where logits or tensors differ,
    and `NonFiniteError` where logits are NaN or infinite.
    """
    folder = Path(str(trainer.args.output_dir))
    aside = folder / ASIDE
    saved_in = _round_weights(trainer)
    if trainer.is_world_process_zero():
        shutil.rmtree(aside, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    whole: dict[str, Tensor] | None = None
    try:
        if is_split(trainer):
            whole = save_whole(trainer, str(aside))
        else:
            trainer.save_model(str(aside))
        release_optimizer(trainer)
        on_one(trainer.is_world_process_zero(), lambda: _put_in_place(trainer, aside, saved_in, whole, decision))
    finally:
        if trainer.is_world_process_zero():
            shutil.rmtree(aside, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _put_in_place(
    trainer: Trainer, aside: Path, saved_in: torch.dtype, whole: dict[str, Tensor] | None, decision: Decision | None
) -> None:
    _complete(trainer, aside, saved_in, whole)
    if decision is not None:
        write_decision(decision, str(aside))
    replace_model(aside, aside.parent)


def _complete(trainer: Trainer, aside: Path, saved_in: torch.dtype, whole: dict[str, Tensor] | None) -> None:
    """Make a saved model what it is to be, and compare it with the live one, or with its `whole` weights."""
    # transformers 5.23 pickles its arguments, with Hub token and local paths, which a shared folder would leak.
    # Can go when `Trainer._save` writes no pickle.
    (aside / "training_args.bin").unlink(missing_ok=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not is_adapter(aside):
        write_in_precision(aside, saved_in)
        if whole is None:
            verify_saved(model, aside, shown=aside.parent)
        else:
            verify_tensors(aside, whole, shown=aside.parent)
        return
    from hf_finetune.models.adapters.attach import (  # peft: only for an adapter
        name_saved_weights,
        save_adapter,
        verify_adapter,
    )

    (aside / "README.md").unlink(missing_ok=True)  # peft's template, not filled in
    tokenizer: Any = trainer.processing_class  # typed as anything that prepares inputs
    save_adapter(model, aside, tokenizer)
    if whole is None:
        verify_adapter(model, aside, shown=aside.parent)
    else:
        verify_tensors(aside, name_saved_weights(model, whole), shown=aside.parent)


def replace_model(aside: Path, folder: Path) -> None:
    """Let the files of `aside` take the place of a model in `folder`: its run is unfinished until that is measured.

    Whenever that is cut short, `folder` has no weights beside which other files are old or missing. Raises OSError.
    """
    files = [path.relative_to(aside) for path in sorted(aside.rglob("*")) if path.is_file()]
    for each in files:
        sync_file(aside / each)
    (folder / REPORT).unlink(missing_ok=True)  # first: by it the run would be finished, with another model
    for path in sorted(folder.iterdir()):
        if _WEIGHTS.fullmatch(path.name) or path.name == DECISION:
            path.unlink()
    for each in sorted(files, key=lambda each: (_WEIGHTS.fullmatch(each.name) is not None, each.suffix == ".json")):
        (folder / each).parent.mkdir(exist_ok=True)
        os.replace(aside / each, folder / each)
    sync_folder(folder)


def record_adapters_base(trainer: Trainer, folder: Path) -> None:
    """Say beside an adapter that was saved in `folder`, as in a checkpoint, what it was trained on and with.

    Does nothing for a whole model.
    """
    if is_adapter(folder):
        from hf_finetune.models.adapters.attach import record_base  # peft: only for an adapter

        tokenizer: Any = trainer.processing_class  # typed as anything that prepares inputs
        record_base(trainer.accelerator.unwrap_model(trainer.model), folder, tokenizer)


@torch.no_grad()
def _round_weights(trainer: Trainer) -> torch.dtype:
    """Round the weights, in place, to the precision in which they are to be saved, and return it; on every rank.

    What is evaluated afterwards is what is saved. An adapter, and weights that are beyond the range of float16, stay.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if not isinstance(model, PreTrainedModel):
        return torch.float32
    dtype = find_save_dtype(model)
    split_again(model)
    weights = [get_own_part(weight) for weight in model.parameters() if weight.is_floating_point()]
    if all(weight.element_size() <= dtype.itemsize for weight in weights):
        return dtype
    beyond = sum(int((weight.abs() > torch.finfo(dtype).max).sum()) for weight in weights)
    if int(trainer.accelerator.reduce(torch.tensor(beyond, device=trainer.accelerator.device))):
        words = "saved in float32, and not as model.save_dtype says: %s weights are beyond the range of %s"
        logger.warning(words, f"{beyond:,}", _name(dtype), extra={"code": "HF942"})
        return torch.float32
    for weight in weights:
        weight.copy_(weight.to(dtype))
    share = torch.finfo(dtype).eps / 2
    logger.info("saved in %s (model.save_dtype): each weight is rounded by %.1e of itself at most", _name(dtype), share)
    return dtype


def write_in_precision(folder: Path, dtype: torch.dtype) -> None:
    """Rewrite the weights of a saved model in `dtype`, shard by shard; each file is replaced once it is complete."""
    total_size = 0
    for path in sorted(folder.glob("model*.safetensors")):
        tensors = load_file(path)
        cast = {name: each.to(dtype) if each.is_floating_point() else each for name, each in tensors.items()}
        total_size += sum(each.nbytes for each in cast.values())
        if any(cast[name].dtype != each.dtype for name, each in tensors.items()):
            aside = path.with_name(f".{path.name}.part")
            save_file(cast, aside, metadata={"format": "pt"})
            aside.replace(path)
    _edit_json(folder / "config.json", lambda config: config | {"dtype": _name(dtype)})
    _edit_json(
        folder / "model.safetensors.index.json",
        lambda index: index | {"metadata": index["metadata"] | {"total_size": total_size}},
    )


def _edit_json(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    if path.exists():
        content = change(json.loads(path.read_text(encoding="utf-8")))
        write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def release_optimizer(trainer: Trainer) -> None:
    """Free the optimizer's state and the gradients: training is over, and what was saved is loaded beside the model."""
    # Of AdamW in float32 these are three times the weights, so that the second model takes less than there was.
    optimizer: Any = trainer.optimizer
    if optimizer is not None:
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
    return_freed_memory()  # else the activations' room stays with this process, beside the second model


def save_decision(trainer: Trainer, decision: Decision | None) -> Decision | None:
    """Write a classifier's `decision.json`, with all that it changes in the head, saved again; call it on every rank.

    The model is changed in place: its logits are then those that `Decision.compute_saved_probabilities` takes. Does
    nothing without a decision. Returns it as it is saved where the head was rounded to 16 bits with it, so that the
    figures of the rows are to be computed anew; else None. Raises `ModelError` where the folded logits are not
    `logits / temperature` (plus the offsets, if the head has a bias), or the saved logits differ from them.
    """
    if decision is None:
        return None
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    before = compute_probe_logits(model)
    folded = fold_decision(model, decision)
    _check_folded(model, before, folded)
    changed = decision.temperature != 1 or (decision.has_thresholds and folded.offsets_in_weights)
    if changed and trainer.is_world_process_zero():
        logger.info("what was fitted to validation goes into its head, and it is saved once more")
    if changed:
        save_verified(trainer, folded)
    else:
        on_one(trainer.is_world_process_zero(), lambda: write_decision(folded, str(trainer.args.output_dir)))
    trainer.accelerator.wait_for_everyone()
    return folded if changed and isinstance(model, PreTrainedModel) and _is_held_in_16_bits(model) else None


def _is_held_in_16_bits(model: PreTrainedModel) -> bool:
    """Whether the head has no more digits than 16 bits hold: it is in them, or was rounded to them to be saved."""
    [weight] = [whole.clone() for _, whole in iterate_whole([("", find_classification_head(model).weight)])]
    return any(torch.equal(weight.to(dtype).to(weight.dtype), weight) for dtype in (torch.bfloat16, torch.float16))


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
        raise ModelError(
            Problem(what, "set eval.calibrate: false and no eval.threshold_metric", key="eval", code="HF937")
        )
