"""Find secrets in files before they are pushed: reported by file, line and kind, and never shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from huggingface_hub import get_token

from hf_finetune.errors import DataError, Problem
from hf_finetune.release.hub.decoded import Form, list_forms
from hf_finetune.release.hub.files import PlannedFile, read_header
from hf_finetune.release.hub.secret_rules import find_secrets

# Environment variables that hold a secret, by the end of their name; short values would be found everywhere.
_LIVE = ("_TOKEN", "_API_KEY", "_SECRET", "_SECRET_KEY", "_ACCESS_KEY", "_PASSWORD")
_SHORTEST_LIVE = 16
_REMEDY = "take it out, and make it invalid where it was issued: others may have seen it"


def check_secrets(files: Sequence[PlannedFile]) -> None:
    """Raise `DataError` that names each file and line with a secret in it.

    All text files are read, in every form of `decoded`, and the header of weight files (tensor names and metadata). A
    secret is what `secret_rules` take for one, the Hub token in use, or the value of a variable such as `..._TOKEN` or
    `..._API_KEY`.
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
        kinds = sorted({kind for _, kind in find_places(read_header(file.path), live)})
        yield from ((None, f"{kind}, in its header") for kind in kinds[:1])
        return
    yield from find_places(file.content, live)


def find_places(content: bytes, live: dict[str, str]) -> list[tuple[int, str]]:
    """Find the lines of `content` with a secret in any of its forms, each with the kind of one of them, by line."""
    found: dict[int, str] = {}
    for form in list_forms(content):
        for kind, start, end in _search(form, live):
            first, last = form.find_line(start), form.find_line(end - 1)
            # What was found in a line is found again, with what stands before it, where lines are put together.
            if not any(line in found for line in range(first, last + 1)):
                found[first] = kind
    return sorted(found.items())


def _search(form: Form, live: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    for secret, kind in live.items():
        value, place = secret.encode("utf-8", "surrogatepass"), -1
        while (place := form.text.find(value, place + 1)) >= 0:
            yield kind, place, place + len(value)
    yield from ((each.kind, each.start, each.end) for each in find_secrets(form.text, joined=form.is_joined))
