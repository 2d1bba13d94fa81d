"""Continuations of fixed prompts while a run trains."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation.generation import Sample, check_prompts, continue_prompts

logger = logging.getLogger(__name__)


class SamplePrompts(TrainerCallback):
    """Continue the fixed prompts of `eval.prompts` at each evaluation and at the end, into the log and `samples`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: EvalSection) -> None:
        """Raises `ModelError`, before anything is trained, where the tokenizer cannot write a prompt."""
        check_prompts(tokenizer, settings.prompts)
        self.tokenizer = tokenizer
        self.settings = settings
        self.samples: list[tuple[int, Sample]] = []
        """(step, sample), oldest first; on the main process only."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None and state.is_world_process_zero:
            self.take(model, state.global_step)

    def take(self, model: PreTrainedModel, step: int) -> None:
        """Sample now, unless this step was sampled already."""
        if not self.settings.prompts or (self.samples and self.samples[-1][0] == step):
            return
        for sample in continue_prompts(model, self.tokenizer, self.settings.prompts, self.settings):
            self.samples.append((step, sample))
            logger.info("sample at step %d: %s|%s", step, sample.prompt, sample.continuation)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The samples, JSON-ready."""
        return [{"step": step, **asdict(sample)} for step, sample in self.samples]
