"""Secrets in files that are about to be pushed: named by file, line and kind, and never shown."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import get_token

from hf_finetune.errors import SECRET, DataError, Problem, kind_of_secret
from hf_finetune.release.hub.files import PlannedFile

# Environment variables that hold what nobody else may know, by how their names end.
_LIVE = ("_TOKEN", "_API_KEY", "_SECRET", "_SECRET_KEY", "_ACCESS_KEY", "_PASSWORD")
_SHORTEST_LIVE = 16
_REMEDY = "take it out, and make it invalid where it was issued: others may have seen it"


def check_secrets(files: Sequence[PlannedFile]) -> None:
    """Raise `DataError` that names each file and line with a secret in it.

    Read are all text files, and of weights the header: names and metadata. Sought are the shapes of `errors.SECRETS`,
    the Hub token in use, and the values of environment variables such as `..._TOKEN` and `..._API_KEY`.
    """
    live = live_secrets()
    problems = [
        Problem(f"holds what looks like {kind}", _REMEDY, path=str(file.path), line=line)
        for file in files
        for line, kind in _secrets_in(file, live)
    ]
    if problems:
        raise DataError(problems)


def live_secrets() -> dict[str, str]:
    """What this process could leak, each with what it is."""
    found = {
        value: f"the value of {name}"
        for name, value in os.environ.items()
        if name.endswith(_LIVE) and len(value) >= _SHORTEST_LIVE and not _is_path(value)
    }
    token = get_token()
    return found | ({token: "your Hugging Face token"} if token else {})


def _is_path(value: str) -> bool:
    """Of a file with a secret in it; a secret may have slashes, too."""
    return value.startswith(("/", "~", "./", "../")) or os.path.exists(value)


def _secrets_in(file: PlannedFile, live: dict[str, str]) -> Iterator[tuple[int | None, str]]:
    if file.content is None:
        header = _header(file.path).decode("utf-8", errors="replace")
        if kind := _kind(header, live):
            yield None, f"{kind}, in its header"
        return
    text = file.content.decode("utf-8", errors="replace")
    if _kind(text, live) is None:  # one pass over the whole: files are large and nearly always clean
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if kind := _kind(line, live):
            yield number, kind


def _kind(text: str, live: dict[str, str]) -> str | None:
    for secret, kind in live.items():
        if secret in text:
            return kind
    return kind_of_secret(text) if SECRET.search(text) else None


def _header(path: Path) -> bytes:
    """The header of a safetensors file: 8 bytes that say how long it is, then JSON."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= path.stat().st_size - 8:
            raise DataError(Problem("is no safetensors file", "save the model again", path=str(path)))
        return file.read(length)
