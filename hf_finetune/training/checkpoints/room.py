"""The room on the disk that a run needs, asked for before its first step."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import SaveStrategy

from hf_finetune.errors import CannotWriteError, Problem
from hf_finetune.folders import read_run_id
from hf_finetune.folders.checkpoints import list_sealed
from hf_finetune.memory import format_size
from hf_finetune.models.verification import find_save_dtype
from hf_finetune.training.checkpoints.disk import Snapshot
from hf_finetune.training.checkpoints.model_files import ModelFiles

# Copies of a trained weight that an optimizer keeps, by what its class is called; of any other, Adam's two.
_COPIES = {"SGD": 0, "Lion": 1, "Adagrad": 1, "RMSprop": 1, "Muon": 1}
ADAMS = 2
PER_TENSOR = 200
"""Bytes in which a tensor of a state is named: once in the header of its file, once in state.json."""
PER_LOG_LINE = 250
_BLOCK, _MAP = 256, 1024
"""Of an 8-bit state of bitsandbytes: values to a scale of 4 bytes, bytes of its table."""


@dataclass(frozen=True)
class Room:
    """What a run takes on the disk, in bytes."""

    checkpoint: int
    kept: int
    """Checkpoints that are there at once when none is being written."""
    most: int
    """The same while one is."""
    model: int
    """The saved model, with what is written beside it meanwhile."""
    there: int
    """Checkpoints that are there already, and give way in their turn."""

    @property
    def needed(self) -> int:
        """What has to be free: the more of what training takes at once, and what its end does."""
        at_once = max(self.most * self.checkpoint, self.kept * self.checkpoint + self.model)
        return max(0, at_once - self.there)


def check_room(room: Room, folder: Path) -> None:
    """Raise `CannotWriteError` where the disk of `folder` has less room than the run takes."""
    free = shutil.disk_usage(folder).free
    if room.needed <= free:
        return
    what = f"the run needs {format_size(room.needed)} in {folder}, where {format_size(free)} are free: "
    if room.most:
        what += f"up to {room.most:,} checkpoints of {format_size(room.checkpoint)} at once, and "
    what += f"a model of {format_size(room.model)}"
    remedy = "make room, or name an output_dir on another disk"
    if room.most > 1:
        remedy += ", or set train.save_total_limit lower"
    raise CannotWriteError(Problem(what, remedy, key="output_dir", code="HF702"))


def plan_room(trainer: Trainer, files: ModelFiles, snapshot: Snapshot | None, limit: int | None) -> Room:
    """Compute what a run takes from here on; `snapshot` is its state before its first step, None where none is saved.

    For the rank that writes.
    """
    folder = Path(str(trainer.args.output_dir))
    there = list_sealed(folder, read_run_id(folder))
    saves = 0 if snapshot is None else _count_saves(trainer)
    total = saves + len(there)
    tracks_best = trainer.args.load_best_model_at_end or trainer.args.metric_for_best_model is not None
    kept = total if limit is None else min(total, max(limit, 2 if tracks_best else 1))
    return Room(
        checkpoint=0 if snapshot is None else _measure_checkpoint(trainer, snapshot),
        kept=kept,
        most=min(total, kept + 1),
        model=_measure_model(trainer, files),
        there=sum(path.stat().st_size for each in there for path in each.rglob("*") if path.is_file()),
    )


def estimate_optimizer(optimizer: Any) -> tuple[int, int]:
    """The bytes of an optimizer's state once it has taken a step, and its number of tensors."""
    inner = getattr(optimizer, "optimizer", optimizer)  # as accelerate has wrapped it
    size = tensors = 0
    for group in inner.param_groups:
        for param in group["params"]:
            state = [each for each in inner.state.get(param, {}).values() if isinstance(each, Tensor)]
            size += sum(each.nbytes for each in state) if state else _estimate_state(inner, group, param)
            tensors += len(state) or ADAMS + 1
    return size, tensors


def _estimate_state(optimizer: Any, group: dict[str, Any], param: Tensor) -> int:
    """The bytes of the state of one parameter, of any shape, that has none yet."""
    name, values, width = type(optimizer).__name__, param.numel(), param.element_size()
    if "Adafactor" in name:
        first = values * width if group.get("beta1") is not None else 0
        rows, columns = (param.shape[-1], param.shape[-2]) if param.ndim >= 2 else (1, math.inf)
        return first + width * (int(values / rows + values / columns) if param.ndim >= 2 else values)
    known = [copies for kind, copies in _COPIES.items() if name.startswith(kind)]
    copies = known[0] if known else ADAMS
    if group.get("use_muon") is not None:  # ours: AdamW for what is no hidden matrix
        copies = 1 if group["use_muon"] else ADAMS
    copies += bool(group.get("momentum")) if name in ("SGD", "RMSprop") else 0
    bits = getattr(getattr(optimizer, "args", None), "optim_bits", 32)
    if bits == 8:  # bitsandbytes
        small = values < getattr(optimizer.args, "min_8bit_size", 4096)
        return copies * (4 * values if small else values + 4 * -(-values // _BLOCK) + _MAP)
    return copies * values * width


def _measure_checkpoint(trainer: Trainer, snapshot: Snapshot) -> int:
    size, tensors = estimate_optimizer(trainer.optimizer)
    known = snapshot.nbytes + sum(len(make()) for make in snapshot.blobs.values())
    inner: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    known -= size if any(inner.state.values()) else 0  # a resumed one has its state already
    lines = trainer.state.max_steps / max(1, trainer.state.logging_steps or 1)
    names = sum(len(each.tensors) for each in snapshot.weights.values()) + tensors
    return int(known + size + PER_TENSOR * names + PER_LOG_LINE * lines)


def _measure_model(trainer: Trainer, files: ModelFiles) -> int:
    """A model that is saved in another precision than it is trained in is rewritten file by file."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    sizes = [sum(each.nbytes for each in weights.tensors.values()) for weights in files.weights.values()]
    values = [sum(each.numel() for each in weights.tensors.values()) for weights in files.weights.values()]
    total = sum(sizes) + sum(map(len, files.blobs.values()))
    if isinstance(model, PreTrainedModel) and sizes:
        rewritten = max(values) * find_save_dtype(model).itemsize
        total += rewritten if rewritten < max(sizes) else 0
    return total


def _count_saves(trainer: Trainer) -> int:
    """How many checkpoints are still to be saved."""
    args, state = trainer.args, trainer.state
    left = max(0, state.max_steps - state.global_step)
    if args.save_strategy == SaveStrategy.STEPS:
        every = max(1, int(state.save_steps or 1))
        return -(-state.max_steps // every) - state.global_step // every if left else 0
    if args.save_strategy == SaveStrategy.BEST and args.eval_strategy == "steps":
        return left // max(1, int(state.eval_steps or 1)) + 1
    return math.ceil(state.num_train_epochs - (state.epoch or 0)) + 1 if left else 0
