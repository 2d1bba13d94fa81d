"""What was read of a stream, as the report has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_finetune.data.streaming.feed import PartFeed

ALWAYS = ("rows", "dropped", "tokens", "trained_tokens", "truncated", "rejected", "held_out")
"""Counts that are there where nothing was counted, too: lines left out, and rows that are evaluated among them."""


@dataclass(frozen=True)
class StreamFacts:
    """Counts of the training split of a stream, up to the end of the part that was trained last."""

    feed: PartFeed
    longest: int
    """The most tokens that an example may have."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `rows` and `tokens` are those that were read, of which `train.seen` were trained."""
        assert self.feed.part is not None
        read = self.feed.part.end.read
        counts = {name: int(read[name]) for name in (*ALWAYS, *sorted(read.keys() - set(ALWAYS)))}
        return counts | {
            "shards": self.feed.sizes.shards,
            "parts": self.feed.number + 1,
            "passes": round(self.feed.passes, 4),
        }
