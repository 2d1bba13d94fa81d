"""What is pushed can be used: weights that are numbers, and an adapter that is whole, changes something, and has its
base and tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import DataError, ModelError, Problem
from hf_finetune.release.hub.files import PlannedFile, is_safetensors

ADAPTER = "adapter_model.safetensors"


def check_weights(folder: Path, files: Sequence[PlannedFile]) -> None:
    """Raise `DataError` for weights that are NaN or infinite, and `ModelError` for an adapter that cannot be used.

    That is one that is not whole or changes nothing, and one whose base, where that is a folder of this machine, or
    whose tokenizer is another than in training.
    """
    for file in files:
        if is_safetensors(file.name):
            _check_file(file)
    if any(file.name == ADAPTER for file in files):
        _check_adapter(folder)


def _check_file(file: PlannedFile) -> None:
    from safetensors import safe_open  # with torch, which has types of 16 bits that numpy lacks

    changing, named = False, set()
    with safe_open(file.path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
            weight = tensors.get_tensor(name)
            if weight.is_floating_point() and not bool(weight.isfinite().all()):
                what = f"{name} is NaN or infinite"
                raise DataError(
                    Problem(what, "push a checkpoint from before that, or train again", str(file.path), code="HF833")
                )
            named.add(name)
            changing = changing or ("lora_A" not in name and "embedding_A" not in name and bool(weight.any()))
    if file.name != ADAPTER:
        return
    alone = sorted(name for name in named if "lora_" in name and _name_partner(name) not in named)
    if alone:
        what = f"{len(alone)} weights are missing, first {_name_partner(alone[0])}"
        raise ModelError(Problem(what, "save the adapter again", path=str(file.path), code="HF834"))
    if not changing:
        what = "changes nothing: all of its weights B are 0, as before training"
        raise ModelError(Problem(what, "push an adapter that was trained", path=str(file.path), code="HF538"))


def _name_partner(name: str) -> str:
    """`q_proj.lora_B.weight` of `q_proj.lora_A.weight`, and the other way round; any other name is its own."""
    for one, other in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
        if one in name or other in name:
            return name.replace(one, other) if one in name else name.replace(other, one)
    return name


def _check_adapter(folder: Path) -> None:
    from hf_finetune.models.files.adapter import BASE_RECORD, check_base, read_base_record
    from hf_finetune.models.tokenizer_probe import check_tokenizer_probe
    from hf_finetune.models.tokenizers import load_tokenizer

    if not (folder / BASE_RECORD).is_file():
        return
    record = read_base_record(folder)
    if os.path.isdir(record.name_or_path):  # of the Hub it has its commit
        check_base(record, folder)
    if record.tokenizer_probe is not None and (folder / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(ModelSection(path=str(folder)), needs_end=record.classifier is None)
        check_tokenizer_probe(tokenizer, record.tokenizer_probe, str(folder))
