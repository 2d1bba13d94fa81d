"""Check the module names in LoRA's settings against the modules of the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_finetune.errors import ConfigError, Problem, suggest
from hf_finetune.models.adapters.continuing import ALL_LINEAR


def check_targets(model: PreTrainedModel, config: LoraConfig) -> None:
    """Raise `ConfigError` for every name or pattern that matches no module, listing the names that the model has."""
    # peft 0.21 raises only where no name matches at all; a typo beside a name that matches is passed over in silence.
    modules = [name for name, _ in model.named_modules()]
    problems = [
        _make_unmatched_problem(model, name, key)
        for key in ("target_modules", "exclude_modules", "modules_to_save")
        for name in _list_names(getattr(config, key))
        if not any(f".{module}".endswith(f".{name}") for module in modules)
    ]
    pattern = config.target_modules
    if isinstance(pattern, str) and pattern != ALL_LINEAR:
        try:
            matched = any(re.fullmatch(pattern, module) for module in modules)
        except re.error as error:
            what = f"{pattern!r} is no regular expression ({error})"
            raise ConfigError(Problem(what, "write one, or a list of names", key="lora.target_modules")) from error
        problems += [] if matched else [_make_unmatched_problem(model, pattern, "target_modules")]
    if problems:
        raise ConfigError(problems)


def has_tied_targets(model: PreTrainedModel, lora: Mapping[str, Any]) -> bool:
    """Whether the settings name an embedding or head that share one weight, which peft must then keep tied."""
    # Untied, the trained head is lost once a merged model is loaded. Can go once LoraConfig sets `ensure_weight_tying`
    # by itself (peft 0.21 does not): https://github.com/huggingface/transformers/issues/45127
    if not model.config.tie_word_embeddings or model.get_output_embeddings() is None:
        return False
    shared = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    named = [*_list_names(lora.get("modules_to_save")), *_list_names(lora.get("target_modules"))]
    return any(name.rpartition(".")[2] in shared for name in named)


def list_linear_modules(model: PreTrainedModel) -> set[str]:
    """List the modules that `all-linear` is: every linear one but the output head and those of `list_unadaptable`."""
    head, left_out = model.get_output_embeddings(), list_unadaptable(model)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    return {name for name, module in linear.items() if module is not head and name not in left_out}


def list_unadaptable(model: PreTrainedModel) -> set[str]:
    """List the linear modules whose output is not that of a linear layer, or whose weight is read without it.

    An adapter on them would fail, or would never be trained.
    """
    # A router that is a subclass of Linear returns two things, as in PhiMoE. The kernels of Mamba's mixers, which have
    # `A_log` and `D`, take the weights of `dt_proj` and `out_proj`: peft 0.21 refuses the latter for some of these
    # models, and Jamba's own code reads the former on any device.
    of_mixers = {
        f"{name}.{child}"
        for name, module in model.named_modules()
        if {"A_log", "D"} <= module._parameters.keys()
        for child in ("dt_proj", "out_proj")
    }
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name for name, module in linear.items() if name in of_mixers or _is_router(module)}


@torch.no_grad()
def _is_router(module: nn.Linear) -> bool:
    """Whether a model's own kind of linear layer returns something else than one tensor."""
    if not type(module).__module__.startswith("transformers.models."):
        return False
    return not isinstance(module(module.weight.new_zeros(1, module.in_features)), Tensor)


def _list_names(value: Any) -> list[str]:
    """The names in a list, sorted; [] for a regular expression, which is a string, and for None."""
    return [] if value is None or isinstance(value, str) else sorted(value)


def _make_unmatched_problem(model: PreTrainedModel, name: str, key: str) -> Problem:
    counts = Counter(
        module.rpartition(".")[2]
        for module, kind in model.named_modules()
        if isinstance(kind, nn.Linear | nn.Embedding | Conv1D)
    )
    there = ", ".join(f"{suffix} ({count})" for suffix, count in counts.items())
    remedy = f"{suggest(name, counts)} it has {there}".lstrip()
    return Problem(f"{name!r} matches no module of this model", remedy, key=f"lora.{key}")
