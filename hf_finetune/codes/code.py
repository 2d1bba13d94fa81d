"""What a code is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for."""

    title: str
    """In a few words, without figures."""
    level: Level
    why: str
    """Why it matters: what becomes of a run that goes on with it."""
    remedy: str
