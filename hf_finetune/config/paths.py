"""Local paths among the values of a run file: expanded, listed, and told from Hub ids."""

from __future__ import annotations

import fnmatch
import glob
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hf_finetune.config.sections import Section, Source, Sources
from hf_finetune.environment.progress_lines import ProgressLines
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.shell import shell_path

Value = TypeVar("Value")

DATA_SUFFIXES = (
    ".jsonl",
    ".json",
    ".ndjson",
    ".jsonlines",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".txt",
    ".md",
    ".rst",
    ".py",
    ".gz",
    ".zst",
)
PATH_SETTINGS = (
    *("path", "adapter", "tokenizer", "train", "validation", "test"),
    *("chat_template", "base", "forget", "canaries"),
)
_GLOB = set("*?[")
MOST_LOOKED_AT = 1_000_000
"""Files and folders that a pattern is held against, and the seconds for it: `/**/*.jsonl` would be the whole disk."""
MOST_SECONDS = 60.0

MAX_NAME_BYTES = 255
# Where the runs of our own configurations go: before the first run, or in another folder, it is not there.
OWN_FOLDER = "runs"
# The models that `hf-finetune model` makes by name.
READY_MADE = ("smollm2-135m", "minilm")


def expand_user(value: Value) -> Value:
    """Expand a leading `~` in a path, in each path of a list, or in each path setting of a section."""
    expanded: Any = value
    if isinstance(value, str) and (value == "~" or value.startswith(("~/", "~\\"))):
        expanded = str(Path(value.replace("~\\", "~/", 1)).expanduser())  # ~\runs on Windows
    elif isinstance(value, list):
        expanded = [expand_user(item) for item in value]
    elif isinstance(value, Section):
        names = [name for name in PATH_SETTINGS if name in type(value).model_fields]
        changed = {name: expand_user(getattr(value, name)) for name in names}
        expanded = value.model_copy(update={name: new for name, new in changed.items() if new != getattr(value, name)})
    return expanded  # type: ignore[no-any-return]


def list_source_paths(sources: Sources | None) -> list[str]:
    """List the paths of `data.train`, `eval.forget` ..., which may be one path, one source or a list of both."""
    if sources is None:
        return []
    listed = sources if isinstance(sources, list) else [sources]
    return [source.path if isinstance(source, Source) else source for source in listed]


def is_glob(path: str) -> bool:
    """Whether `path` has a wildcard."""
    return bool(_GLOB & set(path))


def is_local(path: str) -> bool:
    """Whether `path` is meant to be of this machine: it can be nothing else, or begins with a folder that is here.

    `models/nope` beside a folder `models` is a folder that was mistyped, and never asked of the Hub. `runs/nope` is
    one anywhere.
    """
    first, separator, _ = path.partition("/")
    begins_here = bool(separator) and (first == OWN_FOLDER or Path(first).is_dir())
    return looks_local(path) or (begins_here and not _is_cached(path))


def is_missing(path: str) -> bool:
    """Whether `path` is meant to be of this machine, and nothing is there."""
    # No file system takes longer names, and asked for one pathlib raises.
    too_long = any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in path.split("/"))
    return too_long or (is_local(path) and not os.path.exists(expand_user(path)))


def _is_cached(name: str) -> bool:
    """Whether the Hub's cache has a repository of this name (huggingface_hub's layout, which it documents)."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    return any((cache / f"{kind}--{name.replace('/', '--')}").is_dir() for kind in ("models", "datasets"))


def looks_local(path: str) -> bool:
    """Whether `path` can only be a file or folder of this machine, not a Hub id (`name`, `owner/name`)."""
    # runs/base may be both, so it is not "local": from_pretrained itself looks for the folder first. runs\base is a
    # folder of Windows, and so is C:/base: no Hub id has a backslash or a colon.
    if path.startswith(("/", "./", "../", "~")) or path in (".", "..") or "\\" in path or path[1:3] == ":/":
        return True
    return path.lower().endswith(DATA_SUFFIXES) or path.count("/") > 1


def find_ready_made(path: str) -> str | None:
    """The command that makes the model folder `path`, where it is missing and its name is one that can be made.

    A Hub id such as `org/minilm` is not meant: only a local path, the name alone, or a name below `models/`.
    """
    name = Path(path).name
    if name not in READY_MADE or not (looks_local(path) or path in (name, f"models/{name}")):
        return None
    return None if Path(path).expanduser().exists() else f"hf-finetune model {name} {shell_path(path)}"


def find_matches(pattern: str, key: str) -> list[str]:
    """The paths that match a pattern, as `glob.glob` finds them, sorted; no circle of links is walked twice.

    Says how far it is every five seconds. Raises `ConfigError` naming `key` where there is too much to look at.
    """
    anchor = Path(pattern).anchor
    parts = Path(pattern).parts[1 if anchor else 0 :]
    return sorted(dict.fromkeys(_Walk(pattern, key).find(anchor, parts)))


class _Walk:
    """The folders that one pattern is looked for in, counted."""

    def __init__(self, pattern: str, key: str) -> None:
        self.pattern, self.key, self.count = pattern, key, 0
        self.began = time.monotonic()
        self.progress = ProgressLines(f"files and folders looked at for {pattern}")

    def find(
        self, folder: str, parts: Sequence[str], inside: frozenset[tuple[int, int]] = frozenset()
    ) -> Iterator[str]:
        """Yield what matches `parts` below `folder`; `inside`: the folders around it that `**` has entered."""
        if not parts:
            yield folder
        elif parts[0] == "**":
            rest = parts[1:]
            while rest[:1] == ("**",):  # says the same once more
                rest = rest[1:]
            yield from self.find(folder, rest or ("*",), inside)
            for entry in self._list(folder):
                if not entry.name.startswith(".") and _is_folder(entry) and (place := _identify(entry)) not in inside:
                    yield from self.find(os.path.join(folder, entry.name), parts, inside | {place})
        elif not glob.has_magic(parts[0]):
            path = os.path.join(folder, parts[0])
            yield from self.find(path, parts[1:], inside) if os.path.lexists(path) else ()
        else:
            for entry in self._list(folder):
                hidden = entry.name.startswith(".") and not parts[0].startswith(".")
                if not hidden and fnmatch.fnmatchcase(entry.name, parts[0]) and (not parts[1:] or _is_folder(entry)):
                    yield from self.find(os.path.join(folder, entry.name), parts[1:], inside)

    def _list(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as entries:
                listed = []
                for entry in entries:
                    self._count()
                    listed.append(entry)
        except OSError:  # as one that may not be read
            return
        yield from listed

    def _count(self) -> None:
        self.count += 1
        if self.count % 1_000:
            return
        self.progress.log_if_due(self.count)
        if self.count >= MOST_LOOKED_AT or time.monotonic() - self.began > MOST_SECONDS:
            what = f"there are more than {self.count:,} files and folders to look at"
            raise ConfigError(
                Problem(what, "begin the pattern with the folder of the data", self.pattern, key=self.key, code="HF625")
            )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identify(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino
