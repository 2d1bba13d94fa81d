"""Logits -> the next token of each row, by its own settings and its own generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from hf_finetune.evaluation.generation.session import make_generator, make_sampler
from hf_finetune.release.serve.engine.jobs import Asked, TokenScore


@dataclass(slots=True)
class Chooser:
    """How the tokens of one answer are chosen: as `hf-finetune generate` chooses them, for equal settings and seeds."""

    asked: Asked
    steps: LogitsProcessorList
    counted: list[int]
    """Tokens that the repetition penalty counts."""
    new: list[int] = field(default_factory=list)

    @property
    def is_greedy(self) -> bool:
        return not self.steps

    def choose(self, logits: Tensor) -> int:
        """Choose by the logits of the next token, (1, vocab)."""
        # Row by row: each has settings of its own, and a generator that nobody else draws from.
        if not self.is_greedy:
            counted: Any = torch.tensor([[*self.counted, *self.new]], dtype=torch.long, device=logits.device)
            scores: Any = logits
            logits = self.steps(counted, scores)
        return int(logits.argmax(dim=-1))


def make_chooser(asked: Asked) -> Chooser:
    """Make the chooser of one answer, its generator at its beginning."""
    settings = asked.settings
    steps: list[LogitsProcessor] = []
    if settings.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    steps += make_sampler(settings, [make_generator(settings, 0)])
    return Chooser(asked, LogitsProcessorList(steps), [*asked.ids] if asked.penalize_prompt else [])


def choose_tokens(logits: Tensor, choosers: Sequence[Chooser]) -> list[int | None]:
    """Choose a token for each row of `logits`, (rows, vocab); None where a row is NaN or infinite."""
    finite = logits.amax(dim=-1).isfinite().tolist()
    likeliest = logits.argmax(dim=-1).tolist()
    return [
        None if not fine else first if chooser.is_greedy else chooser.choose(logits[row : row + 1])
        for row, (chooser, fine, first) in enumerate(zip(choosers, finite, likeliest, strict=True))
    ]


def score_token(logits: Tensor, token: int, most: int) -> TokenScore:
    """Score `token` and the `most` likeliest ones by the logits of a row, (vocab,), as the model gives them."""
    logprobs = logits.log_softmax(dim=-1)
    # Of a vocabulary of five, the five likeliest are all that there are.
    values, tokens = logprobs.topk(min(most, len(logprobs)))
    likeliest = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return TokenScore(token, float(logprobs[token]), likeliest)
