"""Names of a package that import their module when they are asked for (PEP 562).

A room's `__init__.py` lists its public names once, as imports under `if TYPE_CHECKING:`, where editors and type
checkers read them; at run time the same block is read here, as scientific-python's lazy_loader reads a `.pyi`:

    if TYPE_CHECKING:
        from hf_finetune.data.splitting.splits import load_splits

    __all__ = ["load_splits"]
    __getattr__, __dir__ = import_lazily(__name__)

`from hf_finetune.data import load_splits` then costs what that one module costs, and no two rooms import in a circle
because one of them has a face.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any


def import_lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of `package`, whose names are those under its `if TYPE_CHECKING:`."""
    module = sys.modules[package]
    file = Path(str(module.__file__))

    def import_name(name: str) -> Any:
        homes = find_homes(file)
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(module, name, value)  # the next time it is found at once
        return value

    def list_names() -> list[str]:
        return sorted({*find_homes(file), *(name for name in vars(module) if name.startswith("__"))})

    return import_name, list_names


@cache
def find_homes(init: Path) -> dict[str, str]:
    """The module of each name that an `__init__.py` imports under `if TYPE_CHECKING:`, without running it."""
    import ast  # `hf-finetune --help` asks for no name

    tree = ast.parse(init.read_text(encoding="utf-8"))
    guarded = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    imports = [node for node in guarded if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
