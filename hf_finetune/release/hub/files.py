"""Which files of a folder go to the Hub, and whether they are whole and what the run wrote.

An allow-list: whatever is not named here stays, checkpoints, logs, pickles and dot files among it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.errors import ConfigError, DataError, Problem
from hf_finetune.folders import MANIFEST
from hf_finetune.models import scratch_gpt

CARD = "README.md"
_CONFIGS = ("config.json", "adapter_config.json")
# A ScratchGPT takes its code along: https://huggingface.co/docs/transformers/custom_models
_CODE = {path.name for path in Path(scratch_gpt.__path__[0]).glob("*.py")} - {"__init__.py"}
_TEMPLATES = "additional_chat_templates"

# What decides which model loads: where the repository holds one that the folder lacks, the push removes it.
MODEL_FILES = re.compile(
    r"(?:adapter_)?(?:config|model)\.json|generation_config\.json|base_model\.json|decision\.json"
    r"|(?:adapter_)?model(?:-\d{5}-of-\d{5})?\.safetensors|(?:adapter_)?model\.safetensors\.index\.json"
)
_TOKENIZER_FILES = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt"
    r"|(?:tokenizer|spiece|sentencepiece\.bpe)\.model|chat_template\.jinja"
)
_PAGES = re.compile(rf"{CARD}|report\.(?:html|json)|run\.yaml|manifest\.json|LICENSE(?:\.txt|\.md)?|NOTICE(?:\.txt)?")
# A person may edit the card, and it and the page are written after the manifest.
_NOT_HASHED = (CARD, "report.html")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file as it will lie on the Hub. What is not weights is held as it was read: what is checked is what is sent."""

    name: str
    path: Path
    size: int
    sha256: str
    content: bytes | None
    """None for weights, which stay on the disk."""

    def git_oid(self) -> str:
        """The id that git gives a file of this content; the Hub names files by it that are not large."""
        oid = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        if self.content is not None:
            oid.update(self.content)
            return oid.hexdigest()
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                oid.update(chunk)
        return oid.hexdigest()


def planned_files(folder: Path, *, card: bytes | None = None) -> list[PlannedFile]:
    """The files of `folder` that are pushed, by name, hashed; `card` takes the place of README.md.

    Raises `ConfigError` where the folder is no model, and `DataError` where a file leads out of it, is missing or is
    not what the manifest says.
    """
    paths = allowed_files(folder)
    _check_model(folder, paths)
    planned = {name: _planned(name, path, card if name == CARD else None) for name, path in paths.items()}
    _check_manifest(folder, planned)
    return list(planned.values())


def allowed_files(folder: Path) -> dict[str, Path]:
    """Files of `folder` that may be pushed, by their name on the Hub; links out of the folder raise `DataError`."""
    if not folder.is_dir():
        raise ConfigError(Problem("is not a folder", "name the folder of a model or run", path=str(folder)))
    candidates = [*folder.iterdir(), *(folder / _TEMPLATES).glob("*.jinja")]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(candidates) if path.is_file()}
    code = _CODE if _is_scratch(folder) else set()
    allowed = {name: path for name, path in found.items() if _is_allowed(name) or name in code}
    home = folder.resolve()
    outside = [name for name, path in allowed.items() if not path.resolve().is_relative_to(home)]
    if outside:
        remedy = "put the file itself there, or take the link out"
        problems = [Problem("is a link out of the folder", remedy, path=str(folder / name)) for name in outside]
        raise DataError(problems)
    return allowed


def is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _is_allowed(name: str) -> bool:
    if name.startswith(f"{_TEMPLATES}/"):
        return True
    return any(kind.fullmatch(name) for kind in (MODEL_FILES, _TOKENIZER_FILES, _PAGES))


def _is_scratch(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and _read_json(path).get("model_type") == "scratch_gpt"


def _check_model(folder: Path, paths: Mapping[str, Path]) -> None:
    """Refuse a folder without configuration and weights, and one that lacks a part of its weights."""
    configured = [name for name in _CONFIGS if name in paths]
    if not configured or not any(is_weights(name) for name in paths):
        lacking = "weights as .safetensors" if configured else "config.json or adapter_config.json"
        remedy = "name the folder of a finished run, of a merged model or of an adapter"
        raise ConfigError(Problem(f"is no model: there is no {lacking} in it", remedy, path=str(folder)))
    for index in [name for name in paths if name.endswith(".index.json")]:
        shards = set(_read_json(paths[index]).get("weight_map", {}).values())
        if missing := sorted(shards - set(paths)):
            what = "is named by the index and missing"
            raise DataError([Problem(what, "save the model again", path=str(folder / name)) for name in missing])


def _check_manifest(folder: Path, planned: Mapping[str, PlannedFile]) -> None:
    """Refuse files that are not what the run wrote: the figures of its report would be about another model."""
    if MANIFEST not in planned:
        return
    written: dict[str, str] = _read_json(folder / MANIFEST).get("files", {})
    remedy = "put it back, or take manifest.json and report.json out of the folder: they are about another model"
    wrong = {
        name: "is not what the run wrote" if name in planned else "is missing: the run wrote it"
        for name, sha256 in written.items()
        if name not in _NOT_HASHED and _is_allowed(name) and (name not in planned or planned[name].sha256 != sha256)
    }
    if wrong:
        raise DataError([Problem(what, remedy, path=str(folder / name)) for name, what in wrong.items()])


def _planned(name: str, path: Path, instead: bytes | None) -> PlannedFile:
    if is_weights(name):
        with path.open("rb") as file:
            return PlannedFile(name, path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest(), None)
    content = instead if instead is not None else path.read_bytes()
    return PlannedFile(name, path, len(content), hashlib.sha256(content).hexdigest(), content)


def local_base(folder: Path) -> str | None:
    """The base of the adapter in `folder` where that is a folder of this machine, which nobody else has."""
    config = folder / "adapter_config.json"
    base = str(_read_json(config).get("base_model_name_or_path")) if config.is_file() else ""
    return base if base and Path(base).expanduser().is_dir() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise DataError(Problem("is not JSON", "save the model again", path=str(path))) from problem
    if not isinstance(value, dict):
        raise DataError(Problem("is not a JSON object", "save the model again", path=str(path)))
    return value
