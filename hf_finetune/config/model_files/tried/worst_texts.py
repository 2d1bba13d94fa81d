"""Texts that a regular expression may be slow on, derived from its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

ENDS = ("", "\x00", "!\n")


def list_pieces(pattern: str | bytes, flags: int = 0) -> list[str]:
    """Pieces whose repetition may keep a pattern busy: every part of a text that it matches, and what is around.

    Raises `re.error` for what is no pattern.
    """
    tree = parser.parse(pattern, flags)
    parts = {sample for each in _subtrees(tree) for sample in _samples(each)} - {""}
    characters = sorted({character for part in parts for character in part})[:16]
    pairs = {one + other for one, other in product(characters[:8], repeat=2)}
    whole = max(_samples(tree), key=len, default="")
    prefixes = {whole[:end] for end in range(1, min(len(whole), 24))}
    return sorted({*parts, *characters, *pairs, *prefixes, " ", "a", "\n", "\t", "0", "/"})


def _subtrees(tree: Any) -> Iterator[Any]:
    yield tree
    for kind, value in tree:
        for inner in _children(kind, value):
            yield from _subtrees(inner)


def _children(kind: Any, value: Any) -> list[Any]:
    if kind is kinds.BRANCH:
        return list(value[1])
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        return [value[2]]
    if kind is kinds.SUBPATTERN:
        return [value[3]]
    if kind is kinds.ATOMIC_GROUP:
        return [value]
    if kind in (kinds.ASSERT, kinds.ASSERT_NOT):
        return [value[1]]
    return []


def _samples(tree: Any) -> list[str]:
    """A few texts that a tree matches: the first way through it, and the last one of each choice."""
    return list(dict.fromkeys("".join(_sample(kind, value, last) for kind, value in tree) for last in (False, True)))


def _sample(kind: Any, value: Any, last: bool) -> str:
    if kind is kinds.LITERAL:
        return chr(value)
    if kind in (kinds.ANY, kinds.NOT_LITERAL):
        return "a" if value != ord("a") else "b"
    if kind is kinds.IN:
        return _sample_of_class(value, last)
    if kind is kinds.BRANCH:
        return _join(value[1][-1 if last else 0], last)
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        least, most, inner = value
        return _join(inner, last) * int(min(max(least, 1 if last else 2), int(most), 40))
    if kind in (kinds.SUBPATTERN, kinds.ATOMIC_GROUP):
        return _join(_children(kind, value)[0], last)
    return ""


def _join(tree: Any, last: bool) -> str:
    return "".join(_sample(kind, value, last) for kind, value in tree)


def _sample_of_class(items: Any, last: bool) -> str:
    if items[0][0] is kinds.NEGATE:
        refused = {value for kind, value in items if kind is kinds.LITERAL}
        return next(each for each in ("z" if last else "a", "b", "0", " ", "-") if ord(each) not in refused)
    kind, value = items[-1 if last else 0]
    if kind is kinds.RANGE:
        return chr(value[1] if last else value[0])
    if kind is kinds.CATEGORY:
        named = {kinds.CATEGORY_DIGIT: "0", kinds.CATEGORY_SPACE: " ", kinds.CATEGORY_WORD: "a"}
        return str(named.get(value, "-"))
    return chr(value)


Filling = tuple[str, str, str]
"""A text: how it begins, what is there again and again, and how it ends."""


def list_fillings(
    pattern: str | bytes, flags: int = 0, pieces: Iterable[str] = (), ends: Iterable[str] = ENDS
) -> list[Filling]:
    """Texts on which a pattern may be slow: a piece again and again, as in a match or behind its beginning, to no end.

    `pieces` come on top of those that are derived from the pattern.
    """
    whole = max(_samples(parser.parse(pattern, flags)), key=len, default="")
    begins = ["", *(whole[:end] for end in (1, 4) if end < len(whole))]
    return list(product(begins, dict.fromkeys([*list_pieces(pattern, flags), *pieces]), ends))


def fill(filling: Filling, length: int) -> str:
    """The text of about `length` characters."""
    begin, piece, end = filling
    return begin + piece * (length // len(piece)) + end
