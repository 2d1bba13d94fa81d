"""A reader of the part of Go's template language that is written here, for machines without Go.

https://pkg.go.dev/text/template: text, fields, variables, `if`, `range`, `break`, `define`, `template`, and a few
functions; anything else is an error and no guess.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Actions that end a list of others.
CLOSING = ("end", "else")
SPACE = " \t\r\n"


class GoError(Exception):
    """The template does not run, as Go would say it at this place, or is of a part of the language that is not here."""


class _Break(Exception):
    pass


@dataclass(slots=True)
class _Node:
    kind: str
    words: list[str] = field(default_factory=list)
    body: list[_Node] = field(default_factory=list)
    otherwise: list[_Node] = field(default_factory=list)


@dataclass(slots=True)
class _Scope:
    dot: Any
    variables: dict[str, Any]
    templates: Mapping[str, list[_Node]]
    out: list[str]


def render_go(source: str, data: Mapping[str, Any]) -> str:
    """Render a template. Raises `GoError`."""
    actions = _split(source)
    nodes, _ = _parse(actions, 0)
    templates = {json.loads(node.words[0]): node.body for node in nodes if node.kind == "define"}
    scope = _Scope(data, {"$": data}, templates, [])
    _run(nodes, scope)
    return "".join(scope.out)


def _split(source: str) -> list[tuple[str, list[str]]]:
    """Texts and the words of actions, in their order; white space beside `{{-` and `-}}` is gone."""
    found: list[tuple[str, list[str]]] = []
    while "{{" in source:
        text, _, source = source.partition("{{")
        end = _find_end(source)
        inside, source = source[:end], source[end + 2 :]
        # Go wants a space there: `{{-1}}` is a number.
        if inside.startswith("- "):
            text, inside = text.rstrip(SPACE), inside[2:]
        if inside.endswith(" -"):
            source, inside = source.lstrip(SPACE), inside[:-2]
        found += [("text", [text]), ("action", _split_words(inside))]
    return [*found, ("text", [source])]


def _find_end(source: str) -> int:
    """Where an action ends: `}}` outside of a quoted text."""
    place, quoted = 0, False
    while place < len(source):
        if quoted and source[place] == "\\":
            place += 1
        elif source[place] == '"':
            quoted = not quoted
        elif not quoted and source.startswith("}}", place):
            return place
        place += 1
    raise GoError("an action without an end")


def _split_words(inside: str) -> list[str]:
    """`if eq .Role "a b"` -> its four words; brackets are words of their own."""
    words, word, place = [], "", 0
    while place < len(inside):
        letter = inside[place]
        # A quoted text is a word as it is written, spaces and brackets in it too.
        if letter == '"':
            end = place + 1
            while inside[end] != '"':
                end += 2 if inside[end] == "\\" else 1
            word, place = inside[place : end + 1], end
        elif letter in "(),":
            words += [word, letter]
            word = ""
        elif letter.isspace():
            words, word = [*words, word], ""
        else:
            word += letter
        place += 1
    return [each for each in [*words, word] if each]


def _parse(actions: Sequence[tuple[str, list[str]]], place: int) -> tuple[list[_Node], int]:
    """The nodes from `place` on, and where the action stands that ends their list."""
    nodes: list[_Node] = []
    while place < len(actions):
        kind, words = actions[place]
        if kind == "text":
            nodes.append(_Node("text", words))
        elif words[0] in CLOSING:
            return nodes, place
        elif words[0] in ("if", "range", "define"):
            node, place = _parse_block(actions, place)
            nodes.append(node)
        else:
            nodes.append(_Node("action", words))
        place += 1
    return nodes, place


def _parse_block(actions: Sequence[tuple[str, list[str]]], place: int) -> tuple[_Node, int]:
    kind, *words = actions[place][1]
    node = _Node(kind, words)
    node.body, place = _parse(actions, place + 1)
    closing = actions[place][1]
    if closing[:2] == ["else", "if"]:  # the rest is an `if` of its own, which the same `end` ends
        inner, place = _parse_block([*actions[:place], ("action", closing[1:]), *actions[place + 1 :]], place)
        node.otherwise = [inner]
    elif closing == ["else"]:
        node.otherwise, place = _parse(actions, place + 1)
    return node, place


def _run(nodes: Sequence[_Node], scope: _Scope) -> None:
    for node in nodes:
        if node.kind == "text":
            scope.out.append(node.words[0])
        elif node.kind == "if":
            _run(node.body if _evaluate(node.words, scope) else node.otherwise, scope)
        elif node.kind == "range":
            _run_range(node, scope)
        elif node.kind == "action":
            _run_action(node.words, scope)


def _run_range(node: _Node, scope: _Scope) -> None:
    """`range $number, $each := LIST` or `range $number := COUNT`; what it sets is seen by what follows, as in Go."""
    at = node.words.index(":=")
    names = [word for word in node.words[:at] if word != ","]
    over = _evaluate(node.words[at + 1 :], scope)
    items: Sequence[Any] = range(over) if isinstance(over, int) else over
    # `break` ends the loop and not what is around it; the dot is the old one again behind it.
    before = scope.dot
    for number, each in enumerate(items):
        scope.dot = each
        scope.variables.update(zip(names, (number, each), strict=False))
        try:
            _run(node.body, scope)
        except _Break:
            break
    scope.dot = before


def _run_action(words: list[str], scope: _Scope) -> None:
    if words == ["break"]:
        raise _Break
    if words[0] == "template":
        dot = _evaluate(words[2:], scope)
        inner = _Scope(dot, {"$": dot}, scope.templates, scope.out)
        _run(scope.templates[json.loads(words[1])], inner)
    elif len(words) > 2 and words[1] in ("=", ":="):
        scope.variables[words[0]] = _evaluate(words[2:], scope)
    else:
        scope.out.append(str(_evaluate(words, scope)))


def _evaluate(words: list[str], scope: _Scope) -> Any:
    value, rest = _call(words, scope)
    if rest:
        raise GoError(f"unexpected {rest[0]}")
    return value


def _call(words: list[str], scope: _Scope) -> tuple[Any, list[str]]:
    """The value of a call, or of a single word, up to a closing bracket; and what is left."""
    name, rest = words[0], words[1:]
    if name not in _FUNCTIONS:
        return _read(words, scope)
    values = []
    while rest and rest[0] != ")":
        value, rest = _read(rest, scope)
        values.append(value)
    return _FUNCTIONS[name](*values), rest


def _read(words: list[str], scope: _Scope) -> tuple[Any, list[str]]:
    word, rest = words[0], words[1:]
    if word == "(":
        value, rest = _call(rest, scope)
        return value, rest[1:]
    if word.startswith('"'):
        return json.loads(word), rest
    if word in ("true", "false"):
        return word == "true", rest
    if word.lstrip("-").isdecimal():
        return int(word), rest
    if word == ".":
        return scope.dot, rest
    if word.startswith("."):
        return scope.dot[word[1:]], rest
    if word.startswith("$"):
        return scope.variables[word], rest
    raise GoError(f"function {word!r} not defined")


def _slice(text: str, *ends: int) -> str:
    # Go counts bytes.
    data = text.encode()
    start, stop = (*ends, len(data))[:2]
    if not 0 <= start <= stop <= len(data):
        raise GoError("slice out of range")
    return data[start:stop].decode("utf-8", "surrogateescape")


def _index(text: str, number: int) -> int:
    if not 0 <= number < len(text.encode()):
        raise GoError(f"index out of range: {number}")
    return text.encode()[number]


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": lambda value, *others: value in others,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "not": lambda value: not value,
    "gt": lambda one, other: one > other,
    "len": lambda value: len(value.encode("utf-8", "surrogateescape")) if isinstance(value, str) else len(value),
    "slice": _slice,
    "index": _index,
}
