"""Names and files -> a sequence classifier for the labels of the rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Literal

import torch
from accelerate import PartialState
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_finetune.config.sections import LastBlocks, ModelSection
from hf_finetune.data.labels import Labels
from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.models.adapter_files import is_adapter
from hf_finetune.models.generation_settings import check_savable
from hf_finetune.models.heads import (
    blocks_of,
    classification_head,
    freeze_unused,
    head_modules,
    is_classifier,
    labelled,
    new_weights,
    redraw,
    remember_new,
    sequence_classifier,
)
from hf_finetune.models.loading import (
    attention_for,
    keep_quantized_weights,
    load_or_refuse,
    log_parameters,
    quantization_for,
    quiet_loading,
    refuse_base,
)
from hf_finetune.models.tokenizers import check_fits, load_tokenizer

__all__ = ["choose_trained", "classification_head", "load_classifier", "load_for_prediction"]

logger = logging.getLogger(__name__)

NAMES_SHOWN = 10


def load_classifier(
    model: ModelSection, config: PreTrainedConfig, labels: Labels, longest: int, *, bf16: bool, pad_token_id: int
) -> PreTrainedModel:
    """Load the weights of `model.path`, or draw those of `model.scratch`, under a head for `labels`.

    The caller has set the seed: a new head is drawn. What is new and what of the folder is left out is logged. `config`
    stays as it is; the model's has labels, problem type and padding token. Linear layers of the blocks are held in 4 or
    8 bits where the run asks for it. Raises `ModelError` where the folder's head is for other labels, unless
    `model.new_head` says that it may go, and where more is missing than a head and a pooler.
    """
    name = model.path or "model.scratch"
    sequence_classifier(config, name)
    replaced = _is_for_others(model, config, labels)
    wanted = labelled(config, labels.id2label, labels.problem_type, pad_token_id)
    options: dict[str, Any] = {
        "config": wanted,
        "dtype": getattr(torch, model.dtype),
        "attn_implementation": attention_for(model, longest, bf16=bf16),
    }
    quantization = quantization_for(model, bf16=bf16)
    if quantization is not None:
        quantization.llm_int8_skip_modules = _outside_blocks(wanted)
        options |= {"quantization_config": quantization, "device_map": {"": PartialState().device}}
    if model.scratch is not None:
        loaded: PreTrainedModel = AutoModelForSequenceClassification.from_config(**options)
    else:
        loaded = _load_with_new_head(model, options, replaced=replaced)
    check_savable(loaded, name)
    keep_quantized_weights(loaded)
    log_parameters(loaded)
    return loaded


def load_for_prediction(path: str, *, base: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a trained classifier, folder or Hub id, in evaluation mode, and its tokenizer.

    An adapter comes over its base (a `PeftModel`); `base` says where that is now. Raises `ModelError` for what is no
    classifier: transformers would give a language model a random head.
    """
    if is_adapter(path):
        from hf_finetune.models.adapter_loading import base_model, load_adapter  # not needed for a whole model

        adapted: Any
        adapted, tokenizer = load_adapter(path, base)
        if not is_classifier(base_model(adapted)):
            raise _no_classifier(path, "the adapter of a language model")
        return adapted, tokenizer
    refuse_base(path, base)
    model = ModelSection(path=path)
    sequence_classifier(load_or_refuse(AutoConfig, model), path)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    with quiet_loading():
        loaded, info = load_or_refuse(
            AutoModelForSequenceClassification,
            model,
            device_map=device,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if missing:
        raise _no_classifier(path, f"a model without {_some(missing)}")
    tokenizer = load_tokenizer(model, needs_end=False)
    check_fits(tokenizer, loaded.config)
    return loaded.eval(), tokenizer


def choose_trained(model: PreTrainedModel, train_only: Literal["all", "head"] | LastBlocks) -> None:
    """Freeze what is not to be trained, in place, and log the share that is.

    "all" is what the architecture uses; "head" is all that a classifier learns from the beginning; `last_blocks` adds
    so many blocks and what comes after them, such as a final norm or a pooler. Raises `ConfigError` where there are
    fewer blocks.
    """
    if train_only == "all":
        freeze_unused(model)
        return
    trained = [model.get_submodule(name) for name in head_modules(model)]
    if not isinstance(train_only, str):
        trained += _last(model, train_only.last_blocks)
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True)
    freeze_unused(model)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = model.num_parameters()
    where = "the head" if isinstance(train_only, str) else f"the head and the last {train_only.last_blocks} blocks"
    logger.info("%s of %s parameters trained (%.2f%%): %s", f"{count:,}", f"{total:,}", 100 * count / total, where)


def _is_for_others(model: ModelSection, config: PreTrainedConfig, labels: Labels) -> bool:
    """Whether the folder's head is for other labels; raises `ModelError` where it may not be replaced."""
    architectures = config.architectures or []
    if model.scratch is not None or not any(name.endswith("ForSequenceClassification") for name in architectures):
        return False
    theirs = tuple(name for _, name in sorted((config.id2label or {}).items()))
    generic = tuple(f"LABEL_{number}" for number in range(len(labels.names)))
    if theirs in (labels.names, generic):
        return False
    if not model.new_head:
        what = f"{model.path!r} is a classifier of {_counted(theirs)}; the training rows have {_counted(labels.names)}"
        raise ModelError(Problem(what, "name the base model, or set model.new_head: true", key="model.path"))
    return True


def _load_with_new_head(model: ModelSection, options: dict[str, Any], *, replaced: bool) -> PreTrainedModel:
    loaded: PreTrainedModel
    with quiet_loading():
        loaded, info = load_or_refuse(
            AutoModelForSequenceClassification,
            model,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    outside = head_modules(loaded)  # before any new weight is known: what is beside the base
    if replaced:
        redraw(loaded, outside)
    else:
        _refuse_mismatched(model, info["mismatched_keys"])
    drawn = {name for name, _ in loaded.named_parameters() if replaced and name.startswith(_prefixes(outside))}
    new = sorted(drawn.union(info["missing_keys"], (key for key, *_ in info["mismatched_keys"])))
    lost = [name for name in new if not name.startswith(_prefixes(outside)) and "pooler" not in name.split(".")]
    if lost:
        what = f"{model.path!r} lacks {_some(lost)} of a {type(loaded).__name__}"
        raise ModelError(Problem(what, "name a folder that holds the whole model", key="model.path"))
    remember_new(loaded, new)
    if new:
        logger.info("new weights, drawn at random: %s", ", ".join(_modules(new_weights(loaded))))
    if info["unexpected_keys"]:
        logger.info("left out of %s: %s", model.path, ", ".join(_modules(info["unexpected_keys"])))
    return loaded


def _refuse_mismatched(model: ModelSection, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """A head that its configuration does not speak of, of another size."""
    for name, stored, wanted in sorted(mismatched):
        what = f"{model.path!r} has {name} of {_size(stored)}; the training rows need {_size(wanted)}"
        raise ModelError(Problem(what, "name the base model, or set model.new_head: true", key="model.path"))


def _outside_blocks(config: PreTrainedConfig) -> list[str]:
    """Names of the linear layers that no block holds.

    bitsandbytes would round a new head, of which transformers 5.23 spares the last bias alone.
    """
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    within = {layer for block in blocks_of(model) for part in block for layer in part.modules()}
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer not in within]


def _last(model: PreTrainedModel, number: int) -> list[nn.Module]:
    """The last blocks, and the layers of the base that come after all blocks."""
    blocks = blocks_of(model)
    if number > len(blocks):
        what = f"the model has {len(blocks)} blocks, and the last {number} were asked for"
        raise ConfigError(Problem(what, f"set {len(blocks)} or fewer", key="model.train_only.last_blocks"))
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


def _no_classifier(path: str, what: str) -> ModelError:
    remedy = "name a folder that recipes/classification.py has written, or a classifier of the Hub"
    return ModelError(Problem(f"is no text classifier but {what}", remedy, path=path))


def _counted(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    return f"{len(names)} labels ({shown})"


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} weights, first {names[0]}"


def _size(shape: Iterable[int]) -> str:
    return " x ".join(str(size) for size in shape)


def _modules(names: Iterable[str]) -> list[str]:
    found = sorted({name.rpartition(".")[0] or name for name in names})
    return found[:NAMES_SHOWN] + (["..."] if len(found) > NAMES_SHOWN else [])


def _prefixes(modules: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}." for name in modules)
