"""What a model is asked in any runtime, and transformers as the one that the others are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.template import find_end_token_ids
from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation.generation.session import generate_ids, generation_session, get_eos_token_ids
from hf_finetune.models.decision import Decision

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class LanguageRuntime(Protocol):
    """A language model."""

    def compute_logits(self, ids: Sequence[int]) -> Floats:
        """Compute the logits of the token after each of `ids`, read from their first on: (tokens, vocabulary)."""

    def continue_greedily(self, ids: Sequence[int], tokens: int) -> list[int]:
        """Generate the likeliest `tokens` tokens after `ids`; it may stop behind one that ends a text."""

    def close(self) -> None:
        """Give back what is held: files, processes, memory."""


class ClassifierRuntime(Protocol):
    """A classifier of texts."""

    def classify(self, inputs: Mapping[str, Ints]) -> tuple[Floats, Ints]:
        """Classify one text, inputs (1, seq): its logits (labels,), and its decision.

        That is the index of a label, (), or 0 and 1 for each of several labels, (labels,); of a regression nothing,
        (0,).
        """

    def close(self) -> None:
        """Give back what is held."""


Runtime = LanguageRuntime | ClassifierRuntime


class TransformersLanguageModel:
    """A causal language model of transformers, or what behaves as one."""

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.ends = {*find_end_token_ids(tokenizer), *get_eos_token_ids(model)}  # type: ignore[arg-type]

    @torch.no_grad()
    def compute_logits(self, ids: Sequence[int]) -> Floats:
        logits = self.model(input_ids=torch.tensor([ids], device=self.model.device)).logits
        return np.asarray(logits[0].float().cpu().numpy())

    def continue_greedily(self, ids: Sequence[int], tokens: int) -> list[int]:
        settings = EvalSection(temperature=0.0)
        with generation_session(self.model, self.tokenizer, settings, 0, self.ends) as session:  # type: ignore[arg-type]
            return generate_ids(session, [ids], tokens)[0]

    def close(self) -> None:
        pass


class TransformersClassifier:
    """A classifier of transformers and its decision; None for a regression."""

    def __init__(self, model: PreTrainedModel | PeftModel, decision: Decision | None) -> None:
        self.model, self.decision = model, decision

    @torch.no_grad()
    def classify(self, inputs: Mapping[str, Ints]) -> tuple[Floats, Ints]:
        tensors = {name: torch.from_numpy(ids).to(self.model.device) for name, ids in inputs.items()}
        logits = self.model(**tensors).logits.float().cpu().numpy()
        if self.decision is None:
            return logits[0], np.zeros(0, dtype=np.int64)
        return logits[0], self.decision.choose(self.decision.compute_saved_probabilities(logits))[0]

    def close(self) -> None:
        pass
