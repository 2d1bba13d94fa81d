"""What a run shows and guards while it trains."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Protocol

from transformers import PrinterCallback, ProgressCallback, Trainer

from hf_finetune.training.callbacks.energy import EnergyMeter as EnergyMeter
from hf_finetune.training.callbacks.energy import machine_counters as machine_counters
from hf_finetune.training.callbacks.trackers import use_trackers


class Sampler(Protocol):
    """A callback that generates samples during training."""

    on_sample: Callable[[str, str], object]
    """Called with each prompt and its continuation."""


def use_log_lines(trainer: Trainer, sampler: Sampler | None = None) -> None:
    """Replace the Trainer's printed logs and its trackers by ours, and show progress in a terminal.

    Progress is shown by the main process only, with the samples of `sampler`, unless `train.disable_tqdm` is set.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    use_trackers(trainer)
    in_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if in_terminal and trainer.is_world_process_zero() and not trainer.args.disable_tqdm:
        from rich.console import Console

        from hf_finetune.training.callbacks.progress import ProgressDisplay

        display = ProgressDisplay(Console(stderr=True))
        trainer.add_callback(display)
        if sampler is not None:
            sampler.on_sample = display.show_sample
