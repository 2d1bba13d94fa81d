"""Whatever is done to a file of a checkpoint is noticed before anything of it is used, and the one before is taken."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hf_finetune.folders import checkpoints
from hf_finetune.folders.checkpoints import find_verified, get_path
from hf_finetune.training.checkpoints.disk import Snapshot, write_checkpoint
from hf_finetune.training.checkpoints.model_files import Weights

PLACES, FEW = 20, 5
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with checkpoints of two steps, all of whose files differ and have the same sizes."""
    folder = tmp_path_factory.mktemp("run")
    for step in (1, 2):
        weights = {"model.safetensors": Weights({"w": torch.full((40,), float(step))}, {"format": "pt"})}
        weights["state.safetensors"] = Weights({"0": torch.arange(60) + step}, None)
        names = ("config.json", "state.json", "trainer_state.json", "tokenizer.json")
        blobs = {name: (lambda name=name, step=step: f'{{"{name}": {step}}}\n'.encode()) for name in names}
        write_checkpoint(Snapshot(get_path(folder, step), {"step": step, "run": "r"}, weights, blobs), None)
    return folder


FILES = (
    *("checkpoint.json", "config.json", "model.safetensors", "state.json", "state.safetensors", "tokenizer.json"),
    "trainer_state.json",
)


def list_damages(content: bytes, other: bytes, places: int, draw: random.Random) -> Iterator[tuple[str, Damage]]:
    for _ in range(places):
        at, bit = draw.randrange(len(content)), draw.randrange(8)
        flipped = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        yield f"bit {bit} of byte {at} flipped", lambda path, flipped=flipped: path.write_bytes(flipped)
    for _ in range(places):
        end = draw.randrange(len(content) - 1)  # a last newline is nothing that is lost
        yield f"cut at {end}", lambda path, end=end: path.write_bytes(content[:end])
    yield "zeros", lambda path: path.write_bytes(bytes(len(content)))
    yield "longer", lambda path: path.write_bytes(content + b"\n")
    yield "of another step", lambda path: path.write_bytes(other)
    yield "gone", Path.unlink
    yield "a link to the same content", link_away
    yield "a link to nowhere", lambda path: (path.unlink(), path.symlink_to("nowhere"))
    yield "a pipe", lambda path: (path.unlink(), os.mkfifo(path))
    yield "a folder", lambda path: (path.unlink(), path.mkdir())
    yield "a file beside it", lambda path: path.with_name(f"{path.name}.1").write_bytes(content)


def link_away(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


@pytest.mark.parametrize("name", FILES)
def test_every_damage_to_a_file_is_noticed_and_the_checkpoint_before_is_taken(name, run, tmp_path, request):
    assert {path.name for path in get_path(run, 2).iterdir()} == set(FILES)
    assert find_verified(run) == (get_path(run, 2), {})
    content, other = ((get_path(run, step) / name).read_bytes() for step in (2, 1))
    places = PLACES if request.config.getoption("--faults") else FEW
    damages = list(list_damages(content, other, places, random.Random(name)))
    assert len(damages) == 2 * places + 9
    for number, (what, damage) in enumerate(damages):
        folder = tmp_path / f"{number}"
        shutil.copytree(run, folder)
        damage(get_path(folder, 2) / name)
        found, passed = find_verified(folder)
        assert found == get_path(folder, 1), f"{name}, {what} (seed {name!r}): not noticed"
        assert len(passed) == 1


def test_a_checkpoint_that_cannot_be_read_or_is_led_away_is_passed_over(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    newest = get_path(folder, 2)
    real = checkpoints.hash_file

    def refuse(path: Path) -> str:  # as chmod 000 does for all but root
        if path == newest / "model.safetensors":
            raise PermissionError(13, "Permission denied")
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "hash_file", refuse)
        found, passed = find_verified(folder)
    assert found == get_path(folder, 1)
    assert passed == {"checkpoint-2": "model.safetensors cannot be read (Permission denied)"}
    newest.rename(tmp_path / "elsewhere")
    newest.symlink_to(tmp_path / "elsewhere")
    assert find_verified(folder)[0] == get_path(folder, 1)
    newest.unlink()
    newest.write_text("")
    assert find_verified(folder)[0] == get_path(folder, 1)


def test_two_checkpoints_that_have_changed_their_names_are_both_refused(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    get_path(folder, 1).rename(folder / "aside")
    get_path(folder, 2).rename(get_path(folder, 1))
    (folder / "aside").rename(get_path(folder, 2))
    found, passed = find_verified(folder)
    assert found is None
    assert len(passed) == 2
