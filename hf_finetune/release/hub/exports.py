"""The folder of an export: which of its files are pushed, and the words in those that hold its weights."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from hf_finetune.errors import DataError, Problem
from hf_finetune.folders import EXPORT
from hf_finetune.folders.exported import WRITTEN, read_export

ALL_WRITTEN = frozenset({EXPORT, *(name for names in WRITTEN.values() for name in names)})

# Of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto: ModelProto.graph, GraphProto.initializer, and the fields
# of a TensorProto that hold its numbers.
_GRAPH, _INITIALIZER, _NUMBERS = 7, 5, {4, 5, 7, 9, 10, 11}
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_LONGEST_VARINT = 10

Span = tuple[int, int]


def list_exported(folder: Path) -> frozenset[str]:
    """The names in `folder` that are pushed because it is an export; none where it is not."""
    found = read_export(folder)
    return frozenset({EXPORT, *WRITTEN[found["target"]]}) if found else frozenset()


def read_words(path: Path) -> bytes:
    """Read what a file of an export holds beside its numbers: names, metadata and texts. Raises `DataError`."""
    if path.name.endswith(".gguf"):
        return _read_gguf_words(path)
    # Beside a graph its weights lie as bare numbers.
    return _read_onnx_words(path) if path.name.endswith(".onnx") else b""


def _read_gguf_words(path: Path) -> bytes:
    from hf_finetune.models.ready_made.gguf_header import read_gguf_header  # gguf, for this file alone

    header = read_gguf_header(path)
    # The vocabulary, an array, stands in tokenizer.json as well.
    lines = [*(f"{key}: {value}" for key, value in header.metadata.items()), *header.tensors]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _read_onnx_words(path: Path) -> bytes:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            kept, place = [], 0
            for start, end in _find_numbers(data):
                kept.append(data[place:start])
                place = end
            return b"\n".join([*kept, data[place:]])
    except (ValueError, IndexError) as problem:
        what = "is not an ONNX file"
        raise DataError(Problem(what, "export the model again", path=str(path), code="HF501")) from problem


def _find_numbers(data: mmap.mmap) -> Iterator[Span]:
    """Yield where the numbers of each weight of a graph stand, in their order."""
    for graph in _iterate_fields(data, (0, len(data)), {_GRAPH}):
        for weight in _iterate_fields(data, graph, {_INITIALIZER}):
            yield from _iterate_fields(data, weight, _NUMBERS)


def _iterate_fields(data: mmap.mmap, within: Span, wanted: set[int]) -> Iterator[Span]:
    """Yield where the contents of fields of these numbers stand. Raises ValueError and IndexError for what is torn."""
    # https://protobuf.dev/programming-guides/encoding/
    place, end = within
    while place < end:
        key, place = _read_varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, place = _read_varint(data, place)
            continue
        if kind == _BYTES:
            size, place = _read_varint(data, place)
        else:
            size = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind, -1)
        if size < 0 or place + size > end:
            raise ValueError("torn")
        if number in wanted and kind == _BYTES:
            yield place, place + size
        place += size


def _read_varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(_LONGEST_VARINT):
        byte = data[place + shift]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, place + shift + 1
    raise ValueError("torn")
