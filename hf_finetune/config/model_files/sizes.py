"""The sizes that a configuration asks for, against the shapes that its safetensors hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from hf_finetune.config.model_files.regular import INDEX, WEIGHTS, read_object
from hf_finetune.config.model_files.values import CORRECT, COUNTS_OF_EXPERTS, COUNTS_OF_LAYERS, WIDTHS, WIDTHS_OR_NONE
from hf_finetune.config.reading.document import format_value
from hf_finetune.errors import Problem
from hf_finetune.files import MAX_HEADER_BYTES

Shapes = Mapping[str, tuple[int, ...]]


class Stored(NamedTuple):
    """A weight as the header of its file describes it."""

    shape: tuple[int, ...]
    dtype: str
    """In the words of safetensors: "F32", "BF16", "U8"."""


MODEL_WEIGHTS = "model.safetensors"
# A weight may be shared by all layers, as ALBERT's are, and the smallest models for tests have few rows.
FEWEST_LAYERS = 256
MOST_LAYERS = 2_048
MOST_EXPERTS = 4_096
SMALLEST_BOUND = 65_536
# A head that is not stored is drawn at random, for the labels of the rows: a configuration without one says 2 or 3.
MOST_LABELS = 65_536
FEW_LABELS = 1_000
LABEL_MAPS = ("id2label", "label2id")
# Published models have up to 140,000 weights, of a million numbers each; each costs a library a tenth of a millisecond.
MOST_SMALL_WEIGHTS = 10_000
SMALL_WEIGHT = 1_000
"""Bytes."""
NUMBERS_IN_A_BYTE = 8
"""Of weights that are stored quantized, at most."""
# What weights are stored as that are not quantized; whole numbers of 64 bits are positions.
PLAIN = frozenset({"F64", "F32", "F16", "BF16", "BOOL", "I64"})
WHOLE = frozenset({"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"})
# Not the sizes of weights: positions may be computed, and a window be longer than any text.
_NO_SIZES = ("max_position_embeddings", "n_positions", "n_ctx", "sliding_window", "dim")


def read_weights(folder: Path, name: str = MODEL_WEIGHTS) -> dict[str, Stored]:
    """Read what the headers of a folder's safetensors say of each weight; {} where one cannot be read."""
    files = [name] if name != MODEL_WEIGHTS or (folder / name).exists() else _list_shards(folder)
    weights: dict[str, Stored] = {}
    for file in files:
        path = folder / file
        if Path(file).name != file or not path.is_file():
            return {}
        try:
            with safe_open(path, framework="np") as opened:
                slices = ((key, opened.get_slice(key)) for key in opened.keys())  # noqa: SIM118
                weights |= {key: Stored(tuple(part.get_shape()), part.get_dtype()) for key, part in slices}
        except (SafetensorError, OSError):  # of which `locate.find_complete_file` tells more
            return {}
    return weights


def _list_shards(folder: Path) -> list[str]:
    shards = (read_object(folder / INDEX) or {}).get("weight_map")
    return sorted({str(shard) for shard in shards.values()}) if isinstance(shards, dict) else []


def find_impossible_sizes(config: Mapping[str, Any], shapes: Shapes, shown: str) -> Iterator[Problem]:
    """Yield a problem for each size in a config.json, or in its sections, that the weights cannot have.

    A bound, so that what is built is no larger than what is stored; whether all fits exactly is seen where the model's
    class is known. Without `shapes`, as of a folder whose weights are not there, only what no model has is refused.
    """
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    packed = NUMBERS_IN_A_BYTE if config.get("quantization_config") else 1
    bound = max(largest * packed, SMALLEST_BOUND) if shapes else None
    rows = {shape[0] for shape in shapes.values() if shape}
    for section, values in iterate_sections(config):
        yield from _find_too_many(section, values, len(shapes), shown)
        yield from find_too_many_labels(section, values, rows, shown)
        for key in (*WIDTHS, *WIDTHS_OR_NONE):
            size = values.get(key)
            if bound is not None and key not in _NO_SIZES and isinstance(size, int) and size > bound:
                what = f"{size:,} is more than any size of its weights (at most {largest:,})"
                yield Problem(what, CORRECT, shown, key=section + key, code="HF503")


def find_too_many_labels(section: str, values: Mapping[str, Any], rows: set[int], shown: str) -> Iterator[Problem]:
    """Yield a problem for labels of which no weight can be the head; `rows` are those of all weights.

    transformers (5.23) makes two maps of `num_labels` as soon as a configuration is read: a kilobyte a label.
    """
    given = {key: len(each) for key in LABEL_MAPS if isinstance(each := values.get(key), dict)}
    if isinstance(number := values.get("num_labels"), int):
        given["num_labels"] = number
    for key, count in given.items():
        if count <= (FEW_LABELS if rows else MOST_LABELS) or count in rows:
            continue
        why = "need a head of as many rows, which no weight has" if rows else "are more than any model has"
        yield Problem(f"{count:,} labels {why}", CORRECT, shown, key=section + key, code="HF503")


def find_small_weights(folder: Path, shown: str) -> Iterator[Problem]:
    """Yield a problem for weights without number, by which a short header takes a library minutes."""
    # By a look at the bytes: to read 400,000 weights as such takes seconds and 800 MiB.
    for path in sorted(folder.glob(f"*{WEIGHTS}")):
        with path.open("rb") as file:
            length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES)
            count = file.read(length).count(b'"data_offsets"')
        if count > MOST_SMALL_WEIGHTS and path.stat().st_size - length < count * SMALL_WEIGHT:
            what = f"has {count:,} weights, and hardly a number in each"
            yield Problem(
                what, "copy the model's folder again, or use another model", f"{shown}/{path.name}", code="HF502"
            )


def find_false_quantization(config: Mapping[str, Any], weights: Mapping[str, Stored], place: str) -> Iterator[Problem]:
    """Yield a problem for weights that are said to be quantized and are plain numbers.

    Each library fails of that in its own way, some at the first forward pass, and some quantize them unasked.
    """
    said = config.get("quantization_config")
    if said is None or not weights or any(stored.dtype not in PLAIN for stored in weights.values()):
        return
    method = said.get("quant_method", "a method without a name") if isinstance(said, dict) else said
    what = f"says that its weights are quantized ({format_value(method)}), and they are plain numbers"
    remedy = "take the key out in a copy of the model; a run quantizes by model.load_in_4bit or model.load_in_8bit"
    yield Problem(what, remedy, place, key="quantization_config", code="HF505")


def find_whole_numbers(weights: Mapping[str, Stored], place: str) -> Iterator[Problem]:
    """Yield a problem for an adapter's first weight of whole numbers, of which it has none."""
    wrong = ((name, stored.dtype) for name, stored in weights.items() if stored.dtype in WHOLE)
    for name, dtype in islice(wrong, 1):
        what = f"{format_value(name)} has whole numbers ({dtype}), and an adapter computes with others"
        yield Problem(what, "copy the adapter's folder again", place, code="HF505")


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
                code="HF503",
            )
    for key in COUNTS_OF_EXPERTS:
        count = values.get(key)
        if isinstance(count, int) and count > MOST_EXPERTS:
            yield Problem(
                f"{count:,} experts are more than any model has", CORRECT, shown, key=section + key, code="HF503"
            )


def iterate_sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the configuration itself and those of its parts, such as `text_config`, each with its prefix."""
    # As deep as they go: transformers makes a configuration of each, also of those inside of others.
    rest: list[tuple[str, Mapping[str, Any]]] = [("", config)]
    while rest:
        prefix, section = rest.pop()
        yield prefix, section
        skipped = (*LABEL_MAPS, "quantization_config")
        inside = ((key, each) for key, each in section.items() if key not in skipped and isinstance(each, dict))
        rest += [(f"{prefix}{key}.", each) for key, each in inside]
