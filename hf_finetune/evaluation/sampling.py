"""Continuations of fixed prompts, or answers to them, before, while and after a run trains."""

from __future__ import annotations

import logging
from collections.abc import Callable
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
from hf_finetune.evaluation.display import printable
from hf_finetune.evaluation.generation import Sample, answer_prompts, check_prompts, continue_prompts

logger = logging.getLogger(__name__)


class SamplePrompts(TrainerCallback):
    """Continue the fixed prompts of `eval.prompts` at each evaluation and at the end, into the log and `samples`.

    A chat run answers them, and does so before its first step, too. The last samples are those of the model that is
    kept: with `load_best_model_at_end`, of the step that was best.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: EvalSection, *, chat: bool = False) -> None:
        """Raises `ModelError`, before anything is trained, where the tokenizer cannot write a prompt."""
        check_prompts(tokenizer, settings.prompts)
        self.tokenizer = tokenizer
        self.settings = settings
        self.chat = chat
        self.samples: list[tuple[int, Sample]] = []
        """(step, sample), oldest first; on the main process only."""
        self.on_sample: Callable[[str, str], object] = _nothing
        """Called with the prompt and the continuation of each sample: a display may show them."""
        self.ended = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        if self.chat and model is not None and state.global_step == 0 and state.is_world_process_zero:
            self.take(model, 0)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None and state.is_world_process_zero and not self.ended:
            self.take(model, state.global_step)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None and state.is_world_process_zero:
            best = state.best_global_step if args.load_best_model_at_end else None
            self.take(model, best or state.global_step)
        self.ended = True  # the step is no longer that of the model, once the best one was loaded

    def take(self, model: PreTrainedModel, step: int) -> None:
        """Sample now, unless the last samples are of this step."""
        if not self.settings.prompts or (self.samples and self.samples[-1][0] == step):
            return
        speak = answer_prompts if self.chat else continue_prompts
        for sample in speak(model, self.tokenizer, self.settings.prompts, self.settings):
            self.samples.append((step, sample))
            written = (printable(sample.prompt), printable(sample.continuation))
            logger.info("sample at step %d: %s|%s", step, *written)
            self.on_sample(sample.prompt, sample.continuation)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The samples, JSON-ready."""
        return [{"step": step, **asdict(sample)} for step, sample in self.samples]


def _nothing(prompt: str, continuation: str) -> None: ...
