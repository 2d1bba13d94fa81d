"""The regular expressions of the project, found in its source, and strings that each is slow on."""

from __future__ import annotations

import ast
import importlib
import re
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

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


def list_strings(pattern: re.Pattern[Any]) -> list[str]:
    """Pieces whose repetition may keep `pattern` busy: every part of a text that it matches, and what is around."""
    tree = parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    parts = {sample for each in _subtrees(tree) for sample in _samples(each)} - {""}
    characters = sorted({character for part in parts for character in part})[:16]
    pairs = {one + other for one, other in product(characters[:8], repeat=2)}
    whole = max(_samples(tree), key=len, default="")
    prefixes = {whole[:end] for end in range(1, min(len(whole), 24))}
    return sorted({*parts, *characters, *pairs, *prefixes, " ", "a", "\n", "\t", "0", "/"})


def _subtrees(tree: Any) -> Iterator[Any]:
    yield tree
    for kind, value in tree:
        for inner in _children(kind, value):
            yield from _subtrees(inner)


def _children(kind: Any, value: Any) -> list[Any]:
    if kind is kinds.BRANCH:
        return list(value[1])
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        return [value[2]]
    if kind is kinds.SUBPATTERN:
        return [value[3]]
    if kind is kinds.ATOMIC_GROUP:
        return [value]
    if kind in (kinds.ASSERT, kinds.ASSERT_NOT):
        return [value[1]]
    return []


def _samples(tree: Any) -> list[str]:
    """A few texts that a tree matches: the first way through it, and the last one of each choice."""
    return list(dict.fromkeys("".join(_sample(kind, value, last) for kind, value in tree) for last in (False, True)))


def _sample(kind: Any, value: Any, last: bool) -> str:
    if kind is kinds.LITERAL:
        return chr(value)
    if kind in (kinds.ANY, kinds.NOT_LITERAL):
        return "a" if value != ord("a") else "b"
    if kind is kinds.IN:
        return _sample_of_class(value, last)
    if kind is kinds.BRANCH:
        return _join(value[1][-1 if last else 0], last)
    if kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
        least, most, inner = value
        return _join(inner, last) * min(max(least, 1 if last else 2), int(most), 40)
    if kind in (kinds.SUBPATTERN, kinds.ATOMIC_GROUP):
        return _join(_children(kind, value)[0], last)
    return ""


def _join(tree: Any, last: bool) -> str:
    return "".join(_sample(kind, value, last) for kind, value in tree)


def _sample_of_class(items: Any, last: bool) -> str:
    if items[0][0] is kinds.NEGATE:
        refused = {value for kind, value in items if kind is kinds.LITERAL}
        return next(each for each in ("z" if last else "a", "b", "0", " ", "-") if ord(each) not in refused)
    kind, value = items[-1 if last else 0]
    if kind is kinds.RANGE:
        return chr(value[1] if last else value[0])
    if kind is kinds.CATEGORY:
        named = {kinds.CATEGORY_DIGIT: "0", kinds.CATEGORY_SPACE: " ", kinds.CATEGORY_WORD: "a"}
        return named.get(value, "-")
    return chr(value)


Filling = tuple[str, str, str]
"""A text: how it begins, what is there again and again, and how it ends."""


def list_fillings(pattern: re.Pattern[Any], pieces: Iterable[str] = ()) -> list[Filling]:
    """Texts on which `pattern` may be slow: a piece again and again, as in a match or behind its beginning, to no end.

    `pieces` come on top of those that are derived from the pattern.
    """
    whole = max(_samples(parser.parse(pattern.pattern, pattern.flags)), key=len, default="")
    begins = ["", *(whole[:end] for end in (1, 4) if end < len(whole))]
    listed = product(begins, [*list_strings(pattern), *pieces], ("", "\x00", "!\n"))
    return list(listed)


def fill(pattern: re.Pattern[Any], filling: Filling, length: int) -> Any:
    """The text of `length` characters, as bytes where the pattern is for bytes."""
    begin, piece, end = filling
    text = begin + piece * (length // len(piece)) + end
    return text.encode("utf-8", "surrogatepass") if isinstance(pattern.pattern, bytes) else text


def find_slowest(use: Use, pieces: Iterable[str] = ()) -> Filling:
    """The filling of which a short text was the slowest."""
    assert use.pattern is not None
    fillings = list_fillings(use.pattern, pieces)
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
