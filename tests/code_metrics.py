"""Metrics of the code as readers meet it; `python tests/code_metrics.py` prints them, test_architecture tests them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_finetune"

# First words of function names that are verbs; predicates (`is`, `has`, `needs`) among them.
WORDS = """
    accumulate add adjust allow analyze append apply are as ask assign attach attend average balance bind block
    bootstrap bound break build calibrate call can check choose claim clean clear clip close coerce collate collect
    combine compare compile complete compose compute concatenate configure connect contains continue convert copy
    correct count cover create cut decide declare decode delete describe detect determine diagnose disable display
    distribute does download draw drop dump edit embed enable encode end ensure enter escape estimate evaluate
    exclude exists expand explain export expose extend extract fail fetch fill filter find fit flatten fold follow
    forget format forward freeze gather generate get give group guard guess handle has hash hide hold identify
    ignore import include infer init initialize insert install is iterate join judge keep label launch leave limit
    link list load locate log look make map mark mask match measure merge move name needs normalize note offer open
    order orthogonalize pack pad paint parse patch pause permute pick pin place plan point pool predict prefer
    prepare prevent print probe process produce project prompt propose protect prune push put quote raise rank read
    rebuild recognize record redact redirect reduce refuse register reinitialize release reload remember remove
    rename render repair repeat replace report request require resample reserve reset resolve respond restore resume
    retry return rewrite rotate round run sample save say scale scan score search select send separate serve set
    shift shorten show shuffle shut sign skip slice smooth solve sort sound spell split spread stack start state
    stop store strip stratify suggest sum summarize suppress swap switch take test time tokenize track train
    translate trim try tune undo unfold unload unpack unwrap update upload use validate verify view visit wait wake
    walk warn was watch weigh wrap write yield zip
"""
VERBS = frozenset(WORDS.split())
# What a framework calls by this name, or a data class answers as.
FIXED = re.compile(r"on_[a-z_]+$|_info$|_compute$|forward$|__\w+__$|main$")

ARRAYS = re.compile(r"\b(Tensor|NDArray|ndarray|\w*Array)\b")
SHAPE = re.compile(r"\(\s*(?:[\w .*+/-]+,)(?:[\w .*+/,-]*)\)|\bscalar\b")


def library_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a file, properties and dunder methods aside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("__"):
            continue
        if not any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
            yield node


def share_of_verbs() -> float:
    """The share of functions whose name begins with a verb."""
    names = [function.name for path in library_files() for function in functions(path)]
    return sum(name.lstrip("_").split("_")[0] in VERBS for name in names) / len(names)


def names_without_verb() -> dict[str, list[str]]:
    found = {
        path.relative_to(ROOT).as_posix(): [
            function.name
            for function in functions(path)
            if function.name.lstrip("_").split("_")[0] not in VERBS and not FIXED.match(function.name)
        ]
        for path in library_files()
    }
    return {path: names for path, names in found.items() if names}


def array_functions() -> list[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions that take or return arrays or tensors, by their annotations."""
    return [
        (path, function)
        for path in library_files()
        for function in functions(path)
        if ARRAYS.search(" ".join(ast.unparse(each) for each in annotations(function)))
    ]


def annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.expr]:
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [each for each in (*(argument.annotation for argument in given), function.returns) if each is not None]


def states_shape(path: Path, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a shape stands in the docstring, or in a comment of the function."""
    lines = path.read_text(encoding="utf-8").splitlines()[function.lineno - 1 : function.end_lineno]
    comments = [line.partition("#")[2] for line in lines]
    return bool(SHAPE.search(ast.get_docstring(function) or "") or any(map(SHAPE.search, comments)))


def share_with_shapes() -> float:
    found = array_functions()
    return sum(states_shape(path, function) for path, function in found) / len(found)


def share_of_comments() -> float:
    """Own-line comments among the lines of the library; the tables of codes are texts for a user, line by line."""
    files = [path for path in library_files() if path.parent.name != "codes"]
    lines = [line.strip() for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    return sum(line.startswith("#") for line in lines) / len(lines)


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, wherever in the file; what a lazy face only names is left out."""
    modules = {module_name(path): path for path in library_files()}
    return {name: {found for found in imported(path, modules) if found != name} for name, path in modules.items()}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = [node for node in tree.body if isinstance(node, ast.If) and "import_lazily" in ast.unparse(tree)]
    named = {id(inner) for block in lazy for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and id(node) not in named:
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in modules else base


def import_circles() -> list[list[str]]:
    """Modules that import each other, directly or around: the strongly connected parts of the graph."""
    graph, circles, done = import_graph(), [], set()
    reaches = {name: reachable(name, graph) for name in graph}
    for name in sorted(graph):
        circle = sorted(other for other in reaches[name] if name in reaches.get(other, ()))
        if circle and name not in done:
            done |= {*circle}
            circles.append(circle)
    return circles


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph.get(waiting.pop(), ()):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def flat_folders() -> dict[str, int]:
    """Modules in each folder of the library, its `__init__` aside."""
    folders = {path.parent for path in library_files()}
    count = {folder: len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) for folder in folders}
    return {folder.relative_to(ROOT).as_posix(): number for folder, number in count.items()}


def recipe_size(path: Path) -> dict[str, int]:
    """Lines of a recipe, of its main, of its imports of ours, and the names that these bring."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if str(node.module).startswith("hf_finetune")]
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {
        "lines": len(source.splitlines()),
        "main": int(main.end_lineno or 0) - main.lineno + 1,
        "imports": len(ours),
        "names": sum(len(node.names) for node in ours),
    }


if __name__ == "__main__":
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in library_files())
    print(f"library: {len(library_files())} modules, {lines:,} lines")
    print(f"functions that begin with a verb: {share_of_verbs():.1%}")
    print(f"array functions with shapes:      {share_with_shapes():.1%} of {len(array_functions())}")
    print(f"own-line comments:                {share_of_comments():.2%}")
    print(f"import circles:                   {len(import_circles())}")
    print(f"largest flat folders:             {sorted(flat_folders().items(), key=lambda each: -each[1])[:3]}")
    for recipe in sorted((ROOT / "recipes").glob("*.py")):
        print(f"{recipe.name}: {recipe_size(recipe)}")
    for path, names in names_without_verb().items():
        print(f"  {path}: {', '.join(names)}")
