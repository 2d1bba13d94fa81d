"""Templates that pass texts on unread: what they write around a text is the same whatever it says.

Most chat templates decide by roles and places alone, and write each content where it belongs, trimmed at most. That is
seen in their syntax: where no content reaches a condition, an index, a loop or a filter, all conversations of one shape
are written alike. Some look for a few strings in a content (Qwen3's for `</think>`); of a text without these they see
nothing either. What is not understood here counts as reading.

It holds for messages of a role and a content alone, without tools.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from jinja2 import nodes
from jinja2.exceptions import TemplateError

from hf_finetune.chat.shapes.analysis import Analysis, Kind, TextRead, demand, hold
from hf_finetune.chat.shapes.kinds import decide, demand_condition, demand_plain, find_kind
from hf_finetune.chat.shapes.nearby import asks_nearby, begins_near
from hf_finetune.chat.worker import make_environment

MAX_PASSES = 20
"""Over a template, until no variable holds more than before."""
_OWN_NAMES = frozenset(["loop", "namespace", "dict", "raise_exception", "self", "caller", "varargs", "kwargs"])


@dataclass(frozen=True, slots=True)
class PassingOn:
    """How a template passes texts on that it does not read."""

    looked_for: frozenset[str]
    """Strings that it looks for in contents."""
    nearby: bool
    """What it writes around a text follows from the messages within `nearby.NEARBY` of it, and from whether its place
    is even: the rest of a conversation changes nothing there."""


@functools.lru_cache(maxsize=64)
def find_passing_on(template: str) -> PassingOn | None:
    """Find how a template passes texts on; None where it may read them.

    Only of a template that `describe_template` has taken: it has been read within limits then.
    """
    try:
        tree = make_environment().parse(template)
        # What a variable holds is told by its name, wherever it is set: passes go on until nothing is new.
        macros = list(tree.find_all(nodes.Macro))
        seen = Analysis(macros={macro.name: macro for macro in macros})
        seen.assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}
        # With a name of two things, what holds of one would be taken for what holds of the other.
        if len(seen.macros) < len(macros) or seen.assigned & {*seen.macros, *_OWN_NAMES}:
            return None
        for _ in range(MAX_PASSES):
            seen.changed = False
            _walk(seen, tree.body)
            if not seen.changed:
                nearby = seen.nearby and len(seen.loops) <= 1 and asks_nearby(tree)
                return None if _is_mixed(seen) else PassingOn(frozenset(seen.looked_for), nearby)
    except (TextRead, TemplateError, RecursionError):
        pass
    return None


def _is_mixed(seen: Analysis) -> bool:
    """Whether a variable holds a message at one time and at another what may have other fields."""
    if seen.neighbors and seen.other_loops:
        return True
    return any(seen.variables[name] in (Kind.MESSAGE, Kind.MESSAGES) for name in seen.plain)


def _walk(seen: Analysis, body: Iterable[nodes.Node]) -> None:
    for node in body:
        _walk_statement(seen, node)


def _walk_statement(seen: Analysis, node: nodes.Node) -> None:
    match node:
        case nodes.Output():
            for each in node.nodes:
                demand(find_kind(seen, each), Kind.PLAIN, Kind.TEXT, Kind.WRITTEN)
        case nodes.If():
            _walk_branches(seen, node)
        case nodes.For():
            _walk_loop(seen, node)
        case nodes.Assign():
            _assign(seen, node.target, find_kind(seen, node.node))
        case nodes.AssignBlock(filter=None):
            _walk(seen, node.body)
            _assign(seen, node.target, Kind.WRITTEN)
        case nodes.CallBlock() if isinstance(node.call.node, nodes.ExtensionAttribute):  # {% generation %}
            _walk(seen, node.body)
        case nodes.Macro():
            demand_plain(seen, *node.defaults)
            _walk(seen, node.body)
        case nodes.Break():
            seen.nearby = False
        case nodes.Continue() | nodes.TemplateData():
            pass
        case _:
            raise TextRead


def _walk_branches(seen: Analysis, node: nodes.If) -> None:
    """Walk through the branches that a conversation of strings may take."""
    for branch in (node, *node.elif_):
        test = cast(nodes.Expr, branch.test)
        truth = decide(seen, test)
        if truth is None:
            demand_condition(seen, test)
        if truth is not False:
            _walk(seen, branch.body)
        if truth is True:
            return
    _walk(seen, node.else_)


def _walk_loop(seen: Analysis, node: nodes.For) -> None:
    kind = demand(find_kind(seen, node.iter), Kind.PLAIN, Kind.MESSAGES)
    seen.other_loops |= kind is Kind.PLAIN
    if kind is Kind.MESSAGES:
        seen.loops.add(id(node))
        seen.nearby &= node.test is None and (isinstance(node.iter, nodes.Name) or begins_near(node.iter))
    _assign(seen, node.target, Kind.MESSAGE if kind is Kind.MESSAGES else Kind.PLAIN)
    if node.test is not None:
        demand_condition(seen, cast(nodes.Expr, node.test))
    if node.recursive:
        raise TextRead
    _walk(seen, node.body)
    _walk(seen, node.else_)


def _assign(seen: Analysis, target: nodes.Node, kind: Kind) -> None:
    match target:
        case nodes.Name():
            hold(seen, target.name, kind)
        case nodes.NSRef():
            seen.nearby = False
            hold(seen, f".{target.attr}", kind)
        case nodes.Tuple():
            for each in target.items:
                _assign(seen, each, demand(kind, Kind.PLAIN))
        case _:
            raise TextRead
