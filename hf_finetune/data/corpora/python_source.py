"""The definitions of a Python file, from its syntax tree: names, docstrings, signatures and source."""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

DefinitionKind = Literal["function", "method", "property", "class"]

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Branch = ast.If | ast.Try | ast.With


@dataclass(frozen=True, slots=True)
class Definition:
    """A function, method or class; `name` is qualified within its module, such as `Queue.put`."""

    kind: DefinitionKind
    name: str
    docstring: str
    """Without indentation; "" if there is none."""
    source: str
    """With decorators, and dedented; of a class the part before its first method."""
    node: _Function | ast.ClassDef

    @property
    def public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))


@dataclass(frozen=True, slots=True)
class PythonFile:
    """A parsed Python file."""

    docstring: str
    definitions: list[Definition]
    """In the order of the file, methods after their class, without definitions inside functions."""


def read_python(text: str) -> PythonFile:
    """Parse a file without running it. Raises SyntaxError for one that this Python cannot parse."""
    tree = ast.parse(text)
    return PythonFile(_get_docstring(tree), list(_find_definitions(tree.body, "", text.split("\n"))))


def _find_definitions(body: list[ast.stmt], prefix: str, lines: list[str]) -> Iterator[Definition]:
    """Yield definitions, also those inside `if`, `try` and `with`; `prefix` is that of their names."""
    for node in body:
        if isinstance(node, _Branch):
            inside = [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]
            yield from _find_definitions(inside, prefix, lines)
        elif isinstance(node, _Function):
            kind: DefinitionKind = "property" if _is_property(node) else "method" if prefix else "function"
            source = _extract_source(node, node.end_lineno or node.lineno, lines)
            yield Definition(kind, prefix + node.name, _get_docstring(node), source, node)
        elif isinstance(node, ast.ClassDef):
            source = _extract_source(node, _find_head_end(node), lines)
            yield Definition("class", prefix + node.name, _get_docstring(node), source, node)
            yield from _find_definitions(node.body, f"{prefix}{node.name}.", lines)


def _get_docstring(node: ast.Module | ast.ClassDef | _Function) -> str:
    return inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()


def _get_first_line(node: ast.stmt) -> int:
    if isinstance(node, _Function | ast.ClassDef) and node.decorator_list:
        return node.decorator_list[0].lineno
    return node.lineno


def _find_head_end(node: ast.ClassDef) -> int:
    for before, each in enumerate(node.body):
        if isinstance(each, _Function | ast.ClassDef):
            return _get_first_line(each) - 1 if before else node.lineno
    return node.end_lineno or node.lineno


def _extract_source(node: ast.stmt, last_line: int, lines: list[str]) -> str:
    # Not textwrap.dedent: a multi-line string may reach further left than the code around it.
    indent = " " * node.col_offset
    return "\n".join(line.removeprefix(indent) for line in lines[_get_first_line(node) - 1 : last_line]).rstrip() + "\n"


def format_signature(definition: Definition, name: str) -> str | None:
    """Format the call of a function, `name(arguments)`, with annotations and defaults as in its source.

    None for a class or a property, for a function without arguments, and for one outside of a class that takes `self`,
    which a decorator or an assignment makes a method.
    """
    # A method `def put(self, item, block=True) -> None` of `Queue` becomes "queue.Queue.put(item, block=True) -> None".
    node = definition.node
    if isinstance(node, ast.ClassDef) or definition.kind == "property":
        return None
    arguments = copy.deepcopy(node.args)
    positional = arguments.posonlyargs or arguments.args
    if definition.kind == "method" and "staticmethod" not in map(ast.unparse, node.decorator_list):
        del positional[:1]  # self or cls, which a call does not write
    elif positional and positional[0].arg == "self":
        return None
    written = ast.unparse(arguments)
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name}({written}){returned}" if written else None


def _is_property(node: _Function) -> bool:
    decorators = [ast.unparse(each) for each in node.decorator_list]
    return any(each.endswith(("property", ".setter", ".deleter", ".getter")) for each in decorators)
