"""The regular expressions of the project, found in its source, and the string that each is slowest on."""

from __future__ import annotations

import ast
import importlib
import re
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.config.model_files.tried.worst_texts import Filling, list_fillings
from hf_finetune.config.model_files.tried.worst_texts import fill as fill_text

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer")
LENGTH = 1_000_000
SCREENED = 1_500
LIMIT = 3.0


@dataclass(frozen=True)
class Use:
    """One regular expression, where it is written, and a method that is called on it."""

    place: str
    pattern: re.Pattern[Any] | None
    """None where its text is known only as it runs."""
    method: str


def find_uses() -> list[Use]:
    """Find every call of `re` in the project; of a compiled one, every method that is called on its name anywhere."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in _list_files()}
    called: dict[str, set[str]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                name = getattr(node.value, "attr", getattr(node.value, "id", ""))
                called.setdefault(name, set()).add(node.attr)
    return [use for path, tree in trees.items() for use in _find_in_file(path, tree, called)]


def _list_files() -> list[Path]:
    return sorted([*ROOT.glob("hf_finetune/**/*.py"), *ROOT.glob("recipes/*.py")])


def _find_in_file(path: Path, tree: ast.Module, called: dict[str, set[str]]) -> Iterator[Use]:
    shown = str(path.relative_to(ROOT))
    names = {}
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            for call in _calls_of_re(node):
                names[call] = getattr(target, "id", getattr(target, "attr", ""))
    calls = _calls_of_re(tree)
    module = _import(path) if calls else None
    for call in calls:
        method = call.func.attr  # type: ignore[attr-defined]
        if method == "escape":
            continue
        compiled = _build(call, module)
        place = f"{shown}: {ast.unparse(call)}"
        methods = {method} if method != "compile" else called.get(names.get(call, ""), set()) or {"search"}
        for each in sorted(methods):
            yield Use(place, compiled, each)


def _calls_of_re(tree: ast.AST) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and getattr(node.func.value, "id", "") == "re"
    ]


def _import(path: Path) -> Any:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return importlib.import_module(".".join(parts)) if parts[0] == "hf_finetune" else None


def _build(call: ast.Call, module: Any) -> re.Pattern[Any] | None:
    """Compile what a call of `re` is given, where that is known as the module is imported."""
    flags = next((key.value for key in call.keywords if key.arg == "flags"), None)
    if call.func.attr == "compile" and len(call.args) > 1:  # type: ignore[attr-defined]
        flags = call.args[1]
    elif len(call.args) > 2 and call.func.attr in ("match", "search", "fullmatch", "findall", "finditer"):  # type: ignore[attr-defined]
        flags = call.args[2]
    try:
        known = vars(module) if module else {}
        text = eval(ast.unparse(call.args[0]), dict(known))
        return re.compile(text, 0 if flags is None else eval(ast.unparse(flags), {"re": re}))
    except NameError:
        return None


def fill(pattern: re.Pattern[Any], filling: Filling, length: int) -> Any:
    """The text of `length` characters, as bytes where the pattern is for bytes."""
    text = fill_text(filling, length)
    return text.encode("utf-8", "surrogatepass") if isinstance(pattern.pattern, bytes) else text


def find_slowest(use: Use, pieces: Iterable[str] = ()) -> Filling:
    """The filling of which a short text was the slowest."""
    assert use.pattern is not None
    fillings = list_fillings(use.pattern.pattern, use.pattern.flags & ~re.DEBUG, pieces)
    measured = [measure(use, fill(use.pattern, filling, SCREENED)) for filling in fillings]
    # A process that waits for its turn is slow on anything: the ten slowest are measured again.
    slowest = sorted(range(len(fillings)), key=lambda number: -measured[number])[:10]
    again = {
        number: min(measure(use, fill(use.pattern, fillings[number], SCREENED)) for _ in range(3)) for number in slowest
    }
    return fillings[max(again, key=lambda number: again[number])]


def measure(use: Use, text: Any) -> float:
    """Seconds of the processor that a method of a pattern takes on a text; `LIMIT` at most."""
    work = getattr(use.pattern, use.method)
    signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
    start = time.process_time()
    try:
        if use.method in ("sub", "subn"):
            work(text[:0], text)
        elif use.method == "finditer":
            deque(work(text), maxlen=0)
        else:
            work(text)
    except TimeoutError:
        return LIMIT
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return time.process_time() - start


def _give_up(*_: object) -> None:
    raise TimeoutError
