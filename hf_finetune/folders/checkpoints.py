"""A checkpoint is there whole and verified, or not at all: its manifest, its birth, its check and its removal.

    checkpoint-120/
        checkpoint.json      the step, the run, and size and sha256 of every other file

A checkpoint is written in a folder aside, every file is put on the disk, then the manifest, and then the folder is
renamed: `seal` and `publish`. `find_faults` says what is wrong with one before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from hf_finetune.files import hash_file, sync_file, sync_folder, write_atomically
from hf_finetune.folders.checkpoint_records import find_record_faults
from hf_finetune.folders.ownership import CHECKPOINT, LOCK, NOBODYS, SEAL
from hf_finetune.folders.record_kinds import SEAL_KINDS, find_wrong_kinds, parse_record, show_key

FORMAT = 1
MAX_SEAL_BYTES = 2**24
# What a Trainer writes, and older versions of this package have written.
_PICKLED = ("training_args.bin", "optimizer.pt", "rng_state.pth", "rng_state_0.pth")
# `.checkpoint-120.aside` is being written, `.checkpoint-120.old.aside` gives way to a new one of the same step.
_ASIDE = re.compile(r"\.(checkpoint-\d+)(\.old)?\.aside")
# What else was being written when a run was killed: `.report.json.123.aside`, a folder of a model.
_OURS = re.compile(r"\..+\.aside")


def get_path(folder: Path, step: int) -> Path:
    """The folder of the checkpoint of a step in a run folder."""
    return folder / f"checkpoint-{step}"


def aside_of(checkpoint: Path) -> Path:
    """The folder in which `checkpoint` is written; what a run that was killed has left there is removed."""
    aside = checkpoint.with_name(f".{checkpoint.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    return aside


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Put every file of `folder` on the disk, then its manifest with `facts` (step, run). Raises OSError."""
    folders = [folder]
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            folders.append(path)
            continue
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    write_atomically(folder / SEAL, _write_seal({"format": FORMAT, **facts, "files": files}))
    for each in reversed(folders):
        sync_folder(each)


def publish(aside: Path, checkpoint: Path) -> None:
    """Give a sealed folder its name; an older checkpoint of that name is removed once the new one has it.

    One that another run has saved is not ours to remove: it gets another name. Raises OSError.
    """
    _spare_foreign(checkpoint, (read_seal(aside) or {}).get("run_id"))
    old = checkpoint.with_name(f".{checkpoint.name}.old.aside")
    shutil.rmtree(old, ignore_errors=True)
    # A crash between the two renames leaves the old one under its name aside, and `sweep` gives it its name back.
    if checkpoint.exists():
        os.replace(checkpoint, old)
    os.replace(aside, checkpoint)
    sync_folder(checkpoint.parent)
    shutil.rmtree(old, ignore_errors=True)


def read_seal(checkpoint: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint; None where there is none that can be read."""
    path = checkpoint / SEAL
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_SEAL_BYTES:
            return None
        text = path.read_text(encoding="utf-8")
        found = parse_record(text)
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not {"files", "step", "sha256"} <= found.keys() or found.get("format") != FORMAT:
        return None
    whole = found.pop("sha256") == _hash_seal(found)
    # Of one flipped bit in a text of JSON, as in a name or a number, a parser may say nothing. An editor, or a copy by
    # way of a clipboard, takes the last newline, and nothing with it.
    whole = whole and text.removesuffix("\n") == _write_seal(found).removesuffix("\n")
    return found if whole and not any(find_wrong_kinds(found, SEAL_KINDS)) else None


def find_faults(checkpoint: Path, name: str | None = None) -> list[str]:
    """What is wrong with a checkpoint, a few words each: every file is read and compared with the manifest.

    `name` is the one that it is to have, where it has another. Nothing outside of the folder is read, and nothing that
    is no plain file.
    """
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        return ["is no folder"]
    manifest = read_seal(checkpoint)
    if manifest is None:
        return [_describe_unsealed(checkpoint)]
    if (name or checkpoint.name) != f"checkpoint-{manifest['step']}":
        return [f"is of step {manifest['step']} by its {SEAL}"]
    found = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if not _is_plain_folder(path)}
    unknown = sorted(each for each in found - manifest["files"].keys() - {SEAL} if not NOBODYS.fullmatch(each))
    faults = [f"{show_key(each)} is not of it" for each in unknown]
    for each, expected in manifest["files"].items():
        fault = _check_file(checkpoint / each, expected) if each in found else "is missing"
        faults += [] if fault is None else [f"{show_key(each)} {fault}"]
    return faults


def find_doubts(checkpoint: Path) -> list[str]:
    """Why no run goes on from a checkpoint: it has changed, or it is as it was written and says what no run writes."""
    return find_faults(checkpoint) or find_record_faults(checkpoint, get_step(checkpoint))


def find_verified(
    folder: Path,
    *,
    below: int | None = None,
    run_id: str | None = None,
    look: Callable[[Path], list[str]] = find_faults,
) -> tuple[Path | None, dict[str, str]]:
    """The newest checkpoint in `folder` that verifies, of a step under `below`; what is wrong with newer ones, by name.

    Where the run is known, it is one of that run: those of another are not even read. Who goes on from it gives
    `find_doubts` to `look`; of what this run has written itself it is enough that it is as it was written.
    """
    passed: dict[str, str] = {}
    for checkpoint in reversed(list_numbered(folder)):
        if below is not None and get_step(checkpoint) >= below:
            continue
        faults = find_foreign(checkpoint, run_id) or look(checkpoint)
        if not faults:
            return checkpoint, passed
        passed[checkpoint.name] = faults[0] + (f", and {len(faults) - 1} more" if len(faults) > 1 else "")
    return None, passed


def find_foreign(checkpoint: Path, run_id: str | None) -> list[str]:
    """That a checkpoint is of another run than this one, where both are known."""
    found = (read_seal(checkpoint) or {}).get("run_id")
    if run_id is None or found is None or found == run_id:
        return []
    return [f"is of another run: {show_key(found)}, and not {show_key(run_id)}"]


def list_numbered(folder: Path) -> list[Path]:
    """What is named as a checkpoint in `folder`, by its step, whole or not."""
    # By number: "checkpoint-1000" sorts before "checkpoint-200" as text.
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted((folder / name for name in names if CHECKPOINT.fullmatch(name)), key=get_step)


def list_sealed(folder: Path, run_id: str | None = None) -> list[Path]:
    """The checkpoints in `folder` that have a manifest, by their step; where the run is known, those of that run."""
    return [each for each in list_numbered(folder) if read_seal(each) is not None and not find_foreign(each, run_id)]


def get_step(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    match = CHECKPOINT.fullmatch(checkpoint.name)
    assert match is not None, checkpoint
    return int(match[1])


def rotate(folder: Path, limit: int, keep: Collection[Path], run_id: str | None = None) -> list[Path]:
    """Remove the oldest sealed checkpoints of `folder` until `limit` are left; those to `keep` never, nor the newest.

    What has no manifest is not ours to remove, nor, where the run is known, what another one has saved: neither is
    counted. Returns those that were removed.
    """
    sealed = list_sealed(folder, run_id)
    names = {each.name for each in keep}
    surplus = [each for each in sealed[:-1] if each.name not in names]
    surplus = surplus[: max(0, len(sealed) - max(limit, 1))]
    for checkpoint in surplus:
        remove_checkpoint(checkpoint)
    return surplus


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint; one that is killed meanwhile leaves nothing that looks like a whole one."""
    with suppress(OSError):  # its files may be of others; the next rotation tries again
        # First: what is left of a removal that was cut short has no manifest, and is passed over.
        (checkpoint / SEAL).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed run has left in `folder`; a checkpoint that was about to give way gets its name back.

    For the owner of the folder alone: another run may be writing there.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _ASIDE.fullmatch(path.name)
        if match is None:
            if _OURS.fullmatch(path.name) and path.name != f"{LOCK}.aside":
                remove_path(path)
            continue
        named = folder / match[1]
        if match[2] and not named.exists() and not find_faults(path, named.name):
            os.replace(path, named)
            sync_folder(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _spare_foreign(checkpoint: Path, run_id: str | None) -> None:
    """Rename what another run has saved under the name that a checkpoint of this one is about to get."""
    if not find_foreign(checkpoint, run_id):
        return
    os.replace(checkpoint, _find_free_name(checkpoint, "of-another-run"))


def _find_free_name(checkpoint: Path, ending: str) -> Path:
    names = (f"{checkpoint.name}.{ending}{number or ''}" for number in count())
    return next(path for path in map(checkpoint.with_name, names) if not os.path.lexists(path))


def leave_newer(folder: Path, checkpoint: Path) -> list[str]:
    """Rename the whole checkpoints of this run beyond `checkpoint`, from which it goes on; returns the names they had.

    The next start would take the newest for this run's, whose steps are others by then. Raises OSError.
    """
    run_id, left = (read_seal(checkpoint) or {}).get("run_id"), []
    for newer in list_numbered(folder):
        if get_step(newer) > get_step(checkpoint) and not (find_foreign(newer, run_id) or find_faults(newer)):
            os.replace(newer, _find_free_name(newer, "left"))
            left.append(newer.name)
    if left:
        sync_folder(folder)
    return left


def remove_path(path: Path) -> None:
    """Remove a file or a folder, as far as it can be."""
    if _is_plain_folder(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _describe_unsealed(checkpoint: Path) -> str:
    if os.path.lexists(checkpoint / SEAL):
        return f"has a damaged {SEAL}"
    # Ours get their names with a manifest in them; a rotation that is killed has taken it away first.
    if any((checkpoint / name).exists() for name in _PICKLED):
        return f"has no {SEAL}: an older version has written it, or another program"
    return f"has no {SEAL}: its writing, or its removal, was cut short"


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _check_file(path: Path, expected: Mapping[str, Any]) -> str | None:
    """What is wrong with one file of a checkpoint."""
    if not {"bytes", "sha256"} <= expected.keys():
        return f"is not described in {SEAL}"
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return "is a link, or no file"
        if found.st_size != expected["bytes"]:
            return f"has {found.st_size:,} bytes instead of {expected['bytes']:,}"
        return None if hash_file(path) == expected["sha256"] else "has changed since it was saved"
    except OSError as problem:
        return f"cannot be read ({problem.strerror})"


def _hash_seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_seal(content: Mapping[str, Any]) -> str:
    return json.dumps({**content, "sha256": _hash_seal(content)}, indent=1) + "\n"
