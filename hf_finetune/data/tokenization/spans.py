"""Spans of characters or tokens, as (start, stop)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from hf_finetune.chat.assistant_mask import Span
from hf_finetune.chat.special_tokens import TokenizedText


def find_runs(numbers: Sequence[int]) -> list[Span]:
    """Find the runs of consecutive integers in ascending `numbers`: [3, 4, 8] -> [(3, 5), (8, 9)]."""
    if not numbers:
        return []
    breaks = [place for place in range(1, len(numbers)) if numbers[place] != numbers[place - 1] + 1]
    bounds = [0, *breaks, len(numbers)]
    return [(numbers[first], numbers[last - 1] + 1) for first, last in pairwise(bounds)]


def invert_spans(spans: Sequence[Span], size: int) -> list[Span]:
    """Return what the sorted `spans` leave of (0, size): [(2, 4)] of 6 leaves [(0, 2), (4, 6)]."""
    edges = [0, *(position for span in spans for position in span), size]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]


def find_token_ranges(spans: Sequence[Span], tokens: TokenizedText) -> list[Span]:
    """Map spans of characters to (start, stop) ranges of tokens; a token across the start of a span belongs to it."""
    # With the offsets (0, 2) (2, 5) (5, 6) the span (3, 5) is the range (1, 2): the token of (2, 5) is trained whole.
    asked = sorted({position for span in spans for position in span})
    position_of = dict(zip(asked, tokens.bounds, strict=True))
    begins, ends = [begin for begin, _ in tokens.offsets], [end for _, end in tokens.offsets]
    return [(bisect_right(ends, position_of[start]), bisect_left(begins, position_of[stop])) for start, stop in spans]
