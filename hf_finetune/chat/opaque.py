"""Templates that pass texts on unread: what they write around a text is the same whatever it says.

Most chat templates decide by roles and places alone, and write each content where it belongs, trimmed at most. That is
seen in their syntax: where no content reaches a condition, an index, a loop or a filter, all conversations of one shape
are written alike. Some look for a few strings in a content (Qwen3's for `</think>`); of a text without these they see
nothing either. What is not understood here counts as reading.

It holds for messages of a role and a content alone, without tools.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import cast

from jinja2 import nodes
from jinja2.exceptions import TemplateError

from hf_finetune.chat.worker import make_environment

CONTENT, ROLE = "content", "role"
MAX_PASSES = 20
"""Over a template, until no variable holds more than before."""
_STRIPS = frozenset(["strip", "lstrip", "rstrip"])
_IS_OF_TEXT = {"string": True, "defined": True, "iterable": True, "sequence": True}
_IS_OF_TEXT |= {"none": False, "undefined": False, "mapping": False, "number": False, "boolean": False}
_OWN_NAMES = frozenset(["loop", "namespace", "dict", "raise_exception", "self", "caller", "varargs", "kwargs"])
_ITEMS = frozenset(["first", "last"])
_LISTS = frozenset(["list", "reverse"])


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


class _Read(Exception):
    """The template reads a text."""


@dataclass
class _Analysis:
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
    changed: bool = False


@functools.lru_cache(maxsize=64)
def find_looked_for(template: str) -> frozenset[str] | None:
    """Find the strings that a template looks for in contents; None where it may read more of them.

    Only of a template that `describe_template` has taken: it has been read within limits then.
    """
    try:
        tree = make_environment().parse(template)
        macros = list(tree.find_all(nodes.Macro))
        seen = _Analysis(macros={macro.name: macro for macro in macros})
        seen.assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}
        if len(seen.macros) < len(macros) or seen.assigned & {*seen.macros, *_OWN_NAMES}:
            return None
        for _ in range(MAX_PASSES):
            seen.changed = False
            _walk(seen, tree.body)
            if not seen.changed:
                return None if _is_mixed(seen) else frozenset(seen.looked_for)
    except (_Read, TemplateError, RecursionError):
        pass
    return None


def _is_mixed(seen: _Analysis) -> bool:
    """Whether a variable holds a message at one time and at another what may have other fields."""
    if seen.neighbors and seen.other_loops:
        return True
    return any(seen.variables[name] in (Kind.MESSAGE, Kind.MESSAGES) for name in seen.plain)


def _walk(seen: _Analysis, body: Iterable[nodes.Node]) -> None:
    for node in body:
        _walk_statement(seen, node)


def _walk_statement(seen: _Analysis, node: nodes.Node) -> None:
    match node:
        case nodes.Output():
            for each in node.nodes:
                _demand(_find_kind(seen, each), Kind.PLAIN, Kind.TEXT, Kind.WRITTEN)
        case nodes.If():
            _walk_branches(seen, node)
        case nodes.For():
            _walk_loop(seen, node)
        case nodes.Assign():
            _assign(seen, node.target, _find_kind(seen, node.node))
        case nodes.AssignBlock(filter=None):
            _walk(seen, node.body)
            _assign(seen, node.target, Kind.WRITTEN)
        case nodes.CallBlock() if isinstance(node.call.node, nodes.ExtensionAttribute):  # {% generation %}
            _walk(seen, node.body)
        case nodes.Macro():
            _demand_plain(seen, *node.defaults)
            _walk(seen, node.body)
        case nodes.Break() | nodes.Continue() | nodes.TemplateData():
            pass
        case _:
            raise _Read


def _walk_branches(seen: _Analysis, node: nodes.If) -> None:
    """Walk through the branches that a conversation of strings may take."""
    for branch in (node, *node.elif_):
        test = cast(nodes.Expr, branch.test)
        truth = _decide(seen, test)
        if truth is None:
            _demand_condition(seen, test)
        if truth is not False:
            _walk(seen, branch.body)
        if truth is True:
            return
    _walk(seen, node.else_)


def _walk_loop(seen: _Analysis, node: nodes.For) -> None:
    kind = _demand(_find_kind(seen, node.iter), Kind.PLAIN, Kind.MESSAGES)
    seen.other_loops |= kind is Kind.PLAIN
    _assign(seen, node.target, Kind.MESSAGE if kind is Kind.MESSAGES else Kind.PLAIN)
    if node.test is not None:
        _demand_condition(seen, cast(nodes.Expr, node.test))
    if node.recursive:
        raise _Read
    _walk(seen, node.body)
    _walk(seen, node.else_)


def _assign(seen: _Analysis, target: nodes.Node, kind: Kind) -> None:
    match target:
        case nodes.Name():
            _hold(seen, target.name, kind)
        case nodes.NSRef():
            _hold(seen, f".{target.attr}", kind)
        case nodes.Tuple():
            for each in target.items:
                _assign(seen, each, _demand(kind, Kind.PLAIN))
        case _:
            raise _Read


def _hold(seen: _Analysis, name: str, kind: Kind) -> None:
    """Let a variable hold a kind besides what it holds."""
    if kind is Kind.PLAIN:
        seen.plain.add(name)
    before = seen.variables.get(name, Kind.PLAIN)
    after = _join(before, kind)
    if before != after or name not in seen.variables:
        seen.variables[name] = after
        seen.changed = True


def _join(*kinds: Kind) -> Kind:
    """The kind of a value that is of one of these."""
    found = set(kinds) - {Kind.PLAIN}
    if found <= {Kind.TEXT, Kind.WRITTEN}:
        return max(found, default=Kind.PLAIN)
    return found.pop() if len(found) == 1 else _demand(Kind.READ)


def _demand(kind: Kind, *allowed: Kind) -> Kind:
    if kind not in allowed:
        raise _Read
    return kind


def _demand_condition(seen: _Analysis, test: nodes.Expr) -> None:
    # Whether a content is blank is a part of the shape of a conversation.
    _demand(_find_kind(seen, test), Kind.PLAIN, Kind.TEXT, Kind.WRITTEN, Kind.MESSAGE, Kind.MESSAGES)


def _decide(seen: _Analysis, test: nodes.Expr) -> bool | None:
    """Whether a condition holds for all conversations of messages with a role and a string, without tools."""
    match test:
        case nodes.Not():
            inner = _decide(seen, test.node)
            return None if inner is None else not inner
        case nodes.And():
            both = _decide(seen, test.left), _decide(seen, test.right)
            return False if False in both else None if None in both else True
        case nodes.Or():
            both = _decide(seen, test.left), _decide(seen, test.right)
            return True if True in both else None if None in both else False
        case nodes.Test(args=[] | None) if _is_content(seen, test.node):
            return _IS_OF_TEXT.get(test.name)
        case nodes.Test(name="defined") if _is_missing(seen, test.node):
            return False
        case nodes.Compare(
            expr=nodes.Const(value=str() as name), ops=[nodes.Operand(op="in" | "notin" as how) as among]
        ):
            return (name in (ROLE, CONTENT)) == (how == "in") if _is_message(seen, among.expr) else None
        case nodes.Name(name="tools" | "documents") if test.name not in seen.assigned:
            return False
        case _:
            return False if _is_missing(seen, test) else None


def _is_content(seen: _Analysis, node: nodes.Expr) -> bool:
    # Not a variable, which may hold something else at another time.
    return _name_field(node) == CONTENT and _find_kind(seen, _owner(node)) is Kind.MESSAGE


def _is_missing(seen: _Analysis, node: nodes.Expr) -> bool:
    """Whether this is a field of a message that is neither its role nor its content."""
    name = _name_field(node)
    return name is not None and name not in (CONTENT, ROLE) and _is_message(seen, _owner(node))


def _is_message(seen: _Analysis, node: nodes.Expr) -> bool:
    return _find_kind(seen, node) is Kind.MESSAGE


def _name_field(node: nodes.Expr) -> str | None:
    """The field of an object that is looked up by its name."""
    match node:
        case nodes.Getattr():
            return node.attr
        case nodes.Getitem(arg=nodes.Const(value=str() as name)):
            return name
        case nodes.Call(node=nodes.Getattr(attr="get"), args=[nodes.Const(value=str() as name)], kwargs=[]):
            return name
    return None


def _owner(node: nodes.Expr) -> nodes.Expr:
    owner = node.node.node if isinstance(node, nodes.Call) else node.node  # type: ignore[attr-defined]
    assert isinstance(owner, nodes.Expr)
    return owner


def _find_kind(seen: _Analysis, node: nodes.Node | None) -> Kind:
    """Find what an expression may tell. Raises `_Read`."""
    match node:
        case None | nodes.Const() | nodes.TemplateData():
            return Kind.PLAIN
        case nodes.Name():
            return seen.variables.get(node.name, Kind.PLAIN)
        case nodes.Getattr():
            return _find_kind_of_field(seen, node.node, node.attr)
        case nodes.Getitem():
            return _find_kind_of_item(seen, node)
        case nodes.Call():
            return _find_kind_of_call(seen, node)
        case nodes.Filter():
            return _find_kind_of_filter(seen, node)
        case nodes.CondExpr():
            return _find_kind_of_choice(seen, node)
        case nodes.Test():
            return _find_kind_of_test(seen, node)
        case nodes.Compare():
            return _find_kind_of_comparison(seen, node)
        case nodes.Not():
            _demand_condition(seen, node.node)
            return Kind.PLAIN
        case nodes.And() | nodes.Or():
            return _find_kind_of_either(seen, node)
        case nodes.Add() | nodes.Concat():
            return _find_kind_of_sum(seen, [node.left, node.right] if isinstance(node, nodes.Add) else node.nodes)
        case nodes.List():
            return _find_kind_of_list(seen, node)
        case nodes.Tuple() | nodes.Dict() | nodes.Pair() | nodes.Slice() | nodes.Keyword():
            return _demand_plain(seen, *node.iter_child_nodes())
        case nodes.BinExpr() | nodes.UnaryExpr():
            return _demand_plain(seen, *node.iter_child_nodes())
        case _:
            raise _Read


def _demand_plain(seen: _Analysis, *children: nodes.Node | None) -> Kind:
    for each in children:
        _demand(_find_kind(seen, each), Kind.PLAIN)
    return Kind.PLAIN


def _find_kind_of_field(seen: _Analysis, owner: nodes.Expr, name: str) -> Kind:
    kind = _find_kind(seen, owner)
    if kind is Kind.MESSAGE:
        if name in ("get", "items", "keys", "values", "pop", "update", "setdefault", "copy"):
            raise _Read
        return Kind.TEXT if name == CONTENT else Kind.PLAIN
    if kind is Kind.NAMESPACE:
        return seen.variables.get(f".{name}", Kind.PLAIN)
    if name in ("previtem", "nextitem"):
        seen.neighbors = True
        return Kind.MESSAGE
    return _demand(kind, Kind.PLAIN)


def _find_kind_of_item(seen: _Analysis, node: nodes.Getitem) -> Kind:
    match _find_kind(seen, node.node), node.arg:
        case Kind.MESSAGE, nodes.Const(value=str() as name):
            return Kind.TEXT if name == CONTENT else Kind.PLAIN
        case Kind.MESSAGES, nodes.Slice():
            _demand_plain(seen, node.arg)
            return Kind.MESSAGES
        case Kind.MESSAGES, index:
            _demand_plain(seen, index)
            return Kind.MESSAGE
        case Kind.PARTS, nodes.Const(value=0) | nodes.Neg(node=nodes.Const(value=1)):
            return Kind.TEXT
        case Kind.PLAIN, key:
            return _demand_plain(seen, key)
    raise _Read


def _find_kind_of_call(seen: _Analysis, node: nodes.Call) -> Kind:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise _Read
    if isinstance(node.node, nodes.Name):
        return _find_kind_of_function(seen, node, node.node.name)
    if not isinstance(node.node, nodes.Getattr):
        raise _Read
    owner, name = node.node.node, node.node.attr
    kind = _find_kind(seen, owner)
    if kind is Kind.MESSAGE and name == "get":
        field_name = _name_field(node)
        if field_name is None:
            raise _Read
        return Kind.TEXT if field_name == CONTENT else Kind.PLAIN
    if kind in (Kind.TEXT, Kind.WRITTEN):
        return _find_kind_of_method(seen, node, kind, name)
    return _demand_plain(seen, owner, *node.args, *node.kwargs)


def _find_kind_of_method(seen: _Analysis, node: nodes.Call, kind: Kind, name: str) -> Kind:
    """The kind of what a method of a string gives."""
    strings = _list_strings(node.args)
    if strings is None or node.kwargs:
        raise _Read
    if name in _STRIPS and not any(each.strip() for each in strings):
        return kind
    if kind is Kind.TEXT and strings and all(each.strip() for each in strings):
        if name in ("startswith", "endswith"):
            seen.looked_for.update(strings)
            return Kind.PLAIN
        if name in ("split", "replace"):
            seen.looked_for.add(strings[0])
            return Kind.PARTS if name == "split" else Kind.TEXT
    raise _Read


def _list_strings(args: Sequence[nodes.Expr]) -> list[str] | None:
    """Strings that are given as arguments, or in a tuple; None for anything else."""
    found = []
    for each in args:
        for one in each.items if isinstance(each, nodes.Tuple) else [each]:
            if not isinstance(one, nodes.Const) or not isinstance(one.value, str):
                return None
            found.append(one.value)
    return found


def _find_kind_of_function(seen: _Analysis, node: nodes.Call, name: str) -> Kind:
    kinds = [_find_kind(seen, each) for each in node.args]
    named = {each.key: _find_kind(seen, each.value) for each in node.kwargs}
    if name in seen.macros:
        names = [each.name for each in seen.macros[name].args]
        if len(kinds) > len(names) or not named.keys() <= set(names):
            raise _Read
        for parameter, kind in (*zip(names, kinds, strict=False), *named.items()):
            _hold(seen, parameter, kind)
        return Kind.WRITTEN
    if name == "namespace" and not kinds:
        for parameter, kind in named.items():
            _hold(seen, f".{parameter}", kind)
        return Kind.NAMESPACE
    for kind in (seen.variables.get(name, Kind.PLAIN), *kinds, *named.values()):
        _demand(kind, Kind.PLAIN)
    return Kind.PLAIN


def _find_kind_of_filter(seen: _Analysis, node: nodes.Filter) -> Kind:
    kind, name = _find_kind(seen, node.node), node.name
    if node.node is None or node.dyn_args is not None or node.dyn_kwargs is not None:
        raise _Read
    _demand_plain(seen, *node.args, *node.kwargs)
    if kind is Kind.PLAIN:
        return kind
    bare = not node.args and not node.kwargs
    if kind is Kind.MESSAGES and bare and name in ("length", "count"):
        return Kind.PLAIN
    if kind is Kind.MESSAGES and bare and name in _ITEMS | _LISTS:
        return Kind.MESSAGE if name in _ITEMS else kind
    if kind is Kind.MESSAGES and name in ("selectattr", "rejectattr") and _list_strings(node.args[:1]) == [ROLE]:
        return kind
    if kind in (Kind.TEXT, Kind.WRITTEN) and bare and name in ("trim", "string", "safe"):
        return kind
    if kind in (Kind.TEXT, Kind.WRITTEN) and bare and name == "tojson":
        return Kind.WRITTEN  # a shape that it is written in is none: `shapes.STAND_IN` has a quote
    raise _Read


def _find_kind_of_choice(seen: _Analysis, node: nodes.CondExpr) -> Kind:
    truth = _decide(seen, node.test)
    if truth is not None:
        return _find_kind(seen, node.expr1 if truth else node.expr2)
    _demand_condition(seen, node.test)
    return _join(_find_kind(seen, node.expr1), _find_kind(seen, node.expr2))


def _find_kind_of_test(seen: _Analysis, node: nodes.Test) -> Kind:
    kind = _find_kind(seen, node.node)
    if kind is not Kind.PLAIN and (node.args or node.kwargs or node.name not in _IS_OF_TEXT or kind is Kind.PARTS):
        raise _Read
    return _demand_plain(seen, *node.args, *node.kwargs)


def _find_kind_of_comparison(seen: _Analysis, node: nodes.Compare) -> Kind:
    if _measures_blank(seen, node):
        return Kind.PLAIN
    kinds = [_find_kind(seen, each) for each in (node.expr, *(operand.expr for operand in node.ops))]
    if not any(kinds) or _decide(seen, node) is not None:
        return Kind.PLAIN
    if len(node.ops) != 1:
        raise _Read
    [operand] = node.ops
    match node.expr, kinds, operand.op, operand.expr:
        case nodes.Const(value=str() as said), [Kind.PLAIN, Kind.TEXT], "in" | "notin", _ if said.strip():
            seen.looked_for.add(said)
        case _, [Kind.TEXT, Kind.PLAIN], "eq" | "ne", nodes.Const(value=said):
            if isinstance(said, str) and said.strip():
                seen.looked_for.add(said)
        case _, [Kind.MESSAGE | Kind.MESSAGES, Kind.PLAIN], "eq" | "ne", nodes.Const(value=None):
            pass
        case _:
            raise _Read
    return Kind.PLAIN


def _measures_blank(seen: _Analysis, node: nodes.Compare) -> bool:
    """Whether this compares the length of a text with 0."""
    match node:
        case nodes.Compare(
            expr=nodes.Filter(name="length" | "count", node=measured), ops=[nodes.Operand(expr=nodes.Const(value=0))]
        ):
            return _find_kind(seen, measured) in (Kind.TEXT, Kind.WRITTEN)
    return False


def _find_kind_of_either(seen: _Analysis, node: nodes.BinExpr) -> Kind:
    truth = _decide(seen, node)
    if truth is not None:
        return Kind.PLAIN if not truth else _find_kind_of_value(seen, node)
    # What comes behind a condition that never holds is not looked at: `message.tool_calls and ...`
    if isinstance(node, nodes.Or) and _decide(seen, node.left) is False:
        return _find_kind(seen, node.right)
    return _find_kind_of_value(seen, node)


def _find_kind_of_value(seen: _Analysis, node: nodes.BinExpr) -> Kind:
    _demand_condition(seen, node.left)
    return _join(_find_kind(seen, node.left), _find_kind(seen, node.right))


def _find_kind_of_sum(seen: _Analysis, terms: Sequence[nodes.Expr]) -> Kind:
    kinds = [_find_kind(seen, each) for each in terms]
    if not any(kinds):
        return Kind.PLAIN
    if set(kinds) <= {Kind.PLAIN, Kind.MESSAGES}:
        if all(kind or _is_said(each) for kind, each in zip(kinds, terms, strict=True)):
            return Kind.MESSAGES
        raise _Read
    for kind in kinds:
        _demand(kind, Kind.PLAIN, Kind.TEXT, Kind.WRITTEN)
    return Kind.WRITTEN


def _is_said(node: nodes.Expr) -> bool:
    """Whether this is a list of messages that the template says itself, of a role and a string each."""
    return isinstance(node, nodes.List) and all(
        isinstance(each, nodes.Dict)
        and {getattr(pair.key, "value", None) for pair in each.items} == {ROLE, CONTENT}
        and all(isinstance(pair.value, nodes.Const) and isinstance(pair.value.value, str) for pair in each.items)
        for each in node.items
    )


def _find_kind_of_list(seen: _Analysis, node: nodes.List) -> Kind:
    kinds = {_find_kind(seen, each) for each in node.items}
    if kinds <= {Kind.PLAIN}:
        return Kind.PLAIN
    _demand(max(kinds), Kind.MESSAGE)
    return Kind.MESSAGES
