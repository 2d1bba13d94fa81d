"""What is traced into an ONNX graph, and the names of its inputs and outputs.

A language model: input_ids, attention_mask, position_ids, past_key_values.N.key and .value -> logits, present.N.key and
.value, the names by which transformers.js and optimum know them. A classifier: input_ids, attention_mask,
token_type_ids -> logits, probabilities, decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from hf_finetune.models.decision import Decision

Axes = dict[int, str]
TEXTS: Axes = {0: "batch", 1: "sequence"}
# Of the sample that is traced: not 1, which torch.export would take for a constant, and no two alike.
BATCH, PAST, SEQ = 2, 5, 3


@dataclass(frozen=True, slots=True)
class Graph:
    """A module to trace, with a sample of its inputs in their order; its outputs are a dict."""

    module: nn.Module
    inputs: dict[str, Tensor]
    axes: dict[str, Axes]
    """Which axes of each input may have any length, and their names."""
    names: dict[str, str]
    """Of an input or output of the module, which is a word of Python -> its name in the graph, where that is another.
    """


class _WithCache(nn.Module):
    """A language model whose cache goes in and out as plain tensors."""

    def __init__(self, model: PreTrainedModel, layers: int) -> None:
        super().__init__()
        self.model, self.layers = model, layers

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        pairs = [(inputs.pop(f"past_key_{at}"), inputs.pop(f"past_value_{at}")) for at in range(self.layers)]
        found = self.model(**inputs, past_key_values=DynamicCache(pairs), use_cache=True)
        outputs = {"logits": found.logits}
        for at, layer in enumerate(found.past_key_values.layers):
            outputs |= {f"present_key_{at}": layer.keys, f"present_value_{at}": layer.values}
        return outputs


class _WithDecision(nn.Module):
    """A classifier with its temperature and thresholds: what `Decision` computes of the saved model's logits."""

    def __init__(self, model: PreTrainedModel, decision: Decision) -> None:
        super().__init__()
        self.model, self.kind = model, decision.kind
        # The head of the saved model holds the temperature already.
        offsets = decision.offsets if decision.offsets_in_weights else [0.0] * len(decision.labels)
        self.register_buffer("offsets", torch.tensor([*offsets], dtype=torch.float32))
        self.register_buffer("thresholds", torch.tensor(decision.thresholds, dtype=torch.float32))

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        logits = self.model(**inputs).logits  # (batch, labels)
        scaled = logits - self.offsets
        if self.kind == "multi":
            probabilities = scaled.sigmoid()
            decision = (probabilities >= self.thresholds).long()  # (batch, labels)
        else:
            probabilities = scaled.softmax(dim=-1)
            # The later label wins a tie, as in `Decision.choose`: (batch,)
            ratios = (probabilities / self.thresholds).flip(-1)
            decision = ratios.shape[-1] - 1 - ratios.argmax(dim=-1)
        return {"logits": logits, "probabilities": probabilities, "decision": decision}


class _Regression(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(**inputs).logits}


def build_language_graph(model: PreTrainedModel) -> Graph:
    """Build what is traced of a causal language model."""
    ids = torch.ones(BATCH, PAST, dtype=torch.long)
    with torch.no_grad():
        layers = model(input_ids=ids, use_cache=True).past_key_values.layers
    inputs = {
        "input_ids": torch.ones(BATCH, SEQ, dtype=torch.long),
        "attention_mask": torch.ones(BATCH, PAST + SEQ, dtype=torch.long),
        "position_ids": torch.arange(PAST, PAST + SEQ).expand(BATCH, SEQ).contiguous(),
    }
    if "position_ids" not in signature(model.forward).parameters:  # those of ALiBi count by the mask
        del inputs["position_ids"]
    axes = dict.fromkeys(inputs, TEXTS) | {"attention_mask": {0: "batch", 1: "past and sequence"}}
    names: dict[str, str] = {}
    for at, layer in enumerate(layers):
        for part, held in (("key", layer.keys), ("value", layer.values)):
            inputs[f"past_{part}_{at}"] = held
            # (batch, heads, past, size).
            axes[f"past_{part}_{at}"] = {0: "batch", 2: "past"}
            names |= {
                f"past_{part}_{at}": f"past_key_values.{at}.{part}",
                f"present_{part}_{at}": f"present.{at}.{part}",
            }
    return Graph(_WithCache(model, len(layers)).eval(), inputs, axes, names)


def build_classifier_graph(model: PreTrainedModel, decision: Decision | None, inputs: Sequence[str]) -> Graph:
    """Build what is traced of a classifier, which takes `inputs`; without a decision, its number alone."""
    wrapped = _Regression(model) if decision is None else _WithDecision(model, decision)
    sample = {name: torch.ones(BATCH, PAST, dtype=torch.long) for name in inputs}
    if "token_type_ids" in sample:
        sample["token_type_ids"] = torch.zeros(BATCH, PAST, dtype=torch.long)
    return Graph(wrapped.eval(), sample, dict.fromkeys(sample, TEXTS), {})
