"""Patterns that find any of thousands of words at the speed of one: a tree of their beginnings instead of a list.

Python's `re` tries each of `a|b|c` at every character. Where a pattern begins with one character of a few, it passes
over all others as fast as `str.find`, and a tree leaves a few branches to try at those.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

MAX_DEPTH = 16
"""Branchings behind one another: `re` compiles nested groups by recursion, and words may be "a", "aa", "aaa"..."""
MANY_BRANCHES = 8
NOTHING = r"(?!)"


def find_any(words: Sequence[str], *, not_behind: str = "", first_alone: bool = False) -> re.Pattern[str]:
    """Compile a pattern for the longest of `words` that stands at a place; not directly behind `not_behind`.

    With `first_alone` the match is its first character, so that words which overlap are all found.
    """
    # ["<a>", "<ab>", "[c"] -> <(?:a(?:b>|>))|\[c
    branches = []
    for first, rests in _group(words).items():
        rest = _write_tree(rests, MAX_DEPTH)
        if first_alone and rest:
            rest = f"(?={rest})"
        literal = re.escape(first)
        # What must not stand before comes behind the literal, which the search begins with.
        behind = f"(?<!{re.escape(not_behind)}{literal})" if not_behind else ""
        branches.append(f"{literal}{behind}{rest}")
    return re.compile("|".join(branches) or NOTHING, re.DOTALL)


def _group(words: Sequence[str]) -> dict[str, list[str]]:
    """Group words by their first character, which is taken off."""
    groups: dict[str, list[str]] = {}
    for word in words:  # none is empty
        groups.setdefault(word[0], []).append(word[1:])
    return groups


def _write_tree(words: Sequence[str], depth: int) -> str:
    """A pattern for the longest of `words`, of which one may be empty."""
    shared = os.path.commonprefix(words)  # noqa: RUF071 - character by character is what is wanted
    literal, rests = re.escape(shared), [word[len(shared) :] for word in words]
    if not any(rests):
        return literal
    if depth == 0:
        return f"{literal}(?:{'|'.join(map(re.escape, sorted(set(rests), key=len, reverse=True)))})"
    groups = _group([rest for rest in rests if rest])
    branches = [f"{re.escape(first)}{_write_tree(each, depth - 1)}" for first, each in groups.items()]
    if len(groups) > MANY_BRANCHES and "" not in rests:
        literal += f"(?=[{''.join(map(re.escape, groups))}])"
    # The empty word comes last: the longest is taken.
    return f"{literal}(?:{'|'.join([*branches, ''] if '' in rests else branches)})"
