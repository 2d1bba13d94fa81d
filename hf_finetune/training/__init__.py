"""Trainer and SFTTrainer for rows that are tokens already.

defaults        of the section `train`, by recipe, model and machine
arguments       the section `train` -> TrainingArguments, and what else a process sets up
trainers/       transformers' Trainer, TRL's SFTTrainer and the classifiers' one; samplers
checkpoints/    all that a run goes on from, written beside training
callbacks/      the log line, the progress bars, trackers, energy, and the guard against values that are not finite
sharding/       state of a model that is split over processes; what was asked for and what was prepared
muon            Muon for matrices with AdamW for the rest
muon_shards     the same where FSDP2 has spread the rows of matrices over ranks
memory_settings what to set where memory runs out
packing_check   whether a model keeps packed rows apart, tried on the model itself
saving          save, reload, compare
seen            rows and tokens of the batches that were computed, over processes and resumed runs
facts           what a finished run did, for its report
allocator       freed memory is kept until the model is saved: on a CPU that halves the time of a step
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.training.arguments import build_training_arguments, early_stopping
    from hf_finetune.training.callbacks.guard import TrainingGuard, make_guard
    from hf_finetune.training.defaults import apply_defaults
    from hf_finetune.training.facts import collect_train_stats, format_launch_line, make_run_id, read_launch_words
    from hf_finetune.training.memory_settings import suggest_memory_settings
    from hf_finetune.training.muon import make_optimizer
    from hf_finetune.training.packing_check import check_packing, needs_flat
    from hf_finetune.training.saving import save_decision
    from hf_finetune.training.trainers.base import Trainer, TrainerMixin
    from hf_finetune.training.trainers.classification import ClassificationLoss, ClassificationTrainer
    from hf_finetune.training.trainers.sft import SFTTrainer

__all__ = [
    "ClassificationLoss",
    "ClassificationTrainer",
    "SFTTrainer",
    "Trainer",
    "TrainerMixin",
    "TrainingGuard",
    "apply_defaults",
    "build_training_arguments",
    "check_packing",
    "collect_train_stats",
    "early_stopping",
    "format_launch_line",
    "make_guard",
    "make_optimizer",
    "make_run_id",
    "needs_flat",
    "read_launch_words",
    "save_decision",
    "suggest_memory_settings",
]

__getattr__, __dir__ = import_lazily(__name__)
