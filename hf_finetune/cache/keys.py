"""Where a file of the cache is, and the hash of its inputs by which it is found."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from hf_finetune.files import make_private_folder

# Incremented when the layout of a cached file changes, rows are tokenized in another way, or rows that were taken are
# refused: older files are not found.
CACHE_VERSION = 10


def compute_cache_key(made_from: Any) -> str:
    """Hash JSON-ready values to 32 hexadecimal digits."""
    text = json.dumps([CACHE_VERSION, made_from], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find_cache(datasets_cache: Path) -> Path:
    """The folder of the cache inside that of `datasets`."""
    return datasets_cache / "hf_finetune"


def find_own_cache() -> Path:
    """That folder by the variables that `datasets` reads, which takes a second to import; it may not be there yet."""
    home = os.environ.get("HF_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
    named = os.environ.get("HF_DATASETS_CACHE", os.path.join(home, "datasets"))
    folder = find_cache(Path(named).expanduser())
    # As `files.make_private_folder` does where several users share a cache.
    if folder.is_dir() and hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        return folder.with_name(f"{folder.name}-{os.getuid()}")
    return folder


def place_in_cache(name: str) -> Path:
    """Return the path of a file of the cache, whose folder is made for its owner alone. Raises OSError."""
    import datasets  # a second and a half, and `hf-finetune cache` needs none of it

    return make_private_folder(find_cache(Path(datasets.config.HF_DATASETS_CACHE))) / name
