"""Which files of a folder are pushed to the Hub, and whether they are complete and as the run wrote them.

It is an allow-list: checkpoints, logs, pickles, dot files and whatever else is not named here stay behind.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.config.model_files.description import find_faults
from hf_finetune.errors import ConfigError, DataError, Problem
from hf_finetune.files import hash_file
from hf_finetune.folders import CARD, EXPORT, MANIFEST, leads_out
from hf_finetune.folders.exported import EXPORTED, SUFFIXES, read_export
from hf_finetune.models import scratch_gpt
from hf_finetune.release.hub.exports import list_exported, read_words

_CONFIGS = ("config.json", "adapter_config.json")
# The code of a ScratchGPT is pushed with its weights: https://huggingface.co/docs/transformers/custom_models
_SCRATCH = Path(scratch_gpt.__path__[0])
_CODE = {path.name for path in _SCRATCH.glob("*.py")} - {"__init__.py"}
_TEMPLATES = "additional_chat_templates"
_TEMPLATE = re.compile(rf"{_TEMPLATES}/[A-Za-z0-9_][A-Za-z0-9_.-]{{0,99}}\.jinja")

# Files that decide which model is loaded: the push removes those that the repository has and the folder lacks. With a
# stale adapter_config.json, for example, from_pretrained would load the base that it names, not the new weights.
MODEL_FILES = re.compile(
    r"(?:adapter_)?(?:config|model)\.json|generation_config\.json|base_model\.json|decision\.json"
    r"|(?:adapter_)?model(?:-\d{5}-of-\d{5})?\.safetensors|(?:adapter_)?model\.safetensors\.index\.json"
)
_TOKENIZER_FILES = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt)|merges\.txt"
    r"|(?:tokenizer|spiece|sentencepiece\.bpe)\.model|chat_template\.jinja"
)
_PAGES = re.compile(rf"{CARD}|report\.(?:html|json)|run\.yaml|manifest\.json|LICENSE(?:\.txt|\.md)?|NOTICE(?:\.txt)?")
# Both are written after the manifest, and people may edit the card.
_NOT_HASHED = (CARD, "report.html")
_CHUNK = 1 << 20
_LARGEST_PAGE = 64 << 20
# Of words: the Hub shows a card of a few hundred KB at most.
_LARGEST_CARD = 4 << 20
_LONGEST_HEADER = 100_000_000
# More takes seconds, in which a terminal would show nothing.
_LARGE = 2 << 30

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file as it will be on the Hub. All but weights are kept in memory: what is checked is what is sent."""

    name: str
    path: Path
    size: int
    sha256: str
    content: bytes | None
    """None for weights, which stay on the disk."""

    def compute_git_oid(self) -> str:
        """Compute the id of the content in git, by which the Hub lists files that are not in its large-file storage."""
        oid = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        if self.content is not None:
            oid.update(self.content)
            return oid.hexdigest()
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                oid.update(chunk)
        return oid.hexdigest()


def plan_files(folder: Path, *, card: bytes | None = None) -> list[PlannedFile]:
    """List the files of `folder` that are pushed, with their hashes; `card` replaces README.md.

    Raises `ConfigError` if the folder is not a model, and `DataError` if a file is a link out of it, is missing, or
    differs from the manifest.
    """
    paths = find_allowed_files(folder)
    _check_model(folder, paths)
    weights = sum(path.stat().st_size for name, path in paths.items() if is_weights(name))
    if weights > _LARGE:
        logger.info("reading %.1f GB of weights, to compare them with the manifest and the Hub", weights / 1e9)
    planned = {name: _plan_file(name, path, card if name == CARD else None) for name, path in paths.items()}
    _check_manifest(folder, planned)
    _check_export(folder, planned)
    _check_code(folder, planned)
    return list(planned.values())


def find_allowed_files(folder: Path) -> dict[str, Path]:
    """Find the files of `folder` that may be pushed, by their name on the Hub.

    Raises `ConfigError` if it is not a folder, and `DataError` for links out of it, or to what is not pushed.
    """
    if not folder.is_dir():
        raise ConfigError(
            Problem("is not a folder", "name the folder of a model or run", path=str(folder), code="HF634")
        )
    candidates = [*folder.iterdir(), *(folder / _TEMPLATES).glob("*.jinja")]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(candidates) if path.is_file()}
    more = (_CODE if _is_scratch(folder) else set()) | list_exported(folder)
    allowed = {name: path for name, path in found.items() if _is_allowed(name) or name in more}
    if left := sum(name.startswith(f"{_TEMPLATES}/") and name not in allowed for name in found):
        # Their names are not shown: they may have a line break in them, or anything.
        said = "not pushed: %d of %s, whose names have other signs than letters, digits, '.', '_' and '-'"
        logger.warning(said, left, folder / _TEMPLATES, extra={"code": "HF825"})
    # A foreign model folder may have `vocab.txt` -> ~/.ssh/id_ed25519; the like was found in transformers:
    # https://github.com/huggingface/transformers/pull/46279
    wrong = {name: what for name, path in allowed.items() if (what := _describe_link(path, folder, more))}
    if wrong:
        remedy = "put the file itself there, or take the link out"
        raise DataError([Problem(what, remedy, path=str(folder / name), code="HF824") for name, what in wrong.items()])
    return allowed


def _describe_link(path: Path, folder: Path, more: set[str]) -> str | None:
    """What is wrong with a file that is a link, out of `folder` or to what is not pushed; None where nothing is."""
    if leads_out(path, folder) or (path.parent != folder and leads_out(path.parent, folder)):
        return "is a link out of the folder"
    home, target = folder.resolve(), path.resolve()
    if not path.is_symlink() or not target.is_relative_to(home):
        return None
    name = target.relative_to(home).as_posix()
    return None if _is_allowed(name) or name in more else f"is a link to {name}, which is not pushed"


def find_odd_pages(folder: Path) -> list[Problem]:
    """Find the pages and records of a run that are no files, or larger than any, since they are read whole."""
    pages = [path for path in sorted(folder.iterdir()) if _PAGES.fullmatch(path.name)]
    odd = [
        Problem(
            "is no regular file, and would not go along",
            "put the file itself there, or take it out",
            str(path),
            code="HF824",
        )
        for path in pages
        if not path.is_file()
    ]
    remedy = "put it back as the run wrote it, or take it out"
    for path in filter(Path.is_file, pages):
        most = _LARGEST_CARD if path.name == CARD else _LARGEST_PAGE
        if path.stat().st_size > most:
            odd.append(Problem(f"has more than {most >> 20} MiB", remedy, path=str(path), code="HF824"))
    return odd


def read_header(path: Path) -> bytes:
    """Read what a file of weights holds beside them; of a safetensors file its length in 8 bytes, then JSON.

    Raises `DataError`.
    """
    if not is_safetensors(path.name):
        return read_words(path)
    # https://github.com/huggingface/safetensors#format
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(path.stat().st_size - 8, _LONGEST_HEADER):
            raise DataError(Problem("is not a safetensors file", "save the model again", path=str(path), code="HF501"))
        return file.read(length)


def is_weights(name: str) -> bool:
    """Whether a file of this name holds weights."""
    return is_safetensors(name) or name.endswith(SUFFIXES)


def is_safetensors(name: str) -> bool:
    return name.endswith(".safetensors")


def _is_allowed(name: str) -> bool:
    return any(kind.fullmatch(name) for kind in (MODEL_FILES, _TOKENIZER_FILES, _PAGES, _TEMPLATE))


def _is_scratch(folder: Path) -> bool:
    path = folder / "config.json"
    return path.is_file() and _read_json(path).get("model_type") == "scratch_gpt"


def _check_model(folder: Path, paths: Mapping[str, Path]) -> None:
    """Refuse a folder without a configuration or weights, or with incomplete weights."""
    configured = [name for name in _CONFIGS if name in paths]
    if not configured or not any(is_weights(name) for name in paths):
        _refuse_lost_record(folder)
        lacking = "are no weights as .safetensors" if configured else "is no config.json or adapter_config.json"
        remedy = "name the folder of a finished run, of a merged model, of an adapter or of an export"
        raise ConfigError(Problem(f"is no model: there {lacking} in it", remedy, path=str(folder), code="HF634"))
    if faults := find_faults(folder, str(folder)):
        raise DataError(faults)
    for name in filter(is_safetensors, paths):
        _check_length(paths[name])  # before it is hashed: a sparse file of a terabyte takes an hour
    for index in [name for name in paths if name.endswith(".index.json")]:
        shards = _read_shards(paths[index])
        if missing := sorted(shards - set(paths)):
            what = "is named by the index and missing"
            raise DataError(
                [Problem(what, "save the model again", path=str(folder / name), code="HF501") for name in missing]
            )


def _refuse_lost_record(folder: Path) -> None:
    """Refuse an export without its export.json: its weights would not be seen, and be said to be missing."""
    held = [name for name in EXPORTED if (folder / name).is_file()]
    if held and not (folder / EXPORT).exists():
        what = f"is missing: {held[0]} beside it is of an export, and nothing says whether it was compared"
        remedy = "put it back, or export the model again"
        raise DataError(Problem(what, remedy, path=str(folder / EXPORT), code="HF822"))


def _check_length(path: Path) -> None:
    """Raise `DataError` where a safetensors file is longer or shorter than its header says."""
    header = read_header(path)
    try:
        ends = [each["data_offsets"][1] for name, each in json.loads(header).items() if name != "__metadata__"]
        expected = 8 + len(header) + max(ends, default=0)
    except (ValueError, RecursionError, AttributeError, TypeError, LookupError) as problem:
        raise DataError(
            Problem("has a header that is none", "save the model again", path=str(path), code="HF501")
        ) from problem
    if (size := path.stat().st_size) != expected:
        what = f"has {size:,} bytes, and its header tells of {expected:,}"
        raise DataError(Problem(what, "save the model again", path=str(path), code="HF501"))


def _read_shards(index: Path) -> set[str]:
    shards = _read_json(index).get("weight_map", {})
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        what = "weight_map does not say which file has each weight"
        raise DataError(Problem(what, "save the model again", path=str(index), code="HF501"))
    return set(shards.values())


def _check_manifest(folder: Path, planned: Mapping[str, PlannedFile]) -> None:
    """Refuse files that the run did not write: the metrics in its report would be those of another model."""
    if MANIFEST not in planned:
        return
    written = _read_recorded(folder)
    remedy = "put it back, or take manifest.json and report.json out of the folder: they are about another model"
    wrong = {
        name: "is not what the run wrote" if name in planned else "is missing: the run wrote it"
        for name, sha256 in written.items()
        if name not in _NOT_HASHED and _is_allowed(name) and (name not in planned or planned[name].sha256 != sha256)
    }
    if wrong:
        raise DataError([Problem(what, remedy, path=str(folder / name), code="HF822") for name, what in wrong.items()])


def _check_export(folder: Path, planned: Mapping[str, PlannedFile]) -> None:
    """Refuse files that the export did not write: its figures, in export.json, would be those of another model."""
    written = read_export(folder).get("files", {})
    remedy = "put it back, or export the model again: export.json has the figures of what was compared"
    wrong = {
        name: "is not what the export wrote" if name in planned else "is missing: the export wrote it"
        for name, sha256 in written.items()
        if name not in planned or planned[name].sha256 != sha256
    }
    if wrong:
        raise DataError([Problem(what, remedy, path=str(folder / name), code="HF822") for name, what in wrong.items()])


def _read_recorded(folder: Path) -> dict[str, str]:
    """Read the sha256 of each file that the run wrote, by name."""
    files = _read_json(folder / MANIFEST).get("files", {})
    if not isinstance(files, dict):
        what = "files is no object"
        raise DataError(
            Problem(what, "put the manifest back as the run wrote it", path=str(folder / MANIFEST), code="HF821")
        )
    return files


def _check_code(folder: Path, planned: Mapping[str, PlannedFile]) -> None:
    """Refuse code that is neither what a run of ours has recorded nor ours as it stands: others would run it."""
    recorded = _read_recorded(folder) if MANIFEST in planned else {}
    ours = {path.name: hash_file(path) for path in _SCRATCH.glob("*.py")}
    wrong = [name for name in _CODE if name in planned and planned[name].sha256 not in (recorded.get(name), ours[name])]
    if wrong:
        what = "is not the code of hf-finetune, and whoever loads the model would run it"
        remedy = "take it out: the push of a model that was saved by this version brings its own"
        raise DataError([Problem(what, remedy, path=str(folder / name), code="HF823") for name in sorted(wrong)])


def _plan_file(name: str, path: Path, instead: bytes | None) -> PlannedFile:
    if is_weights(name):
        return PlannedFile(name, path, path.stat().st_size, hash_file(path), None)
    content = instead if instead is not None else path.read_bytes()
    return PlannedFile(name, path, len(content), hashlib.sha256(content).hexdigest(), content)


def find_local_base(folder: Path) -> str | None:
    """Return the base of the adapter in `folder` if it is a folder of this machine, which nobody else has."""
    config = folder / "adapter_config.json"
    base = str(_read_json(config).get("base_model_name_or_path")) if config.is_file() else ""
    return base if base and Path(base).expanduser().is_dir() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise DataError(Problem("is not JSON", "save the model again", path=str(path), code="HF821")) from problem
    if not isinstance(value, dict):
        raise DataError(Problem("is not a JSON object", "save the model again", path=str(path), code="HF821"))
    return value
