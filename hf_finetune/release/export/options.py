"""What can be asked of an export."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

ROWS = 64


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The options of `hf-finetune export`, under their own names."""

    base: str | None = None
    """Where an adapter's base is, if it has moved."""
    data: str | None = None
    """Held-out rows to compare on; else the run's validation split."""
    tolerance: float | None = None
    """In the place of the target's own."""
    rows: int = ROWS
    """To compare on, at most."""
    overwrite: bool = False
    trust_chat_template: str | None = None
    int8: bool = False
    opset: int | None = None
    quant: str | None = None
    adapter_only: bool = False


_OF_ALL = ("base", "data", "tolerance", "rows", "overwrite", "trust_chat_template")


def get_own_options(options: ExportOptions) -> dict[str, Any]:
    """Return what was asked for beside what every target takes, by option."""
    named = [field for field in fields(options) if field.name not in _OF_ALL]
    given = {field.name: getattr(options, field.name) for field in named}
    return {name: given[name] for name in given if given[name] not in (None, False)}
