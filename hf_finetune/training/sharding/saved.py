"""What was saved of a model that is split over processes is what was trained: read back tensor by tensor."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from hf_finetune.errors import ModelError, Problem

logger = logging.getLogger(__name__)


def verify_tensors(folder: Path, whole: Mapping[str, Tensor], *, shown: Path) -> None:
    """Compare each tensor of the weight files in `folder` with that of `whole`, in the precision of the file.

    Each of `whole` is in a file; a tensor of several names under one of them. Raises `ModelError` where one is missing
    or not equal; `shown` is the folder that they are for.
    """
    found: set[int] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping
                trained = whole.get(name)
                if trained is None:
                    continue
                saved = file.get_tensor(name)
                if not torch.equal(saved, trained.to(saved.dtype)):
                    raise ModelError(_describe_other(f"{name} in {path.name} is not what was trained", shown))
                found.add(id(trained))
    missing = [name for name, tensor in whole.items() if id(tensor) not in found]
    if missing:
        raise ModelError(_describe_other(f"{len(missing):,} trained weights are in no file, {missing[0]} first", shown))
    logger.info("saved to %s, read again: each of %s tensors is what was trained", shown, f"{len(found):,}")


def _describe_other(what: str, shown: Path) -> Problem:
    return Problem(what, "the checkpoints of the run have its weights", path=str(shown), code="HF514")
