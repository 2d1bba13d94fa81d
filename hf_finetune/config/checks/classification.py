"""Conflicts of settings in `classification`, and settings of `classification` in other recipes."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.reading.document import RunDocument, refuse_given
from hf_finetune.config.sections import LastBlocks, RecipeName

LABELLED_FORMATS = ("labelled", "input_output")

MODEL_SETTINGS = ("train_only", "new_head")
EVAL_SETTINGS = ("threshold_metric", "calibrate", "show_data")

_BELONGS = "belongs to the recipe classification"
_LENGTHS = {
    "continued_pretraining": "write data.block_size",
    "sft": "write train.max_length",
    "lora": "write train.max_length",
}


def check_classification(document: RunDocument, run: Any, recipe: RecipeName) -> None:
    """Check which weights are trained, how long a text may be, and what the task and the labels allow."""
    if recipe != "classification":
        refuse_given(document, "model", run.model, MODEL_SETTINGS, _BELONGS)
        refuse_given(document, "data", run.data, ("task", "balance"), _BELONGS)
        if recipe != "score":  # a classifier may be scored, which its files tell
            refuse_given(document, "data", run.data, ("labels",), _BELONGS)
        refuse_given(document, "data", run.data, ("max_length",), _BELONGS, _LENGTHS.get(recipe, "leave it out"))
        refuse_given(document, "eval", run.eval, EVAL_SETTINGS, _BELONGS)
        return
    _check_trained(document, run)
    _check_length(document, run)
    _check_thresholds(document, run)
    if run.data.task == "regression":
        what = "needs classes, and data.task: regression predicts numbers"
        refuse_given(document, "data", run.data, ("balance", "labels"), what, code="HF622")
        refuse_given(document, "eval", run.eval, ("threshold_metric",), what, code="HF622")


def _check_trained(document: RunDocument, run: Any) -> None:
    model = run.model
    chosen = model.train_only != "all" and not document.is_refused("model.train_only")
    if chosen and run.lora is not None:
        what = "is given together with lora, which trains its adapter and the head alone"
        document.refuse(("model", "train_only"), what, "keep one of them", code="HF606")
    if model.scratch is None or document.is_refused("model.scratch", "model.path"):
        return
    if chosen:
        part = "the last blocks" if isinstance(model.train_only, LastBlocks) else "the head"
        what = f"would train {part} on weights that are random"
        document.refuse(
            ("model", "train_only"), what, "leave it out, or name a trained model in model.path", code="HF631"
        )
    if run.lora is not None:
        what = "an adapter needs a trained model to adapt"
        document.refuse(
            ("model", "scratch"), what, "leave lora out, or name a trained model in model.path", code="HF631"
        )
    what = "belongs to model.path; a new model has a new head"
    refuse_given(document, "model", model, ("new_head",), what, code="HF607")


def _check_length(document: RunDocument, run: Any) -> None:
    positions = run.model.scratch.max_position_embeddings if run.model.scratch is not None else None
    asked = run.data.max_length
    if positions is not None and isinstance(asked, int) and asked > positions:
        what = f"{asked} tokens are more than the {positions} positions of the model"
        document.refuse(
            ("data", "max_length"), what, "lower it, or raise model.scratch.max_position_embeddings", code="HF628"
        )


def _check_thresholds(document: RunDocument, run: Any) -> None:
    if run.eval.threshold_metric is None or document.is_refused("data.validation", "data.validation_fraction"):
        return
    if run.data.validation is None and run.data.validation_fraction is None:
        what = "thresholds are tuned on the validation split, and there is none"
        document.refuse(
            ("eval", "threshold_metric"), what, "add data.validation or data.validation_fraction", code="HF661"
        )
