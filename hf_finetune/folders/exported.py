"""The folder of an export: what it says of itself, and whether its files are still those that were compared."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_finetune.errors import DataError, Problem
from hf_finetune.files import hash_file, is_of_kernel
from hf_finetune.folders.ownership import EXPORT
from hf_finetune.folders.record_kinds import read_record

logger = logging.getLogger(__name__)

ADAPTER_GGUF = "adapter.gguf"
# By target, what it writes beside what a model of transformers has. Files of other names are of whoever put them there.
WRITTEN = {
    "onnx": ("model.onnx", "model.onnx.data"),
    "gguf": ("model.gguf", ADAPTER_GGUF),
    "ollama": ("model.gguf", "Modelfile"),
    "llama": (),
    "vllm": (),
}
SUFFIXES = (".onnx", ".onnx.data", ".gguf")
"""Of files of weights, beside safetensors."""
EXPORTED = ("model.onnx", "model.gguf", ADAPTER_GGUF)
"""The weights of exports that are not safetensors."""
# Ollama's alone: what is written there changes nothing of what is opened here.
_NOT_OPENED = ("Modelfile",)
# Hashes and figures: some kilobytes.
_MOST_BYTES = 2**24
# More takes seconds, in which a terminal would show nothing.
_LARGE = 2 << 30
_REMEDY = (
    f"put it back as it was, or export the model again; where you have changed it yourself, take {EXPORT} out of the "
    "folder: it is about another model"
)


_hashed: dict[tuple[str, int, int, int], str] = {}
"""What this process has hashed, by path, size, time and inode: a folder is opened several times in one command."""


def read_export(folder: Path, *, shown: str | None = None) -> dict[str, Any]:
    """Read export.json; {} where `folder`, which is called `shown`, is no export of ours.

    Raises `DataError` where the file is not what an export writes.
    """
    path = folder / EXPORT
    if not path.is_file():
        return {}
    try:
        found = read_record(path, _MOST_BYTES)
        # Without a target it is another tool's file of that name.
        if isinstance(found, dict) and "target" not in found:
            return {}
        if found["target"] in WRITTEN and _are_hashes(found.get("files", {})):
            return dict(found)
    except (OSError, ValueError, LookupError, TypeError):
        pass
    what, place = "is not what an export writes", str(path) if shown is None else f"{shown}/{EXPORT}"
    raise DataError(Problem(what, "export the model again", path=place, code="HF821"))


def _are_hashes(files: Any) -> bool:
    # A name with a folder in it could be that of any file of the machine.
    return isinstance(files, dict) and all(
        isinstance(value, str) and name not in ("", "..") and Path(name).name == name for name, value in files.items()
    )


def find_altered(folder: Path, shown: str) -> list[Problem]:
    """Find the files that are not as the export in `folder` wrote them, or gone; `shown` is the folder's name.

    None where `folder` is no export, or one of a version that kept no hashes. All bytes are read, once in a process.
    Raises `DataError` as `read_export` does.
    """
    written: dict[str, str] = read_export(folder, shown=shown).get("files", {})
    opened = {name: sha256 for name, sha256 in sorted(written.items()) if name not in _NOT_OPENED}
    size = sum(each[1] for name in opened if (each := _stamp(folder / name)) is not None and each not in _hashed)
    if size > _LARGE:
        logger.info("reading %.1f GB, to compare them with %s", size / 1e9, EXPORT)
    return [Problem(what, _REMEDY, f"{shown}/{name}", code="HF977") for name, what in _iterate_altered(folder, opened)]


def _iterate_altered(folder: Path, written: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, sha256 in written.items():
        stamp = _stamp(folder / name)
        if stamp is None:
            yield name, "is missing: the export wrote it"
            continue
        try:
            found = _hashed[stamp] if stamp in _hashed else _hashed.setdefault(stamp, hash_file(folder / name))
        except OSError as problem:
            yield name, f"cannot be read ({problem.strerror})"
            continue
        if found != sha256:
            yield name, "is not what the export wrote, and compared with the run"


def _stamp(path: Path) -> tuple[str, int, int, int] | None:
    # Of a pipe, and of what the kernel shows as a file, reading may have no end.
    if not path.is_file() or is_of_kernel(path):
        return None
    status = path.stat()
    return os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino
