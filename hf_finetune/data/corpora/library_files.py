"""The files of the Python installation's standard library: read in a fixed order, never imported."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LICENSE = "PSF-2.0"

# Tests, and code with a license or a grammar of its own.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "idlelib", "lib2to3", "site-packages", "__pycache__"}
# Generated tables: long, and nothing to learn from.
_GENERATED = re.compile(
    r"auto-?generated|automatically generated|file is generated|gencodec|generated on windows", re.I
)

# Modules that are documented under another name than that of their file.
_PUBLIC_NAMES = {
    "posixpath": "os.path",
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a corpus, and the library file that it is from."""

    file: str
    values: dict[str, Any]

    def encode_line(self) -> bytes:
        """Encode the row as a line of JSONL."""
        return json.dumps(self.values, ensure_ascii=False).encode() + b"\n"


def read_library_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the relative POSIX name and the text of each library file, sorted by name."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    for name in names:
        parts = name.split("/")
        # Files that an administrator or a build adds (sitecustomize.py, _sysconfigdata_*.py) are not of the library,
        # and may hold paths of the machine.
        if parts[0].removesuffix(".py") not in sys.stdlib_module_names or _SKIPPED_FOLDERS.intersection(parts):
            continue
        # Unlike `open`, this honors the encoding that a file declares.
        with tokenize.open(folder / name) as file:
            text = file.read()
        if text.strip() and not _GENERATED.search(text[:600]):
            yield name, text


def get_public_module(file: str) -> str | None:
    """Return the name under which a file is imported; None where it is private or a program."""
    parts = file.removesuffix(".py").removesuffix("/__init__").split("/")
    name = _PUBLIC_NAMES.get(".".join(parts), ".".join(parts))
    return None if any(part.startswith("_") for part in name.split(".")) else name


def hash_order(content: str | bytes) -> int:
    """Hash content to a sort key: a pseudo-random order that is the same in every process, unlike that of `hash`."""
    data = content.encode() if isinstance(content, str) else content
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
