"""The Trainer of the recipes, and the mixin that it shares with SFTTrainer."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy, TrainOutput

from hf_finetune.errors import DataError, ModelError, Problem
from hf_finetune.folders import RESUME, TRAINER_STATE
from hf_finetune.training.callbacks import use_log_lines
from hf_finetune.training.callbacks.log_lines import LogLines
from hf_finetune.training.saving import save_verified
from hf_finetune.training.trainers.samplers import LengthGroupedSampler, LongestFirstSampler, read_lengths

logger = logging.getLogger(__name__)


class TrainerMixin(transformers.Trainer):
    """Mixin of our trainers: list it before transformers' or TRL's Trainer among the bases."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_lines = LogLines(tokens_per_step(self.args, self.train_dataset))
        self.display = use_log_lines(self, self.log_lines)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in transformers, but raises `DataError` where the rows do not fill one batch."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        if len(loader) == 0:
            args = self.args
            needed = args.per_device_train_batch_size * args.world_size
            rows: Any = loader.dataset
            what = f"{len(rows):,} rows make no batch of {needed:,} under train.dataloader_drop_last"
            remedy = "lower train.per_device_train_batch_size, or give more rows"
            raise DataError(Problem(f"0 optimizer steps: {what}", remedy, key="data.train"))
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or "length" not in rows.column_names:
            sampler: Sampler[Any] | None = super()._get_train_sampler(train_dataset)
            return sampler
        rows_per_step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedSampler(read_lengths(rows), rows_per_step, seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[Any] | None:
        if "length" not in eval_dataset.column_names:
            sampler: Sampler[Any] | None = super()._get_eval_sampler(eval_dataset)
            return sampler
        return LongestFirstSampler(read_lengths(eval_dataset))

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers, but early stopping ends with training."""
        try:
            result: TrainOutput = super().train(*args, **kwargs)
        except BaseException:
            if self.display is not None:  # in a notebook or at a prompt it would stay for the rest of the session
                self.display.stop()
            self._keep_log()
            raise
        # It would warn that later evaluations, on the test split, lack its metric (transformers 5.23).
        self.remove_callback(EarlyStoppingCallback)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is None:
            what = (
                "no checkpoint had a number for %s on validation, so that none is the best: the last weights are kept"
            )
            logger.warning(what, self.args.metric_for_best_model)
        return result

    def _keep_log(self) -> None:
        """Leave what was logged in the run folder, for a diagnosis, where training has failed or was stopped."""
        if self.is_world_process_zero() and self.state.log_history:
            with suppress(OSError):  # a full disk may be what it failed of
                self.state.save_to_json(str(Path(str(self.args.output_dir), TRAINER_STATE)))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers (5.23), which takes one step too many where a run is resumed from its last step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, but raises `ModelError` where the checkpoint is of a model of another shape."""
        try:
            super()._load_from_checkpoint(*args, **kwargs)
        except RuntimeError as problem:
            if "size mismatch" not in str(problem):
                raise
            what = "the checkpoint holds a model of another shape"
            remedy = "leave the sections model and lora as they were (see run.yaml), or name another output_dir"
            raise ModelError(Problem(what, remedy, key=RESUME)) from problem

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As in transformers (5.23), but the best of the steps that are saved where one of them is to be loaded.

        With save_steps a multiple of eval_steps it would remember one that nothing keeps, and load an earlier one.
        """
        saved = self.control.should_save or self.args.save_strategy == SaveStrategy.BEST
        if self.args.load_best_model_at_end and not saved:
            return False
        is_best: bool = super()._determine_best_metric(metrics, trial)
        return is_best

    def save_verified(self) -> None:
        """Save model or adapter, and tokenizer, load it again and compare; see `training.saving.save_verified`."""
        save_verified(self)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Estimate 6 per parameter and token, forward and backward (Kaplan et al., 2020)."""
        # transformers 5.23 counts the parameters for each batch, a millisecond of every step; can go when it caches.
        return 6 * int(inputs["input_ids"].numel()) * self._parameters_outside_embeddings

    @cached_property
    def _parameters_outside_embeddings(self) -> int:
        model: Any = self.model
        return int(model.num_parameters(exclude_embeddings=True))


def tokens_per_step(args: TrainingArguments, rows: Any) -> float:
    """Tokens of one optimizer step over all processes, for rows of this length on average; 0 without training rows."""
    if rows is None or not len(rows):
        return 0.0
    row_size = float(read_lengths(rows).mean()) if "length" in rows.column_names else len(rows[0]["input_ids"])
    return float(args.train_batch_size * args.world_size * args.gradient_accumulation_steps * row_size)


class Trainer(TrainerMixin):
    """transformers' Trainer with these checks; of the rows of an evaluation it keeps what metrics need, no labels."""

    def __init__(self, *args: Any, preprocess_logits_for_metrics: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reduce_logits = preprocess_logits_for_metrics

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the loss, the logits as `preprocess_logits_for_metrics` reduces them, and a zero for each row.

        transformers (5.23) calls that function later, and keeps labels of 8 bytes a token on the device for all rows.
        """
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if self._reduce_logits is None or logits is None or labels is None:
            return loss, logits, labels
        reduced: Tensor = self._reduce_logits(logits, labels)
        return loss, reduced, reduced.new_zeros(len(reduced))
