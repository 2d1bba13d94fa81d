"""The restarts of a run by `--max-restarts`, as its report has them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.environment import Restart, list_restarts, note_step, read_restart


class RestartRecord(TrainerCallback):
    """Keeps the restarts of a run: those of the command that runs now, and in a checkpoint those of earlier ones."""

    def __init__(self) -> None:
        self.restarts: list[Restart] = []

    def describe(self) -> dict[str, Any]:
        """What `distributed` of report.json has of it; {} of a run that was never started again."""
        return {"restarts": [each.as_dict() for each in self.restarts]} if self.restarts else {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.restarts = list_restarts(os.environ)
        # The last of them is this start, which the command above could not know the step of.
        self.restarts[-1:] = [replace(last, step=state.global_step) for last in self.restarts[-1:]]
        note_step(state.global_step)

    def save_state(self) -> list[dict[str, Any]]:
        """As `checkpoints.state.Resumable` has it."""
        return [each.as_dict() for each in self.restarts]

    def restore_state(self, state: list[Any]) -> None:
        """Go on from what `save_state` has returned. Raises `ValueError` where it is no list of restarts."""
        kept = [read_restart(each) for each in state]
        # One of this command may be in the checkpoint, too, as another machine has noted it: by its own exit code.
        known = {(each.number, each.step) for each in kept}
        self.restarts = kept + [each for each in self.restarts if (each.number, each.step) not in known]
