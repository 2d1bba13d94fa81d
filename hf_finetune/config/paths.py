"""Local paths among the values of a run file: expanded, listed, and told from Hub ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from hf_finetune.config.sections import Section, Source, Sources

Value = TypeVar("Value")

DATA_SUFFIXES = (".jsonl", ".json", ".ndjson", ".txt", ".csv", ".parquet", ".gz", ".zst", ".jsonlines")
PATH_SETTINGS = ("path", "tokenizer", "train", "validation", "test", "chat_template", "base", "forget", "canaries")
_GLOB = set("*?[")


def expand_user(value: Value) -> Value:
    """Expand a leading `~` in a path, in each path of a list, or in each path setting of a section."""
    expanded: Any = value
    if isinstance(value, str) and (value == "~" or value.startswith("~/")):
        expanded = str(Path(value).expanduser())
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


def looks_local(path: str) -> bool:
    """Whether `path` can only be a file or folder of this machine, not a Hub id (`name`, `owner/name`)."""
    # runs/base may be both, so it is not "local": from_pretrained itself looks for the folder first.
    if path.startswith(("/", "./", "../", "~")) or path in (".", ".."):
        return True
    return path.lower().endswith(DATA_SUFFIXES) or path.count("/") > 1
