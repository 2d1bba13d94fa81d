"""The `train:` section -> `TrainingArguments`, and everything else a process sets up before it trains."""

from __future__ import annotations

import logging
import sys
from typing import Any

import datasets
import transformers
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hf_finetune.config.checks_metric import best_model_settings
from hf_finetune.config.hardware import detect_hardware, trains_on
from hf_finetune.config.sections import Run
from hf_finetune.config.stack_settings import SFT_RECIPES
from hf_finetune.models.adapter_files import portable
from hf_finetune.training.memory import keep_freed_memory, leave_imports_alone
from hf_finetune.training.trackers import place_trackers

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

# SFTConfig recomputes every activation in the backward pass, and asks for bf16 on machines without it
# (https://github.com/huggingface/trl/issues/3616). Here the first has to be asked for, and bf16 is on where the
# hardware computes it fast.
CHAT_DEFAULTS: dict[str, Any] = {
    "activation_checkpointing": False,
    "learning_rate": 2e-5,
}
LORA_LEARNING_RATE = 2e-4
HEAD_LEARNING_RATE = 1e-3
"""Of a new head over a frozen model: a linear layer, which takes far more than a pretrained model does."""

# Rows reach SFTTrainer tokenised, cut and packed by us; it is told to leave them so.
PREPARED: dict[str, Any] = {"max_length": None, "packing": False}


def resolved(run: Run) -> Run:
    """Fill our defaults into the `train:` section; what the run file says wins."""
    hardware = detect_hardware()
    device = trains_on(hardware, run.train)
    defaults = ALWAYS | {"use_cpu": device == "cpu", "dataloader_pin_memory": device != "cpu"}
    if run.recipe in (*SFT_RECIPES, "classification"):
        fast = hardware.cuda_at_least(8) if device == "cuda" else device == "cpu" and hardware.fast_bf16_on_cpu
        defaults |= {"bf16": fast and not run.train.get("fp16")}
        if not run.train.get("packing"):
            defaults["train_sampling_strategy"] = "group_by_length"  # rows of like length share a batch: less padding
    if run.recipe in SFT_RECIPES:
        defaults |= CHAT_DEFAULTS
        if "gradient_checkpointing" in run.train:  # the same by its older name
            defaults.pop("activation_checkpointing")
    if run.lora is not None:
        defaults["learning_rate"] = LORA_LEARNING_RATE
    elif run.model.train_only == "head":
        defaults["learning_rate"] = HEAD_LEARNING_RATE
    if run.model.scratch is not None:
        defaults |= SCRATCH_DEFAULTS
    return run.model_copy(update={"train": defaults | run.train})


def training_arguments(run: Run) -> TrainingArguments:
    """Build the arguments and set up this process: logging, memory, and the seed before any weight is drawn."""
    ours = {*EARLY_STOPPING, *(["optim"] if run.train.get("optim") == "muon" else [])}
    settings = {key: value for key, value in run.train.items() if key not in ours} | best_model_settings(run.train)
    if run.recipe in SFT_RECIPES:
        from trl.trainer.sft_config import SFTConfig

        args: TrainingArguments = SFTConfig(output_dir=portable(run.output_dir), **settings | PREPARED)
    else:
        args = TrainingArguments(output_dir=portable(run.output_dir), **settings)
    place_trackers(run.output_dir, args.report_to or [])
    set_up_logging(main_process=args.process_index == 0)
    leave_imports_alone()
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
