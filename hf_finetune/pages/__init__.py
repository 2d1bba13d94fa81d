"""What all pages of ours share: one look, a policy by which nothing is loaded, and whose file may be written over.

page        a page: its environment, its style sheet, how it is saved
templates   the style sheet
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.pages.page import (
        MARKER,
        escape_invisible,
        hash_style,
        is_writable_page,
        make_environment,
        read_shared_style,
        save_page,
    )

__all__ = [
    "MARKER",
    "escape_invisible",
    "hash_style",
    "is_writable_page",
    "make_environment",
    "read_shared_style",
    "save_page",
]

__getattr__, __dir__ = import_lazily(__name__)
