"""The part of our trainers that saves checkpoints and goes on from them: bit for bit the uninterrupted run."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader
from transformers.trainer_utils import SaveStrategy, TrainOutput, get_last_checkpoint

from hf_finetune.data.streaming.feed import PartedRows
from hf_finetune.data.streaming.plan import STREAM_KEY
from hf_finetune.environment.logs import hide_messages
from hf_finetune.folders import read_run_id, was_changed
from hf_finetune.folders.checkpoints import get_path, read_seal
from hf_finetune.folders.record_kinds import SEEN
from hf_finetune.interruption import hold_signals, raise_held_signal
from hf_finetune.training.callbacks.stopping import EvaluationStopped, StopAtSignal, start_worker
from hf_finetune.training.checkpoints.likeness import check_exported
from hf_finetune.training.checkpoints.random_state import read_random_state
from hf_finetune.training.checkpoints.record import (
    COUNT,
    LOSSES,
    StepLosses,
    check_count,
    check_first_loss,
    count_trainable,
)
from hf_finetune.training.checkpoints.saver import CheckpointSaver
from hf_finetune.training.checkpoints.state import (
    ReadsCheckpoints,
    check_records,
    restore_callbacks,
    restore_optimizer,
    restore_random,
)
from hf_finetune.training.seen import SeenCounter
from hf_finetune.training.sharding.gather import is_split, split_early
from hf_finetune.training.sharding.honored import check_honored
from hf_finetune.training.sharding.zero import share_weights
from hf_finetune.training.trainers.meeting import MeetingTrainer
from hf_finetune.training.trainers.parts import close_parts, select_part
from hf_finetune.training.trainers.samplers import set_epoch

logger = logging.getLogger(__name__)

GRACE_S = 30.0


class ResumableTrainer(MeetingTrainer):
    """transformers' Trainer with checkpoints that are whole or not there, and that hold all that a run goes on from."""

    # transformers 5.23 writes into the checkpoint's folder as it stands, keeps no sums of the log and no state of
    # callbacks, pickles, and warns where weights are missing: https://github.com/huggingface/transformers/issues/35782

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = SeenCounter(self.accelerator)
        # It is ours: at the end of a run transformers removes the last checkpoint where the limit is 1.
        self.checkpoints = CheckpointSaver(self, self.args.save_total_limit, self.shards_itself)
        self.args.save_total_limit = None
        self.losses = StepLosses()
        self._record: dict[str, Any] | None = None  # of the checkpoint, until the first step has been compared with it
        self._unproved: Path | None = None  # the checkpoint, until the weights have been compared with it
        self._resumed: dict[str, Any] | None = None
        self._began = 0.0
        self._earlier_s = 0.0
        self._random_before: dict[str, Any] | None = None
        self._prepared = self._warned = False
        self.stopping = StopAtSignal(self.accelerator)
        self.add_callback(self.stopping)
        self._saved_step: int | None = None
        self._asked_for_room = False

    @property
    def shards_itself(self) -> bool:
        """Whether weights or optimizer are split over the processes: FSDP, DeepSpeed."""
        return is_split(self)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers; the last checkpoint is verified when it returns, or raises.

        Raises `ModelError` where the one to go on from says what no run has written.
        """
        writer = self.checkpoints.writer
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(str(self.args.output_dir)) or True
        if isinstance(resume_from_checkpoint, str):
            # Before transformers (5.23) reads anything of it, which takes each key for an argument and believes it.
            check_records(Path(resume_from_checkpoint))
        # Of every optimizer: accelerate wraps it, and schedules replace its `step`.
        hook = register_optimizer_step_pre_hook(lambda *_: writer.wait_for_copy())
        finished = False
        try:
            with hold_signals():
                result: TrainOutput = super().train(resume_from_checkpoint, *args, **kwargs)
                self.checkpoints.wait()
                writer.release()
            finished = True
        finally:
            writer.close()
            hook.remove()
            close_parts(self.train_dataset, finished=finished)
        return result

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        # An attribute: accelerate (1.15) hands it on to the loader that skips rows, and torch (2.13) reads it when it
        # starts workers.
        loader: DataLoader[Any] = super()._get_dataloader(*args, **kwargs)
        loader.worker_init_fn = partial(start_worker, loader.worker_init_fn)
        return loader

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: Any, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As in transformers; where a signal has come, the run ends here, behind a checkpoint of this step."""
        writer = self.checkpoints.writer
        if self.args.world_size == 1:  # of several, all learn it at the next save: the others would wait for the first
            writer.poll()
        self._warn_of_slow_saves()
        if not self._prepared and self.args.save_strategy != SaveStrategy.NO:
            self.checkpoints.prepare(self._read_rank())
        self._prepared = True
        before = read_random_state() if self.control.should_evaluate else None
        try:
            super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        except EvaluationStopped:  # the resumed run makes it, from the random state in which it began
            self._random_before = before  # an evaluation draws from it, as each iterator over a DataLoader does
            self._save_checkpoint(model, trial)
            self._random_before = None
        if self.stopping.number is not None:
            self.checkpoints.wait()
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                logger.info("step %d is saved, in %.1f s", self.state.global_step, writer.took_s[-1])
            raise_held_signal(self.stopping.number)

    def _warn_of_slow_saves(self) -> None:
        """Say once that a save takes so long that one for a signal may not come to its end."""
        # torchrun (2.13) kills what has not ended 30 seconds after a signal, as Slurm and Kubernetes do by default:
        # https://github.com/pytorch/pytorch/issues/119856
        took = max(self.checkpoints.writer.took_s, default=0.0)
        if took > GRACE_S / 2 and not self._warned:
            self._warned = True
            what = "a checkpoint takes %.0f s to be saved: who ends a run leaves it %.0f s as a rule (torchrun, Slurm, "
            logger.warning(
                what + "Kubernetes); let them wait longer, see docs/long-runs.md",
                took,
                GRACE_S,
                extra={"code": "HF917"},
            )

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.checkpoints.wait()  # or the best checkpoint might still be written, and not be found
        self._saved_step = self.state.global_step
        self.store_flos()
        self.seen.sum_up()
        kept: Any = self.state.stateful_callbacks  # a dictionary once training has begun
        kept[SEEN] = self.seen.save()
        if isinstance(self.train_dataset, PartedRows):
            kept[STREAM_KEY] = self.train_dataset.feed.save()
        self._name_best()
        step, run_id = self.state.global_step, read_run_id(self.checkpoints.folder)
        facts: dict[str, Any] = {"step": step, "run_id": run_id, LOSSES: self.losses.read()}
        model: Any = self.model
        facts[COUNT] = count_trainable(model)
        self.checkpoints.save(facts, self._read_rank())
        if any(isinstance(each, ReadsCheckpoints) for each in self.callback_handler.callbacks):
            self.checkpoints.wait()

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing, where transformers pickles them: they are of `_read_rank`."""

    def _name_best(self) -> None:
        best = self.state.best_global_step
        path = get_path(self.checkpoints.folder, best) if best else None
        saved = path is not None and (path.is_dir() or best == self.state.global_step)
        self.state.best_model_checkpoint = str(path) if saved else None

    def _read_rank(self) -> dict[str, Any]:
        """What stands in no other state of this rank: random generators, sums of the log, what is left to do."""
        return {
            "since_logged": self._tr_loss,
            "total": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
            "initial_step": self._initial_global_step,
            "runtime_s": self._earlier_s + time.time() - self._began,
            "random": self._random_before or read_random_state(),
            "left": self.stopping.left | {"epoch_end": self._is_at_epochs_end and not self.stopping.epoch_ended},
            # By early stopping: a run that has come to its last step may be asked for more.
            "stops": self.control.should_training_stop
            and self.stopping.number is None
            and self.state.global_step < self.state.max_steps,
        }

    @property
    def _is_at_epochs_end(self) -> bool:
        return float(self.state.epoch or 0.0).is_integer()

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        """As in transformers, but DeepSpeed goes on from a checkpoint of ours, and not from one of its own."""
        engine = self.is_deepspeed_enabled
        if engine:
            split_early(self)
        prepared = super()._prepare_for_training(
            max_steps, train_dataloader, None if engine else resume_from_checkpoint
        )
        if engine:
            optimizer: Any = self.optimizer
            share_weights(optimizer.optimizer)
        check_honored(self)
        if engine and resume_from_checkpoint is not None:
            self._load_from_checkpoint(resume_from_checkpoint)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._unproved = Path(resume_from_checkpoint)
        self._note_resumed(self._unproved, self.checkpoints.restore(self._unproved))

    def _note_resumed(self, checkpoint: Path, state: dict[str, Any]) -> None:
        self._resumed, self._record = state, read_seal(checkpoint) or {}
        if was_changed(self.checkpoints.folder, checkpoint.name):
            self._record[LOSSES] = []  # of other rows, or of other tokens of them

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._resumed is not None:
            self._check_count()  # else the optimizer would say it in its own words
            restore_optimizer(self, self._resumed, shards=self.shards_itself)
            del self._resumed["optimizer"]  # which has the tensors now, or others in their place

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing: it is restored with the optimizer."""

    def _load_callback_state(self) -> None:
        """As in transformers, which believes whatever a checkpoint says of its callbacks (5.23)."""
        if self.args.restore_callback_states_from_checkpoint:
            kept: Any = self.state.stateful_callbacks  # a dictionary once it was read
            check_exported([*self.callback_handler.callbacks, self.control], kept)
        super()._load_callback_state()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._resumed is None:
            super()._load_rng_state(checkpoint)
        else:
            restore_random(self, self._resumed)

    def _load_best_model(self) -> None:
        self.checkpoints.wait()
        self.checkpoints.restore_weights(Path(str(self.state.best_model_checkpoint)))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers (5.23), which takes one step too many where a run is resumed from its last step."""
        self._began = kwargs["start_time"]
        self._select_part(**kwargs)
        set_epoch(kwargs["train_dataloader"], kwargs["epoch"])
        if self._resumed is not None and kwargs["epoch"] == kwargs["epochs_trained"]:
            self._go_on(self._resumed, **kwargs)
        if self.control.should_training_stop:  # early stopping has decided so, at the step of the checkpoint
            return
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if not self._asked_for_room:
            self.checkpoints.check_room(self._read_rank())
            self._asked_for_room = True
        super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _select_part(self, *, model: Any, trial: Any, epoch: int, train_dataloader: Any, **_: Any) -> None:
        """Let the rows of a stream be those of this epoch; where there are none, the steps before are saved first."""
        if problem := select_part(self.train_dataset, train_dataloader, epoch):
            if self.state.global_step and self.args.save_strategy != SaveStrategy.NO:
                if self._saved_step != self.state.global_step:
                    self._save_checkpoint(model, trial)
                self.checkpoints.wait()
            raise problem

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """As in transformers (5.23), which keeps the intervals and the path of the best one that the checkpoint had."""
        # What differs from the run that it goes on with was said as it was typed again.
        with hide_messages("transformers.trainer_utils", "do not match"):
            trained: tuple[int, int] = super()._init_training_state(max_steps, *args, **kwargs)
        self.state.compute_steps(self.args, max_steps)
        self.state.train_batch_size = self._train_batch_size
        self._name_best()  # in the folder as it is named now: https://github.com/huggingface/transformers/issues/48315
        return trained

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """As in transformers, but the first step of a resumed run is compared with those before the checkpoint."""
        if self._unproved is not None:
            self.checkpoints.check_restored(self._unproved)
            self._unproved = None
        if isinstance(self.train_dataset, PartedRows):
            self.train_dataset.feed.begin()
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        before = [] if self._record is None else self.losses.read()
        step = self.losses.add(loss, ends_step=self.accelerator.sync_gradients)
        if step is not None and self._record is not None:
            self._record = None
            check_first_loss(step.item(), before, self.state.global_step + 1)
        return loss

    def _check_count(self) -> None:
        model: Any = self.model
        check_count(model, self._record or {})

    def _go_on(self, state: dict[str, Any], *, model: Any, trial: Any, **kwargs: Any) -> None:
        """Before the first step of a resumed run: put back what Trainer and callbacks had counted, do what was left."""
        self._check_count()
        self.losses.restore((self._record or {}).get(LOSSES, []))
        restore_callbacks(self.callback_handler.callbacks, state["callbacks"])
        mine = state["ranks"][min(self.args.process_index, len(state["ranks"]) - 1)]
        self._tr_loss += mine["since_logged"].to(self._tr_loss)
        self._total_loss_scalar = mine["total"]
        self._globalstep_last_logged = mine["logged_step"]
        self._initial_global_step = mine["initial_step"]
        self._earlier_s = mine["runtime_s"]
        self.control.should_training_stop |= mine["stops"]
        self._saved_step = self.state.global_step
        left = mine["left"]
        if not (left["evaluate"] or left["epoch_end"]):
            return
        # In the order of the Trainer: the evaluation that was due at the step, then what is due at the end of an epoch.
        restore_random(self, state)
        rest = (model, trial, kwargs["epoch"], kwargs["ignore_keys_for_eval"], kwargs["start_time"])
        if left["evaluate"]:
            self.control.should_evaluate, self.control.should_save = True, left["save"]
            self._maybe_log_save_evaluate(self._tr_loss, None, *rest)
        if left["epoch_end"]:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._maybe_log_save_evaluate(self._tr_loss, None, *rest)
        mine["random"] = read_random_state()  # from which transformers goes on, once it has the first rows

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> TrainOutput:
        """As in transformers, but time and speed are of all steps, and the last step is saved whatever ended the run.

        What comes after training may be killed too: the run then goes on from there.
        """
        self._began = start_time
        if self._resumed is not None and self._saved_step is None:  # from the end of its last epoch: no step was left
            steps = {"epoch": int(self.state.epoch or 1) - 1, "ignore_keys_for_eval": None, "start_time": start_time}
            self._go_on(self._resumed, model=self.model_wrapped, trial=trial, **steps)
        if self.args.save_strategy != SaveStrategy.NO and self._saved_step != self.state.global_step:
            self._save_checkpoint(self.model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.checkpoints.writer.wait_for_copy()  # callbacks at the end of training may change the weights
        began = start_time - self._earlier_s
        result: TrainOutput = super()._finalize_training(trial, num_train_samples, began)  # type: ignore[no-untyped-call]
        return result
