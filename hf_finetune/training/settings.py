"""The `train:` section -> `TrainingArguments`, and everything else a process sets up before it trains."""

from __future__ import annotations

import logging
import sys
from typing import Any

import datasets
import transformers
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hf_finetune.config.hardware import detect_hardware, trains_on
from hf_finetune.config.sections import Run
from hf_finetune.training.memory import keep_freed_memory

# What `train:` takes beside the fields of TrainingArguments.
EARLY_STOPPING = ("early_stopping_patience", "early_stopping_threshold")

# Training from random weights wants another optimizer and another learning rate than TrainingArguments' 5e-5, which is
# meant for pretrained ones. Muon reaches a loss in fewer steps than AdamW (benchmarks/time_to_loss.py).
SCRATCH_DEFAULTS: dict[str, Any] = {
    "optim": "muon",
    "learning_rate": 0.01,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
}

ALWAYS: dict[str, Any] = {
    "learning_rate": 5e-5,
    # The default replaces a NaN loss by the mean of the ones before it: https://github.com/huggingface/trl/issues/6702
    "logging_nan_inf_filter": False,
    "report_to": "none",
}


def resolved(run: Run) -> Run:
    """Fill our defaults into the `train:` section; what the run file says wins."""
    on_cpu = trains_on(detect_hardware(), run.train) == "cpu"
    defaults = ALWAYS | {"use_cpu": on_cpu, "dataloader_pin_memory": not on_cpu}
    if run.model.scratch is not None:
        defaults |= SCRATCH_DEFAULTS
    return run.model_copy(update={"train": defaults | run.train})


def training_arguments(run: Run) -> TrainingArguments:
    """Build the arguments and set up this process: logging, memory, and the seed before any weight is drawn."""
    ours = {*EARLY_STOPPING, *(["optim"] if run.train.get("optim") == "muon" else [])}
    args = TrainingArguments(
        output_dir=run.output_dir, **{key: value for key, value in run.train.items() if key not in ours}
    )
    set_up_logging(main_process=args.process_index == 0)
    if args.device.type == "cpu":
        keep_freed_memory()
    transformers.set_seed(args.seed)
    return args


def early_stopping(run: Run) -> list[TrainerCallback]:
    """The callback that `train.early_stopping_patience` asks for, if it does."""
    if "early_stopping_patience" not in run.train:
        return []
    return [EarlyStoppingCallback(**{key: run.train[key] for key in EARLY_STOPPING if key in run.train})]


def set_up_logging(*, main_process: bool = True) -> None:
    """Show our messages on the main process; of the libraries, and on other processes, only what is wrong."""
    level = logging.INFO if main_process else logging.ERROR
    logging.basicConfig(format="%(message)s", level=logging.WARNING if main_process else logging.ERROR, force=True)
    logging.getLogger("hf_finetune").setLevel(level)
    if not sys.stderr.isatty():  # progress bars would be lines without an end
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
