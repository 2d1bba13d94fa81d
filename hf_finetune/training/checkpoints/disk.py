"""Put the state of a run on the disk as a checkpoint, read it back, and make room for it."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_finetune.errors import NO_SPACE, NOT_ALLOWED, CannotWriteError, Problem, advise_writing, find_writing_code
from hf_finetune.files import open_private, raise_write_errors
from hf_finetune.folders.checkpoints import (
    aside_of,
    find_verified,
    list_sealed,
    publish,
    remove_checkpoint,
    rotate,
    seal,
)
from hf_finetune.memory import format_size
from hf_finetune.training.checkpoints.model_files import Weights

logger = logging.getLogger(__name__)

COMPARED_AT_ONCE = 2**24
Key = tuple[str, str]
"""A tensor of a checkpoint: its file, and its name in it."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a run after one step, to be written as a checkpoint."""

    checkpoint: Path
    facts: dict[str, Any]
    """What its manifest says beside the files."""
    weights: dict[str, Weights]
    """Files of tensors by name."""
    blobs: dict[str, Callable[[], bytes]]
    """Every other file by name; its content is made as it is written."""
    private: frozenset[str] = frozenset()
    """Files that hold texts of rows: their owner's alone."""
    keep: frozenset[Path] = frozenset()
    """Checkpoints that are never removed for this one."""
    still: frozenset[Key] = frozenset()
    """Tensors that stay as they are until the optimizer's next step."""
    owned: bool = False
    """Whether nothing else holds its tensors, which then need no copy."""

    @property
    def run_id(self) -> str | None:
        """The run that it is of; None where that is not known."""
        found: str | None = self.facts.get("run_id")
        return found

    @property
    def nbytes(self) -> int:
        """The size of its tensors."""
        return sum(tensor.nbytes for each in self.weights.values() for tensor in each.tensors.values())


def write_checkpoint(snapshot: Snapshot, limit: int | None) -> None:
    """Write, verify and name a checkpoint, then remove the oldest beyond `limit`.

    On a full disk our oldest checkpoint is removed and the writing tried again, as long as an older one than the last
    that verifies is there. Raises `CannotWriteError`; all checkpoints before are then as they were, also where the
    system refuses what no room helps against.
    """
    while True:
        try:
            with raise_write_errors():
                _write(snapshot)
            break
        except OSError as problem:
            aside_of(snapshot.checkpoint)
            if problem.errno not in NO_SPACE or not _free_oldest(snapshot):
                raise _explain(snapshot, problem) from problem
    if limit is not None:
        for removed in rotate(
            snapshot.checkpoint.parent, limit, {*snapshot.keep, snapshot.checkpoint}, snapshot.run_id
        ):
            logger.debug("%s is removed: train.save_total_limit", removed.name)


def _write(snapshot: Snapshot) -> None:
    aside = aside_of(snapshot.checkpoint)
    aside.mkdir(mode=0o700)
    _fill(aside, snapshot)


def _fill(aside: Path, snapshot: Snapshot) -> None:
    for name, make in snapshot.blobs.items():
        path = aside / name
        path.parent.mkdir(exist_ok=True)
        with open(path, "xb", opener=open_private if name in snapshot.private else None) as file:
            file.write(make())
    for name, each in snapshot.weights.items():
        (aside / name).parent.mkdir(exist_ok=True)
        save_file(each.tensors, aside / name, each.metadata)
    # Sealed before it is compared: what is read back then is what fsync has left, and a difference keeps it unnamed.
    seal(aside, snapshot.facts)
    for name, each in snapshot.weights.items():
        _compare(aside / name, each.tensors)
    publish(aside, snapshot.checkpoint)


def _compare(path: Path, tensors: dict[str, Tensor]) -> None:
    """Read a file of tensors back. Raises OSError where it does not hold them bit for bit."""
    found = load_file(path)
    # As bytes: NaN is not equal to itself, and -0.0 is to 0.0.
    for name, tensor in tensors.items():
        one, other = _as_bytes(tensor), _as_bytes(found[name])
        for at in range(0, len(one), COMPARED_AT_ONCE):
            if not np.array_equal(one[at : at + COMPARED_AT_ONCE], other[at : at + COMPARED_AT_ONCE]):
                raise OSError(f"{path.name} was read back with other values than were written")


def _as_bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    flat: npt.NDArray[np.uint8] = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    return flat


def _free_oldest(snapshot: Snapshot) -> bool:
    """Remove our oldest checkpoint, unless it is to be kept or is the last one that verifies."""
    folder = snapshot.checkpoint.parent
    last, _ = find_verified(folder, run_id=snapshot.run_id)
    spared = {last, *snapshot.keep}
    oldest = next((each for each in list_sealed(folder, snapshot.run_id) if each not in spared), None)
    if oldest is None:
        return False
    logger.warning(
        "there is no space for %s: %s is removed for it", snapshot.checkpoint.name, oldest.name, extra={"code": "HF719"}
    )
    remove_checkpoint(oldest)
    return True


def _explain(snapshot: Snapshot, problem: OSError) -> CannotWriteError:
    folder = snapshot.checkpoint.parent
    if not folder.is_dir():
        what = f"{snapshot.checkpoint} cannot be written: {folder} is not there any more, nor what was saved in it"
        return CannotWriteError(Problem(what, "put it back and begin again", key="output_dir", code="HF709"))
    last, _ = find_verified(folder, run_id=snapshot.run_id)
    what = f"{snapshot.checkpoint} cannot be written ({problem.strerror or problem})"
    kept = f"{last.name} is kept, and the same command goes on from it" if last else "nothing is kept"
    code = find_writing_code(problem.errno)
    if problem.errno in (errno.EFBIG, *NOT_ALLOWED):
        remedy = f"{advise_writing(problem.errno)}; {kept}"
        return CannotWriteError(Problem(what, remedy, key="output_dir", code=code))
    free = shutil.disk_usage(folder).free
    what += f": it takes {format_size(snapshot.nbytes)}, and {format_size(free)} are free"
    remedy = f"make room, or lower train.save_total_limit; {kept}"
    return CannotWriteError(Problem(what, remedy, key="output_dir", code=code))
