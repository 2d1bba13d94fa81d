"""What is known of a template's variables while it is looked through."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from jinja2 import nodes

CONTENT, ROLE = "content", "role"


class Kind(IntEnum):
    """What a value may tell of the texts of a conversation."""

    PLAIN = 0
    """Nothing: it follows from roles, from how many messages there are, and which contents are blank."""
    MESSAGES = 1
    MESSAGE = 2
    TEXT = 3
    """A content, white space at its ends aside."""
    PARTS = 4
    """A content, split at a string that it does not hold."""
    WRITTEN = 5
    """A content with something around it."""
    NAMESPACE = 6
    READ = 7
    """What a text says has been looked at, or it cannot be told."""


class TextRead(Exception):
    """The template reads a text."""


@dataclass
class Analysis:
    """What the variables of a template hold, by their names alone, and what it looks for in texts."""

    variables: dict[str, Kind] = field(default_factory=lambda: {"messages": Kind.MESSAGES})
    looked_for: set[str] = field(default_factory=set)
    macros: dict[str, nodes.Macro] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)
    """Variables that hold something plain, at some time."""
    neighbors: bool = False
    """It asks a loop for the item before or behind."""
    other_loops: bool = False
    """It has loops over other things than messages."""
    nearby: bool = True
    loops: set[int] = field(default_factory=set)
    """Where there are loops over messages."""
    changed: bool = False


def hold(seen: Analysis, name: str, kind: Kind) -> None:
    """Let a variable hold a kind besides what it holds."""
    # A dictionary of the template's own may have any field, a message of a row has two.
    if kind is Kind.PLAIN:
        seen.plain.add(name)
    before = seen.variables.get(name, Kind.PLAIN)
    after = join(before, kind)
    if before != after or name not in seen.variables:
        seen.variables[name] = after
        seen.changed = True


def join(*kinds: Kind) -> Kind:
    """The kind of a value that is of one of these."""
    found = set(kinds) - {Kind.PLAIN}
    if found <= {Kind.TEXT, Kind.WRITTEN}:
        return max(found, default=Kind.PLAIN)
    return found.pop() if len(found) == 1 else demand(Kind.READ)


def demand(kind: Kind, *allowed: Kind) -> Kind:
    if kind not in allowed:
        raise TextRead
    return kind
