"""What a saved model consists of: files that stay the same through a run, and the tensors of its weight files.

transformers and peft decide how a model is saved: which names its tensors have, which of them share memory, which
files stand beside them. Here they do so once, without the weights being written, and what they would have written is
remembered: as long as a tensor shares the memory of the live model, a checkpoint is a copy of these tensors.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import Trainer

from hf_finetune.errors import ModelError, Problem
from hf_finetune.folders import RESUME

PICKLED_ARGUMENTS = "training_args.bin"
Storage = tuple[torch.device, int]
"""The memory that a tensor is a view of."""
_WRITERS = ("transformers.modeling_utils", "peft.peft_model")


@dataclass(frozen=True)
class Weights:
    """One weight file: its tensors by name, of any shape."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str] | None


@dataclass
class ModelFiles:
    """What is saved of a model."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    """Every other file by its path in the folder: configuration, tokenizer, chat template."""
    weights: dict[str, Weights] = field(default_factory=dict)
    """Weight files by name."""
    live: bool = True
    """Whether every tensor of `weights` shares its memory with the model, so that it is always up to date."""
    beside: dict[str, Tensor] = field(default_factory=dict)
    """Trained tensors of the model by name that are in no weight file as they are: experts that are saved in
    another layout, rows of embeddings that peft saves as differences."""


def collect_model_files(trainer: Trainer, aside: Path, gathered: dict[str, Tensor] | None = None) -> ModelFiles:
    """What `trainer` would save of its model, by the code that saves it; `aside` is made and removed. Raises OSError.

    The rank that saves alone has any. `gathered`: the tensors of a model that is split over processes, whole.
    """
    with _weights_not_written(aside) as weights:
        try:
            trainer._save(str(aside), state_dict=None if gathered is None else dict(gathered))
            (aside / PICKLED_ARGUMENTS).unlink(missing_ok=True)
            paths = [path for path in aside.rglob("*") if path.is_file()]
            blobs = {path.relative_to(aside).as_posix(): path.read_bytes() for path in paths}
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    model: Any = trainer.model
    saved: Counter[Storage] = Counter()  # values of each
    for tensor in chain.from_iterable(each.tensors.values() for each in weights.values()):
        saved[get_storage(tensor)] += tensor.numel()
    changing, live = dict(_list_changing(model)), False
    if gathered is None:
        live = saved.keys() <= {get_storage(tensor) for tensor in chain(model.parameters(), model.buffers())}
    else:
        changing = {name: gathered[name] for name in changing if name in gathered}
    # A part of a tensor in a file, as rows of an embedding, is not the tensor: values are counted.
    beside = {name: each for name, each in changing.items() if saved[get_storage(each)] < each.numel()}
    return ModelFiles(blobs, weights, live, beside=beside)


def copy_weights(files: ModelFiles, checkpoint: Path, beside: dict[str, Tensor]) -> None:
    """Copy the weights of a verified checkpoint into the live tensors of `files`.

    Raises `ModelError` where it holds other tensors than the model, or tensors of other shapes.
    """
    pairs = [(files.beside, beside)]
    for name, each in files.weights.items():
        pairs.append((each.tensors, _read_tensors(checkpoint / name)))
    for into, saved in pairs:
        kinds = [{name: (each.shape, each.dtype) for name, each in tensors.items()} for tensors in (into, saved)]
        if kinds[0] != kinds[1]:
            what = f"{checkpoint.name} holds a model of another shape or precision"
            remedy = "leave the sections model and lora as they were (see run.yaml), or name another output_dir"
            raise ModelError(Problem(what, remedy, key=RESUME, code="HF901"))
    with torch.no_grad():
        for into, saved in pairs:
            for name, tensor in into.items():
                tensor.copy_(saved[name])


def find_other(files: ModelFiles, checkpoint: Path) -> str | None:
    """The name of a weight of `files` that is not as in the checkpoint, one at a time; None where all are."""
    for file, each in files.weights.items():
        with safe_open(checkpoint / file, framework="pt") as saved:
            names = set(saved.keys())
            for name, tensor in each.tensors.items():
                if name not in names or not torch.equal(tensor, saved.get_tensor(name).to(tensor)):
                    return name
    return None


def is_up_to_date(files: ModelFiles, model: nn.Module) -> bool:
    """Whether the tensors of `files` still are those of `model`: a wrapper may have given it others."""
    held = {get_storage(tensor) for tensor in chain(model.parameters(), model.buffers())}
    ours = chain(files.beside.values(), *(each.tensors.values() for each in files.weights.values()))
    return files.live and all(get_storage(tensor) in held for tensor in ours)


def get_storage(tensor: Tensor) -> Storage:
    """The memory of a tensor, of any shape."""
    return tensor.device, tensor.untyped_storage().data_ptr()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping


def _list_changing(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What training changes: trained parameters, and buffers that are part of a model's state."""
    yield from ((name, each) for name, each in model.named_parameters() if each.requires_grad)
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


@contextmanager
def _weights_not_written(folder: Path) -> Iterator[dict[str, Weights]]:
    """Within the block, weights that transformers and peft save to `folder` are kept here and not written.

    Their own `save_pretrained` alone knows the names and what is left out of shared tensors. Both write by
    `safe_save_file` (transformers 5.23, peft 0.21). Can go when they return what they save.
    """
    kept: dict[str, Weights] = {}

    def keep(tensors: dict[str, Tensor], filename: Any, metadata: dict[str, str] | None = None) -> None:
        kept[Path(filename).relative_to(folder).as_posix()] = Weights(dict(tensors), metadata)

    modules: list[Any] = [sys.modules[name] for name in _WRITERS if name in sys.modules]
    written = [module.safe_save_file for module in modules]
    for module in modules:
        module.safe_save_file = keep
    try:
        yield kept
    finally:
        for module, save in zip(modules, written, strict=True):
            module.safe_save_file = save
