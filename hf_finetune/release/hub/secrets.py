"""Find secrets in files before they are pushed: reported by file, line and kind, and never shown."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import get_token

from hf_finetune.errors import DataError, Problem
from hf_finetune.privacy import SECRET, find_secret_kind
from hf_finetune.release.hub.files import PlannedFile

# Environment variables that hold a secret, by the end of their name; short values would be found everywhere.
_LIVE = ("_TOKEN", "_API_KEY", "_SECRET", "_SECRET_KEY", "_ACCESS_KEY", "_PASSWORD")
_SHORTEST_LIVE = 16
_REMEDY = "take it out, and make it invalid where it was issued: others may have seen it"


def check_secrets(files: Sequence[PlannedFile]) -> None:
    """Raise `DataError` that names each file and line with a secret in it.

    All text files are read, and the header of weight files (tensor names and metadata). A secret is a text of the
    shapes in `errors.SECRETS`, the Hub token in use, or the value of a variable such as `..._TOKEN` or `..._API_KEY`.
    """
    live = collect_live_secrets()
    problems = [
        Problem(f"holds what looks like {kind}", _REMEDY, path=str(file.path), line=line)
        for file in files
        for line, kind in _find_secrets(file, live)
    ]
    if problems:
        raise DataError(problems)


def collect_live_secrets() -> dict[str, str]:
    """Collect the secrets of this process, `{value: what it is}`."""
    found = {
        value: f"the value of {name}"
        for name, value in os.environ.items()
        if name.endswith(_LIVE) and len(value) >= _SHORTEST_LIVE and not _is_path(value)
    }
    token = get_token()
    return found | ({token: "your Hugging Face token"} if token else {})


def _is_path(value: str) -> bool:
    """Whether `value` is the path of a file with the secret, as in GOOGLE_TOKEN=/run/secrets/google."""
    return value.startswith(("/", "~", "./", "../")) or os.path.exists(value)


def _find_secrets(file: PlannedFile, live: dict[str, str]) -> Iterator[tuple[int | None, str]]:
    if file.content is None:
        header = _read_header(file.path).decode("utf-8", errors="replace")
        if kind := _find_kind(header, live):
            yield None, f"{kind}, in its header"
        return
    text = file.content.decode("utf-8", errors="replace")
    # One search of the whole text first: a tokenizer.json has hundreds of thousands of lines, and nearly all are clean.
    if _find_kind(text, live) is None:
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if kind := _find_kind(line, live):
            yield number, kind


def _find_kind(text: str, live: dict[str, str]) -> str | None:
    for secret, kind in live.items():
        if secret in text:
            return kind
    return find_secret_kind(text) if SECRET.search(text) else None


def _read_header(path: Path) -> bytes:
    """Read the header of a safetensors file: its length in 8 bytes, then JSON. Raises `DataError`."""
    # https://github.com/huggingface/safetensors#format
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= path.stat().st_size - 8:
            raise DataError(Problem("is not a safetensors file", "save the model again", path=str(path)))
        return file.read(length)
