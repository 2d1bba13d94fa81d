"""The header of a GGUF file, read to its end before a library opens the file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from hf_finetune.errors import ModelError, Problem
from hf_finetune.files import is_of_kernel

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
# Of the value types of fixed size: what struct calls them.
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# Of no published model; a file that says more was written to keep its reader busy.
MOST_ENTRIES = 1_000_000
MOST_ITEMS = 16_000_000
MOST_DIMENSIONS = 8
LONGEST_TEXT = 16_000_000
DEFAULT_ALIGNMENT = 32
MOST_UNUSED = 2**20
"""Bytes between two tensors, or behind them."""
VOCABULARY = "tokenizer.ggml."

AGAIN = "copy or download it again"

Value = int | float | bool | str


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    metadata: Mapping[str, Value]
    """By key; of an array only how many items it has, in `lengths`."""
    lengths: Mapping[str, int]
    tensors: Mapping[str, int]
    """The number of elements of each tensor."""
    types: Mapping[str, str]
    """How each tensor is stored: `Q4_1`, `F32` ..."""

    @property
    def architecture(self) -> str:
        """The model's kind in the words of llama.cpp, such as `llama`."""
        return str(self.metadata["general.architecture"])

    def text(self, key: str) -> str | None:
        """The text under `key`; None where there is none."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None


class _Torn(Exception):
    """The file ends before its header says that it does, or its header makes no sense: (what, remedy)."""


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of the GGUF file `path`, and see that all of its tensors are in the file.

    Raises `ModelError` for what is no GGUF file, is cut off, or is of a kind that transformers does not read: of
    another byte order, of version 1, or one part of several. Time and memory are bounded by the size of the file, as
    those of gguf 0.19 are not: its reader counts to any number that a file names.
    """
    if is_of_kernel(path) or not (path.is_file() or path.is_dir()):  # opening a pipe would wait for ever
        raise ModelError(Problem("is no regular file", "name a GGUF file", path=str(path), code="HF002"))
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise _Torn("is empty", AGAIN)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read_header(data)
    except _Torn as problem:
        what, remedy = problem.args
        raise ModelError(Problem(what, remedy, path=str(path), code="HF561")) from None
    except (struct.error, OverflowError):  # there are no bytes where the next number should be
        raise ModelError(Problem("is cut off within its header", AGAIN, path=str(path), code="HF561")) from None
    except OSError as problem:
        what = f"cannot be read ({problem.strerror or problem})"
        raise ModelError(Problem(what, "name a GGUF file that you may read", path=str(path), code="HF002")) from problem


def _read_header(data: mmap.mmap) -> GgufHeader:
    _check_kind(data)
    tensor_count, entry_count = struct.unpack_from("<QQ", data, 8)
    if max(tensor_count, entry_count) > MOST_ENTRIES:
        raise _Torn(f"says that it holds {max(tensor_count, entry_count):,} entries, which no model has", AGAIN)
    metadata: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    place = 24
    for _ in range(entry_count):
        key, place = _read_text(data, place)
        if key in metadata or key in lengths:
            raise _Torn(f"says twice what {key!r} is", AGAIN)
        (kind,) = struct.unpack_from("<I", data, place)
        if kind == ARRAY:
            lengths[key], place = _skip_array(data, place + 4)
        else:
            metadata[key], place = _read_value(data, place + 4, kind)
    _check_metadata(metadata)
    _check_vocabulary(metadata, lengths)
    tensors, types, place = _read_tensors(data, place, tensor_count)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise _Torn(f"aligns its tensors to {alignment!r} bytes, which is no power of two", AGAIN)
    # Upwards: behind 1,001 bytes of header the tensors begin at 1,024.
    _check_places(tensors, -(-place // alignment) * alignment, alignment, len(data))
    return GgufHeader(metadata, lengths, {name: count for name, (count, *_) in tensors.items()}, types)


def _check_kind(data: mmap.mmap) -> None:
    begin = data[:8]
    if begin[:4] != MAGIC:
        shown = begin[:4].decode("ascii", "backslashreplace")
        raise _Torn(f"is no GGUF file: it begins with {shown!r}, not with 'GGUF'", "name a file that llama.cpp reads")
    (version,) = struct.unpack_from("<I", begin, 4)
    if version not in VERSIONS and int.from_bytes(begin[4:], "big") in VERSIONS:
        remedy = "swap its bytes first, with gguf-convert-endian of the package gguf"
        raise _Torn("is big-endian, written for machines that store numbers the other way round", remedy)
    if version not in VERSIONS:
        raise _Torn(f"is of version {version} of the format; 2 and 3 are read", "download a newer file of the model")


def _check_metadata(metadata: Mapping[str, Value]) -> None:
    parts = metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        number = metadata.get("split.no", 0)
        which = f"part {number + 1}" if isinstance(number, int) else "a part"
        what = f"is {which} of a model in {parts} files, and transformers reads one"
        raise _Torn(what, "join them with `llama-gguf-split --merge` of llama.cpp")
    if not isinstance(metadata.get("general.architecture"), str):
        raise _Torn(
            "does not say of what architecture it is", "it may be an adapter or a part of a model: name a whole one"
        )


def _check_vocabulary(metadata: Mapping[str, Value], lengths: Mapping[str, int]) -> None:
    """See that each token has a score and a kind, where there are any, and that the named ids are of tokens."""
    tokens = lengths.get(f"{VOCABULARY}tokens")
    if tokens is None:
        return
    for name in ("scores", "token_type"):
        if (count := lengths.get(VOCABULARY + name, tokens)) != tokens:
            raise _Torn(f"has {tokens:,} tokens, and {VOCABULARY}{name} has {count:,}", AGAIN)
    for key, value in metadata.items():
        if not (key.startswith(VOCABULARY) and key.endswith("_token_id")):
            continue
        if not isinstance(value, int) or not 0 <= value < tokens:
            raise _Torn(f"has {tokens:,} tokens, and {key} is {value!r}", AGAIN)


def _check_places(tensors: Mapping[str, tuple[int, int, int]], start: int, alignment: int, length: int) -> None:
    """See that the tensors stand in the file one behind another, and fill it."""
    end = start
    for name, (_, offset, size) in sorted(tensors.items(), key=lambda item: item[1][1:]):
        if offset % alignment:
            raise _Torn(f"has {name} at {offset:,}, which is no multiple of {alignment:,}", AGAIN)
        if start + offset < end:  # more in memory than in the file
            raise _Torn(f"has {name} where another tensor is", AGAIN)
        if start + offset - end >= alignment + MOST_UNUSED:
            raise _Torn(_explain_room(length, start + offset) or f"has nothing before {name}, for many bytes", AGAIN)
        end = start + offset + size
    if (what := _explain_room(length, end)) is not None:
        raise _Torn(what, AGAIN)


def _explain_room(length: int, end: int) -> str | None:
    if end > length:
        return f"is cut off: it has {length:,} bytes of {end:,}"
    if length - end > MOST_UNUSED:
        return f"has {length - end:,} bytes behind its last tensor"
    return None


def _read_tensors(
    data: mmap.mmap, place: int, count: int
) -> tuple[dict[str, tuple[int, int, int]], dict[str, str], int]:
    """Elements, offset and bytes of each tensor; how each is stored; and the place behind their list."""
    tensors: dict[str, tuple[int, int, int]] = {}
    types: dict[str, str] = {}
    for _ in range(count):
        name, place = _read_text(data, place)
        (dimensions,) = struct.unpack_from("<I", data, place)
        if name in tensors:
            raise _Torn(f"holds {name!r} twice", AGAIN)
        if dimensions > MOST_DIMENSIONS:
            raise _Torn(f"has a tensor of {dimensions:,} dimensions", AGAIN)
        # "<" also leaves out padding: QIQ are 20 bytes, and would be 24 without it.
        *shape, kind, offset = struct.unpack_from(f"<{dimensions}QIQ", data, place + 4)
        place += 4 + 8 * dimensions + 12
        if 0 in shape:
            raise _Torn(f"has no element in {name}, which is {' x '.join(map(str, shape))}", AGAIN)
        try:
            stored = GGMLQuantizationType(kind)
        except ValueError:
            what = f"stores {name} as type {kind}, which gguf does not know"
            raise _Torn(what, "name a file of a usual type, such as Q4_K_M or Q8_0") from None
        block, size = GGML_QUANT_SIZES[stored]
        if shape and shape[0] % block:
            raise _Torn(f"stores rows of {shape[0]:,} in {name} as {stored.name}, in blocks of {block}", AGAIN)
        # Q4_1 has 32 elements in 20 bytes: a matrix of 64 x 32 is 64 blocks, 1,280 bytes.
        tensors[name] = prod(shape), offset, prod(shape) // block * size
        types[name] = stored.name
    return tensors, types, place


def _read_value(data: mmap.mmap, place: int, kind: int) -> tuple[Value, int]:
    """One value that is no array, and the place behind it."""
    if kind == STRING:
        return _read_text(data, place)
    if kind not in FORMATS:
        raise _Torn(f"has a value of the unknown type {kind}", AGAIN)
    (value,) = struct.unpack_from(f"<{FORMATS[kind]}", data, place)
    return value, place + struct.calcsize(FORMATS[kind])


def _skip_array(data: mmap.mmap, place: int) -> tuple[int, int]:
    """The number of items of an array, and the place behind it."""
    kind, count = struct.unpack_from("<IQ", data, place)
    place += 12
    if count > MOST_ITEMS or (kind not in FORMATS and kind != STRING):
        raise _Torn(f"has a list of {count:,} values of the type {kind}, which no model has", AGAIN)
    if kind == STRING:
        for _ in range(count):
            # The words of a vocabulary; each takes its 8 bytes, so that no count outlasts the file.
            _, place = _read_text(data, place)
    else:
        place += count * struct.calcsize(FORMATS[kind])
    if place > len(data):
        raise _Torn("is cut off within its header", AGAIN)
    return count, place


def _read_text(data: mmap.mmap, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, place)
    if length > LONGEST_TEXT:
        raise _Torn(f"has a text of {length:,} bytes in its header, which no model has", AGAIN)
    end = place + 8 + length
    if end > len(data):
        raise _Torn("is cut off within its header", AGAIN)
    try:
        return data[place + 8 : end].decode(), end
    except UnicodeDecodeError:
        raise _Torn("has a text in its header that is not UTF-8", AGAIN) from None
