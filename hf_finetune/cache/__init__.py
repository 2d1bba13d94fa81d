"""The cache: what was computed once, found by a hash of what it was made from, in that of `datasets`.

keys        the hash of the inputs, and where a file of the cache is
entries     rows, tokens and tokenizers as files: written whole, listed, verified, removed
leftovers   what else is in the folder, and what killed processes have left there
holding     one process at a time fills an entry, and the others wait for its file
arrays      more numbers than memory may hold, mapped
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.cache.entries import (
        KINDS,
        Entry,
        choose_to_remove,
        is_damaged,
        list_entries,
        remove_entry,
    )
    from hf_finetune.cache.keys import find_own_cache
    from hf_finetune.cache.leftovers import OtherFile, list_others, sweep_cache

__all__ = [
    "KINDS",
    "Entry",
    "OtherFile",
    "choose_to_remove",
    "find_own_cache",
    "is_damaged",
    "list_entries",
    "list_others",
    "remove_entry",
    "sweep_cache",
]

__getattr__, __dir__ = import_lazily(__name__)
