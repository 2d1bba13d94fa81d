"""Whose a folder is: what somebody else has put there is never written over."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hf_finetune.errors import (
    NO_SPACE,
    CannotWriteError,
    ConfigError,
    FinetuneError,
    Problem,
    advise_unless_limited,
    find_writing_code,
)
from hf_finetune.files import find_blocking, sync_folder
from hf_finetune.folders.opened import recall
from hf_finetune.folders.record_kinds import (
    MANIFEST_KINDS,
    MAX_RECORD_BYTES,
    PUSHED_KINDS,
    REPORT_KINDS,
    SEAL_KINDS,
    find_wrong_kinds,
    read_record,
)
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

RESUME = "train.resume_from_checkpoint"
AUTO = "auto"
"""Its default: a run that is typed again goes on where it ended."""
MANIFEST = "manifest.json"
REPORT = "report.json"
RUN_FILE = "run.yaml"
CARD = "README.md"
# What was exported, and how far it is from the run.
EXPORT = "export.json"
# Of the process that writes into the folder, see `run_lock`.
LOCK = ".lock"
# The log-likelihoods of each row by base and tuned model. It stays here: they tell whether a row was trained on.
ROW_SCORES = "row_scores.json"
# Prints of the rows that were trained. It stays here: by them whoever has a text can tell whether it was.
ROW_PRINTS = "row_prints.npz"
STREAM_PRINTS = "row_prints.parts"
"""Of a run that streams, beside it."""
# Each line of the data files that was left out. It stays here: a reason may quote a key of the row.
REJECTED_LINES = "rejected_lines.jsonl"
# Where the finished run was pushed to, and which report went along.
PUSHED = "pushed.json"
CARD_MARKER = "<!-- Written by hf-finetune, which writes it anew until this line is removed. -->"

# Of every manifest that a run of ours has opened; web pages have a file of that name, too.
_OF_A_MANIFEST = {"data", "versions", "launch"}
# What stands in a folder that nobody has put anything into: of a file system, of a desktop, of our own killed writing.
NOBODYS = re.compile(r"lost\+found|\.DS_Store|\.lock|\..+\.aside")
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
# What has given way: to an earlier checkpoint that was gone on from, or to one of another run.
_GIVEN_WAY = re.compile(r"checkpoint-\d+\.(?:left|of-another-run)\d*")
TRAINER_STATE = "trainer_state.json"
# What a run of ours logs, line by line as it happens.
LOG = "log.jsonl"
LOG_FORMAT = 1
# A log of 300,000 lines is read in some seconds, and in half a GiB.
MAX_LOG_BYTES = 2**26
NON_FINITE = "nonfinite.json"
# What a run of ours writes of itself, beside its checkpoints, its model and the model's card.
PRINTS = (ROW_PRINTS, STREAM_PRINTS)
RECORDS = (LOG, RUN_FILE, MANIFEST, REPORT, "report.html", PUSHED, ROW_SCORES, *PRINTS, REJECTED_LINES)
# Of a checkpoint of ours: see `checkpoints`.
SEAL = "checkpoint.json"
# What `merge` and `export` write, by suffix or by name.
_OF_A_MODEL = re.compile(
    r".*\.(?:json|safetensors|jinja|py|model|onnx|onnx\.data|gguf)|Modelfile"
    r"|README\.md|report\.html|merges\.txt|vocab\.txt|row_prints\.npz"
)


def foreign_entry(folder: Path, *, resuming: bool = False) -> str | None:
    """What in `folder` no run of ours has left there, by its name; None where the folder is ours, empty or missing.

    A run that failed leaves its manifest, or nothing: it may be started again. Where one is gone on with,
    checkpoints alone will do, as they are when they were copied to another machine, and so do they beside what else a
    run writes where its manifest is gone or torn.
    """
    names = _names(folder)
    if MANIFEST in names and is_run_folder(folder):
        return None
    foreign = [name for name in names if not (NOBODYS.fullmatch(name) or (resuming and CHECKPOINT.fullmatch(name)))]
    if resuming and foreign and _has_lost_its_manifest(folder, names):
        foreign = [name for name in foreign if not _is_of_a_run(name, names)]
    return foreign[0] if foreign else None


def _has_lost_its_manifest(folder: Path, names: Sequence[str]) -> bool:
    """Whether a run of ours has sealed checkpoints in `folder`, and no manifest is there that says anything."""
    checkpoints = [folder / name for name in names if CHECKPOINT.fullmatch(name)]
    sealed = any(isinstance(_read_object(each / SEAL, SEAL_KINDS).get("run_id"), str) for each in checkpoints)
    return sealed and not read_manifest(folder)


def _is_of_a_run(name: str, names: Sequence[str]) -> bool:
    # A model alone may be another tool's, into whose folder checkpoints were copied.
    begun = LOG in names or RUN_FILE in names
    if name in (*RECORDS, NON_FINITE) or _GIVEN_WAY.fullmatch(name):
        return True
    return begun and _OF_A_MODEL.fullmatch(name) is not None


def read_finished(folder: Path) -> dict[str, Any] | None:
    """report.json of a run that has come to its end; None where there is none."""
    report = _read_object(folder / REPORT, REPORT_KINDS)
    return report if report.get("status") == "done" else None


def describe_finished(output_dir: str, report: Mapping[str, Any]) -> tuple[str, str]:
    """What there is to say of a finished run that is typed again, and what can be done."""
    steps = report.get("train", {}).get("steps")
    what = f"{output_dir} holds a finished run" + (f", {steps:,} steps" if steps else "")
    remedy = "to run it again, name another output_dir"
    if steps and list_checkpoints(Path(output_dir).expanduser()):
        remedy += "; to train on from its last checkpoint, raise train.max_steps"
    return f"{what}: its report is {Path(output_dir, 'report.html')}", remedy


def find_earlier_run(output_dir: str) -> tuple[str, str] | None:
    """What is wrong with a folder that holds an earlier run, finished or not, and what to do; None where none is."""
    folder = Path(output_dir).expanduser()
    if (report := read_finished(folder)) is not None:
        return describe_finished(output_dir, report)
    whole = bool(list_checkpoints(folder))
    checkpoints = reversed(list_checkpoints(folder, complete=False))
    held = next((path.name for path in (folder / REPORT, *checkpoints) if path.exists()), None)
    if held is None:
        return None
    remedy = f"name another folder, remove this one, or go on with it: leave {RESUME} out"
    if not whole:  # of those that were cut short as they were written none can be gone on from
        remedy = "name another folder, or remove this one: it holds no checkpoint that is whole"
    return f"{output_dir} holds another run's {held}", remedy


def is_run_folder(folder: Path) -> bool:
    """Whether a run of ours has opened its manifest there."""
    return read_manifest(folder).keys() >= _OF_A_MANIFEST


def read_pushed(folder: Path) -> dict[str, Any]:
    """Where a finished run was pushed to, with the sha256 of the report that went along; {} where it was not."""
    return _read_object(folder / PUSHED, PUSHED_KINDS)


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of the run that began in a folder; {} where there is none that can be read."""
    return _read_object(folder / MANIFEST, MANIFEST_KINDS)


def read_run_id(folder: Path) -> str | None:
    """The id of the run that has opened its manifest there; None where there is none, or of an older version.

    Of a run of this process also where its manifest is there no more.
    """
    opened = recall(folder)
    found = (read_manifest(folder) or (opened.manifest if opened else {})).get("run_id")
    return found if isinstance(found, str) else None


def was_changed(folder: Path, checkpoint: str) -> bool:
    """Whether the run goes on from this checkpoint under settings of which something else is trained."""
    changes = read_manifest(folder).get("changes", [])
    return any(each.get("from") == checkpoint and each.get("kind") == "unsafe" for each in changes)


def list_checkpoints(folder: Path, *, complete: bool = True) -> list[Path]:
    """The checkpoints in `folder` by their step; without `complete`, those too whose writing was cut short."""
    # By number: "checkpoint-1000" sorts before "checkpoint-200" as text. The Trainer writes its state last, so that a
    # checkpoint that was killed in the middle has none.
    numbered = [(int(match[1]), folder / name) for name in _names(folder) if (match := CHECKPOINT.fullmatch(name))]
    return [path for _, path in sorted(numbered) if (path / TRAINER_STATE).is_file() or not complete]


def check_run_folder(output_dir: str, folder: Path, *, resuming: bool) -> None:
    """Raise `ConfigError` where `folder`, which the run file calls `output_dir`, holds what no run of ours has left."""
    if (foreign := foreign_entry(folder, resuming=resuming)) is not None:
        raise ConfigError(Problem(*not_ours(output_dir, foreign), key="output_dir", code="HF691"))


def not_ours(output_dir: str, foreign: str) -> tuple[str, str]:
    """What is wrong with a folder that holds `foreign`, and what to do."""
    what = f"{output_dir} holds {foreign}, and is no run folder of hf-finetune"
    folder = Path(output_dir).expanduser()
    names = _names(folder)
    lost = f"{MANIFEST} {'is torn' if MANIFEST in names else 'is missing'}"
    if _has_lost_its_manifest(folder, names):
        what += f" by what else is there: it has a run's checkpoints, whose {lost}"
        return what, f"put {MANIFEST} back, or move {foreign} elsewhere: the same command then goes on from them"
    if MANIFEST in names and not read_manifest(folder):
        return f"{what}: {lost}", "put it back, or name a new folder, or an empty one"
    return what, "name a new folder, or an empty one: a run overwrites what is in its own"


def leads_out(path: Path, folder: Path) -> bool:
    """Whether `path`, an entry of `folder`, is a link to what is not in it; those of the Hub's cache are of it."""
    if not path.is_symlink():
        return False
    # Not `resolve`, which raises where links lead in a circle.
    home, target = (Path(os.path.realpath(each)) for each in (folder, path))
    # The cache links models--org--name/snapshots/<commit>/config.json to models--org--name/blobs/<hash>.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    return not (target.is_relative_to(home) or target.is_relative_to(blobs))


def make_run_folder(output_dir: str) -> list[Path]:
    """Make the folder of a run, its owner's alone; returns those that were missing, the innermost first.

    Raises `CannotWriteError` where there is no space, and `ConfigError` where the folder is none to be written.
    """
    folder = Path(output_dir)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)  # what a model has learned of its data is in it
        for path in new:  # else a power cut may take the folder away with all that is saved in it
            sync_folder(path.parent)
    except OSError as problem:
        raise refuse_folder(f"{output_dir} cannot be made ({problem.strerror})", problem) from problem
    return new


def refuse_folder(what: str, problem: OSError) -> FinetuneError:
    """The error of an `output_dir` that is refused before anything is in it: a setting to change, unless it is full."""
    full = problem.errno in NO_SPACE
    remedy = "make room, or name another folder" if full else "allow writing, or name another folder"
    remedy = advise_unless_limited(problem.errno, remedy)
    code = find_writing_code(problem.errno)
    return (CannotWriteError if full else ConfigError)(Problem(what, remedy, key="output_dir", code=code))


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove those of `folders`, the innermost first, that nothing is in."""
    for folder in folders:
        with suppress(OSError):  # not empty, or gone
            folder.rmdir()


def check_replaceable(output: str, *, overwrite: bool) -> None:
    """Raise `ConfigError` where a merged or exported model may not take the place of `output`.

    A folder is replaced as a whole: only one that holds nothing but such a model of ours is.
    """
    folder, names = Path(output), _list_taken(output)
    if names and not overwrite:
        raise ConfigError(
            Problem("is there already", "name another folder, or allow it with --overwrite", path=output, code="HF705")
        )
    if names and (foreign := _not_of_a_merged_model(folder, names)) is not None:
        what = (
            f"holds {foreign}, and is no model that hf-finetune has merged or exported: even with --overwrite it stays"
        )
        raise ConfigError(Problem(what, "name another folder, or remove this one yourself", path=output, code="HF705"))


def check_new_folder(output: str, remedy: str = "name another folder, or remove this one yourself") -> None:
    """Raise `ConfigError` where `output` is a file, or a folder in which anything stands."""
    if names := _list_taken(output):
        what = f"is there already, and holds {names[0]}: nothing is written over"
        raise ConfigError(Problem(what, remedy, path=output, code="HF705"))


def check_new_file(path: Path, *, overwrite: bool | None, example: str, key: str | None = None) -> None:
    """Raise `ConfigError` where `path` is no file, or where one is there, or a link, without `overwrite`.

    That is None of a command that has no such option. `example` is a name for the message. A path that cannot be is for
    whoever opens it to refuse.
    """
    if str(path) == "-":
        remedy = f"name a file, such as {example}; one of that name is ./-"
        raise ConfigError(Problem("is no name of a file", remedy, path="-", key=key, code="HF706"))
    # Not Path.exists(), which raises where a folder cannot be searched or a name is too long.
    if os.path.exists(path) and not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "is a device or a pipe"
        raise ConfigError(Problem(what, f"name a file, such as {example}", path=str(path), key=key, code="HF706"))
    if os.path.lexists(path) and not overwrite:
        remedy = "name another file" + ("" if overwrite is None else ", or add --overwrite")
        raise ConfigError(Problem("exists already", remedy, path=str(path), key=key, code="HF705"))
    say_new_folder(path)


def say_new_folder(path: Path) -> None:
    """Say that the folder of a file that is to be written is not there, and will be made."""
    # Of a mistyped folder nobody would know else where the file went.
    if not os.path.isdir(path.parent):
        logger.info("there is no folder %s: it is made", shell_path(path.parent))


def _list_taken(output: str) -> list[str]:
    """List what stands in the folder `output`; raises `ConfigError` where no folder can be made of that name."""
    # The system finds nothing under it, and `Path` takes it for the working folder, which would be replaced whole.
    if not output:
        what = "the folder to write has an empty name (a variable of the shell that is not set?)"
        raise ConfigError(Problem(what, "name a folder that does not exist yet", code="HF706"))
    try:
        mode = os.stat(output).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.islink(output):
            _refuse_file_above(output)
            return []
        what = "is a link that leads to nothing"
    except OSError as problem:
        what = f"cannot be looked at ({problem.strerror})"
    else:
        if stat.S_ISDIR(mode):
            return [name for name in _names(Path(output)) if not NOBODYS.fullmatch(name)]
        what = "is a file" if stat.S_ISREG(mode) else "is a device or a pipe"
    raise ConfigError(Problem(what, "name a folder that does not exist yet", path=output, code="HF706"))


def _refuse_file_above(output: str) -> None:
    if (above := find_blocking(Path(output).absolute())) is not None:
        what = f"lies below {above}, which is a file"
        raise ConfigError(Problem(what, "name a folder that does not exist yet", path=output, code="HF706"))


def _not_of_a_merged_model(folder: Path, names: list[str]) -> str | None:
    for name in names:
        if not _OF_A_MODEL.fullmatch(name) or name == MANIFEST or not (folder / name).is_file():
            return name
    try:
        ours = CARD_MARKER in (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except OSError:
        ours = False
    return None if ours else names[0]


def _read_object(path: Path, kinds: Mapping[str, str]) -> dict[str, Any]:
    """What a file of JSON says; {} where it is no object, or says of something what is of another kind."""
    # One that others have changed is as one that is torn: what stands in it is worth nothing.
    try:
        value = read_record(path, MAX_RECORD_BYTES)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) and not any(find_wrong_kinds(value, kinds)) else {}


def _names(folder: Path) -> list[str]:
    """Of everything in the folder, sorted; none where there is no folder."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:  # what cannot be listed may hold anything
        return [f"what cannot be listed ({problem.strerror})"]
