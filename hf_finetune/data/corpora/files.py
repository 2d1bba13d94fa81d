"""Write a corpus whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from hf_finetune.errors import CannotWriteError, ConfigError, Problem
from hf_finetune.files import make_parents, write_atomically


def check_target(path: Path, overwrite: bool) -> None:
    """Raise `ConfigError` where `path` is a folder, or exists without `overwrite`."""
    # Not Path.exists(), which raises where a folder cannot be searched; `write_corpus_file` reports that.
    if os.path.isdir(path):
        raise ConfigError(Problem("is a folder", "name a file, such as corpus.jsonl", path=str(path)))
    if os.path.exists(path) and not os.path.isfile(path):
        raise ConfigError(Problem("is a device or a pipe", "name a file, such as corpus.jsonl", path=str(path)))
    if os.path.exists(path) and not overwrite:
        raise ConfigError(Problem("exists already", "name another file, or add --overwrite", path=str(path)))


def write_corpus_file(path: Path, content: bytes) -> None:
    """Write a file and its folder. Raises `CannotWriteError`, and then leaves an old file as it was."""
    try:
        with make_parents(path):
            write_atomically(path, content)
    except OSError as problem:
        what = f"cannot be written ({problem.strerror})"
        raise CannotWriteError(Problem(what, "name a file in a folder of yours", path=str(path))) from problem
