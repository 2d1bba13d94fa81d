"""The files of the cache: written whole, listed, verified, and removed.

    KIND-KEY.arrow      tokens or rows, found by what they were made from
    tokenizer-KEY.tokenizer    the tokenizer.json of one that was trained
    KIND-KEY.npz        numbers of rows: which a split has, prints of their texts, what others share with them
    base_scores-KEY.json, sha256-KEY.txt, hub-KEY.jsonl    what a base scored, the sha256 of a file, rows of the Hub
    KIND-KEY.json       counts of the first two and of rows of the Hub, and size and sha256 of their file
    KIND-KEY.rejected.jsonl, KIND-KEY.prints.npz    lines left out of rows or of a part, and prints of its rows
    .KIND-KEY.lock      is locked by the process that makes them, for as long as it does (`holding`)

What else is there stands in `leftovers`. Nothing of the stack is imported here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from hf_finetune.cache.keys import find_own_cache
from hf_finetune.errors import (
    NO_SPACE,
    CannotWriteError,
    MachineError,
    Problem,
    advise_writing,
    find_writing_code,
)
from hf_finetune.files import write_atomically

BESIDE = (".json", ".rejected.jsonl", ".prints.npz")
"""The endings of the files that belong to that of an entry."""

KINDS = {
    "rows": "rows that were read",
    "hub": "rows of a data set of the Hub",
    "chosen": "which rows each split has",
    "overlap": "rows that splits share",
    "prints": "prints of training rows",
    "conversations": "tokenized conversations",
    "bins": "packed conversations",
    "blocks": "tokenized documents",
    "windows": "tokenized documents to evaluate",
    "labelled": "tokenized rows with labels",
    "part": "part of a stream",
    "tokenizer": "trained tokenizer",
    "base_scores": "scores of a base model",
    "sha256": "sha256 of a data file",
}
"""What a user is told that an entry is."""

_SHA256 = re.compile("[0-9a-f]{64}")
_ENTRY = re.compile(
    r"([a-z_]+)-[0-9a-f]{32}\.(?:arrow|tokenizer|npz)|(base_scores)-[0-9a-f]{32}\.json"
    r"|(sha256)-[0-9a-f]{32}\.txt|(hub)-[0-9a-f]{32}\.jsonl"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the cache."""

    path: Path
    """Of the file that is there last: of Arrow, of numbers, or a tokenizer."""
    kind: str
    size: int
    """Bytes of its files."""
    used: float
    """When it was made or loaded last, in seconds since 1970."""

    @property
    def sidecar(self) -> Path:
        """The file of its counts."""
        return self.path.with_suffix(".json")


def find_kind(path: Path) -> str | None:
    """The kind of the entry whose own file this is, by its name; None for any other file."""
    found = _ENTRY.fullmatch(path.name)
    return None if found is None else next(kind for kind in found.groups() if kind)


def list_entries(folder: Path) -> list[Entry]:
    """List the entries of the cache, the one that was used last first. Raises OSError."""
    entries = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if kind := find_kind(path):
            with suppress(FileNotFoundError):  # it was removed meanwhile
                facts, others = path.stat(), [path.with_suffix(ending) for ending in BESIDE]
                beside = sum(other.stat().st_size for other in others if other != path and other.exists())
                entries.append(Entry(path, kind, facts.st_size + beside, facts.st_mtime))
    return sorted(entries, key=lambda entry: (-entry.used, entry.path.name))


def was_used_since(began: float) -> bool:
    """Whether an entry was made or loaded since `began`, in seconds since 1970; False where that cannot be seen."""
    with suppress(OSError):
        return any(entry.used >= began for entry in list_entries(find_own_cache()))
    return False


def choose_to_remove(entries: list[Entry], *, older_than: float | None, to_size: int | None, now: float) -> list[Entry]:
    """Choose what was not used for `older_than` seconds, and what was used longest ago until `to_size` bytes stay."""
    # Of 3, 4 and 1 bytes, used in this order from the last to the first, 5 bytes keep the first alone.
    sizes = accumulate(entry.size for entry in entries)
    return [
        entry
        for entry, until in zip(entries, sizes, strict=True)
        if (older_than is not None and now - entry.used > older_than) or (to_size is not None and until > to_size)
    ]


def remove_entry(entry: Entry) -> None:
    """Remove an entry. A run that reads it goes on reading where the system keeps open files. Raises OSError."""
    remove_files(entry.path)


def remove_files(path: Path) -> None:
    """Remove the file of an entry and what belongs to it. Raises OSError."""
    path.unlink(missing_ok=True)  # first: without it the counts are of nothing
    for ending in BESIDE:
        path.with_suffix(ending).unlink(missing_ok=True)


def mark_used(path: Path) -> None:
    """Note that an entry is used now: those that were used last are the last to be removed."""
    with suppress(OSError):  # a cache of others, which can be read only
        os.utime(path)


def write_sidecar(path: Path, counts: Mapping[str, Any], size: int, sha256: str) -> None:
    """Write the counts of an entry, before its own file: with that it counts as complete. Raises OSError."""
    facts = {"counts": counts, "size": size, "sha256": sha256}
    write_atomically(path.with_suffix(".json"), json.dumps(facts), private=True)


def read_counts(path: Path) -> dict[str, Any] | None:
    """The counts of an entry whose file has the bytes that were written; None where it has others, or is not there.

    Other content of the same size is found by `is_damaged` alone, which reads the whole. Raises OSError.
    """
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        counts: dict[str, Any] = facts["counts"]
        return counts if path.stat().st_size == facts["size"] else None
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return None


def write_entry(path: Path, content: bytes, counts: Mapping[str, Any]) -> None:
    """Write an entry whose content is at hand as a whole. Raises OSError."""
    write_sidecar(path, counts, len(content), hashlib.sha256(content).hexdigest())
    write_atomically(path, content, private=True)


def read_entry(path: Path) -> tuple[bytes, dict[str, Any]] | None:
    """Content and counts of an entry of `write_entry`; None where there is none, or one that is not as it was written.

    Raises OSError where it cannot be read.
    """
    try:
        content, facts = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
        return (content, facts["counts"]) if hashlib.sha256(content).hexdigest() == facts["sha256"] else None
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return None


def explain_removed(path: Path) -> MachineError:
    """Say that an entry was taken away between its being written and its being read."""
    what = "a file of the cache was removed or changed as soon as it was written"
    return MachineError(Problem(what, "start the run again", str(path), code="HF090"))


def explain_unwritten(what: str, error: OSError) -> CannotWriteError:
    """Say that the cache of something cannot be written, and what helps."""
    # Against a limit of the system, or its permissions, room does not help.
    room = error.errno is None or error.errno in NO_SPACE
    remedy = "make room there, or set HF_DATASETS_CACHE" if room else advise_writing(error.errno)
    said = f"the cache of {what} cannot be written ({error.strerror or error})"
    return CannotWriteError(Problem(said, remedy, str(find_own_cache()), code=find_writing_code(error.errno)))


def is_damaged(entry: Entry) -> bool:
    """Whether the file of an entry is not as it was written, or its counts are missing. Raises OSError."""
    if entry.kind in ("base_scores", "sha256"):  # which have no counts: whoever reads them looks at all of it
        content = entry.path.read_text(errors="replace").strip()
        return not (content[:1] + content[-1:] == "{}" or _SHA256.fullmatch(content))
    if entry.path.suffix == ".npz":  # a zip, which has sums of its own
        try:
            with zipfile.ZipFile(entry.path) as file:
                return file.testzip() is not None
        except zipfile.BadZipFile:
            return True
    try:
        expected = json.loads(entry.sidecar.read_text())["sha256"]
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        return True
    with entry.path.open("rb") as file:
        return bool(hashlib.file_digest(file, "sha256").hexdigest() != expected)
