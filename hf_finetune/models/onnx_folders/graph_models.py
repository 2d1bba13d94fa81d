"""ONNX graphs that are called as models of transformers are, so that `generate` and predictions are the same code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.generation_config import FILE, check_generation_file
from hf_finetune.models.onnx_folders.session import GRAPH, Array, Session

PAST = "past_key_values"
PRESENT = "present"


class OnnxModel(PreTrainedModel):
    """A model without weights of its own: its graph has them."""

    config_class = PreTrainedConfig

    def __init__(self, config: PreTrainedConfig, session: Session) -> None:
        super().__init__(config)
        self.session = session

    @property
    def device(self) -> torch.device:
        """transformers asks the first weight."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """That of the logits."""
        return torch.float32


class OnnxCausalLM(OnnxModel, GenerationMixin):
    """A causal language model with a key-value cache: `generate` of transformers runs it."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """`input_ids` (batch, seq) -> logits (batch, seq, vocab) and the cache with their keys and values."""
        batch, seq = input_ids.shape
        past = self._read_cache(past_key_values, batch)
        if attention_mask is None:
            before = 0 if past_key_values is None else past_key_values.get_seq_length()
            attention_mask = torch.ones(batch, before + seq, dtype=torch.long)
        if position_ids is None:
            position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -seq:]
        # Contiguous: onnxruntime would copy what is not, and refuses some of it.
        named = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        arrays = {name: np.ascontiguousarray(tensor.numpy().astype(np.int64)) for name, tensor in named.items()}
        found = self.session.run(arrays | past)
        # Not the cache that `generate` has made of the configuration: its layers cut what is beyond a sliding window,
        # and the graph masks that itself.
        layers = len(past) // 2
        pairs = [
            tuple(torch.from_numpy(found[f"{PRESENT}.{at}.{part}"]) for part in ("key", "value"))
            for at in range(layers)
        ]
        return CausalLMOutputWithPast(
            logits=torch.from_numpy(found["logits"]),
            past_key_values=DynamicCache(pairs),
        )

    def _read_cache(self, cache: DynamicCache | None, batch: int) -> dict[str, Array]:
        """The graph's inputs of what came before, each (batch, heads, past, size)."""
        names = [name for name in self.session.inputs if name.startswith(f"{PAST}.")]
        if cache is None or cache.get_seq_length() == 0:
            return {name: self.session.make_empty(name, batch) for name in names}
        held = {}
        layers: list[Any] = cache.layers
        for place, layer in enumerate(layers):
            held[f"{PAST}.{place}.key"] = layer.keys.numpy()
            held[f"{PAST}.{place}.value"] = layer.values.numpy()
        return held


class OnnxClassifier(OnnxModel):
    """A classifier of texts; its graph has the decision, too."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """`input_ids` (batch, seq) -> logits (batch, labels)."""
        found = self.run(input_ids, attention_mask, token_type_ids)
        return SequenceClassifierOutput(logits=torch.from_numpy(found["logits"]))

    def run(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Array]:
        """All that the graph gives: logits and probabilities (batch, labels), and the decision."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        named = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
        return self.session.run({name: tensor.numpy().astype(np.int64) for name, tensor in named.items()})


def open_language_graph(path: str, config: PreTrainedConfig) -> OnnxCausalLM:
    """Open the graph of a folder as a language model. Raises `ModelError` for one without a key-value cache."""
    check_generation_file(path, None)
    session = Session(Path(path))
    _check_names(session, path, {"input_ids", f"{PAST}.0.key"}, {"logits", f"{PRESENT}.0.key"})
    model = OnnxCausalLM(config, session)
    if Path(path, FILE).is_file():
        model.generation_config = GenerationConfig.from_pretrained(path)
    return model


def open_classifier_graph(path: str, config: PreTrainedConfig) -> OnnxClassifier:
    """Open the graph of a folder as a classifier. Raises `ModelError` for one that gives no logits."""
    session = Session(Path(path))
    _check_names(session, path, {"input_ids"}, {"logits"})
    return OnnxClassifier(config, session)


def _check_names(session: Session, path: str, inputs: set[str], outputs: set[str]) -> None:
    if absent := sorted((inputs - {*session.inputs}) | (outputs - {*session.outputs})):
        what = f"has no {absent[0]} among its inputs and outputs"
        remedy = "export it with hf-finetune export --to onnx"
        raise ModelError(Problem(what, remedy, path=str(Path(path, GRAPH)), code="HF973"))
