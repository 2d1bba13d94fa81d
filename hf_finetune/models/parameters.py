"""A model -> its parameters, counted by what they do."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from torch import nn
from transformers import PreTrainedModel

# In this order: the first component that a name of a module around the parameter matches has it.
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
    """Numbers of parameters; the components add up to `total`, and a tied weight is counted once, as an embedding."""

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
    """Count by component, found from module types and names as models of the Hub use them.

    A 4-bit weight counts the numbers that it stands for, not the bytes that hold them.
    """
    components = dict.fromkeys((*COMPONENT_PATTERNS, "other"), 0)
    trainable = 0
    head = model.get_output_embeddings()
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():  # a tied weight comes once, under its first name
        size = _size(parameter)
        trainable += size if parameter.requires_grad else 0
        owner = modules[name.rpartition(".")[0]]
        components[_component(name, owner, is_head=owner is head)] += size
    return ParameterCounts(total=sum(components.values()), trainable=trainable, **components)


def _component(name: str, owner: nn.Module, *, is_head: bool) -> str:
    if is_head:
        return "head"
    if isinstance(owner, nn.Embedding):
        return "embeddings"
    around = name.split(".")[:-1]
    matches = (part for part, pattern in COMPONENT_PATTERNS.items() if any(pattern.search(module) for module in around))
    return next(matches, "other")


def _size(parameter: nn.Parameter) -> int:
    if type(parameter).__name__ == "Params4bit":  # bitsandbytes: two numbers in each byte of its storage
        return parameter.numel() * parameter.element_size() * 2
    return parameter.numel()
