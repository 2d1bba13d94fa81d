"""What the run file and the command line say: every value with its place, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_finetune.errors import Problem

Key = tuple[str | int, ...]

COMMAND_LINE = "command line"
MAX_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Place:
    path: str
    line: int | None


@dataclass(slots=True)
class RunDocument:
    """The settings as written. Every stage of `load_run` adds the problems and notes that it finds."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[Key] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def place(self, key: Key) -> Place:
        """Where `key` is written, or the nearest section around it; the first line of the file at last."""
        for length in range(len(key), 0, -1):
            if (place := self.places.get(key[:length])) is not None:
                return place
        return Place(self.path, 1)

    def refuse(self, key: Key, what: str, remedy: str = "", *, place: Place | None = None) -> None:
        place = place or self.place(key)
        self.refused.add(key)
        self.problems.append(Problem(what, remedy, place.path, place.line, key_text(key)))

    def note(self, key: Key, text: str) -> None:
        self.notes.append(str(Problem(text, "", self.place(key).path, self.place(key).line, key_text(key))))

    def is_refused(self, *keys: str) -> bool:
        """Whether one of `keys` ("section.key"), or anything around or inside it, has a problem already."""
        wanted = [tuple(key.split(".")) for key in keys]
        return any(_related(key, refused) for key in wanted for refused in self.refused)

    def contains(self, key: str) -> bool:
        return tuple(key.split(".")) in self.places


def _related(key: Key, other: Key) -> bool:
    shared = min(len(key), len(other))
    return key[:shared] == other[:shared]


def refuse_given(
    document: RunDocument, section: str, settings: Any, names: Sequence[str], what: str, remedy: str = "leave it out"
) -> None:
    """Refuse settings that a run does not read; defaults may stand there, as they do in `run.yaml`."""
    for name in names:
        given = getattr(settings, name) != type(settings).model_fields[name].default
        if given and not document.is_refused(f"{section}.{name}"):
            document.refuse((section, name), what, remedy)


def key_text(key: Key) -> str:
    """`("data", "train", 0, "path")` as `data.train[0].path`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """A value as it may stand in a message: short, and never an access token."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value) if not isinstance(value, int) or abs(value) < 10**20 else "a very large number"
    if isinstance(value, dict):
        return "a section of keys"
    if isinstance(value, list):
        return "a list"
    text = str(value)
    if text.startswith("hf_"):
        return "an access token"
    return repr(text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "…")
