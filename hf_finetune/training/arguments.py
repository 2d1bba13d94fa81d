"""Build `TrainingArguments` from the `train:` section, and set up the process before training."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import transformers
from accelerate import PartialState
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.training_args import ParallelMode

from hf_finetune.config.checks.launch import NOT_SHARDED
from hf_finetune.config.checks.metric import best_model_settings
from hf_finetune.config.sections import Run
from hf_finetune.config.validation.hf_settings import SFT_RECIPES
from hf_finetune.environment.logs import set_up_logging
from hf_finetune.environment.processes import know_processes
from hf_finetune.errors import ConfigError, FinetuneError, Problem, translate_machine_errors
from hf_finetune.privacy import make_portable, shorten
from hf_finetune.training.allocator import freeze_imported_objects, keep_freed_memory
from hf_finetune.training.callbacks.trackers import redirect_trackers

# Keys of `train:` that are not fields of TrainingArguments.
EARLY_STOPPING = ("early_stopping_patience", "early_stopping_threshold")
GUARD = ("on_nonfinite", "max_nonfinite_skips")

MOST_SAID = 300
# Rows reach SFTTrainer tokenized, truncated and packed: it must not do so again.
PREPARED: dict[str, Any] = {"max_length": None, "packing": False}


def build_training_arguments(run: Run) -> TrainingArguments:
    """Build `TrainingArguments` and set up this process: trackers, logging, memory, and the seed of new weights."""
    ours = {*EARLY_STOPPING, *GUARD, *(["optim"] if run.train.get("optim") == "muon" else [])}
    settings = {key: value for key, value in run.train.items() if key not in ours} | best_model_settings(run.train)
    if "ddp_timeout" in settings:
        # transformers 5.23 leaves it out on a CPU, where a process that stands still was waited for half an hour.
        cpu = bool(settings.get("use_cpu")) or not torch.accelerator.is_available()
        PartialState(cpu=cpu, timeout=timedelta(seconds=settings["ddp_timeout"]))
    args = _build(run, settings)
    # A model is made as on one process, and split when it is prepared: under ZeRO-3 transformers (5.23) would split it
    # as it is loaded, draw other random weights, and leave tensors without rows to all that looks at them.
    unset_hf_deepspeed_config()
    know_processes()
    redirect_trackers(run.output_dir, args.report_to or [])
    set_up_logging(main_process=args.process_index == 0)
    freeze_imported_objects()
    if args.device.type == "cpu":
        keep_freed_memory()
    transformers.set_seed(args.seed)
    return args


def _build(run: Run, settings: dict[str, Any]) -> TrainingArguments:
    """Build the arguments; what transformers or trl refuse of them is one `ConfigError` that names the setting."""
    # Each value is one that the setting may have; what they make together is looked at here first.
    known: type[TrainingArguments] = TrainingArguments
    if run.recipe in SFT_RECIPES:
        from trl.trainer.sft_config import SFTConfig

        known, settings = SFTConfig, settings | PREPARED
    try:
        with translate_machine_errors():
            args = known(output_dir=make_portable(run.output_dir), **settings)
    except (FinetuneError, torch.distributed.DistError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, OSError) as refused:
        said = shorten(str(refused) or type(refused).__name__, MOST_SAID)
        texts = {name for name, value in run.train.items() if isinstance(value, str) and value and value in said}
        name = max((name for name in run.train if name in said or name in texts), key=len, default=None)
        what = f"{known.__name__} refuses it" if name else f"{known.__name__} refuses what is set together"
        key = f"train.{name}" if name else "train"
        raise ConfigError(Problem(f"{what} ({said})", "change it, or leave it out", key=key, code="HF934")) from refused
    if args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ConfigError(Problem(*NOT_SHARDED, key="train.fsdp", code="HF684"))
    return args


def early_stopping(run: Run) -> list[TrainerCallback]:
    """The callback for `train.early_stopping_patience` in a list; [] where it is not set."""
    if run.train.get("early_stopping_patience") is None:
        return []
    return [EarlyStoppingCallback(**{key: run.train[key] for key in EARLY_STOPPING if key in run.train})]
