"""What a disk may hold after a power cut: the worst that a file system may make of the calls up to it.

POSIX promises what was synced and nothing else. A file that was not synced may be empty, cut, of zeros or whole. A name
that was made, changed or removed lasts once its folder was synced; before that any of these changes may have come to
the disk or not, in any order.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from disk_calls import Call

Tree = dict[str, bytes | None]
"""Content by path; None for a folder."""


@dataclass
class Inode:
    """A file with its content, or a folder with its names."""

    content: bytes | None = None
    synced: bytes = b""
    names: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """Of one folder's names: one is taken away, one leads to this inode."""

    folder: int
    gone: str | None
    made: str | None = None
    inode: int = 0


class Model:
    """A disk on which calls are made; `durable` is what of its names is sure to last."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inodes: list[Inode] = []
        self._add(root)
        self.durable = {number: dict(inode.names) for number, inode in enumerate(self.inodes)}
        self.pending: list[Change] = []

    def make(self, call: Call) -> None:
        """Change what is seen, and what is sure to last where the call is a sync."""
        if call.kind == "sync":
            self._sync(self._find(call.path))
            return
        folder, name = self._find(call.path.parent), call.path.name
        if call.kind == "write":
            inode = self.inodes[self._find(call.path)]
            inode.content = (inode.content or b"") + call.content
        elif call.kind in ("create", "mkdir"):
            self.inodes.append(Inode(b"" if call.kind == "create" else None))
            self._change(Change(folder, None, name, len(self.inodes) - 1))
        elif call.kind == "rename":
            assert call.to is not None
            assert call.to.parent == call.path.parent, "a rename within one folder is one change"
            self._change(Change(folder, name, call.to.name, self.inodes[folder].names[name]))
        elif name in self.inodes[folder].names:
            self._change(Change(folder, name))

    def images(self, chosen: Sequence[Sequence[int]], unsynced: Sequence[str]) -> Iterator[Tree]:
        """What may be left: of the pending changes those of each choice, files as each of `unsynced` has them."""
        for choice in chosen:
            names = {number: dict(each) for number, each in self.durable.items()}
            for change in (self.pending[at] for at in choice):
                _apply(names.setdefault(change.folder, {}), change)
            for kind in unsynced:
                yield dict(self._walk(0, "", names, kind))

    def choices(self, draw: random.Random | None) -> list[list[int]]:
        """Which pending changes come to the disk: none, all, and a drawn half; every prefix and each alone without
        `draw`."""
        every = list(range(len(self.pending)))
        if draw is not None:
            return [[], every, [at for at in every if draw.random() < 0.5]]
        prefixes = [every[:end] for end in range(len(every) + 1)]
        return prefixes + [[at] for at in every] + [[each for each in every if each != at] for at in every]

    def _sync(self, number: int) -> None:
        inode = self.inodes[number]
        if inode.content is not None:
            inode.synced = inode.content
            return
        self.durable[number] = dict(inode.names)
        self.pending = [change for change in self.pending if change.folder != number]

    def _change(self, change: Change) -> None:
        _apply(self.inodes[change.folder].names, change)
        self.pending.append(change)

    def _find(self, path: Path) -> int:
        number = 0
        for name in path.relative_to(self.root).parts:
            number = self.inodes[number].names[name]
        return number

    def _add(self, path: Path) -> int:
        number = len(self.inodes)
        self.inodes.append(Inode())
        if path.is_dir():
            for each in sorted(path.iterdir()):
                self.inodes[number].names[each.name] = self._add(each)
        else:
            self.inodes[number].content = self.inodes[number].synced = path.read_bytes()
        return number

    def _walk(
        self, number: int, path: str, names: dict[int, dict[str, int]], kind: str
    ) -> Iterator[tuple[str, bytes | None]]:
        for name, each in sorted(names.get(number, {}).items()):
            inode, below = self.inodes[each], f"{path}{name}"
            if inode.content is None:
                yield below, None
                yield from self._walk(each, f"{below}/", names, kind)
            else:
                yield below, _damage(inode, kind)


def _apply(names: dict[str, int], change: Change) -> None:
    if change.gone is not None:
        names.pop(change.gone, None)
    if change.made is not None:
        names[change.made] = change.inode


def _damage(inode: Inode, kind: str) -> bytes:
    content = inode.content or b""
    if content == inode.synced or kind == "whole":
        return content
    return {"empty": b"", "half": content[: len(content) // 2], "zeros": bytes(len(content))}[kind]


def put_image(tree: Tree, folder: Path) -> None:
    """Make a disk of an image."""
    folder.mkdir()
    for path, content in tree.items():
        (folder / path).mkdir() if content is None else (folder / path).write_bytes(content)


def name_image(tree: Tree) -> str:
    """The same for the same images."""
    digest = hashlib.sha256()
    for path, content in tree.items():
        digest.update(repr((path, content is None, content and hashlib.sha256(content).digest())).encode())
    return digest.hexdigest()
