"""What is a path of this machine: its home folder or working folder, as any system, shell or address writes it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

from hf_finetune.privacy import list_homes
from hf_finetune.release.hub.search.decoded import Form
from hf_finetune.release.hub.search.decoders import compile_bytes

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model")
_SHORTEST_ENCODED = 5
_NOTHING = r"[^\x00-\xff]"
_SLASH = r"(?:[\\/]|%5C|%2F)"
# Not within an address: https://example.org/app/page, where the working folder is /app. But file://host/app,
# vscode://file/app, //wsl$/Ubuntu/app and -I/app are paths.
_BEFORE = (
    r"(?:^|[^\w.~-]|://localhost|://file|(?i:file):[\\/]{2}[\w.-]{1,253}|[\\/]{2}(?i:wsl(?:\$|\.localhost))[\\/]+[\w.-]+"
    r"|[\s\"'`(=]-[A-Za-z])"
)
# The folder itself, or what is in it; /home/ann is in neither /home/anna nor /home/ann-2.
_AFTER = r"(?:$|[^\w.-]|\.(?:$|\W))"
_PART = r"[^\s/\\\"'`<>|:*?()\[\]{},;&]{1,255}"
# What has a step to itself, a step up, or the way of a process to the root in it.
_STEP = r"[^\s\"'`<>|:*?()\[\]{},;&=]"
_WINDING = rf"(?:[A-Za-z]:)?{_STEP}*(?:[\\/]\.{{1,2}}[\\/]|\.\.[\\/]|[\\/]proc[\\/]){_STEP}*"
# Behind which the root of a process stands: its own, or one of its threads (`/proc/self/task/1`).
_OF_PROC = (3, 5)
_HOME = r"~|\$HOME|\$\{HOME\}|%USERPROFILE%"
# What a home folder has on any machine says nothing of this one.
_EVERYWHERE = {"Desktop", "Documents", "Downloads", "Library", "Music", "Pictures", "Public", "Templates", "Videos"}


@dataclass(frozen=True)
class HomeRules:
    """The shapes of the folders of this machine; the first group of each is the path, or the part of it that tells."""

    written: Any
    encoded: Any
    """For what was decoded, where by chance /app stands and is none."""
    of_pieces: Any
    """For the pieces of a vocabulary, of which one may be /app, and which nobody can change."""
    inside: Any
    """Of what may be in such a folder, the folder and two parts at most: `~/acme/rows`."""

    def find(self, form: Form, name: str) -> Iterator[tuple[int, int]]:
        """Yield where a path of this machine begins and ends in a form of the file `name`."""
        of_pieces = name in _VOCABULARIES
        shape = self.of_pieces if of_pieces else self.written if form.source is None else self.encoded
        yield from (each.span(1) for each in shape.finditer(form.text))
        # Each of these is looked up: a path is seldom broken where it is short, and there are five ways to join lines.
        yield from (each.span(1) for each in self._find_inside(form.text, of_pieces) if not form.is_joined)
        # `/./home/ann`, `/x/../home/ann`, `../../home/ann` and what is below the root of a process are /home/ann.
        for each in _find_winding(form.text):
            straight, goes_up = _straighten(each[0])
            # Where ../app leads to depends on where it stands: with one name alone it has to be there.
            named = (self.of_pieces if goes_up else shape).search(straight)
            if named or next(self._find_inside(straight, of_pieces), None):
                yield each.span()

    def _find_inside(self, text: bytes, of_pieces: bool) -> Iterator[Any]:
        for each in self.inside.finditer(text):
            folder, first, second = (part and part.decode("utf-8", "replace") for part in each.groups()[1:])
            if (second or not of_pieces) and _is_here(folder, first, second or ""):
                yield each


def compile_home_rules() -> HomeRules:
    """Compile the shapes of the folders of this process."""
    homes = list_homes()
    deep = [home for home in homes if len(_split(home)) > 2]
    # By RE2, for a page may have 64 MiB, and each is read in many forms.
    listed = (homes, [home for home in homes if len(home) >= _SHORTEST_ENCODED], deep)
    written, encoded, of_pieces = (compile_bytes(_shape(each, _AFTER)) for each in listed)
    folders = "|".join([_HOME, *(re.escape(home) for home in homes if home not in deep)])
    inside = rf"(?:^|[^\w.~/\\-])(({folders})[\\/]+({_PART})(?:[\\/]+({_PART}))?)"
    return HomeRules(written, encoded, of_pieces, compile_bytes(inside))


def _shape(homes: Sequence[str], after: str) -> str:
    listed = "|".join(map(_shape_home, homes)) or _NOTHING
    return f"{_BEFORE}({listed}){after}"


def _split(home: str) -> list[str]:
    return re.split(r"[\\/]+", home)


def _shape_home(home: str) -> str:
    parts = [re.escape(part) for part in _split(home)]
    if not PureWindowsPath(home).drive:
        shape = f"{_SLASH}+".join(parts)
        # /Users/Ann is /users/ann on most disks of a Mac; /ROOT alone is a word.
        return f"(?i:{shape})" if len(parts) > 2 else shape
    # C:\Users\ann is C:Usersann where the escapes of a text have been read, and c$ on a share or /mnt/c elsewhere.
    letter = parts[0][0]
    drive = rf"(?:{letter}:|{letter}\$|{_SLASH}(?:mnt{_SLASH}|cygdrive{_SLASH})?{letter}{_SLASH})"
    return f"(?i:{f'{_SLASH}*'.join([drive, *parts[1:]])})"


def _find_winding(text: bytes) -> Iterator[Any]:
    """Yield the paths in `text` that do not go straight to where they lead; of an address none."""
    for each in compile_bytes(_WINDING).finditer(text):
        before = text[max(0, each.start() - 5) : each.start()].lower()
        if not each[0].startswith((b"//", b"\\\\")) or not before.endswith(b":") or before == b"file:":
            yield each


def _straighten(path: bytes) -> tuple[bytes, bool]:
    """`path` as it goes straight from the root, or from `~`, and whether it went up from somewhere else."""
    drive = path[:2] if path[1:2] == b":" else b""
    rest = path[2:] if drive or (path[:1] == b"-" and path[2:3] in (b"/", b"\\")) else path
    steps = [step for step in re.split(rb"[\\/]+", rest) if step != b"."]
    from_root, goes_up = steps[:1] == [b""], False
    names: list[bytes] = []
    for step in steps:
        if step == b"..":
            goes_up = goes_up or not (names or from_root)
            del names[-1:]
        elif step:
            names.append(step)
        # The root of a process, as it names itself or by its number, or of one of its threads, is that of all.
        if step == b"root" and names[0] == b"proc" and len(names) in _OF_PROC:
            names.clear()
    return drive + b"/" * (from_root or goes_up) + b"/".join(names), goes_up


@cache
def _is_here(folder: str, first: str, second: str) -> bool:
    """Whether `folder/first/second` is there; hidden is `first` in any home folder, and alone, some names are."""
    second = second.rstrip(".")
    if first.startswith(".") or (not second and first in _EVERYWHERE):
        return False
    base = Path.home() if re.fullmatch(_HOME, folder) else Path(folder)
    return os.path.lexists(base / first.rstrip(".") / second)
