"""What a run shows and guards while it trains.

log_lines                   one plain line for each logging step
log_file                    log.jsonl in the run folder
progress                    a display in a terminal instead
trackers, energy            what `report_to` writes; watt-hours
guard, nonfinite_record     stops at a value that is not finite, or leaves the step out; nonfinite.json
offenders                   which rows of the step it comes from
stopping                    a signal: all ranks stop at the same step
restarts                    the starts that `--max-restarts` has made
waiting                     how long each process waits for the others
first_steps, loss_watch     stops a run that trains nothing: no gradient, nothing moves, a loss that explodes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from transformers import PrinterCallback, ProgressCallback, Trainer

from hf_finetune.environment.progress_lines import is_drawn_on
from hf_finetune.training.callbacks.guard import TrainingGuard
from hf_finetune.training.callbacks.log_lines import LogLines
from hf_finetune.training.callbacks.trackers import replace_trackers

if TYPE_CHECKING:
    from hf_finetune.training.callbacks.progress import ProgressDisplay


@runtime_checkable
class SampleSource(Protocol):
    """A callback that generates samples during training."""

    on_sample: Callable[[str, str], object]
    """Called with each prompt and its continuation."""


def use_guard(trainer: Trainer) -> TrainingGuard:
    """The guard among the trainer's callbacks, or a new one: no run is without."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TrainingGuard):
            return callback
    guard = TrainingGuard()
    trainer.add_callback(guard)
    return guard


def use_log_lines(trainer: Trainer, log_lines: LogLines) -> ProgressDisplay | None:
    """Replace the Trainer's printed logs by `log_lines` and its trackers by ours, and show progress in a terminal.

    Progress is shown by the main process only, with the samples that a callback of the trainer generates, unless
    `train.disable_tqdm` is set. Returns the display, if there is one.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(log_lines)
    replace_trackers(trainer)
    if not is_drawn_on() or not trainer.is_world_process_zero() or trainer.args.disable_tqdm:
        return None
    from hf_finetune.training.callbacks.progress import ProgressDisplay

    display = ProgressDisplay()
    trainer.add_callback(display)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, SampleSource):
            callback.on_sample = display.show_sample
    return display
