"""Check the names in LoRA's settings against the modules, layers and parameters of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_finetune.config.model_files.linear import Pattern, compile_linear
from hf_finetune.errors import ConfigError, Problem, suggest
from hf_finetune.models.adapters.continuing import ALL_LINEAR
from hf_finetune.models.adapters.patterns import PEFT_KEY

TOKEN_ROWS = "trainable_token_indices"
"""The setting that names tokens whose rows of an embedding are trained."""

MAX_NAMES_SHOWN = 12


def check_targets(model: PreTrainedModel, config: LoraConfig) -> None:
    """Raise `ConfigError` for every name, pattern, layer or token that the model lacks, listing those that it has."""
    # peft 0.21 raises only where no name matches at all; a typo beside a name that matches is passed over in silence,
    # or with a warning: https://github.com/huggingface/peft/issues/3582
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key) or {}:
            _compile(pattern, key)
    problems = [*_find_unknown_modules(model, config), *_find_wrong_layers(model, config)]
    problems += [*_find_unknown_parameters(model, config), *_find_wrong_tokens(model, config)]
    # What follows takes for granted that names are known.
    problems = problems or [*_find_idle_exclusions(model, config), *_find_quantized_modules(model, config)]
    if problems:
        raise ConfigError(problems)


def check_attached(model: PeftModel, lora: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where an adapter was attached without something that the settings ask for."""
    # By the run's settings: peft 0.21 adds patterns to its own copy, for experts that transformers keeps in one weight.
    if problems := [*_find_idle_patterns(model, lora), *_find_missing_biases(model, lora), *_find_cut_ranks(model)]:
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


def _find_unknown_modules(model: PreTrainedModel, config: LoraConfig) -> list[Problem]:
    modules = [name for name, _ in model.named_modules()]
    problems = [
        _make_unmatched_problem(model, name, key)
        for key in ("target_modules", "exclude_modules", "modules_to_save")
        for name in _list_names(getattr(config, key))
        if not _ends_any(modules, name)
    ]
    for key in ("target_modules", "exclude_modules"):
        pattern = getattr(config, key)
        if isinstance(pattern, str) and pattern != ALL_LINEAR:
            compiled = _compile(pattern, key)
            problems += [] if any(map(compiled.fullmatch, modules)) else [_make_unmatched_problem(model, pattern, key)]
    return problems


def _ends_any(names: Iterable[str], end: str) -> bool:
    """Whether one of dotted `names` is `end`, or ends with it as a whole: `self_attn.q_proj` in a model's layers."""
    return any(f".{name}".endswith(f".{end}") for name in names)


def _compile(pattern: str, key: str) -> Pattern:
    try:
        return compile_linear(pattern)
    except ValueError as error:
        what = f"{pattern!r} is no regular expression that can be matched in bounded time ({error})"
        raise ConfigError(Problem(what, "write one, or a list of names", key=f"lora.{key}", code="HF588")) from error


def _find_wrong_layers(model: PreTrainedModel, config: LoraConfig) -> list[Problem]:
    if config.layers_to_transform is None:
        return []
    lists = {name.rpartition(".")[2]: part for name, part in model.named_modules() if isinstance(part, nn.ModuleList)}
    given = config.layers_pattern or []
    patterns = [given] if isinstance(given, str) else given
    unknown = [name for name in patterns if name not in lists]
    if unknown:
        what, remedy = f"{unknown[0]!r} names no list of layers of this model", f"it has {', '.join(lists)}"
        return [Problem(what, remedy, key="lora.layers_pattern", code="HF581")]
    layers = config.layers_to_transform
    asked = [layers] if isinstance(layers, int) else layers
    count = max((len(part) for name, part in lists.items() if name in patterns or not patterns), default=0)
    there = f"its layers are 0 to {count - 1}"
    if not asked:
        return [
            Problem(
                "names no layer", f"leave it out, or name some: {there}", key="lora.layers_to_transform", code="HF582"
            )
        ]
    outside = sorted(each for each in asked if not 0 <= each < count)
    what = f"this model has no layer {', '.join(map(str, outside))}"
    return [Problem(what, there, key="lora.layers_to_transform", code="HF581")] if outside else []


def _find_unknown_parameters(model: PreTrainedModel, config: LoraConfig) -> list[Problem]:
    names = {name: weight for name, weight in model.named_parameters() if weight.ndim in (2, 3)}
    unknown = [name for name in _list_names(config.target_parameters) if not _ends_any(names, name)]
    # Those of three dimensions, all experts of a layer, are what the setting is for: for others is target_modules.
    stacked = [name for name, weight in names.items() if weight.ndim == 3]
    ends = Counter(".".join(name.split(".")[-2:]) for name in stacked or names)
    return [
        Problem(
            f"{name!r} matches no weight matrix of this model",
            f"{suggest(name, ends)} it has {_format_counts(ends)}".lstrip(),
            key="lora.target_parameters",
            code="HF581",
        )
        for name in unknown
    ]


def _find_wrong_tokens(model: PreTrainedModel, config: LoraConfig) -> list[Problem]:
    rows, key = config.trainable_token_indices, f"lora.{TOKEN_ROWS}"
    if rows is None:
        return []
    by_module: dict[str, Any] = dict(rows) if isinstance(rows, Mapping) else {"": rows}
    modules = {name: part for name, part in model.named_modules() if isinstance(part, nn.Embedding | nn.Linear)}
    embedding: Any = model.get_input_embeddings()
    size, problems = embedding.weight.shape[0], []
    for name, ids in by_module.items():
        if name and not _ends_any(modules, name):
            problems.append(_make_unmatched_problem(model, name, TOKEN_ROWS))
        elif not isinstance(ids, list) or not ids:
            problems.append(
                Problem("names no token", "leave it out, or give a list of token ids", key=key, code="HF582")
            )
        elif wrong := [each for each in ids if type(each) is not int or not 0 <= each < size]:
            what = f"{wrong[0]!r} is no token of this model"
            problems.append(Problem(what, f"its ids are 0 to {size - 1:,}", key=key, code="HF581"))
    return problems


def _find_idle_exclusions(model: PreTrainedModel, config: LoraConfig) -> list[Problem]:
    """Find names and patterns of `exclude_modules` that exclude nothing which would get an adapter."""
    excluded, targets = config.exclude_modules, config.target_modules
    if not excluded or not targets:
        return []
    if targets == ALL_LINEAR:
        targeted = list_linear_modules(model) | list_unadaptable(model)
    elif isinstance(targets, str):
        matched = _compile(targets, "target_modules").fullmatch
        targeted = {name for name, _ in model.named_modules() if matched(name)}
    else:
        targeted = {name for name, _ in model.named_modules() if any(_ends_any([name], end) for end in targets)}
    if isinstance(excluded, str):
        idle = [] if any(map(_compile(excluded, "exclude_modules").fullmatch, targeted)) else [excluded]
    else:
        idle = [name for name in sorted(excluded) if not _ends_any(targeted, name)]
    what, remedy = "excludes nothing that lora.target_modules names", "leave it out"
    return [Problem(f"{name!r} {what}", remedy, key="lora.exclude_modules", code="HF582") for name in idle]


def _find_quantized_modules(model: PreTrainedModel, config: LoraConfig) -> list[Problem]:
    """Find modules of `modules_to_save` whose weights are held in 4 or 8 bits, which have no gradients."""
    named = {
        end: module
        for end in _list_names(config.modules_to_save)
        for name, module in model.named_modules()
        if _ends_any([name], end)
    }
    what, remedy = "is quantized, and cannot be trained in whole", "leave it out: all-linear gives it an adapter"
    return [
        Problem(f"{name} {what}", remedy, key="lora.modules_to_save", code="HF583")
        for name, module in named.items()
        if not all(weight.is_floating_point() for weight in module.parameters())
    ]


def _find_idle_patterns(model: PeftModel, lora: Mapping[str, Any]) -> list[Problem]:
    tuner: Any = model.base_model
    targeted = [*tuner.targeted_module_names, *tuner.targeted_parameter_names]
    ends = Counter(name.rpartition(".")[2] for name in targeted)
    problems = []
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in lora.get(key) or {}:
            compiled = _compile(PEFT_KEY.format(pattern), key)
            if not any(map(compiled.fullmatch, targeted)):
                remedy = f"{suggest(pattern, ends)} it is on {_format_counts(ends)}".lstrip()
                problems.append(
                    Problem(f"{pattern!r} matches nothing with an adapter", remedy, key=f"lora.{key}", code="HF581")
                )
    return problems


def _find_missing_biases(model: PeftModel, lora: Mapping[str, Any]) -> list[Problem]:
    layers = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    biases = {name.rpartition(".")[2]: getattr(part.get_base_layer(), "bias", None) for name, part in layers.items()}
    there = [name for name, bias in biases.items() if bias is not None]
    if lora.get("lora_bias") and len(there) < len(biases):
        # It is learned, and could not be merged: https://github.com/huggingface/peft/issues/2725
        without = ", ".join(name for name, bias in biases.items() if bias is None)
        remedy = f"name those that have one in lora.target_modules: {', '.join(there)}" if there else "leave it out"
        return [
            Problem(
                f"{without}: no bias that the adapter's could be added to", remedy, key="lora.lora_bias", code="HF582"
            )
        ]
    trained = [name for name, each in model.named_parameters() if name.endswith("bias") and each.requires_grad]
    if lora.get("bias", "none") != "none" and not any("lora_" not in name for name in trained):
        where = "no layer of this model" if lora["bias"] == "all" else "no layer with an adapter"
        return [Problem(f"{where} has a bias that could be trained", "leave it out", key="lora.bias", code="HF582")]
    return []


def _find_cut_ranks(model: PeftModel) -> list[Problem]:
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or "default" not in layer.lora_A:
            continue
        weight: Any = layer.lora_A["default"].weight  # (rank, in)
        rank, asked = weight.shape[0], layer.r["default"]
        if rank < asked:
            module = name.rpartition(".")[2]
            what = f"{asked} is above {rank}, the rank of {module}, whose parts this adapter begins with"
            return [
                Problem(what, f"lower it to {rank}, or set lora.init_lora_weights: true", key="lora.r", code="HF584")
            ]
    return []


def _make_unmatched_problem(model: PreTrainedModel, name: str, key: str) -> Problem:
    counts = Counter(
        module.rpartition(".")[2]
        for module, kind in model.named_modules()
        if isinstance(kind, nn.Linear | nn.Embedding | Conv1D)
    )
    remedy = f"{suggest(name, counts)} it has {_format_counts(counts)}".lstrip()
    return Problem(f"{name!r} matches no module of this model", remedy, key=f"lora.{key}", code="HF581")


def _format_counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in counts.items()]
    more = [f"{len(shown) - MAX_NAMES_SHOWN} more"] if len(shown) > MAX_NAMES_SHOWN else []
    return ", ".join(shown[:MAX_NAMES_SHOWN] + more)
