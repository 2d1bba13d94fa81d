"""Templates that go by what is near to a message alone: its neighbors, the first two messages, and even places."""

from __future__ import annotations

from jinja2 import nodes

# `messages[1:]` moves places by one, and `messages[loop.index0 - 1]` by another.
NEARBY = 3


def begins_near(node: nodes.Node) -> bool:
    """Whether this is a list without its first one or two items."""
    match node:
        case nodes.Getitem(arg=nodes.Slice(start=nodes.Const(value=0 | 1 | 2), stop=None, step=None)):
            return True
    return False


def is_near(index: nodes.Node) -> bool:
    """Whether an index is that of one of the first two messages, or of a neighbor."""
    match index:
        case nodes.Const(value=0 | 1):
            return True
        case nodes.Add(left=place, right=nodes.Const(value=1)) | nodes.Sub(left=place, right=nodes.Const(value=1)):
            return is_place(place)
    return is_place(index)


def is_place(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Getattr) and node.attr == "index0" and getattr(node.node, "name", "") == "loop"


def asks_nearby(tree: nodes.Template) -> bool:
    """Whether all that loops are asked is whether an item is the first or the last, or even; or its neighbors."""
    allowed: set[int] = set()
    for found in tree.find_all((nodes.Getitem, nodes.Mod, nodes.Compare)):
        # Alternation of roles is checked by `loop.index0 % 2` in many templates.
        match found:
            case nodes.Getitem(arg=index) if is_near(index):
                allowed.update(id(each) for each in (index, *index.iter_child_nodes()))
            case nodes.Mod(left=place, right=nodes.Const(value=2)):
                allowed.add(id(place))
            case nodes.Compare(expr=place, ops=[nodes.Operand(op="eq" | "ne" | "gt", expr=nodes.Const(value=0))]):
                allowed.add(id(place))
    asked = [each for each in tree.find_all(nodes.Getattr) if getattr(each.node, "name", "") == "loop"]
    near = ("first", "last", "previtem", "nextitem")
    return all(each.attr in near or (is_place(each) and id(each) in allowed) for each in asked)
