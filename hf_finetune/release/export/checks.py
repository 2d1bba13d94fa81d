"""What is refused of an export before torch is imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hf_finetune.config import check_saved_model, check_template_hash
from hf_finetune.config.model_files.description import ADAPTER
from hf_finetune.errors import ConfigError, MachineError, Problem, suggest
from hf_finetune.folders import CHECKPOINT, EXPORT, MANIFEST, check_replaceable
from hf_finetune.folders.exported import read_export
from hf_finetune.release.export.options import ExportOptions, get_own_options
from hf_finetune.release.export.targets import TARGETS
from hf_finetune.release.export.values import check_opset, check_quant_name
from hf_finetune.reporting.card import find_source_run


def check_export(path: str, output: str, to: str, options: ExportOptions) -> None:
    """Raise an error for all that can be told from names and JSON files; torch is not imported.

    That is `ConfigError` for a target or option that there is not, a folder that is no model or may not be replaced,
    `MachineError` for a package that is not installed, and `DataError` for malformed rows and files of the run.
    """
    target = TARGETS.get(to)
    if target is None:
        remedy = suggest(to, TARGETS, f"name one of {', '.join(TARGETS)}")
        raise ConfigError(Problem(f"there is no target {to!r}", remedy, key="--to", code="HF604"))
    idle = [name for name in get_own_options(options) if name not in target.options]
    if idle:
        key = f"--{idle[0].replace('_', '-')}"
        others = [name for name in TARGETS if idle[0] in TARGETS[name].options]
        remedy = f"leave it out: it is for --to {', '.join(others[:-1])}{' or ' * (len(others) > 1)}{others[-1]}"
        raise ConfigError(Problem(f"--to {to} does not take it", remedy, key=key, code="HF607"))
    if options.opset is not None:
        check_opset(options.opset)
    if options.quant is not None:
        check_quant_name(options.quant, target.quants)
    check_template_hash(options.trust_chat_template)
    check_saved_model(path, "export", options.base)
    _refuse_export(Path(path))
    _refuse_options_of_adapters(path, options)
    check_replaceable(output, overwrite=options.overwrite)
    _refuse_checkpoint_name(Path(output))
    if absent := [name for name in target.packages if importlib.util.find_spec(name) is None]:
        what = f"the package {absent[0]} is not installed, which --to {to} needs"
        raise MachineError(Problem(what, f'in the clone of hf-finetune: pip install ".[{target.extra}]"', code="HF711"))
    if Path(path).is_dir():
        # The card is made of them, at the end: by then it would cost minutes.
        find_source_run(Path(path))
    if options.data is not None:
        from hf_finetune.data import check_compared_rows  # datasets: not for what is refused without it

        # The last, since it reads a file.
        check_compared_rows(path, options.data)


def _refuse_options_of_adapters(path: str, options: ExportOptions) -> None:
    """Raise `ConfigError` for what only an adapter has, of a folder that is none; what a Hub id is, is seen later."""
    if not Path(path).is_dir() or (Path(path) / ADAPTER).exists():
        return
    if options.base is not None:
        what = "this is a whole model, which takes no base"
        raise ConfigError(Problem(what, "leave it out", path=path, key="--base", code="HF534"))
    if options.adapter_only:
        what = "this is a whole model, and no adapter"
        raise ConfigError(Problem(what, "leave it out", path=path, key="--adapter-only", code="HF607"))


def _refuse_checkpoint_name(place: Path) -> None:
    """Raise `ConfigError` for a folder that a run would go on from; any other one may lie inside of a run's."""
    if CHECKPOINT.fullmatch(place.name) and (place.parent / MANIFEST).exists():
        what = "the run around it would take the export for a checkpoint of its own"
        raise ConfigError(Problem(what, "name it otherwise", path=str(place), code="HF707"))


def _refuse_export(folder: Path) -> None:
    """Raise `ConfigError` for an export whose weights are in no form that transformers reads, or in fewer bits."""
    if not (folder / EXPORT).is_file():
        return
    if not any(folder.glob("*.safetensors")) or read_export(folder).get("target") == "vllm":
        what, remedy = "is an export already", "name the run or model that it was made of"
        raise ConfigError(Problem(what, remedy, path=str(folder), code="HF972"))
