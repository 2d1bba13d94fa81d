"""Spans of characters or tokens, as (start, stop)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from hf_finetune.chat.assistant_mask import Span
from hf_finetune.chat.special_tokens import TokenizedText


def clip_runs(ranges: Sequence[Span], start: int, stop: int) -> list[Span]:
    """Return what lies in (start, stop) of sorted `ranges`, those that touch as one."""
    # Of (0, 2) (2, 4) (6, 9), what lies in (1, 8) is (1, 4) (6, 8).
    runs: list[Span] = []
    for begin, end in ranges:
        begin, end = max(begin, start), min(end, stop)
        if begin >= end:
            continue
        if runs and begin <= runs[-1][1]:
            runs[-1] = runs[-1][0], max(end, runs[-1][1])
        else:
            runs.append((begin, end))
    return runs


def invert_spans(spans: Sequence[Span], size: int) -> list[Span]:
    """Return what the sorted `spans` leave of (0, size): [(2, 4)] of 6 leaves [(0, 2), (4, 6)]."""
    edges = [0, *(position for span in spans for position in span), size]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]


def find_token_ranges(spans: Sequence[Span], tokens: TokenizedText) -> list[Span]:
    """Map spans of characters to (start, stop) ranges of tokens; a token across the start of a span belongs to it."""
    # With the offsets (0, 2) (2, 5) (5, 6) the span (3, 5) is the range (1, 2): the token of (2, 5) is trained whole.
    asked = sorted({position for span in spans for position in span})
    position_of = dict(zip(asked, tokens.bounds, strict=True))
    numbers = range(len(tokens.ids))
    return [
        (
            bisect_right(numbers, position_of[start], key=lambda token: tokens.find_characters(token)[1]),
            bisect_left(numbers, position_of[stop], key=lambda token: tokens.find_characters(token)[0]),
        )
        for start, stop in spans
    ]
