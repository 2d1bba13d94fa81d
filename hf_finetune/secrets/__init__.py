"""What is a secret: looked for in what is pushed, and in the rows that a run trains on.

rules         the rules, and how all of them are matched in one pass
service_keys  keys of services, by their shape
passwords     what is one by its name, too short to be one by its shape
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.secrets.rules import Found, find_secrets

__all__ = ["Found", "find_secrets"]

__getattr__, __dir__ = import_lazily(__name__)
