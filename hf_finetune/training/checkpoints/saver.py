"""What a Trainer calls to save checkpoints, and to go on from one as if it had never ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import SaveStrategy

from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import RESUME
from hf_finetune.folders.checkpoint_records import STATE, STATE_TENSORS
from hf_finetune.folders.checkpoints import aside_of, get_path
from hf_finetune.training.checkpoints.disk import Key, Snapshot
from hf_finetune.training.checkpoints.model_files import (
    ModelFiles,
    Weights,
    collect_model_files,
    copy_weights,
    find_other,
    get_storage,
    is_up_to_date,
)
from hf_finetune.training.checkpoints.room import check_room, plan_room
from hf_finetune.training.checkpoints.state import (
    OPTIMIZER_TENSORS,
    STATE_PARTS,
    describe_trainer,
    load_state,
    read_state,
)
from hf_finetune.training.checkpoints.writer import CheckpointWriter
from hf_finetune.training.sharding.gather import gather_weights, on_one, scatter_weights

BEFORE_STEP = ("on_save", "on_step_begin", "on_substep_end", "on_pre_optimizer_step")
"""What is called of callbacks between a save and the optimizer's next step."""
_OURS = ("hf_finetune.", "transformers.")


@dataclass
class CheckpointSaver:
    """Saves the checkpoints of one training, and reads the one that it goes on from. Every rank has its own.

    What is split over processes is gathered by the first of them, and saved as that of a single process is.
    """

    trainer: Trainer
    limit: int | None
    """`train.save_total_limit`."""
    shards: bool = False
    """Whether weights or optimizer are split over the processes."""
    private: frozenset[str] = frozenset({STATE})
    writer: CheckpointWriter = field(init=False)
    _files: ModelFiles | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.writer = CheckpointWriter(self.limit)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(str(self.trainer.args.output_dir))

    @property
    def saves(self) -> bool:
        """Whether this rank is one that writes."""
        return bool(self.trainer.args.should_save)

    def prepare(self, rank: dict[str, Any]) -> None:
        """Take the memory that saving needs, beside training: once the optimizer has a state."""
        if self.shards:  # what is gathered needs no copy
            return
        snapshot = self._take_snapshot({}, rank, self._collect())
        if snapshot is not None:
            self.writer.prepare_in_background(snapshot)

    def check_room(self, rank: dict[str, Any]) -> None:
        """Raise `CannotWriteError` where the disk has less room than the run needs; every rank calls it."""
        files, keeps = self._collect(), self.trainer.args.save_strategy != SaveStrategy.NO
        snapshot = self._take_snapshot({}, rank, files) if keeps else None
        on_one(self.saves, lambda: check_room(plan_room(self.trainer, files, snapshot, self.limit), self.folder))

    def save(self, facts: Mapping[str, Any], rank: dict[str, Any]) -> None:
        """Save the state after this step; every rank calls it. `facts` stand in the manifest.

        Raises `CannotWriteError` where this checkpoint or the one before cannot be written.
        """
        snapshot = self._take_snapshot(facts, rank, self._collect())
        on_one(self.saves, lambda: None if snapshot is None else self.writer.save(snapshot))

    def wait(self) -> None:
        """Wait until the last checkpoint is verified; every rank calls it. Raises as `save` does."""
        on_one(self.saves, self.writer.wait)

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        """Put the weights of a verified checkpoint into the model, and return the rest of its state.

        Raises `ModelError` where it is of a model of another shape.
        """
        self.restore_weights(checkpoint)
        return load_state(checkpoint, {"beside"}, shards=self.shards)

    def restore_weights(self, checkpoint: Path) -> None:
        """Put the weights alone of a checkpoint into the model; every rank calls it. Raises as `restore` does."""
        # Where nothing is split: DDP sends the others the weights of rank 0 as it wraps the model.
        whole = gather_weights(self.trainer) if self.shards else None
        on_one(self.saves, lambda: self._copy_weights(self._collect_here(whole), checkpoint))
        if whole is not None:
            scatter_weights(self.trainer, whole)

    def _copy_weights(self, files: ModelFiles, checkpoint: Path) -> None:
        copy_weights(files, checkpoint, load_state(checkpoint, without=STATE_PARTS - {"beside"})["beside"])

    def check_restored(self, checkpoint: Path) -> None:
        """Raise `ModelError` where the weights are not those of the checkpoint, bit for bit; every rank calls it."""
        files = self._collect()
        on_one(self.saves, lambda: self._compare(files, checkpoint))

    def _compare(self, files: ModelFiles, checkpoint: Path) -> None:
        if (name := find_other(files, checkpoint)) is not None:
            what = f"{name} is not what {checkpoint.name} holds: something has changed the model since it was restored"
            raise ModelError(
                Problem(what, "leave the model as it is between its making and trainer.train", key=RESUME, code="HF904")
            )

    def _take_snapshot(self, facts: Mapping[str, Any], rank: dict[str, Any], files: ModelFiles) -> Snapshot | None:
        """The state of now, with what is saved of the model; None on ranks that do not write."""
        # The Trainer's own state is copied here, and formatted by the thread: the log of hours takes its time.
        encoded, tensors = read_state(self.trainer, rank, files.beside, shards=self.shards)
        if not self.saves:
            return None
        blobs: dict[str, Callable[[], bytes]] = {name: _hold(content) for name, content in files.blobs.items()}
        blobs |= {STATE: _write_json(encoded), TRAINER_STATE_NAME: describe_trainer(self.trainer.state)}
        weights = {**files.weights, STATE_TENSORS: Weights(tensors, None)}
        return Snapshot(
            checkpoint=get_path(self.folder, self.trainer.state.global_step),
            facts=dict(facts),
            weights=weights,
            blobs=blobs,
            private=self.private,
            keep=frozenset(self._find_best()),
            still=frozenset(() if self.shards or not self._leaves_weights_alone() else self._list_still(weights)),
            owned=self.shards,
        )

    def _list_still(self, weights: Mapping[str, Weights]) -> Iterator[Key]:
        """The tensors in main memory that nothing but the optimizer changes: parameters, and its own state.

        Buffers are left out: a forward pass may change them. So is what lies on a device, of which a copy into pinned
        memory is quick, and in the order of its stream.
        """
        # By their memory: a file names tensors as transformers saves them, and not as the model calls its parameters.
        model: Any = self.trainer.model
        held = {get_storage(each) for each in model.parameters()}
        for file, each in weights.items():
            for name, tensor in each.tensors.items():
                of_optimizer = file == STATE_TENSORS and name.startswith(OPTIMIZER_TENSORS)
                if tensor.device.type == "cpu" and (of_optimizer or get_storage(tensor) in held):
                    yield file, name

    def _leaves_weights_alone(self) -> bool:
        """Whether no callback of a user could change the weights between a save and the optimizer's next step."""
        # Pruning or a moving average may be done in any of these; what comes behind the optimizer's step comes behind
        # the copy as well.
        callbacks: list[Any] = self.trainer.callback_handler.callbacks
        foreign = [type(each) for each in callbacks if not type(each).__module__.startswith(_OURS)]
        return not any(
            getattr(each, event, None) is not getattr(TrainerCallback, event)
            for each in foreign
            for event in BEFORE_STEP
        )

    def _collect(self) -> ModelFiles:
        """What is saved of the model as it is now; every rank calls it, and those that do not save get nothing."""
        whole = gather_weights(self.trainer) if self.shards else None
        return on_one(self.saves, lambda: self._collect_here(whole)) or ModelFiles()

    def _collect_here(self, whole: dict[str, Tensor] | None) -> ModelFiles:
        """The same on a rank that saves; `whole` are the weights of a model that is split."""
        model: Any = self.trainer.model
        if whole is None and self._files is not None and is_up_to_date(self._files, model):
            return self._files
        self.folder.mkdir(parents=True, exist_ok=True)
        files = collect_model_files(self.trainer, aside_of(get_path(self.folder, 0)), whole)
        self._files = files if whole is None else None
        return files

    def _find_best(self) -> list[Path]:
        best = self.trainer.state.best_global_step
        return [get_path(self.folder, best)] if best else []


def _hold(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _write_json(encoded: Any) -> Callable[[], bytes]:
    return lambda: (json.dumps(encoded) + "\n").encode()
