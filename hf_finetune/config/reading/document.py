"""The settings as written in the run file and on the command line: values, their places, and the problems found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_finetune.errors import Problem

Key = tuple[str | int, ...]

COMMAND_LINE = "command line"
MAX_VALUE_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the run file, or the command line (`line` is None)."""

    path: str
    line: int | None


@dataclass(slots=True)
class RunDocument:
    """The settings as written, and the problems and notes that each stage of `load_run` adds."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[Key] = field(default_factory=set)
    notes: list[Problem] = field(default_factory=list)

    def find_place(self, key: Key) -> Place:
        """Where `key` is written, else the nearest section around it, else the first line of the file."""
        for length in range(len(key), 0, -1):
            if (place := self.places.get(key[:length])) is not None:
                return place
        return Place(self.path, 1 if self.path else None)

    def refuse(self, key: Key, what: str, remedy: str = "", *, code: str, place: Place | None = None) -> None:
        """Add a problem of `key`, by default with the place where it is written."""
        place = place or self.find_place(key)
        self.refused.add(key)
        self.problems.append(Problem(what, remedy, place.path, place.line, format_key_path(key), code=code))

    def note(self, key: Key, text: str, *, code: str) -> None:
        """Add a warning about `key` that is logged once the whole run has been accepted."""
        place = self.find_place(key)
        self.notes.append(Problem(text, "", place.path, place.line, format_key_path(key), code=code))

    def is_refused(self, *keys: str) -> bool:
        """Whether one of `keys` ("section.key"), or a section around it or a value inside it, has a problem already."""
        wanted = [tuple(key.split(".")) for key in keys]
        return any(_is_related(key, refused) for key in wanted for refused in self.refused)

    def contains(self, key: str) -> bool:
        """Whether `key` ("section.key") was given, on the command line or in the file."""
        return tuple(key.split(".")) in self.places


def _is_related(key: Key, other: Key) -> bool:
    # ("data",) and ("data", "train") are related, ("data", "train") and ("data", "test") are not.
    shared = min(len(key), len(other))
    return key[:shared] == other[:shared]


def refuse_given(
    document: RunDocument,
    section: str,
    settings: Any,
    names: Sequence[str],
    what: str,
    remedy: str = "leave it out",
    *,
    code: str = "HF608",
) -> None:
    """Refuse settings that a run does not read, unless they have their default value, as all have in `run.yaml`.

    `code` is that of settings which belong to another recipe.
    """
    for name in names:
        given = getattr(settings, name) != type(settings).model_fields[name].default
        if given and not document.is_refused(f"{section}.{name}"):
            document.refuse((section, name), what, remedy, code=code)


def format_key_path(key: Key) -> str:
    """Format `("data", "train", 0, "path")` as `data.train[0].path`; a key without letters is `""`."""
    text = ""
    for part in key:
        shown = part if part != "" else '""'
        text += f"[{part}]" if isinstance(part, int) else f".{shown}" if text else str(shown)
    return text


def format_value(value: object) -> str:
    """Format a value for a message: short, and never an access token."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    # str() of an integer of more than 4,300 digits is a ValueError: https://github.com/python/cpython/issues/95778
    if isinstance(value, int | float):
        return str(value) if not isinstance(value, int) or abs(value) < 10**20 else "a very large number"
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list):
        return "a list"
    text = str(value)
    if text.startswith("hf_"):
        return "an access token"
    return repr(text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…")
