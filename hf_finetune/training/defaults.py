"""What the section `train` has by default, by recipe, model and machine; neither torch nor transformers is imported."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.sections import Run
from hf_finetune.config.validation.hf_settings import SFT_RECIPES
from hf_finetune.environment.hardware import detect_hardware, select_accelerator

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
