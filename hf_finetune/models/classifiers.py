"""Load a sequence classifier for the labels of the rows, and choose which of its weights are trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from accelerate import PartialState
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_finetune.config.reading.document import format_value
from hf_finetune.config.sections import DataSection, LastBlocks, ModelSection
from hf_finetune.errors import ConfigError, ModelError, Problem, suggest
from hf_finetune.label_set import LABEL_MAP, Labels, suggest_label_map
from hf_finetune.metric_info import format_share
from hf_finetune.models.classification_head import (
    configure_labels,
    find_blocks,
    find_head_modules,
    freeze_unused,
    get_classifier_class,
    get_new_weights,
    has_classification_head,
    record_new_weights,
    reinitialize,
)
from hf_finetune.models.files.quantized import disable_4bit_repacking
from hf_finetune.models.files.stamps import refuse_changed_files
from hf_finetune.models.generation_config import check_savable
from hf_finetune.models.loading import (
    build_quantization_config,
    check_reads_text_alone,
    choose_attention,
    hide_load_report,
    load_pretrained,
    log_parameters,
    refuse_layers_left_out,
)
from hf_finetune.models.verification import keep_save_dtype
from hf_finetune.models.weights.sending import draw_on_first, load_on_first

logger = logging.getLogger(__name__)


NAMES_SHOWN = 10


def match_labels(labels: Labels, config: PreTrainedConfig, model: ModelSection, data: DataSection) -> Labels:
    """Return the labels of the rows in the order in which the head of `model.path` has them, if it is for the same.

    Raises `ConfigError` where `data.labels` names others than those of the head; see `load_classifier` for rows that
    have others.
    """
    stored = _get_stored_names(model, config)
    if stored is None or model.new_head or labels.kind == "number":
        return labels
    if sorted(stored) == sorted(labels.names):
        value_of = dict(zip(labels.names, labels.values, strict=True))
        return replace(labels, names=stored, values=tuple(value_of[name] for name in stored))
    if stored != _make_generic_names(stored):
        _check_label_map(data.labels, stored, str(model.path))
    return labels


def _check_label_map(names: Mapping[str, str | int], stored: Sequence[str], path: str) -> None:
    wrong = sorted({str(name) for name in names.values()} - set(stored))
    problems = [
        Problem(
            f"{format_value(name)} is no label of {path!r}",
            suggest(name, stored, f"its labels are {', '.join(stored[:NAMES_SHOWN])}", show=format_value),
            key=LABEL_MAP,
            code="HF541",
        )
        for name in wrong
    ]
    if problems:
        raise ConfigError(problems)


def load_classifier(
    model: ModelSection, config: PreTrainedConfig, labels: Labels, longest: int, *, bf16: bool, pad_token_id: int
) -> PreTrainedModel:
    """Load the weights of `model.path`, or draw those of `model.scratch`, with a head for `labels`.

    Set the seed first: a new head is drawn at random. New weights, and weights of the folder that are not used, are
    logged. `config` is not changed; the model gets a copy with labels, problem type and padding token. The linear
    layers of the blocks are quantized to 4 or 8 bits where the run asks for it. `longest`: tokens of the longest row.
    Raises `ModelError` where the folder's head is for other labels and `model.new_head` is not set, where weights
    other than head and pooler are missing, and for a model that reads more than text.
    """
    name = model.path or "model.scratch"
    get_classifier_class(config, name)
    replaced = _is_for_other_labels(model, config, labels)
    wanted = configure_labels(config, labels.id2label, labels.problem_type, pad_token_id)
    options: dict[str, Any] = {
        "config": wanted,
        "dtype": getattr(torch, model.dtype),
        "attn_implementation": choose_attention(model, longest, bf16=bf16),
    }
    quantization = build_quantization_config(model, bf16=bf16)
    if quantization is not None:
        quantization.llm_int8_skip_modules = _list_unquantized(wanted)
        options |= {"quantization_config": quantization, "device_map": {"": PartialState().device}}
    if model.scratch is not None:
        loaded: PreTrainedModel = draw_on_first(
            partial(AutoModelForSequenceClassification.from_config, **options), config, options
        )
    else:
        with refuse_changed_files(model.path):
            loaded = load_on_first(partial(_load_with_new_head, model, replaced=replaced), config, options)
        check_reads_text_alone(loaded, name)
    check_savable(loaded, name)
    keep_save_dtype(loaded, model.save_dtype, None if model.scratch is not None else config.dtype)
    disable_4bit_repacking(loaded)
    log_parameters(loaded)
    return loaded


def set_trainable(model: PreTrainedModel, train_only: Literal["all", "head"] | LastBlocks) -> None:
    """Freeze, in place, the weights that are not to be trained, and log the share that is.

    "all": every weight that the architecture uses. "head": the modules that a classifier trains from scratch.
    `last_blocks`: these, the last blocks and what comes after them, such as a final norm or a pooler. Raises
    `ConfigError` where the model has fewer blocks.
    """
    if train_only == "all":
        freeze_unused(model)
        return
    trained = [model.get_submodule(name) for name in find_head_modules(model)]
    if not isinstance(train_only, str):
        trained += _find_last_blocks(model, train_only.last_blocks)
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    freeze_unused(model)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = model.num_parameters()
    where = "the head" if isinstance(train_only, str) else f"the head and the last {train_only.last_blocks} blocks"
    logger.info("%s of %s parameters trained (%s): %s", f"{count:,}", f"{total:,}", format_share(count / total), where)


def _is_for_other_labels(model: ModelSection, config: PreTrainedConfig, labels: Labels) -> bool:
    """Whether the folder's head is for other labels. Raises `ModelError` where it is and `new_head` is not set."""
    stored = _get_stored_names(model, config)
    if stored is None or stored in (labels.names, _make_generic_names(labels.names)):
        return False
    if not model.new_head:
        what = f"{model.path!r} is a classifier of {_format_labels(stored)}; "
        what += f"the training rows have {_format_labels(labels.names)}"
        remedy = "name the base model, or set model.new_head: true"
        if (
            labels.kind != "number"
            and not set(labels.names) <= set(stored)
            and (named := suggest_label_map(labels.names, stored))
        ):
            remedy += f"; if they mean the same, {named} names them as it does"
        raise ModelError(Problem(what, remedy, key="model.path", code="HF542"))
    return True


def _get_stored_names(model: ModelSection, config: PreTrainedConfig) -> tuple[str, ...] | None:
    """The labels of the head in the folder, in its order; None where there is none."""
    if model.scratch is not None or not has_classification_head(config):
        return None
    return tuple(name for _, name in sorted((config.id2label or {}).items()))


def _make_generic_names(names: Sequence[str]) -> tuple[str, ...]:
    """LABEL_0, LABEL_1, ..., which transformers writes where nobody named the labels: only their number tells."""
    return tuple(f"LABEL_{number}" for number in range(len(names)))


def _load_with_new_head(model: ModelSection, options: dict[str, Any], *, replaced: bool) -> PreTrainedModel:
    loaded: PreTrainedModel
    with hide_load_report():
        loaded, info = load_pretrained(
            AutoModelForSequenceClassification,
            model,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    outside = find_head_modules(loaded)  # asked before `record_new_weights`: only the modules outside the base
    prefixes = tuple(f"{name}." for name in outside)
    if replaced:
        reinitialize(loaded, outside)
    else:
        _refuse_mismatched(model, info["mismatched_keys"])
    drawn = {name for name, _ in loaded.named_parameters() if replaced and name.startswith(prefixes)}
    new = sorted(drawn.union(info["missing_keys"], (key for key, *_ in info["mismatched_keys"])))
    lost = [name for name in new if not name.startswith(prefixes) and "pooler" not in name.split(".")]
    if lost:
        what = f"{model.path!r} lacks {_format_names(lost)} of a {type(loaded).__name__}"
        raise ModelError(Problem(what, "name a folder that holds the whole model", key="model.path", code="HF527"))
    refuse_layers_left_out(info, str(model.path))
    record_new_weights(loaded, new)
    if new:
        logger.info("new weights, drawn at random: %s", ", ".join(_list_modules(get_new_weights(loaded))))
    if info["unexpected_keys"]:
        logger.info("left out of %s: %s", model.path, ", ".join(_list_modules(info["unexpected_keys"])))
    return loaded


def _refuse_mismatched(model: ModelSection, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """Raise `ModelError` for a stored head whose size differs from what its configuration says."""
    for name, stored, wanted in sorted(mismatched):
        what = f"{model.path!r} has {name} of {_format_shape(stored)}; the training rows need {_format_shape(wanted)}"
        raise ModelError(
            Problem(what, "name the base model, or set model.new_head: true", key="model.path", code="HF542")
        )


def _list_unquantized(config: PreTrainedConfig) -> list[str]:
    """Names of the linear layers outside all blocks, which are not quantized."""
    # transformers 5.23 excludes the last parameter: of a head with a bias `classifier.bias`, which names no layer, so
    # that a new head would be rounded before it is trained. Can go when `get_keys_to_not_convert` names its module.
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    within = {layer for block in find_blocks(model) for part in block for layer in part.modules()}
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer not in within]


def _find_last_blocks(model: PreTrainedModel, number: int) -> list[nn.Module]:
    """The modules of the last blocks, and the layers of the base that come after all blocks."""
    blocks = find_blocks(model)
    if number > len(blocks):
        what = f"the model has {len(blocks)} blocks, and the last {number} were asked for"
        raise ConfigError(
            Problem(what, f"set {len(blocks)} or fewer", key="model.train_only.last_blocks", code="HF603")
        )
    within = {layer for block in blocks for part in block for layer in part.modules()}
    leaves = [(name, layer) for name, layer in model.base_model.named_modules() if [*layer.parameters(recurse=False)]]
    places = [place for place, (_, layer) in enumerate(leaves) if layer in within]
    after = [
        layer
        for place, (name, layer) in enumerate(leaves)
        if layer not in within
        and (place > max(places) or "final" in name)  # OPT makes its final norm before its blocks
        and not isinstance(layer, nn.Embedding)  # relative positions, which all blocks read
    ]
    return [*(part for block in blocks[-number:] for part in block), *after]


def _format_labels(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    return f"{len(names)} labels ({shown})"


def _format_names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} weights, first {names[0]}"


def _format_shape(shape: Iterable[int]) -> str:
    return " x ".join(str(size) for size in shape)


def _list_modules(names: Iterable[str]) -> list[str]:
    found = sorted({name.rpartition(".")[0] or name for name in names})
    return found[:NAMES_SHOWN] + (["..."] if len(found) > NAMES_SHOWN else [])
