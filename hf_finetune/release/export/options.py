"""What can be asked of an export, and what is refused before torch is imported."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hf_finetune.config import check_saved_model, check_template_hash
from hf_finetune.errors import ConfigError, MachineError, Problem, suggest
from hf_finetune.folders import EXPORT, check_replaceable
from hf_finetune.release.export.targets import TARGETS

ROWS = 64


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The options of `hf-finetune export`, under their own names."""

    base: str | None = None
    """Where an adapter's base is, if it has moved."""
    data: str | None = None
    """Held-out rows to compare on; else the run's validation split."""
    tolerance: float | None = None
    """In the place of the target's own."""
    rows: int = ROWS
    """To compare on, at most."""
    overwrite: bool = False
    trust_chat_template: str | None = None
    int8: bool = False
    opset: int | None = None
    quant: str | None = None
    adapter_only: bool = False


_OF_ALL = ("base", "data", "tolerance", "rows", "overwrite", "trust_chat_template")


def get_own_options(options: ExportOptions) -> dict[str, Any]:
    """Return what was asked for beside what every target takes, by option."""
    named = [field for field in fields(options) if field.name not in _OF_ALL]
    given = {field.name: getattr(options, field.name) for field in named}
    return {name: given[name] for name in given if given[name] not in (None, False)}


def check_export(path: str, output: str, to: str, options: ExportOptions) -> None:
    """Raise an error for all that can be told from names and JSON files; torch is not imported.

    That is `ConfigError` for a target or option that there is not, a folder that is no model or may not be replaced,
    and `MachineError` for a package that is not installed.
    """
    target = TARGETS.get(to)
    if target is None:
        remedy = suggest(to, TARGETS, f"name one of {', '.join(TARGETS)}")
        raise ConfigError(Problem(f"there is no target {to!r}", remedy, key="--to", code="HF604"))
    idle = [name for name in get_own_options(options) if name not in target.options]
    if idle:
        key = f"--{idle[0].replace('_', '-')}"
        others = [name for name in TARGETS if idle[0] in TARGETS[name].options]
        remedy = f"leave it out: it is for --to {' and '.join(others)}"
        raise ConfigError(Problem(f"--to {to} does not take it", remedy, key=key, code="HF607"))
    check_template_hash(options.trust_chat_template)
    check_saved_model(path, "export", options.base)
    _refuse_export(Path(path))
    check_replaceable(output, overwrite=options.overwrite)
    if absent := [name for name in target.packages if importlib.util.find_spec(name) is None]:
        what = f"the package {absent[0]} is not installed, which --to {to} needs"
        raise MachineError(Problem(what, f'in the clone of hf-finetune: pip install ".[{target.extra}]"', code="HF711"))


def _refuse_export(folder: Path) -> None:
    """Raise `ConfigError` for an export whose weights are in no form that transformers reads."""
    if (folder / EXPORT).is_file() and not any(folder.glob("*.safetensors")):
        what, remedy = "is an export already", "name the run or model that it was made of"
        raise ConfigError(Problem(what, remedy, path=str(folder), code="HF972"))
