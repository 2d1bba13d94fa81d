"""Counterfactual evaluation: how much a model's metrics change if words are swapped (he and she, Emily and Lakisha).

The lists are short, English, and meant for measuring: a swapped text is not always a good sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from hf_finetune.evaluation.statistics.bootstrap import Groups, Statistic
from hf_finetune.evaluation.statistics.paired_test import compute_paired_metrics, format_number

SWAP_LISTS = ("gender", "names", "religion", "origin")


@dataclass(frozen=True, slots=True)
class _SwapList:
    pattern: re.Pattern[str]
    counterparts: dict[str, str]


def swap_words(text: str, name: str) -> str | None:
    """Swap each word of the list `name` for its counterpart, in both directions; returns None if `text` has none.

    Whole words are swapped, and keep their case: HE becomes SHE, He becomes She. A word that is capitalized in the list
    is swapped only if it is in the text, too: Turkey, not turkey.
    """
    swaps = _load_swaps(name)
    swapped = swaps.pattern.sub(lambda found: swaps.counterparts[found[0]], text)
    return None if swapped == text else swapped


def measure_swap_effect(
    original: Statistic,
    swapped: Statistic,
    both: Statistic,
    rows: int,
    predictions: tuple[Sequence[Any], Sequence[Any]] | None = None,
    *,
    groups: Groups | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure what swapping words changes in the `rows` that have any: `{"rows", "changed", "figures", "words"}`.

    The statistics are of these rows as they are, of the swapped ones, and of both one after the other, as
    `compare_models` takes them; the `difference` of a metric is swapped minus original, with `interval` and `real` as
    there; `groups` are those of these rows, (rows,).
    `predictions` are the labels of each row before and after, of which `changed` is the share that differs.
    """
    figures = compute_paired_metrics(original, swapped, both, rows, groups=groups, seed=seed)
    shown = {
        name: {key: figure[key] for key in ("difference", "interval", "p_value", "real", "detectable")}
        for name, figure in figures.items()
    }
    effect: dict[str, Any] = {"rows": rows, "figures": shown}
    words = [
        f"{name}: {'higher' if figure['difference'] > 0 else 'lower'} by {format_number(abs(figure['difference']))}"
        " with the words swapped: a real difference"
        for name, figure in figures.items()
        if figure["real"]
    ]
    words = words or [f"no figure changes by more than these {rows:,} rows would by chance"]
    if predictions is not None:
        changed = sum(one != other for one, other in zip(*predictions, strict=True)) / rows
        effect["changed"] = changed
        words.insert(0, f"with the words swapped the model says something else in {changed:.1%} of {rows:,} rows")
    return {**effect, "words": words}


@cache
def _load_swaps(name: str) -> _SwapList:
    """Read a list of pairs, and of words with one counterpart only: ["she", "he"] both ways, Mrs -> Mr one way."""
    listed = json.loads(
        files("hf_finetune.evaluation.probes").joinpath("swap_lists", f"{name}.json").read_text("utf-8")
    )
    both_ways = [pair for one, other in listed["pairs"] for pair in ((one, other), (other, one))]
    counterparts: dict[str, str] = {}
    for word, other in [*both_ways, *listed["one_way"].items()]:
        counterparts[word] = other
        if word.islower():
            counterparts[word[0].upper() + word[1:]] = other[0].upper() + other[1:]
        if word.islower() or len(word) > 3:  # MS and MR are other words than Ms and Mr
            counterparts[word.upper()] = other.upper()
    # Longest first: a regular expression takes the first alternative that matches, "girl" of "girlfriend" as well.
    words = "|".join(map(re.escape, sorted(counterparts, key=len, reverse=True)))
    return _SwapList(re.compile(rf"(?<!\w)(?:{words})(?!\w)"), counterparts)
