"""What the expressions of a template may tell of the texts of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import nodes

from hf_finetune.chat.shapes.analysis import CONTENT, ROLE, Analysis, Kind, TextRead, demand, hold, join
from hf_finetune.chat.shapes.nearby import begins_near, is_near

_STRIPS = frozenset(["strip", "lstrip", "rstrip"])
_IS_OF_TEXT = {"string": True, "defined": True, "iterable": True, "sequence": True}
_IS_OF_TEXT |= {"none": False, "undefined": False, "mapping": False, "number": False, "boolean": False}
_ITEMS = frozenset(["first", "last"])
_LISTS = frozenset(["list", "reverse"])


def demand_condition(seen: Analysis, test: nodes.Expr) -> None:
    # Whether a content is blank is a part of the shape of a conversation.
    demand(find_kind(seen, test), Kind.PLAIN, Kind.TEXT, Kind.WRITTEN, Kind.MESSAGE, Kind.MESSAGES)


def decide(seen: Analysis, test: nodes.Expr) -> bool | None:
    """Whether a condition holds for all conversations of messages with a role and a string, without tools."""
    match test:
        case nodes.Not():
            inner = decide(seen, test.node)
            return None if inner is None else not inner
        case nodes.And():
            both = decide(seen, test.left), decide(seen, test.right)
            return False if False in both else None if None in both else True
        case nodes.Or():
            both = decide(seen, test.left), decide(seen, test.right)
            return True if True in both else None if None in both else False
        # Lists of parts, and null, are not asked about: such a conversation is rendered.
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


def _is_content(seen: Analysis, node: nodes.Expr) -> bool:
    # Not a variable, which may hold something else at another time.
    return _name_field(node) == CONTENT and find_kind(seen, _owner(node)) is Kind.MESSAGE


def _is_missing(seen: Analysis, node: nodes.Expr) -> bool:
    """Whether this is a field of a message that is neither its role nor its content."""
    name = _name_field(node)
    return name is not None and name not in (CONTENT, ROLE) and _is_message(seen, _owner(node))


def _is_message(seen: Analysis, node: nodes.Expr) -> bool:
    return find_kind(seen, node) is Kind.MESSAGE


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


def find_kind(seen: Analysis, node: nodes.Node | None) -> Kind:
    """Find what an expression may tell. Raises `TextRead`."""
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
            demand_condition(seen, node.node)
            return Kind.PLAIN
        case nodes.And() | nodes.Or():
            return _find_kind_of_either(seen, node)
        case nodes.Add() | nodes.Concat():
            return _find_kind_of_sum(seen, [node.left, node.right] if isinstance(node, nodes.Add) else node.nodes)
        case nodes.List():
            return _find_kind_of_list(seen, node)
        case nodes.Tuple() | nodes.Dict() | nodes.Pair() | nodes.Slice() | nodes.Keyword():
            return demand_plain(seen, *node.iter_child_nodes())
        case nodes.BinExpr() | nodes.UnaryExpr():
            return demand_plain(seen, *node.iter_child_nodes())
        case _:
            raise TextRead


def demand_plain(seen: Analysis, *children: nodes.Node | None) -> Kind:
    for each in children:
        demand(find_kind(seen, each), Kind.PLAIN)
    return Kind.PLAIN


def _find_kind_of_field(seen: Analysis, owner: nodes.Expr, name: str) -> Kind:
    kind = find_kind(seen, owner)
    if kind is Kind.MESSAGE:
        if name in ("get", "items", "keys", "values", "pop", "update", "setdefault", "copy"):
            raise TextRead
        return Kind.TEXT if name == CONTENT else Kind.PLAIN
    if kind is Kind.NAMESPACE:
        return seen.variables.get(f".{name}", Kind.PLAIN)
    if name in ("previtem", "nextitem"):
        seen.neighbors = True
        return Kind.MESSAGE
    return demand(kind, Kind.PLAIN)


def _find_kind_of_item(seen: Analysis, node: nodes.Getitem) -> Kind:
    match find_kind(seen, node.node), node.arg:
        case Kind.MESSAGE, nodes.Const(value=str() as name):
            return Kind.TEXT if name == CONTENT else Kind.PLAIN
        case Kind.MESSAGES, nodes.Slice():
            demand_plain(seen, node.arg)
            seen.nearby &= begins_near(node)
            return Kind.MESSAGES
        case Kind.MESSAGES, index:
            demand_plain(seen, index)
            seen.nearby &= is_near(index)
            return Kind.MESSAGE
        # Split at what it does not hold, a text has one part, the first and the last.
        case Kind.PARTS, nodes.Const(value=0) | nodes.Neg(node=nodes.Const(value=1)):
            return Kind.TEXT
        case Kind.PLAIN, key:
            return demand_plain(seen, key)
    raise TextRead


def _find_kind_of_call(seen: Analysis, node: nodes.Call) -> Kind:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise TextRead
    if isinstance(node.node, nodes.Name):
        return _find_kind_of_function(seen, node, node.node.name)
    if not isinstance(node.node, nodes.Getattr):
        raise TextRead
    owner, name = node.node.node, node.node.attr
    kind = find_kind(seen, owner)
    if kind is Kind.MESSAGE and name == "get":
        field_name = _name_field(node)
        if field_name is None:
            raise TextRead
        return Kind.TEXT if field_name == CONTENT else Kind.PLAIN
    if kind in (Kind.TEXT, Kind.WRITTEN):
        return _find_kind_of_method(seen, node, kind, name)
    return demand_plain(seen, owner, *node.args, *node.kwargs)


def _find_kind_of_method(seen: Analysis, node: nodes.Call, kind: Kind, name: str) -> Kind:
    """The kind of what a method of a string gives."""
    strings = _list_strings(node.args)
    if strings is None or node.kwargs:
        raise TextRead
    # `strip("x")` would take off some of the text.
    if name in _STRIPS and not any(each.strip() for each in strings):
        return kind
    if kind is Kind.TEXT and strings and all(each.strip() for each in strings):
        if name in ("startswith", "endswith"):
            seen.looked_for.update(strings)
            return Kind.PLAIN
        if name in ("split", "replace"):
            seen.looked_for.add(strings[0])
            return Kind.PARTS if name == "split" else Kind.TEXT
    raise TextRead


def _list_strings(args: Sequence[nodes.Expr]) -> list[str] | None:
    """Strings that are given as arguments, or in a tuple; None for anything else."""
    found = []
    for each in args:
        for one in each.items if isinstance(each, nodes.Tuple) else [each]:
            if not isinstance(one, nodes.Const) or not isinstance(one.value, str):
                return None
            found.append(one.value)
    return found


def _find_kind_of_function(seen: Analysis, node: nodes.Call, name: str) -> Kind:
    kinds = [find_kind(seen, each) for each in node.args]
    named = {each.key: find_kind(seen, each.value) for each in node.kwargs}
    # A macro's parameters are variables like others here: names are not told apart by where they hold.
    if name in seen.macros:
        names = [each.name for each in seen.macros[name].args]
        if len(kinds) > len(names) or not named.keys() <= set(names):
            raise TextRead
        for parameter, kind in (*zip(names, kinds, strict=False), *named.items()):
            hold(seen, parameter, kind)
        return Kind.WRITTEN
    if name == "namespace" and not kinds:
        for parameter, kind in named.items():
            hold(seen, f".{parameter}", kind)
        return Kind.NAMESPACE
    for kind in (seen.variables.get(name, Kind.PLAIN), *kinds, *named.values()):
        demand(kind, Kind.PLAIN)
    return Kind.PLAIN


def _find_kind_of_filter(seen: Analysis, node: nodes.Filter) -> Kind:
    kind, name = find_kind(seen, node.node), node.name
    if node.node is None or node.dyn_args is not None or node.dyn_kwargs is not None:
        raise TextRead
    demand_plain(seen, *node.args, *node.kwargs)
    if kind is Kind.PLAIN:
        return kind
    bare = not node.args and not node.kwargs
    seen.nearby &= kind is not Kind.MESSAGES
    if kind is Kind.MESSAGES and bare and name in ("length", "count"):
        return Kind.PLAIN
    if kind is Kind.MESSAGES and bare and name in _ITEMS | _LISTS:
        return Kind.MESSAGE if name in _ITEMS else kind
    if kind is Kind.MESSAGES and name in ("selectattr", "rejectattr") and _list_strings(node.args[:1]) == [ROLE]:
        return kind
    # Others change the text (`upper`), or say something of it (`length`).
    if kind in (Kind.TEXT, Kind.WRITTEN) and bare and name in ("trim", "string", "safe"):
        return kind
    if kind in (Kind.TEXT, Kind.WRITTEN) and bare and name == "tojson":
        return Kind.WRITTEN  # a shape that it is written in is none: `shapes.STAND_IN` has a quote
    raise TextRead


def _find_kind_of_choice(seen: Analysis, node: nodes.CondExpr) -> Kind:
    truth = decide(seen, node.test)
    if truth is not None:
        return find_kind(seen, node.expr1 if truth else node.expr2)
    demand_condition(seen, node.test)
    return join(find_kind(seen, node.expr1), find_kind(seen, node.expr2))


def _find_kind_of_test(seen: Analysis, node: nodes.Test) -> Kind:
    kind = find_kind(seen, node.node)
    if kind is not Kind.PLAIN and (node.args or node.kwargs or node.name not in _IS_OF_TEXT or kind is Kind.PARTS):
        raise TextRead
    return demand_plain(seen, *node.args, *node.kwargs)


def _find_kind_of_comparison(seen: Analysis, node: nodes.Compare) -> Kind:
    if _measures_blank(seen, node):
        return Kind.PLAIN
    kinds = [find_kind(seen, each) for each in (node.expr, *(operand.expr for operand in node.ops))]
    if not any(kinds) or decide(seen, node) is not None:
        return Kind.PLAIN
    if len(node.ops) != 1:
        raise TextRead
    [operand] = node.ops
    match node.expr, kinds, operand.op, operand.expr:
        case nodes.Const(value=str() as said), [Kind.PLAIN, Kind.TEXT], "in" | "notin", _ if said.strip():
            seen.looked_for.add(said)
        # With a blank string it is the shape that decides.
        case _, [Kind.TEXT, Kind.PLAIN], "eq" | "ne", nodes.Const(value=said):
            if isinstance(said, str) and said.strip():
                seen.looked_for.add(said)
        case _, [Kind.MESSAGE | Kind.MESSAGES, Kind.PLAIN], "eq" | "ne", nodes.Const(value=None):
            pass
        case _:
            raise TextRead
    return Kind.PLAIN


def _measures_blank(seen: Analysis, node: nodes.Compare) -> bool:
    """Whether this compares the length of a text with 0."""
    match node:
        case nodes.Compare(
            expr=nodes.Filter(name="length" | "count", node=measured), ops=[nodes.Operand(expr=nodes.Const(value=0))]
        ):
            return find_kind(seen, measured) in (Kind.TEXT, Kind.WRITTEN)
    return False


def _find_kind_of_either(seen: Analysis, node: nodes.BinExpr) -> Kind:
    truth = decide(seen, node)
    if truth is not None:
        return Kind.PLAIN if not truth else _find_kind_of_value(seen, node)
    # What comes behind a condition that never holds is not looked at: `message.tool_calls and ...`
    if isinstance(node, nodes.Or) and decide(seen, node.left) is False:
        return find_kind(seen, node.right)
    return _find_kind_of_value(seen, node)


def _find_kind_of_value(seen: Analysis, node: nodes.BinExpr) -> Kind:
    demand_condition(seen, node.left)
    return join(find_kind(seen, node.left), find_kind(seen, node.right))


def _find_kind_of_sum(seen: Analysis, terms: Sequence[nodes.Expr]) -> Kind:
    kinds = [find_kind(seen, each) for each in terms]
    if not any(kinds):
        return Kind.PLAIN
    if set(kinds) <= {Kind.PLAIN, Kind.MESSAGES}:
        if all(kind or _is_said(each) for kind, each in zip(kinds, terms, strict=True)):
            return Kind.MESSAGES
        raise TextRead
    for kind in kinds:
        demand(kind, Kind.PLAIN, Kind.TEXT, Kind.WRITTEN)
    return Kind.WRITTEN


def _is_said(node: nodes.Expr) -> bool:
    """Whether this is a list of messages that the template says itself, of a role and a string each."""
    return isinstance(node, nodes.List) and all(
        isinstance(each, nodes.Dict)
        and {getattr(pair.key, "value", None) for pair in each.items} == {ROLE, CONTENT}
        and all(isinstance(pair.value, nodes.Const) and isinstance(pair.value.value, str) for pair in each.items)
        for each in node.items
    )


def _find_kind_of_list(seen: Analysis, node: nodes.List) -> Kind:
    kinds = {find_kind(seen, each) for each in node.items}
    if kinds <= {Kind.PLAIN}:
        return Kind.PLAIN
    demand(max(kinds), Kind.MESSAGE)
    return Kind.MESSAGES
