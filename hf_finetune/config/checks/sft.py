"""Settings of SFTConfig and LoraConfig that conflict, which trl and peft check too late or not at all."""

from __future__ import annotations

import math
import re
from typing import Any

from hf_finetune.config.reading.document import RunDocument, format_value
from hf_finetune.config.sections import RecipeName
from hf_finetune.config.validation.hf_settings import SFT_RECIPES
from hf_finetune.environment.hardware import Hardware, select_accelerator
from hf_finetune.errors import suggest

# Values of init_lora_weights that need nothing but the base model, and those that need batches of data besides.
_INITS = ("gaussian", "olora", "orthogonal", "pissa")
_PISSA_STEPS = re.compile(r"pissa_niter_[1-9][0-9]{0,3}")
_OWN_VARIABLES = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
_NEED_DATA = ("corda", "eva", "loftq", "lora_ga")


def check_sft(document: RunDocument, run: Any, recipe: RecipeName, hardware: Hardware) -> None:
    """Check what the conversation recipes cannot do, and settings of SFTTrainer that would have no effect."""
    if recipe in (*SFT_RECIPES, "score"):
        _check_template_kwargs(document, run.data.chat_template_kwargs)
    if recipe not in SFT_RECIPES:
        return
    train = run.train
    _check_scratch(document, run.model, recipe)
    if train.packing and train.max_length is None and not document.is_refused("train.packing", "train.max_length"):
        what = "packing fills rows of train.max_length tokens, which is null"
        document.refuse(("train", "max_length"), what, "give it a number, such as 2048")
    if train.loss_type == "dft" and train.label_smoothing_factor:
        what = "the loss dft knows no label smoothing"
        document.refuse(("train", "label_smoothing_factor"), what, "leave it out, or set train.loss_type: nll")
    if train.activation_offloading and select_accelerator(hardware, {"use_cpu": train.use_cpu}) == "cpu":
        what = "on a CPU there is no other memory to move activations to"
        document.refuse(("train", "activation_offloading"), what, "leave it out")


def _check_template_kwargs(document: RunDocument, kwargs: dict[str, Any]) -> None:
    """Check names and values of the variables that a chat template is given."""
    for name, value in kwargs.items():
        key = ("data", "chat_template_kwargs", name)
        if name in _OWN_VARIABLES or name.endswith("_token"):
            remedy = "set data.system" if name == "messages" else "leave it out"
            document.refuse(key, "is given to the template by what renders it", remedy)
        elif not name.isidentifier():
            document.refuse(key, f"{name!r} is no name of a variable", "write letters, digits and _")
        elif not _is_plain(value):
            document.refuse(key, f"{format_value(value)} is no value of a template", "write text, numbers, lists, true")


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
        document.refuse(("model", "scratch"), "an adapter needs a trained model to adapt", remedy)
    elif model.tokenizer is not None and not isinstance(model.tokenizer, str):
        document.refuse(("model", "tokenizer"), "a tokenizer is trained on documents, not on conversations", remedy)


def check_lora(document: RunDocument, run: Any) -> None:
    """Check LoraConfig's own rules, and the initializations of an adapter that the recipe does not support."""
    if run.lora is None:
        return
    lora = run.lora
    for name in ("target_modules", "target_parameters", "modules_to_save"):
        if getattr(lora, name) == []:
            document.refuse(("lora", name), "names nothing", "leave it out, or name modules of the model")
    _check_pattern(document, lora.target_modules)
    _check_layers(document, lora)
    _check_init_lora_weights(document, lora.init_lora_weights, run.model)
    if lora.lora_bias and lora.use_dora:
        document.refuse(("lora", "lora_bias"), "is given together with lora.use_dora", "keep one")


def _check_pattern(document: RunDocument, pattern: str | list[str] | None) -> None:
    if isinstance(pattern, str):
        try:
            re.compile(pattern)
        except re.error as mistake:
            what = f"{format_value(pattern)} is no regular expression ({mistake})"
            document.refuse(("lora", "target_modules"), what, "write all-linear, or a list of module names")


def _check_layers(document: RunDocument, lora: Any) -> None:
    # LoraConfig raises for these too, but the recipe creates it only once the base model is loaded.
    if lora.layers_pattern is not None and lora.layers_to_transform is None:
        what = "has no effect without lora.layers_to_transform"
        document.refuse(("lora", "layers_pattern"), what, "add layers_to_transform, or leave it out")
    elif lora.layers_to_transform is not None and not isinstance(lora.target_modules, list):
        what = "needs lora.target_modules as a list of module names"
        document.refuse(("lora", "layers_to_transform"), what, "write lora.target_modules: [q_proj, v_proj]")


def _check_init_lora_weights(document: RunDocument, start: bool | str, model: Any) -> None:
    key = ("lora", "init_lora_weights")
    if isinstance(start, bool):
        return
    if start in _NEED_DATA:
        what = f"{start} measures the model on data before training, which this recipe does not do"
        document.refuse(key, what, "leave it out, or choose pissa")
    elif start not in _INITS and not _PISSA_STEPS.fullmatch(start):
        remedy = suggest(start, _INITS, f"choose true, {', '.join(_INITS)} or pissa_niter_16")
        document.refuse(key, f"{format_value(start)} is no initialization of an adapter", remedy)
    elif start.startswith("pissa") and (model.load_in_4bit or model.load_in_8bit):
        what = f"{start} needs the base's weights as they are, and these are quantized"
        document.refuse(key, what, "leave it out, or load the base in 16 bit")
