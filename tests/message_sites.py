"""Where the project makes a message that a user can cause: every such call, found in the syntax tree."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The errors of `hf_finetune.errors`, and those that become the reason of a problem with a place.
ERRORS = {
    *("FinetuneError", "ConfigError", "RunFinished", "DataError", "ModelError", "HubError"),
    *("FolderInUse", "NonFiniteError", "NotPushedError", "MachineError", "CannotWriteError", "OutOfMemory"),
    *("LineError", "ChatTemplateError", "TextLeftOut"),
}
MAX_TEXT = 80


@dataclass(frozen=True, slots=True)
class Site:
    """One call that makes a message."""

    name: str
    """`file::function::text`, which survives other lines that move; a number follows where that is not unique."""
    path: Path
    first_line: int
    last_line: int
    code: ast.expr | None
    """What it gives as its code: a text, or where that comes from."""

    def covers(self, path: str, line: int) -> bool:
        """Whether this line of this file is one of the call's."""
        return self.first_line <= line <= self.last_line and path == str(self.path)


def find_message_sites() -> list[Site]:
    """Find the message sites of the package and of the recipes, in the order of the files."""
    paths = [*(ROOT / "hf_finetune").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]
    return [site for path in sorted(paths) for site in _find_in_file(path)]


def _find_in_file(path: Path) -> Iterator[Site]:
    seen: Counter[str] = Counter()
    for function, call in _walk(ast.parse(path.read_text(encoding="utf-8")), "module"):
        text = ast.unparse(call)[:MAX_TEXT]
        name = f"{path.relative_to(ROOT).as_posix()}::{function}::{text}"
        seen[name] += 1
        number = f" #{seen[name]}" if seen[name] > 1 else ""
        yield Site(name + number, path, call.lineno, call.end_lineno or call.lineno, _find_code(call))


def _find_code(call: ast.Call) -> ast.expr | None:
    """Its `code=...`; of a line of the log, as `extra={"code": ...}`."""
    given = {each.arg: each.value for each in call.keywords}
    if isinstance(extra := given.get("extra"), ast.Dict):
        pairs = zip(extra.keys, extra.values, strict=True)
        return next((value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "code"), None)
    return given.get("code")


def _walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and _makes_message(child):
            yield function, child
        named = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from _walk(child, child.name if named else function)


def _makes_message(call: ast.Call) -> bool:
    match call.func:
        case ast.Name(id="Problem"):
            return True
        case (
            ast.Attribute(attr="refuse" | "note", value=ast.Name(id="document"))
            | ast.Attribute(value=ast.Name(id="logger"), attr="warning" | "error")
        ):
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in ERRORS:
            # The problems that it is given are sites of their own.
            return bool(call.args) and isinstance(call.args[0], ast.Constant | ast.JoinedStr)
    return False
