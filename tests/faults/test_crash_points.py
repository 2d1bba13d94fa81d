"""A save that is cut short at any of its calls, and what a power cut may leave of it: a verified checkpoint, always."""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from disk_calls import AFTER, BEFORE, Call, watch_disk
from disk_images import Model, Tree, name_image, put_image

from hf_finetune.folders.checkpoints import find_verified, get_path, get_step, sweep
from hf_finetune.reporting import claim_run_folder
from hf_finetune.training.checkpoints.disk import Snapshot, write_checkpoint
from hf_finetune.training.checkpoints.model_files import Weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the names of open folders are in /proc")

LIMIT = 2
Contents = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A save of `step` into a folder with these checkpoints, which are of other values."""

    step: int
    there: tuple[int, ...]


CASES = {
    "the first save": Case(1, ()),
    "a save that removes the oldest": Case(3, (1, 2)),
    "a save of the same step again": Case(2, (1, 2)),
}


def make_snapshot(folder: Path, step: int, value: float) -> Snapshot:
    weights = {"model.safetensors": Weights({"w": torch.full((5,), value), "bias": torch.zeros(1)}, {"format": "pt"})}
    weights["state.safetensors"] = Weights({"0": torch.arange(4) + step}, None)
    blobs = {
        name: (lambda name=name: f"{name} {value}".encode()) for name in ("config.json", "state.json", "parts/a.json")
    }
    return Snapshot(get_path(folder, step), {"step": step, "run": "r"}, weights, blobs, frozenset({"state.json"}))


def save(folder: Path, step: int, value: float) -> None:
    write_checkpoint(make_snapshot(folder, step, value), LIMIT)


def fill(folder: Path, case: Case) -> None:
    claim_run_folder(str(folder), resume=None)
    for step in case.there:
        save(folder, step, float(step))


def read(checkpoint: Path) -> Contents:
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def record(folder: Path, case: Case) -> tuple[list[Call], list[Contents], Contents]:
    """The calls of the save in `folder`, the checkpoints before it and the one that it made."""
    fill(folder, case)
    before = [read(get_path(folder, step)) for step in case.there]
    with watch_disk(folder) as disk:
        save(folder, case.step, -1.0)
    assert disk.missed == []
    return disk.calls, before, read(get_path(folder, case.step))


def recover(folder: Path, before: list[Contents], new: Contents, done: bool) -> str:
    """What a run would go on from: `new`, `old` or `none`; anything that a save has not finished is refused."""
    sweep(folder)
    found, _ = find_verified(folder)
    if found is None:
        assert not done, "the checkpoint was there when the save returned"
        assert not before, "the last checkpoint is lost"
        return "none"
    content = read(found)
    if content == new:
        return "new"
    assert not done, "the checkpoint was there when the save returned"
    assert content in before, "what verifies was never saved"
    assert content == before[-1] or get_step(found) == len(before), "an older one than the last"
    return "old"


@pytest.mark.parametrize("name", CASES)
def test_a_crash_before_in_and_after_every_call_of_a_save_leaves_the_last_checkpoint_or_the_new(
    name, tmp_path, project_root
):
    case = CASES[name]
    calls, before, new = record(tmp_path / "recorded", case)
    kinds: dict[str, Counter[str]] = {}
    fill(tmp_path / "template", case)
    for at, call in enumerate(calls):
        for moment in call.moments:
            folder = tmp_path / f"{at}-{moment}"
            shutil.copytree(tmp_path / "template", folder)
            with watch_disk(folder, (at, moment)) as disk:
                save(folder, case.step, -1.0)
            assert disk.crashed, f"{call} is not made again"
            last = at == len(calls) - 1 and moment == AFTER
            kinds.setdefault(call.kind, Counter())[recover(folder, before, new, done=last)] += 1
            save(folder, case.step + 1, -2.0)  # the next save of the resumed run
            assert get_step(find_verified(folder)[0]) == case.step + 1
            assert not list(folder.glob(".*"))
            shutil.rmtree(folder)
    table = "\n".join(f"  {kind:8} {dict(found)}" for kind, found in sorted(kinds.items()))
    points = sum(sum(each.values()) for each in kinds.values())
    print(f"\n{name}: {len(calls)} calls, {points} points, all recovered\n{table}")
    assert {"create", "write", "sync", "rename"} <= kinds.keys()
    page = (project_root / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert f"| {name} | {len(calls)} | {points} |" in page


def test_a_crash_in_the_recovery_itself_loses_nothing(tmp_path):
    case = CASES["a save of the same step again"]
    calls, before, new = record(tmp_path / "recorded", case)
    renames = [at for at, call in enumerate(calls) if call.kind == "rename" and call.path.name == "checkpoint-2"]
    assert len(renames) == 1
    fill(tmp_path / "torn", case)
    with watch_disk(tmp_path / "torn", (renames[0], AFTER)):
        save(tmp_path / "torn", case.step, -1.0)
    shutil.copytree(tmp_path / "torn", tmp_path / "swept")
    with watch_disk(tmp_path / "swept") as disk:
        sweep(tmp_path / "swept")
    assert [call.kind for call in disk.calls].count("rename") == 1, "the old checkpoint gets its name back"
    for at in range(len(disk.calls)):
        for moment in (BEFORE, AFTER):
            folder = tmp_path / f"{at}-{moment}"
            shutil.copytree(tmp_path / "torn", folder)
            with watch_disk(folder, (at, moment)):
                sweep(folder)
            assert recover(folder, before, new, done=False) == "old"


@pytest.mark.parametrize("name", CASES)
def test_the_worst_that_a_power_cut_may_leave_at_every_call_is_no_torn_checkpoint(name, tmp_path, request):
    every = request.config.getoption("--faults")
    case, root = CASES[name], tmp_path / "disk"
    root.mkdir()
    folder = root / "runs" / "run"
    with watch_disk(root) as made:  # the folder is made by the run, and its name must last as well
        fill(folder, case)
    shutil.rmtree(root / "runs")
    model = Model(root)
    for call in made.calls:
        model.make(call)
    fill(folder, case)
    before = [read(get_path(folder, step)) for step in case.there]
    with watch_disk(root) as disk:
        save(folder, case.step, -1.0)
    new = read(get_path(folder, case.step))
    draw = None if every else random.Random(f"{name} 1")
    checked, seen = check_images(model, disk.calls, tmp_path, draw, lambda at, there: recover(there, before, new, at))
    print(f"\n{name}: {len(disk.calls) + 1} moments, {checked:,} images, {seen}")


def check_images(
    model: Model, calls: list[Call], tmp_path: Path, draw: random.Random | None, check: Callable[[bool, Path], str]
) -> tuple[int, dict[str, int]]:
    """`check` every image at every moment of `calls`, each once; how many there were, and what was found."""
    kinds = ("empty", "zeros") if draw is not None else ("empty", "half", "zeros", "whole")
    seen: dict[tuple[str, bool], str] = {}
    for at in range(len(calls) + 1):
        done = at == len(calls)
        for image in model.images(model.choices(draw), kinds):
            key = name_image(image), done
            if key not in seen:
                seen[key] = check_image(image, tmp_path / "image", done, check, f"call {at}: {calls[at : at + 1]}")
        if not done:
            model.make(calls[at])
    return len(seen), dict(Counter(seen.values()))


def check_image(image: Tree, disk: Path, done: bool, check: Callable[[bool, Path], str], where: str) -> str:
    put_image(image, disk)
    try:
        return check(done, disk / "runs" / "run")
    except AssertionError as problem:
        raise AssertionError(f"{problem}; power cut at {where}; left: {sorted(image)}") from problem
    finally:
        shutil.rmtree(disk)
