"""The head of a sequence classifier: where it is, what of it is new, and a decision folded into it."""

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

from hf_finetune.data.labels import Labels, LabelsKind
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.decisions import Decision

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

NEW_WEIGHTS = "new_weights"
"""Where a loaded model keeps the names of its weights that no file held."""

# Weights that a sequence classifier of these architectures has and does not use (transformers 5.23).
UNUSED = {"big_bird": ("bert.pooler.",), "xlnet": ("transformer.mask_emb",)}

PEFT_PREFIX = "base_model.model."


def is_classifier(model: PreTrainedModel) -> bool:
    """Whether a model is its architecture's sequence classifier; of an adapter ask its base."""
    known: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), None)
    return type(model) is known


def auto_class_of(model: PreTrainedModel) -> Any:
    """The Auto class by which a saved model is loaded again with the head that it has."""
    return AutoModelForSequenceClassification if is_classifier(model) else AutoModelForCausalLM


def labelled(
    config: PreTrainedConfig, id2label: Mapping[int, str], problem_type: Any, pad_token_id: int | None
) -> PreTrainedConfig:
    """A copy of `config` for a classifier of these labels.

    The padding token is what decoders find the last token of a text by: without it they refuse batches
    (https://github.com/huggingface/transformers/issues/34055).
    """
    changed = copy.deepcopy(config)
    changed.id2label = dict(id2label)
    changed.label2id = {name: index for index, name in id2label.items()}
    changed.problem_type = problem_type
    for part in (changed, changed.get_text_config()):
        part.pad_token_id = pad_token_id
    return changed


def labels_of(config: PreTrainedConfig) -> Labels:
    """The labels of a saved classifier, each value its name: the rows' own type is not in its folder."""
    kinds: dict[str | None, LabelsKind] = {"multi_label_classification": "multi", "regression": "number"}
    names = tuple(name for _, name in sorted((config.id2label or {}).items()))
    return Labels(names, kinds.get(config.problem_type, "single"), names)


def classification_head(model: PreTrainedModel | PeftModel) -> nn.Linear:
    """The last linear layer of a classifier, which makes the logits; of an adapter the copy that is trained.

    Raises `ModelError` where an architecture has none outside its base.
    """
    inside, labels = f"{model.base_model_prefix}.", model.config.num_labels
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
        raise ModelError(Problem(what, "name another architecture", key="model.path"))
    return found[-1]


def remember_new(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Keep with the model which of its weights are new, for `new_weights`; what it does not use is passed over."""
    unused = UNUSED.get(model.config.model_type, ())
    object.__setattr__(model, NEW_WEIGHTS, tuple(sorted(name for name in names if not name.startswith(unused))))


def new_weights(model: PreTrainedModel) -> tuple[str, ...]:
    """Names of the weights that no file held when the model was loaded."""
    names: tuple[str, ...] = model.__dict__.get(NEW_WEIGHTS, ())
    return names


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that a classifier learns from the beginning: all beside its base, and a new pooler in it."""
    base = model.base_model_prefix
    outside = [name for name, child in model.named_children() if name != base and [*child.parameters()]]
    inside = {name.rpartition(".")[0] for name in new_weights(model) if name.startswith(f"{base}.")}
    return [*outside, *sorted(inside)]


def freeze_unused(model: PreTrainedModel) -> None:
    """Freeze what no gradient will reach, in place: an optimizer, or a second process, would wait for one."""
    unused = UNUSED.get(model.config.model_type, ())
    for name, parameter in model.named_parameters():
        if name.startswith(unused):
            parameter.requires_grad_(False)


def blocks_of(model: PreTrainedModel) -> list[tuple[nn.Module, ...]]:
    """The blocks of a classifier's base, first to last.

    They are the members of its longest lists that are in no other list. XLM spreads a block over several lists, and an
    encoder-decoder has two stacks: members with the same number then count as one block.
    """
    lists = {name: module for name, module in model.base_model.named_modules() if isinstance(module, nn.ModuleList)}
    top = [module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    longest = max((len(module) for module in top), default=0)
    return list(zip(*(module for module in top if len(module) == longest), strict=True))


@torch.no_grad()
def redraw(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Draw the weights of these modules anew, as their architecture does."""
    for name in names:
        for module in model.get_submodule(name).modules():
            own = list(module.parameters(recurse=False))
            for parameter in own:
                parameter.__dict__.pop("_is_hf_initialized", None)  # what is marked so is left alone
            if own:
                model._init_weights(module)


@torch.no_grad()
def fold_decision(model: PreTrainedModel | PeftModel, decision: Decision) -> Decision:
    """Write temperature and thresholds into the last layer, so that its largest logit decides; in place, once.

    Returns the decision as the model now is. A head without a bias cannot hold thresholds: the log says so.
    """
    head = classification_head(model)
    head.weight.div_(decision.temperature)
    if head.bias is not None:
        head.bias.div_(decision.temperature).add_(torch.as_tensor(decision.offsets).to(head.bias))
    elif any(decision.offsets):
        what = "the head of a %s has no bias to hold the thresholds: hf-finetune predict uses them, pipeline() cannot"
        logger.warning(what, type(model).__name__)
    return replace(decision, offsets_in_weights=head.bias is not None)


def sequence_classifier(config: PreTrainedConfig, name: str) -> Any:
    """The class of an architecture's sequence classifier; `ModelError` where transformers has none."""
    found = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if found is None:
        what = f"{name!r} is a {config.model_type}, for which transformers has no sequence classifier"
        raise ModelError(Problem(what, "name another model", key="model.path"))
    return found
