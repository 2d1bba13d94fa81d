"""The callback that samples from the model: continuations of fixed prompts, or answers, while a run trains."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
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
from hf_finetune.files import write_atomically

logger = logging.getLogger(__name__)

SAMPLES = "samples.json"
"""In a checkpoint: what was said up to its step, for the report of a resumed run."""


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
        """(step, sample), oldest first; on the main process only."""
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
        if state.global_step and state.is_world_process_zero:
            self.samples = _read_samples(_samples_file(args, state))
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

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        file = _samples_file(args, state)
        if self.samples and state.is_world_process_zero and file.parent.is_dir():
            write_atomically(file, json.dumps(self.as_dicts(), ensure_ascii=False), private=True)

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
        # An evaluation after training scores the best model, while `state.global_step` still is the last step.
        self.ended = True

    def take(self, model: PreTrainedModel, step: int) -> None:
        """Sample from `model`, unless the last samples are of this step already."""
        if not self.prompts or (self.samples and self.samples[-1][0] == step):
            return
        generate = answer_prompts if self.chat else continue_prompts
        for sample in generate(model, self.tokenizer, self.prompts, self.settings):
            self.samples.append((step, sample))
            logger.info("sample at step %d%s", step, format_logged(sample, chat=self.chat))
            self.on_sample(sample.prompt, sample.continuation)

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the samples as `samples` of report.json has them."""
        return [{"step": step, **asdict(sample)} for step, sample in self.samples]


def _samples_file(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir), f"checkpoint-{state.global_step}", SAMPLES)


def _read_samples(file: Path) -> list[tuple[int, Sample]]:
    """The samples that a checkpoint was saved with; [] where there are none, as in those of older versions."""
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [(sample.pop("step"), Sample(**sample)) for sample in saved]


def _ignore_sample(prompt: str, continuation: str) -> None: ...
