"""What a configuration asks for, against what the weight files hold, before any of it takes memory."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.config.model_files.description import CONFIG
from hf_finetune.config.model_files.sizes import WHOLE, Stored, read_weights
from hf_finetune.config.model_files.values import CORRECT
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.files.config_faults import build_empty
from hf_finetune.models.files.locate import find_weight_files

# Of what a folder need not hold: a new head, a pooler, positions that are computed. In numbers, 64 MiB as float32.
MOST_NEW = 2**24
# Masks and tables of positions, which are computed when a model is made: those of 16,384 x 16,384 positions.
MOST_COMPUTED = 2**28
NUMBERS_IN_A_BYTE = 8
"""Of weights that are stored quantized, at most."""
SHAPES_SHOWN = 3


def check_held(auto_class: Any, name: str, commit: str | None, config: PreTrainedConfig) -> None:
    """Raise `ModelError` where a model of `config` would be more than the files of `name`, a folder or Hub id, hold.

    The model is built without memory (on the meta device). What is missing by name is said once it is loaded
    (`refuse_missing_weights`); here is seen that it is not more than the files could be of.
    """
    files = find_weight_files(name, commit)
    if not files:
        return
    stored = {key: each for file in files for key, each in read_weights(file.parent, file.name).items()}
    held = {key: each.shape for key, each in stored.items()}
    built = build_empty(auto_class, name, commit, config)
    place = str(Path(name, CONFIG))
    if getattr(config, "quantization_config", None) is None:
        if wrong := _find_other_shapes(built, held):
            raise ModelError(Problem(f"does not fit its weights: {wrong}", CORRECT, path=place, code="HF503"))
        if (whole := _find_whole_numbers(built, stored)) is not None:
            what = f"{whole} has whole numbers ({stored[whole].dtype}) where the model computes with others"
            raise ModelError(
                Problem(what, "copy the model's folder again, or use another model", path=name, code="HF505")
            )
    asked, most = built.num_parameters(), 2 * sum(map(prod, held.values())) + MOST_NEW
    if getattr(config, "quantization_config", None) is not None:
        most = NUMBERS_IN_A_BYTE * sum(file.stat().st_size for file in files) + MOST_NEW
    if asked > most:
        what = f"asks for {asked:,} parameters, and the files hold {sum(map(prod, held.values())):,}"
        raise ModelError(Problem(what, CORRECT, path=place, code="HF503"))
    computed = sum(buffer.numel() for buffer in built.buffers())
    if computed > MOST_COMPUTED:
        what = f"asks for tables of {computed:,} numbers, which are computed when the model is made"
        raise ModelError(Problem(what, CORRECT, path=place, code="HF503"))


def _find_other_shapes(built: PreTrainedModel, held: Mapping[str, tuple[int, ...]]) -> str:
    """Name the first weights of the body that have one shape in the files and another in the model; "" for none."""
    # The head of a classifier is made anew for the labels of the rows.
    prefix = f"{built.base_model_prefix}."
    within = {key: value for key, value in built.state_dict().items() if key.startswith(prefix)}
    wrong = [
        f"{key} is {_format(held[key])} there and {_format(value.shape)} by {CONFIG}"
        for key, value in within.items()
        if key in held and tuple(value.shape) != held[key]
    ]
    more = f", and {len(wrong) - SHAPES_SHOWN} more" if len(wrong) > SHAPES_SHOWN else ""
    return ", ".join(wrong[:SHAPES_SHOWN]) + more


def _find_whole_numbers(built: PreTrainedModel, stored: Mapping[str, Stored]) -> str | None:
    """The first weight that is stored as whole numbers, which transformers (5.23) would convert as they stand."""
    # A model of a base may be stored without the prefix that the one with a head has.
    floats = {key for key, value in built.state_dict().items() if value.is_floating_point()}
    names = (key for key, each in stored.items() if each.dtype in WHOLE)
    return next((key for key in names if not floats.isdisjoint((key, f"{built.base_model_prefix}.{key}"))), None)


def _format(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
