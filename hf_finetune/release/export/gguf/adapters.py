"""A LoRA adapter alone -> one GGUF file, which llama.cpp puts over the GGUF file of its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.files.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from hf_finetune.models.gguf_folders.families import find_family, rename
from hf_finetune.models.gguf_folders.weights import put_in_pairs
from hf_finetune.release.export.gguf.writing import open_writer

PREFIX = "base_model.model."
PARTS = {".lora_A.weight": "lora_a", ".lora_B.weight": "lora_b"}
# What an adapter may have beside its two factors, and llama.cpp has no place for.
NOT_ALONE = ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias", "target_parameters")
# Factors of these are to be put over other weights than the base's.
OF_OTHER_BASES = ("pissa", "olora", "corda", "loftq")
REMEDY = "export it merged into its base: leave --adapter-only out"

Array = NDArray[np.float32]


def check_adapter(folder: Path, config: PreTrainedConfig) -> Mapping[str, Any]:
    """Read an adapter's settings. Raises `ModelError` where llama.cpp could not put it over its base alone."""
    find_family(config)
    settings = read_object(folder / ADAPTER_CONFIG) or {}
    for key in NOT_ALONE:
        if settings.get(key):
            raise _refuse(folder, f"it has {key}")
    if settings.get("bias", "none") != "none":
        raise _refuse(folder, f"it has biases of its own (bias: {settings['bias']})")
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(OF_OTHER_BASES):
        raise _refuse(folder, f"it began as {start}, which changes the base")
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118  # no mapping
            _name_factor(folder, name, config)
    return settings


def _name_factor(folder: Path, name: str, config: PreTrainedConfig) -> tuple[str, str, str]:
    """The module of a factor, llama.cpp's name for its weight, and which factor it is. Raises `ModelError`."""
    # base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight -> blk.0.attn_q.weight, lora_a
    ending = next((each for each in PARTS if name.endswith(each)), "")
    module = name.removeprefix(PREFIX).removesuffix(ending)
    theirs = rename(find_family(config), f"{module}.weight") if ending and name.startswith(PREFIX) else None
    if theirs is None or theirs.startswith("token_embd"):
        raise _refuse(folder, f"it changes {module}, which llama.cpp does not of a {config.model_type}")
    return module, theirs, PARTS[ending]


def write_adapter(path: Path, folder: Path, config: PreTrainedConfig, name: str) -> int:
    """Write the adapter in `folder`, of a base with `config`, to `path`; returns the bytes of the file.

    In float32: an adapter is small. Raises `ModelError` as `check_adapter`, and for a module that llama.cpp has no name
    for; `OSError` where the file cannot be written.
    """
    settings = check_adapter(folder, config)
    with open_writer(path, config) as writer:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        # llama.cpp scales by alpha / rank of each module; what another scale asks for is in the factors.
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings["lora_alpha"]))
        for theirs, factor in iterate_factors(folder, settings, config):
            writer.add_tensor(theirs, factor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return path.stat().st_size


def iterate_factors(folder: Path, settings: Mapping[str, Any], config: PreTrainedConfig) -> Iterator[tuple[str, Array]]:
    """Yield the factors by the names of llama.cpp, `blk.0.attn_q.weight.lora_a` (rank, in) and `lora_b` (out, rank)."""
    family = find_family(config)
    for name, value in load_file(folder / ADAPTER_WEIGHTS).items():
        module, theirs, part = _name_factor(folder, name, config)
        factor: Array = value.float().numpy()
        if part == "lora_b":
            if family.pairs:
                factor = put_in_pairs(theirs, factor, config)
            factor = factor * np.float32(_find_scale(module, factor.shape[1], settings))
        yield f"{theirs}.{part}", np.ascontiguousarray(factor)


def _find_scale(module: str, rank: int, settings: Mapping[str, Any]) -> float:
    """What peft scales a module by, over what llama.cpp does: 1 for an ordinary LoRA."""
    own = settings.get("alpha_pattern") or {}
    alpha = next((value for key, value in own.items() if _names(key, module)), settings["lora_alpha"])
    scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
    return float(scale / (settings["lora_alpha"] / rank))


def _names(key: str, module: str) -> bool:
    return module == key or module.endswith(f".{key}")


def _refuse(folder: Path, why: str) -> ModelError:
    what = f"the adapter cannot be a GGUF file of its own: {why}"
    return ModelError(Problem(what, REMEDY, path=str(folder), code="HF972"))
