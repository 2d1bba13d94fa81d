"""The callback that samples from the model: continuations of fixed prompts, or answers, while a run trains."""

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
from hf_finetune.evaluation.generation.display import format_logged
from hf_finetune.evaluation.generation.prompts import Sample, answer_prompts, check_prompts, continue_prompts
from hf_finetune.models.weights.sharding import is_sharded
from hf_finetune.privacy import OF_LINES

logger = logging.getLogger(__name__)


class SamplePrompts(TrainerCallback):
    """Continue the prompts of `eval.prompts` at each evaluation and at the end; log the samples and keep them.

    A chat run answers them, and also before its first step. The last samples are those of the model that is saved:
    with `load_best_model_at_end`, of the best step.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: EvalSection, *, chat: bool = False) -> None:
        """Raises `ModelError`, before anything is trained, where the tokenizer cannot encode a prompt."""
        self.prompts = settings.prompts if isinstance(settings.prompts, list) else []  # `fill_prompts` has made a list
        check_prompts(tokenizer, self.prompts)
        self.tokenizer = tokenizer
        self.settings = settings
        self.chat = chat
        self.samples: list[tuple[int, Sample]] = []
        """(step, sample), oldest first; on the main process, and on those that share a model with it."""
        self.on_sample: Callable[[str, str], object] = _ignore_sample
        """Called with the prompt and the continuation of each sample, for a display to show."""
        self.ended = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        # A resumed run begins at a later step: its model is not the one before training, which has spoken already.
        if self.chat and state.global_step == 0 and model is not None:
            self.take(model, 0, main=state.is_world_process_zero)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None and not self.ended:
            self.take(model, state.global_step, main=state.is_world_process_zero)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> None:
        if model is not None:
            best = state.best_global_step if args.load_best_model_at_end else None
            self.take(model, best or state.global_step, main=state.is_world_process_zero)
        # An evaluation after training scores the best model, while `state.global_step` still is the last step.
        self.ended = True

    def take(self, model: PreTrainedModel, step: int, *, main: bool) -> None:
        """Sample from `model` on the `main` process, unless the last samples are of this step; every process calls it.

        From a model that is split over the processes all of them sample, the same texts.
        """
        if not self.prompts or (self.samples and self.samples[-1][0] == step) or not (main or is_sharded(model)):
            return
        generate = answer_prompts if self.chat else continue_prompts
        for sample in generate(model, self.tokenizer, self.prompts, self.settings):
            self.samples.append((step, sample))
            logger.info("sample at step %d%s", step, format_logged(sample, chat=self.chat), extra=OF_LINES)
            self.on_sample(sample.prompt, sample.continuation)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the samples as `samples` of report.json has them."""
        return [{"step": step, **asdict(sample)} for step, sample in self.samples]

    def save_state(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps, for the report of a resumed run."""
        return self.as_dicts()

    def restore_state(self, state: list[dict[str, Any]]) -> None:
        """Go on from what `save_state` has returned."""
        own = [{key: value for key, value in each.items() if key != "step"} for each in state]
        self.samples = [(each["step"], Sample(**rest)) for each, rest in zip(state, own, strict=True)]


def _ignore_sample(prompt: str, continuation: str) -> None: ...
