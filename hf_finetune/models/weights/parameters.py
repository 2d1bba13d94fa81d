"""Count the parameters of a model by component."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from torch import nn
from transformers import PreTrainedModel

from hf_finetune.models.weights.sharding import count_numbers

# Tried in this order, on the names of the modules around a parameter: the first match is its component.
# model.layers.0.self_attn.q_norm.weight matches "norms" (q_norm) before "attention" (self_attn).
COMPONENT_PATTERNS = {
    "head": re.compile(r"^(lm_head|embed_out|score|classifier|classification_head|qa_outputs)$"),
    "norms": re.compile(r"norm|^ln_?[0-9f]|^ln$", re.IGNORECASE),
    "attention": re.compile(r"attn|attention", re.IGNORECASE),
    "feed_forward": re.compile(
        r"mlp|feed_?forward|ffn?$|experts?$|^fc_?[0-9io]|^intermediate$|^output$|^wi|^wo$", re.IGNORECASE
    ),
    "embeddings": re.compile(r"embed|^w[tp]e$", re.IGNORECASE),
}


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Numbers of parameters. The components add up to `total`; a tied weight is counted once, as an embedding."""

    total: int
    trainable: int
    embeddings: int
    attention: int
    feed_forward: int
    norms: int
    head: int
    other: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def count_parameters(model: PreTrainedModel) -> ParameterCounts:
    """Count parameters by component, told apart by module types and by the names that models of the Hub use.

    A 4-bit weight counts as the numbers that it encodes, not as the bytes that store them.
    """
    components = dict.fromkeys((*COMPONENT_PATTERNS, "other"), 0)
    trainable = 0
    head = model.get_output_embeddings()
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():  # yields a tied weight once, under its first name
        size = _count_numbers(parameter)
        trainable += size if parameter.requires_grad else 0
        owner = modules[name.rpartition(".")[0]]
        components[_find_component(name, owner, is_head=owner is head)] += size
    return ParameterCounts(total=sum(components.values()), trainable=trainable, **components)


def _find_component(name: str, owner: nn.Module, *, is_head: bool) -> str:
    if is_head:
        return "head"
    if isinstance(owner, nn.Embedding):
        return "embeddings"
    modules = name.split(".")[:-1]
    matches = (part for part, pattern in COMPONENT_PATTERNS.items() if any(map(pattern.search, modules)))
    return next(matches, "other")


def _count_numbers(parameter: nn.Parameter) -> int:
    # bitsandbytes packs two numbers into each byte of a `Params4bit`, whatever dtype it stores them in.
    if type(parameter).__name__ == "Params4bit":
        return parameter.numel() * parameter.element_size() * 2
    return count_numbers(parameter)
