"""Build `TrainingArguments` from the `train:` section, and set up the process before training."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hf_finetune.config.checks.metric import best_model_settings
from hf_finetune.config.sections import Run
from hf_finetune.config.validation.hf_settings import SFT_RECIPES
from hf_finetune.environment.hardware import detect_hardware, select_accelerator
from hf_finetune.environment.logs import set_up_logging
from hf_finetune.privacy import make_portable
from hf_finetune.training.allocator import freeze_imported_objects, keep_freed_memory
from hf_finetune.training.callbacks.trackers import redirect_trackers

# Keys of `train:` that are not fields of TrainingArguments.
EARLY_STOPPING = ("early_stopping_patience", "early_stopping_threshold")
GUARD = ("on_nonfinite", "max_nonfinite_skips")

# Random weights need a higher learning rate than TrainingArguments' 5e-5, which is meant for pretrained ones, and Muon
# reaches a given loss in fewer steps than AdamW (benchmarks/time_to_loss.py).
SCRATCH_DEFAULTS: dict[str, Any] = {
    "optim": "muon",
    "learning_rate": 0.01,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
}

ALWAYS: dict[str, Any] = {
    "learning_rate": 5e-5,
    # On by default (transformers 5.23), the filter logs the mean of earlier losses in place of a NaN; can go when it is
    # off by default: https://github.com/huggingface/trl/issues/6702
    "logging_nan_inf_filter": False,
    "report_to": "none",
}

# SFTConfig turns on activation checkpointing, and bf16 even on machines without it (TRL 1.16; can go with
# https://github.com/huggingface/trl/issues/3616). Here the first is off by default, and bf16 is on where it is fast.
CHAT_DEFAULTS: dict[str, Any] = {
    "activation_checkpointing": False,
    "learning_rate": 2e-5,
}
LORA_LEARNING_RATE = 2e-4
HEAD_LEARNING_RATE = 1e-3
"""For a new head on a frozen model: a linear layer tolerates a far higher rate than a pretrained model."""

# Rows reach SFTTrainer tokenized, truncated and packed: it must not do so again.
PREPARED: dict[str, Any] = {"max_length": None, "packing": False}


def apply_defaults(run: Run) -> Run:
    """Return `run` with our defaults in its `train:` section; keys that the run file sets keep their values."""
    hardware = detect_hardware()
    device = select_accelerator(hardware, run.train)
    defaults = ALWAYS | {"use_cpu": device == "cpu", "dataloader_pin_memory": device != "cpu"}
    if run.recipe in (*SFT_RECIPES, "classification"):
        fast_bf16 = {"cuda": hardware.has_compute_capability(8), "cpu": bool(hardware.bf16_instructions)}.get(device)
        defaults |= {"bf16": bool(fast_bf16) and not run.train.get("fp16")}
        if not run.train.get("packing"):
            defaults["train_sampling_strategy"] = "group_by_length"  # less padding
    if run.recipe in SFT_RECIPES:
        defaults |= CHAT_DEFAULTS
        if "gradient_checkpointing" in run.train:  # an older name of the same setting
            defaults.pop("activation_checkpointing")
    if run.lora is not None or run.model.adapter is not None:
        defaults["learning_rate"] = LORA_LEARNING_RATE
    elif run.model.train_only == "head":
        defaults["learning_rate"] = HEAD_LEARNING_RATE
    if run.model.scratch is not None:
        defaults |= SCRATCH_DEFAULTS
    return run.model_copy(update={"train": defaults | run.train})


def build_training_arguments(run: Run) -> TrainingArguments:
    """Build `TrainingArguments` and set up this process: trackers, logging, memory, and the seed of new weights."""
    ours = {*EARLY_STOPPING, *GUARD, *(["optim"] if run.train.get("optim") == "muon" else [])}
    settings = {key: value for key, value in run.train.items() if key not in ours} | best_model_settings(run.train)
    if run.recipe in SFT_RECIPES:
        from trl.trainer.sft_config import SFTConfig

        args: TrainingArguments = SFTConfig(output_dir=make_portable(run.output_dir), **settings | PREPARED)
    else:
        args = TrainingArguments(output_dir=make_portable(run.output_dir), **settings)
    redirect_trackers(run.output_dir, args.report_to or [])
    set_up_logging(main_process=args.process_index == 0)
    freeze_imported_objects()
    if args.device.type == "cpu":
        keep_freed_memory()
    transformers.set_seed(args.seed)
    return args


def early_stopping(run: Run) -> list[TrainerCallback]:
    """The callback for `train.early_stopping_patience` in a list; [] where it is not set."""
    if "early_stopping_patience" not in run.train:
        return []
    return [EarlyStoppingCallback(**{key: run.train[key] for key in EARLY_STOPPING if key in run.train})]
