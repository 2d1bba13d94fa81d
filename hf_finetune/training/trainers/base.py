"""The Trainer of the recipes, and the mixin that it shares with SFTTrainer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sized
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, PreTrainedConfig, TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType, TrainOutput, validate_quantization_for_training

from hf_finetune.data.streaming.feed import PartedRows
from hf_finetune.errors import ConfigError, DataError, ModelError, Problem
from hf_finetune.folders import LOG
from hf_finetune.metric_info import SCHEDULES_WITHOUT_WARMUP
from hf_finetune.models.weights.sharding import as_own_class
from hf_finetune.training.callbacks import use_guard, use_log_lines
from hf_finetune.training.callbacks.log_file import KeepsSamples, LogFile
from hf_finetune.training.callbacks.log_lines import LogLines
from hf_finetune.training.callbacks.offenders import MicroBatch, measure_gradients
from hf_finetune.training.saving import record_adapters_base, save_verified
from hf_finetune.training.seen import COUNTS, CountingCollator, Seen
from hf_finetune.training.sharding.gather import save_whole
from hf_finetune.training.sharding.honored import describe_bytes
from hf_finetune.training.trainers.repeated_rows import leave_out_repeated
from hf_finetune.training.trainers.resumable import ResumableTrainer
from hf_finetune.training.trainers.samplers import LengthGroupedSampler, LongestFirstSampler, read_lengths

logger = logging.getLogger(__name__)

# What transformers 5.23 sets in a model's config for training, from its arguments and from the tokenizer: a base that
# ends texts with any of three tokens would be saved with one.
SET_FOR_TRAINING = ("use_cache", "bos_token_id", "eos_token_id", "pad_token_id")


class TrainerMixin(ResumableTrainer):
    """Mixin of our trainers: list it before transformers' or TRL's Trainer among the bases."""

    predicts_tokens = True
    """Whether the labels are of tokens, and not of rows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        model: Any = kwargs["model"] if "model" in kwargs else args[0]
        _check_can_train(model)
        self._own_settings = _find_settings(model.config)
        super().__init__(*args, **kwargs)
        collate: Any = self.data_collator
        self.data_collator = CountingCollator(collate, self.predicts_tokens)
        self.guard = use_guard(self)
        self.held: dict[str, Any] = {}
        """What `describe_bytes` has found at the end of training."""
        self._loss_before = torch.zeros(())
        self.log_lines = LogLines(self.seen)
        self.display = use_log_lines(self, self.log_lines)
        self.log_file = LogFile(Path(str(self.args.output_dir), LOG), self._list_samples)
        self.add_callback(self.log_file)  # behind those that complete an entry of the log

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in transformers, but raises `DataError` where the rows do not fill one batch, or differ between ranks."""
        _check_same_rows(self.train_dataset, self.eval_dataset)
        loader: DataLoader[Any] = super().get_train_dataloader()
        if len(loader) == 0:
            args = self.args
            needed = args.per_device_train_batch_size * args.world_size
            rows: Any = loader.dataset
            what = f"{len(rows):,} rows make no batch of {needed:,} under train.dataloader_drop_last"
            remedy = "lower train.per_device_train_batch_size, or give more rows"
            raise DataError(Problem(f"0 optimizer steps: {what}", remedy, key="data.train", code="HF931"))
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or "length" not in rows.column_names:
            sampler: Sampler[Any] | None = super()._get_train_sampler(train_dataset)
            return sampler
        rows_per_step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        again = partial(read_lengths, rows) if isinstance(rows, PartedRows) else None
        return LengthGroupedSampler(read_lengths(rows), rows_per_step, seed, again)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[Any] | None:
        if "length" not in eval_dataset.column_names:
            sampler: Sampler[Any] | None = super()._get_eval_sampler(eval_dataset)
            return sampler
        return LongestFirstSampler(read_lengths(eval_dataset))

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> LRScheduler:
        """As in transformers, but a warm-up that the run is too short for is said.

        Raises `ConfigError` where the values of `train.lr_scheduler_kwargs` make no schedule.
        """
        _warn_of_long_warmup(self.args, num_training_steps)
        try:
            schedule: LRScheduler = super().create_scheduler(num_training_steps, *args, **kwargs)
        except (TypeError, ValueError, ArithmeticError) as error:
            if not self.args.lr_scheduler_kwargs:
                raise
            what = f"{SchedulerType(self.args.lr_scheduler_type).value} cannot be made of these ({error})"
            raise ConfigError(
                Problem(what, "give it other values", key="train.lr_scheduler_kwargs", code="HF934")
            ) from error
        return schedule

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers, but early stopping ends with training."""
        try:
            result: TrainOutput = super().train(*args, **kwargs)
        except BaseException as raised:
            if self.display is not None:  # in a notebook or at a prompt it would stay for the rest of the session
                self.display.stop()
            self.log_file.end(self.state, raised)
            raise
        self.held = describe_bytes(self)
        # It would warn that later evaluations, on the test split, lack its metric (transformers 5.23).
        self.remove_callback(EarlyStoppingCallback)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is None:
            what = (
                "no checkpoint had a number for %s on validation, so that none is the best: the last weights are kept"
            )
            logger.warning(what, self.args.metric_for_best_model, extra={"code": "HF936"})
        return result

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """As in transformers, but a row that several processes have twice at the end of an epoch is trained once."""
        counts_items = self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        whole = self.args.average_tokens_across_devices and not self.args.dataloader_drop_last
        whole = whole and self.accelerator.even_batches
        if counts_items and whole:  # else a batch of nothing has a loss of NaN
            rows: Any = self.train_dataset
            leave_out = partial(leave_out_repeated, accelerator=self.accelerator, rows=len(rows))
            epoch_iterator = map(leave_out, epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """As in transformers, but what was computed is counted, and kept until the step is taken."""
        if not self.guard.batches:
            self._loss_before = self._tr_loss.clone()
        facts = inputs[COUNTS]
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.seen.add(sum(facts.counts, Seen()))
        self.guard.batches.append(MicroBatch(inputs, num_items_in_batch, loss, facts.sources))
        return loss

    @property
    def computes_alone(self) -> bool:
        """Whether `compute_row_loss` needs no other rank, and leaves no trace in what is logged."""
        return not self.shards_itself

    def compute_row_loss(self, inputs: dict[str, Any], items: Any) -> torch.Tensor:
        """The loss of a row of a micro-batch, a scalar, whose losses are divided by `items`; no other rank is asked."""
        with self.compute_loss_context_manager():
            model: Any = self.model
            found: Any = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=items)
        loss: torch.Tensor = found
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        """As in transformers where an engine clips; else `_get_grad_norm` clips what it has found to be finite."""
        return super()._clip_grad_norm(model) if self._engine_clips(model) else None  # type: ignore[no-untyped-call]

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm of the gradients, which the guard has allowed, before clipping; None where the step is left out.

        transformers (5.23) calls it before each step of the optimizer. Clipped by a norm of NaN all gradients are NaN.
        """
        if engine := self._engine_clips(model):
            norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        else:
            self.accelerator.unscale_gradients()
            norm = measure_gradients(model.parameters())
        self.waits.reach()
        allowed = self.guard.allows(self, norm)
        self.waits.leave()
        if not allowed:
            self._leave_step_out()
            return None
        if not engine and self.args.max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), self.args.max_grad_norm, norm)
        return norm

    def _engine_clips(self, model: Any) -> bool:
        return self.shards_itself or self._has_mixed_mesh_grads(model)

    def _leave_step_out(self) -> None:
        """Take a step out of the mean losses: it counts as a step of the run and of its schedule alone."""
        if self.is_deepspeed_enabled:
            engine: Any = self.optimizer
            engine.optimizer.overflow = False  # which it has left out itself: the schedule would stand still
        self._tr_loss.copy_(self._loss_before)
        self._globalstep_last_logged += 1
        self._initial_global_step += 1

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.guard.check_weights(self)
        super()._save_checkpoint(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return {name: values for name, values in prepared.items() if name != COUNTS}  # which no model takes

    def _list_samples(self) -> list[dict[str, Any]]:
        """The samples that a callback has taken so far."""
        sources = [each for each in self.callback_handler.callbacks if isinstance(each, KeepsSamples)]
        return [sample for source in sources for sample in source.as_dicts()]

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As in transformers (5.23), but the best of the steps that are saved where one of them is to be loaded.

        With save_steps a multiple of eval_steps it would remember one that nothing keeps, and load an earlier one.
        """
        saved = self.control.should_save or self.args.save_strategy == SaveStrategy.BEST
        if self.args.load_best_model_at_end and not saved:
            return False
        is_best: bool = super()._determine_best_metric(metrics, trial)
        return is_best

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers, but a model that is split over the processes is saved as a whole one is."""
        if self.shards_itself:
            save_whole(self, output_dir or str(self.args.output_dir))
        else:
            super().save_model(output_dir, _internal_call)

    def save_verified(self) -> None:
        """Save model or adapter, and tokenizer, load it again and compare; see `training.saving.save_verified`."""
        self.guard.check_weights(self)
        save_verified(self)

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """As in transformers, but config.json has the settings with which the model came, and an adapter its base."""
        config: Any = self.model.config  # type: ignore[union-attr]
        in_training = _find_settings(config)
        _put_settings(config, self._own_settings)
        try:
            with as_own_class(self.model):  # type: ignore[arg-type]
                super()._save(output_dir, *args, **kwargs)
        finally:
            _put_settings(config, in_training)
        if self.args.should_save:  # or two processes write into one file
            record_adapters_base(self, Path(output_dir or str(self.args.output_dir)))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Estimate 6 per parameter and token, forward and backward (Kaplan et al., 2020)."""
        # transformers 5.23 counts the parameters for each batch, a millisecond of every step; can go when it caches.
        return 6 * int(inputs["input_ids"].numel()) * self._parameters_outside_embeddings

    @cached_property
    def _parameters_outside_embeddings(self) -> int:
        model: Any = self.model
        return int(model.num_parameters(exclude_embeddings=True))


def _check_same_rows(*splits: Any) -> None:
    """Raise `DataError` on all ranks where one has another number of rows: it would wait for the others for ever."""
    found = gather_object([[len(rows) if isinstance(rows, Sized) else None for rows in splits]])
    if all(each == found[0] for each in found):
        return
    counts = ", ".join(f"process {rank}: {rows[0]:,}" for rank, rows in enumerate(found))
    what = f"the processes have not read the same rows ({counts}; and those of validation)"
    remedy = "give each machine the same files, and leave them alone while a run starts"
    raise DataError(Problem(what, remedy, key="data.train", code="HF932"))


def _warn_of_long_warmup(args: TrainingArguments, steps: int) -> None:
    """Say that no step will be taken at the learning rate that was asked for."""
    warmup = args.get_warmup_steps(steps)
    # Step n is taken at (n - 1) / warmup of the rate: the last of 8 steps, of a warm-up of 8, at 7/8 of it.
    if warmup < max(steps, 2) or args.lr_scheduler_type in SCHEDULES_WITHOUT_WARMUP:
        return
    what = "the warm-up of %s steps is as long as the run of %s or longer: train.learning_rate is never reached, its "
    what += "last step has %.0f %% of it; lower train.warmup_steps (%d is a twentieth)"
    share, twentieth = 100 * (steps - 1) / warmup, max(1, steps // 20)
    logger.warning(what, f"{warmup:,}", f"{steps:,}", share, twentieth, extra={"code": "HF935"})


def _check_can_train(model: Any) -> None:
    """Raise `ModelError` for weights that are stored quantized, where no adapter is trained over them."""
    try:
        validate_quantization_for_training(model)
    except ValueError as refused:
        what = (
            f"its weights are quantized ({model.config.quantization_config.quant_method.value}), and cannot be trained"
        )
        remedy = "train an adapter over them (recipe: lora), or name a copy of the model that is not quantized"
        raise ModelError(Problem(what, remedy, key="model.path", code="HF630")) from refused


def _find_settings(config: PreTrainedConfig) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if name in SET_FOR_TRAINING}


def _put_settings(config: PreTrainedConfig, settings: dict[str, Any]) -> None:
    """Set these of `SET_FOR_TRAINING`, and take the others out: an encoder has none of them, or says null."""
    for name in SET_FOR_TRAINING:
        vars(config).pop(name, None)
    vars(config).update(settings)


class Trainer(TrainerMixin):
    """transformers' Trainer with these checks, for documents as tokens.

    Of the rows of an evaluation it keeps what metrics need, and no labels.
    """

    def __init__(self, *args: Any, preprocess_logits_for_metrics: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reduce_logits = preprocess_logits_for_metrics

    def _set_signature_columns_if_needed(self) -> None:
        columns = ["input_ids", "attention_mask", "position_ids", "labels", "length", "row", "rows"]
        self._signature_columns = columns  # type: ignore[assignment]

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
