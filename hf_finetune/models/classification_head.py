"""The head of a sequence classifier: find it, track which weights are new, and fold a decision into it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from hf_finetune.errors import ModelError, Problem
from hf_finetune.label_set import Labels, LabelsKind
from hf_finetune.models.decision import Decision
from hf_finetune.models.weights.sharding import change_whole, split_again

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

NEW_WEIGHTS = "new_weights"
"""Attribute under which a loaded model keeps the names of its weights that were in no file."""

# Weights that a sequence classifier of these architectures has and never uses, so that they get no gradient
# (transformers 5.23; an entry can go when `FirstSteps` accepts its model without it).
UNUSED = {"big_bird": ("bert.pooler.",), "esm": ("esm.contact_head.",)}
# FNet takes no attention mask, and the head of XLNet reads the state of the last position, padded or not.
READS_PADDING = ("fnet", "xlnet")

PEFT_PREFIX = "base_model.model."


def is_classifier(model: PreTrainedModel) -> bool:
    """Whether a model is the sequence classifier of its architecture. For an adapter, pass its base model."""
    known: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), None)
    return type(model) is known


def has_classification_head(config: PreTrainedConfig) -> bool:
    """Whether a configuration is that of a saved sequence classifier."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])


def unwrap_adapter(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the model inside a `PeftModel`, its adapter layers still in place, or `model` itself."""
    base: Any = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    return base  # type: ignore[no-any-return]


def get_auto_class(model: PreTrainedModel) -> Any:
    """Return the Auto class that loads a saved model with the head that it has."""
    return AutoModelForSequenceClassification if is_classifier(model) else AutoModelForCausalLM


def configure_labels(
    config: PreTrainedConfig, id2label: Mapping[int, str], problem_type: Any, pad_token_id: int | None
) -> PreTrainedConfig:
    """Return a copy of `config` for a classifier of these labels."""
    # Decoders find the last token of a text by the padding id in their configuration and refuse batches without one.
    # transformers 5.23 does not take it from the tokenizer: https://github.com/huggingface/transformers/issues/34055
    changed = copy.deepcopy(config)
    changed.id2label = dict(id2label)
    changed.label2id = {name: index for index, name in id2label.items()}
    changed.problem_type = problem_type
    for part in (changed, changed.get_text_config()):
        part.pad_token_id = pad_token_id
    return changed


def read_labels(config: PreTrainedConfig) -> Labels:
    """Read the labels of a saved classifier; values are the names, since the type they had in the rows is not saved."""
    kinds: dict[str | None, LabelsKind] = {"multi_label_classification": "multi", "regression": "number"}
    names = tuple(name for _, name in sorted((config.id2label or {}).items()))
    return Labels(names, kinds.get(config.problem_type, "single"), names)


def find_classification_head(model: PreTrainedModel | PeftModel) -> nn.Linear:
    """Find the last linear layer of a classifier, (hidden -> labels); under an adapter the trained copy of it.

    Raises `ModelError` where the architecture has none outside its base.
    """
    inside, labels = f"{model.base_model_prefix}.", model.config.num_labels
    # peft keeps two copies: score.original_module, frozen, and score.modules_to_save.default, which is trained.
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == labels
        and "original_module" not in name.split(".")
        and not name.removeprefix(PEFT_PREFIX).startswith(inside)
    ]
    if not found:
        what = f"a {type(model).__name__} has no linear layer that makes its {labels} logits"
        raise ModelError(Problem(what, "name another architecture", key="model.path", code="HF525"))
    return found[-1]


def record_new_weights(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Record on the model, for `get_new_weights`, which weights were in no file; unused ones are left out."""
    unused = UNUSED.get(model.config.model_type, ())
    object.__setattr__(model, NEW_WEIGHTS, tuple(sorted(name for name in names if not name.startswith(unused))))


def get_new_weights(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of the weights that were in no file when the model was loaded."""
    names: tuple[str, ...] = model.__dict__.get(NEW_WEIGHTS, ())
    return names


def find_head_modules(model: PreTrainedModel) -> list[str]:
    """List the modules that a classifier trains from scratch: those outside its base, and a new pooler inside it."""
    base = model.base_model_prefix
    outside = [name for name, child in model.named_children() if name != base and [*child.parameters()]]
    inside = {name.rpartition(".")[0] for name in get_new_weights(model) if name.startswith(f"{base}.")}
    return [*outside, *sorted(inside)]


def freeze_unused(model: PreTrainedModel) -> None:
    """Freeze, in place, the weights that no gradient will reach: DDP would wait for one."""
    unused = UNUSED.get(model.config.model_type, ())
    for name, parameter in model.named_parameters():
        if name.startswith(unused):
            parameter.requires_grad_(False)


def find_blocks(model: PreTrainedModel) -> list[tuple[nn.Module, ...]]:
    """List the blocks (transformer layers) of a classifier's base, first to last; each is a tuple of modules."""
    # Blocks are the members of the longest outermost `ModuleList`s. BERT: [(layer.0,), (layer.1,), ...]. XLM spreads a
    # block over several lists, and an encoder-decoder has two stacks: [(encoder.0, decoder.0), (encoder.1, decoder.1)].
    lists = {name: module for name, module in model.base_model.named_modules() if isinstance(module, nn.ModuleList)}
    top = [module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    longest = max((len(module) for module in top), default=0)
    return list(zip(*(module for module in top if len(module) == longest), strict=True))


@torch.no_grad()
def reinitialize(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Reinitialize the weights of these modules, in place, as their architecture initializes them."""
    for name in names:
        for module in model.get_submodule(name).modules():
            own = list(module.parameters(recurse=False))
            for parameter in own:
                parameter.__dict__.pop("_is_hf_initialized", None)  # marked so, `init` would skip it
            if own:
                model._init_weights(module)


@torch.no_grad()
def fold_decision(model: PreTrainedModel | PeftModel, decision: Decision) -> Decision:
    """Fold temperature and thresholds into the last layer, in place, so that argmax of its logits is the decision.

    Call it once, on every process of a model that is split over them. Returns the decision that describes the folded
    model. A head without a bias cannot hold thresholds: a warning is logged. Raises `ModelError` where the model has no
    such layer.
    """
    # head / temperature + offsets: weight (labels, hidden) and bias (labels,) are divided, the bias takes the offsets.
    split_again(model)
    head = find_classification_head(model)
    change_whole(head.weight, lambda weight: weight / decision.temperature)
    if head.bias is not None:
        offsets = torch.as_tensor(decision.offsets)
        change_whole(head.bias, lambda bias: bias / decision.temperature + offsets.to(bias))
    elif any(decision.offsets):
        what = "the head of a %s has no bias to hold the thresholds: hf-finetune predict uses them, pipeline() cannot"
        logger.warning(what, type(model).__name__, extra={"code": "HF543"})
    return replace(decision, offsets_in_weights=head.bias is not None)


def get_classifier_class(config: PreTrainedConfig, name: str) -> Any:
    """Return the sequence classifier class of an architecture.

    Raises `ModelError` where transformers has none, and for one that reads padding as text.
    """
    found = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if found is None:
        what = f"{name!r} is a {config.model_type}, for which transformers has no sequence classifier"
        raise ModelError(Problem(what, "name another model", key="model.path", code="HF525"))
    if config.model_type in READS_PADDING:
        what = f"{name!r} is a {config.model_type}, whose scores of a text change with the longer texts beside it"
        raise ModelError(Problem(what, "name another model", key="model.path", code="HF525"))
    return found
