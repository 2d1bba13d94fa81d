"""Find what must not leave in files before they are pushed: secrets, and paths of this machine.

Both are sought in every form of `decoded`, in one pass over each file, and reported by file and line; a secret is never
shown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from huggingface_hub import get_token

from hf_finetune.environment.progress_lines import say_while
from hf_finetune.errors import DataError, Problem
from hf_finetune.release.hub.files import PlannedFile, read_header
from hf_finetune.release.hub.search.decoded import Form, list_forms
from hf_finetune.release.hub.search.home_paths import HomeRules, compile_home_rules
from hf_finetune.secrets.rules import find_secrets

# Environment variables that hold a secret, by the end of their name; short values would be found everywhere.
_LIVE = ("_TOKEN", "_API_KEY", "_SECRET", "_SECRET_KEY", "_ACCESS_KEY", "_PASSWORD")
_SHORTEST_LIVE = 16
_REMEDY = "take it out, and make it invalid where it was issued: others may have seen it"
# More takes seconds, in which a terminal would show nothing.
_LARGE = 16 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sought:
    """What is sought in a file."""

    live: Mapping[str, str] = field(default_factory=dict)
    """The secrets of this process, `{value: what it is}`."""
    homes: HomeRules | None = None


@dataclass(frozen=True)
class Places:
    """The lines of a file, from 1, with what must not leave in them."""

    secrets: dict[int, str] = field(default_factory=dict)
    """Each with the kind of one of them."""
    homes: dict[int, str] = field(default_factory=dict)
    """With a path of this machine."""


# By name and sha256: what is a path is not the same in a vocabulary as in a text.
Found = dict[tuple[str, str], Places]


def check_secrets(files: Sequence[PlannedFile]) -> Found:
    """Raise `DataError` that names each file and line with a secret in it.

    All text files are read, in every form of `decoded`, the header of weight files (tensor names and metadata), and the
    names of the files, which are not shown where they hold one. A secret is what `find_secrets` takes for one, the Hub
    token in use, or the value of a variable such as `..._TOKEN` or `..._API_KEY`. Returns all that was found: paths of
    this machine may still be taken out.
    """
    sizes = [len(file.content) for file in files if file.content is not None]
    if sum(sizes) > _LARGE:
        logger.info("searching %d MB of text for secrets and for paths of this machine", sum(sizes) // 1_000_000)
    sought = Sought(collect_live_secrets(), compile_home_rules())
    problems = [each for file in files for each in _look_at_name(file, sought)]
    found = {(file.name, file.sha256): _search_file(file, sought) for file in files} if not problems else {}
    problems = problems or [
        Problem(f"holds what looks like {kind}", _REMEDY, path=str(file.path), line=line, code="HF831")
        for file in files
        for line, kind in _list_secrets(file, found[file.name, file.sha256])
    ]
    if problems:
        raise DataError(problems)
    return found


def _look_at_name(file: PlannedFile, sought: Sought) -> Iterator[Problem]:
    """Yield what the name of `file` itself tells, as that of a template may: `ghp_....jinja`."""
    places = find_places(file.name.encode("utf-8", "surrogateescape"), sought)
    kinds = [(kind, "HF831") for kind in places.secrets.values()] + [(kind, "HF832") for kind in places.homes.values()]
    for kind, code in kinds[:1]:
        what = f"holds a file whose name has {kind} in it"
        yield Problem(what, "give it another name", path=str(file.path.parent), code=code)


def check_no_home(files: Iterable[PlannedFile], found: Found) -> None:
    """Raise `DataError` for each line that names a folder of this machine, as of a card that somebody edited.

    What is not among what was `found` is searched.
    """
    sought = Sought(homes=compile_home_rules())
    wrong = [
        Problem("holds a path of this machine", "write it as others have it", str(file.path), line, code="HF832")
        for file in files
        for line in _list_homes(file, found.get((file.name, file.sha256)) or _search_file(file, sought))
    ]
    if wrong:
        raise DataError(wrong)


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


def _list_secrets(file: PlannedFile, places: Places) -> list[tuple[int | None, str]]:
    if file.content is None:
        return [(None, f"{kind}, in its header") for kind in sorted(set(places.secrets.values()))[:1]]
    return [*sorted(places.secrets.items())]


def _list_homes(file: PlannedFile, places: Places) -> list[int | None]:
    if file.content is None:
        return [None] if places.homes else []
    return [*sorted(places.homes)]


def _search_file(file: PlannedFile, sought: Sought) -> Places:
    with say_while(f"still searching {file.name} for secrets and for paths of this machine"):
        return find_places(read_header(file.path) if file.content is None else file.content, sought, file.name)


def find_places(content: bytes, sought: Sought, name: str = "") -> Places:
    """Find the lines of `content`, of the file `name`, with what is `sought` in any of its forms."""
    places = Places()
    for form in list_forms(content):
        for kind, start, end in _search(form, sought.live):
            _note(places.secrets, form, start, end, kind)
        for start, end in sought.homes.find(form, name) if sought.homes else ():
            _note(places.homes, form, start, end, "a path of this machine")
    return places


def _note(found: dict[int, str], form: Form, start: int, end: int, kind: str) -> None:
    first, last = form.find_line(start), form.find_line(end - 1)
    # What was found in a line is found again, with what stands before it, where lines are put together.
    if found.keys().isdisjoint(range(first, last + 1)):
        found[first] = kind


def _search(form: Form, live: Mapping[str, str]) -> Iterator[tuple[str, int, int]]:
    for secret, kind in live.items():
        value, place = secret.encode("utf-8", "surrogatepass"), -1
        while (place := form.text.find(value, place + 1)) >= 0:
            yield kind, place, place + len(value)
    yield from ((each.kind, each.start, each.end) for each in find_secrets(form.text, joined=form.is_joined))
