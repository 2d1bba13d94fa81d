"""What a pattern of Oniguruma matches, in the syntax of `re` and of a few characters: enough to make texts for it.

https://github.com/kkos/oniguruma/blob/master/doc/RE
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

# Letters of each case and script, digits, blanks, marks and signs: the classes of published tokenizers differ in these.
PANEL = "aZé東ªʰǅあ0²٣ \n\r\t\u00a0.,'\"_-/(!$+|<▁~\u0301😀\u200d\x00"
MOST_KINDS, MOST_IN_PAIRS, MOST_LITERALS = 24, 8, 100

_ANCHORS = "bBAzZGyYK"
_CLASSES = "dDwWsShHRXNO"
_OPENINGS = {"(?:": "(?:", "(?=": "(?=", "(?!": "(?!", "(?<=": "(?<=", "(?<!": "(?<!", "(?>": "(?>"}
_FLAGS = re.compile(r"\(\?[imsWDSPy{}gw-]{0,8}[:)]")
_NAME = re.compile(r"\(\?<\w{1,100}>")
_REPEAT = re.compile(r"[*+?]|\{\d{0,6},?\d{0,6}\}")


class Unreadable(ValueError):
    """A pattern with parts that no texts can be made for; `str()` says which."""


@dataclass(frozen=True)
class Readable:
    """What a pattern matches, as far as the characters of the panel and its own go."""

    pattern: str
    """In the syntax of `re`; never used to match."""
    pieces: list[str]
    """A character of each kind that the pattern tells apart, alone and in pairs."""
    ends: list[str]
    """Each kind before all that the pattern spells out: Oniguruma looks for that first, and would skip the rest."""


def read_pattern(pattern: str, find_members: Callable[[str, str], str]) -> Readable:
    """Read a pattern; `find_members(part, characters)` says which characters a part of it matches.

    Raises `Unreadable` for references back, calls, conditions, callouts and extended syntax.
    """
    panel = "".join(dict.fromkeys(PANEL + pattern))
    written, members, literals = [], [], ""
    for kind, part in _split(pattern):
        if kind == "part":
            found = find_members(part, panel)
            members.append(found)
            literals += found if len(found) == 1 else ""
            part = f"[{''.join(map(_escape, found))}]" if found else "(?:)"
        written.append(part)
    kinds: dict[tuple[int, ...], str] = {}
    for character in panel:
        kinds.setdefault(tuple(number for number, each in enumerate(members) if character in each), character)
    told = [*kinds.values()][:MOST_KINDS]
    pairs = [one + other for one, other in product(told[:MOST_IN_PAIRS], repeat=2) if one != other]
    ends = ["", *(each + literals[:MOST_LITERALS] for each in told[:MOST_IN_PAIRS])]
    return Readable("".join(written), [*told, *pairs], ends)


def _escape(character: str) -> str:
    return f"\\U{ord(character):08x}"


def _split(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield each part that matches one character ("part"), and what stands between them in the syntax of `re`."""
    place = 0
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            end = _find_end_of_escape(pattern, place)
            yield ("", "(?:)") if pattern[place + 1] in _ANCHORS else ("part", pattern[place:end])
        elif character == "[":
            end = _find_end_of_class(pattern, place)
            yield "part", pattern[place:end]
        elif character == "(":
            end, opening = _read_opening(pattern, place)
            yield "", opening
        elif character in "|)":
            end = place + 1
            yield "", character
        elif character in "^$":
            end = place + 1
            yield "", "(?:)"
        elif repeat := _REPEAT.match(pattern, place):
            end = repeat.end()
            yield "", repeat[0]
        else:
            end = place + 1
            yield "part", character if character == "." else re.escape(character)
        place = end


def _find_end_of_escape(pattern: str, place: int) -> int:
    following = pattern[place + 1 : place + 2]
    if following in ("p", "P") or pattern.startswith("\\x{", place):
        end = pattern.find("}", place)
        if end < 0:
            raise Unreadable("a brace that does not end")
        return end + 1
    if following and following in "123456789kgcCM":
        raise Unreadable(f"\\{following}, which refers to another part of it or to a key")
    widths = {"x": 2, "u": 4, "0": 2}
    if following in widths:
        digits = re.match(r"[0-9a-fA-F]{0,4}", pattern[place + 2 : place + 2 + widths[following]])
        return place + 2 + (len(digits[0]) if digits else 0)
    if not following:
        raise Unreadable("a backslash at its end")
    return place + 2


def _find_end_of_class(pattern: str, place: int) -> int:
    """The place behind a class, which may have classes in it: `[a-z&&[^b]]`."""
    depth = 0
    while place < len(pattern):
        character = pattern[place]
        if character == "[":
            depth += 1
            place += 1 + pattern.startswith("^", place + 1)
            # `[]a]` has a bracket in it.
            place += pattern.startswith("]", place)
            continue
        depth -= character == "]"
        place += 2 if character == "\\" else 1
        if not depth:
            return place
    raise Unreadable("a class that does not end")


def _read_opening(pattern: str, place: int) -> tuple[int, str]:
    """The place behind the opening of a group, and what it is to `re`."""
    if pattern.startswith("(?#", place):
        return (pattern.find(")", place) + 1) or len(pattern), ""
    for opening, written in _OPENINGS.items():
        if pattern.startswith(opening, place):
            return place + len(opening), written
    if named := _NAME.match(pattern, place):
        return named.end(), "(?:"
    if flags := _FLAGS.match(pattern, place):
        # Case does not change which texts are slow, as each case is tried.
        return flags.end(), "(?:" if flags[0].endswith(":") else ""
    if pattern.startswith(("(?", "(*"), place):
        raise Unreadable(f"{pattern[place : place + 3]}, whose time cannot be foreseen")
    return place + 1, "(?:"
