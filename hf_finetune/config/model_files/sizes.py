"""The sizes that a configuration asks for, against the shapes that its safetensors hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hf_finetune.config.model_files.regular import INDEX, read_object
from hf_finetune.config.model_files.values import CORRECT, COUNTS_OF_EXPERTS, COUNTS_OF_LAYERS, WIDTHS, WIDTHS_OR_NONE
from hf_finetune.errors import Problem

Shapes = Mapping[str, tuple[int, ...]]

MODEL_WEIGHTS = "model.safetensors"
# A weight may be shared by all layers, as ALBERT's are, and the smallest models for tests have few rows.
FEWEST_LAYERS = 256
MOST_LAYERS = 2_048
MOST_EXPERTS = 4_096
SMALLEST_BOUND = 65_536
# Not the sizes of weights: positions may be computed, and a window be longer than any text.
_NO_SIZES = ("max_position_embeddings", "n_positions", "n_ctx", "sliding_window", "dim")


def read_shapes(folder: Path, name: str = MODEL_WEIGHTS) -> dict[str, tuple[int, ...]]:
    """Read the shape of each weight from the headers of a folder's safetensors; {} where one cannot be read."""
    files = [name] if name != MODEL_WEIGHTS or (folder / name).exists() else _list_shards(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        path = folder / file
        if Path(file).name != file or not path.is_file():
            return {}
        try:
            with safe_open(path, framework="np") as opened:
                shapes |= {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):  # of which `locate.find_complete_file` tells more
            return {}
    return shapes


def _list_shards(folder: Path) -> list[str]:
    shards = (read_object(folder / INDEX) or {}).get("weight_map")
    return sorted({str(shard) for shard in shards.values()}) if isinstance(shards, dict) else []


def find_impossible_sizes(config: Mapping[str, Any], shapes: Shapes, shown: str) -> Iterator[Problem]:
    """Yield a problem for each size in a config.json, or in its sections, that the weights cannot have.

    A bound, so that what is built is no larger than what is stored; whether all fits exactly is seen where the model's
    class is known. Without `shapes`, as of a folder whose weights are not there, only what no model has is refused.
    """
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    bound = max(largest, SMALLEST_BOUND) if shapes and not config.get("quantization_config") else None
    for section, values in _iterate_sections(config):
        yield from _find_too_many(section, values, len(shapes), shown)
        for key in (*WIDTHS, *WIDTHS_OR_NONE):
            size = values.get(key)
            if bound is not None and key not in _NO_SIZES and isinstance(size, int) and size > bound:
                what = f"{size:,} is more than any size of its weights (at most {largest:,})"
                yield Problem(what, CORRECT, shown, key=section + key)


def _find_too_many(section: str, values: Mapping[str, Any], weights: int, shown: str) -> Iterator[Problem]:
    """Yield a problem for numbers of layers or experts that its weights cannot be of."""
    for key in COUNTS_OF_LAYERS:
        count = values.get(key)
        if isinstance(count, int) and count > (most := min(MOST_LAYERS, max(FEWEST_LAYERS, weights))):
            yield Problem(
                f"{count:,} layers are more than {weights:,} weights can be of (at most {most:,})",
                CORRECT,
                shown,
                key=section + key,
            )
    for key in COUNTS_OF_EXPERTS:
        count = values.get(key)
        if isinstance(count, int) and count > MOST_EXPERTS:
            yield Problem(f"{count:,} experts are more than any model has", CORRECT, shown, key=section + key)


def _iterate_sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the configuration itself and those of its parts, such as `text_config`, each with its prefix."""
    yield "", config
    for key, value in config.items():
        if key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            yield f"{key}.", value
