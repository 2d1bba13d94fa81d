"""Settings of SFTConfig that conflict, which trl checks too late or not at all."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

from hf_finetune.config.reading.document import RunDocument, format_value
from hf_finetune.config.sections import RecipeName
from hf_finetune.config.validation.hf_settings import SFT_RECIPES
from hf_finetune.environment.hardware import Hardware, select_accelerator

_OWN_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")


def check_sft(document: RunDocument, run: Any, recipe: RecipeName, hardware: Hardware) -> None:
    """Check what the conversation recipes cannot do, and settings of SFTTrainer that would have no effect."""
    if recipe in (*SFT_RECIPES, "score"):
        _check_template_kwargs(document, run.data.chat_template_kwargs)
        _check_template_date(document, run.data.template_date)
    if recipe not in SFT_RECIPES:
        return
    train = run.train
    _check_scratch(document, run.model, recipe)
    if train.packing and train.max_length is None and not document.is_refused("train.packing", "train.max_length"):
        what = "packing fills rows of train.max_length tokens, which is null"
        document.refuse(("train", "max_length"), what, "give it a number, such as 2048", code="HF609")
    if train.loss_type == "dft" and train.label_smoothing_factor:
        what = "the loss dft knows no label smoothing"
        document.refuse(
            ("train", "label_smoothing_factor"), what, "leave it out, or set train.loss_type: nll", code="HF606"
        )
    if train.activation_offloading and select_accelerator(hardware, {"use_cpu": train.use_cpu}) == "cpu":
        what = "on a CPU there is no other memory to move activations to"
        document.refuse(("train", "activation_offloading"), what, "leave it out", code="HF680")


def _check_template_date(document: RunDocument, given: str | None) -> None:
    """Check that the day is one of the calendar, as 2026-01-31; `fromisoformat` would take 20260131 and 2026-W05-6."""
    try:
        is_day = given is None or date.fromisoformat(given).isoformat() == given
    except ValueError:
        is_day = False
    if not is_day:
        what = f"{format_value(given)} is no day of the calendar"
        document.refuse(("data", "template_date"), what, "write one, as 2026-01-31", code="HF603")


def _check_template_kwargs(document: RunDocument, kwargs: dict[str, Any]) -> None:
    """Check names and values of the variables that a chat template is given."""
    for name, value in kwargs.items():
        key = ("data", "chat_template_kwargs", name)
        if name in _OWN_VARIABLES or name.endswith("_token"):
            remedy = "set data.system" if name == "messages" else "leave it out"
            document.refuse(key, "is given to the template by what renders it", remedy, code="HF627")
        elif not name.isidentifier():
            document.refuse(key, f"{name!r} is no name of a variable", "write letters, digits and _", code="HF627")
        elif not _is_plain(value):
            document.refuse(
                key,
                f"{format_value(value)} is no value of a template",
                "write text, numbers, lists, true",
                code="HF627",
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _check_scratch(document: RunDocument, model: Any, recipe: RecipeName) -> None:
    if model.scratch is None or document.is_refused("model.scratch", "model.path"):
        return
    remedy = "train a base with continued_pretraining first and name its folder in model.path"
    if recipe == "lora":
        document.refuse(("model", "scratch"), "an adapter needs a trained model to adapt", remedy, code="HF631")
    elif model.tokenizer is not None and not isinstance(model.tokenizer, str):
        document.refuse(
            ("model", "tokenizer"), "a tokenizer is trained on documents, not on conversations", remedy, code="HF632"
        )
