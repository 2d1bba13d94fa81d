"""Checkpoints of others: whatever their records say, a run goes on from one or refuses it with a message of ours.

Their manifest fits what was changed: its sums are no signature.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from models.scratch_models import tiny_model
from mutations import json_files, safetensors_files
from safetensors.torch import load_file, save
from saved_records import STATE, STATE_TENSORS, TRAINER_STATE
from training.trainers.sft_runs import trainer_of, uneven_rows

from hf_finetune.errors import ConfigError, FinetuneError, ModelError
from hf_finetune.folders import checkpoints
from hf_finetune.folders.checkpoints import SEAL, find_doubts, find_verified, get_path, read_seal, seal
from hf_finetune.reporting import find_resumed

CASES = [json.loads(line) for line in Path(__file__).with_name("checkpoints.jsonl").read_text("utf-8").splitlines()]
STEPS = 4


def make_trainer(folder: Path, steps: int) -> Any:
    torch.manual_seed(0)
    args = {"per_device_train_batch_size": 2, "max_steps": steps, "save_strategy": "steps", "save_steps": 2}
    args |= {"learning_rate": 1e-3, "logging_steps": 1, "save_total_limit": 2}
    return trainer_of(tiny_model(attention="sdpa"), folder, uneven_rows(), **args)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    make_trainer(folder, STEPS).train()
    return folder


def change(trained: Path, folder: Path, name: str, content: bytes) -> Path:
    """A copy of the run whose last checkpoint says something else, under a manifest that fits."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained, folder)
    checkpoint = get_path(folder, STEPS)
    (checkpoint / name).write_bytes(content)
    facts = read_seal(checkpoint) or {}
    (checkpoint / SEAL).unlink()
    seal(checkpoint, {key: facts[key] for key in ("step", "run_id", "losses", "trainable")})
    return checkpoint


def change_value(value: Any, place: str, new: Any) -> None:
    """Put `new` where `place` leads to, in a file that was parsed: by names, and numbers in a list."""
    *holders, last = [int(part) if part.isdecimal() else part for part in place.split("/")]
    for part in holders:
        value = value[part]
    if new == "DELETED":
        del value[last]
    else:
        value[last] = new


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_checkpoint_that_says_what_no_run_writes_is_named_and_the_one_before_is_taken(trained, tmp_path, case):
    text = (get_path(trained, STEPS) / case["file"]).read_text()
    if "text" in case:
        text = case["text"] * case.get("times", 1)
    elif "replace" in case:
        assert case["replace"][0] in text
        text = text.replace(*case["replace"])
    else:
        found = json.loads(text)
        for place, new in case["put"].items():
            change_value(found, place, new)
        text = json.dumps(found)
    folder = tmp_path / "run"
    checkpoint = change(trained, folder, case["file"], text.encode())
    said = find_resumed(str(folder), "auto")
    assert said.checkpoint == str(get_path(folder, 2))
    assert f"checkpoint-{STEPS} is passed over ({case['file']}: " in str(said.said)
    with pytest.raises(ConfigError) as refused:
        find_resumed(str(folder), checkpoint.name)
    for each in case["said"]:
        assert each in str(refused.value)
    assert "\x1b" not in f"{said.said}{refused.value}"


def test_a_key_that_another_version_of_transformers_writes_is_named_before_transformers_reads_it(trained, tmp_path):
    found = json.loads((get_path(trained, STEPS) / TRAINER_STATE).read_text())
    checkpoint = change(trained, tmp_path / "run", TRAINER_STATE, json.dumps(found | {"steps_ahead": 1}).encode())
    assert find_doubts(checkpoint) == []  # whether it is known is for who reads it
    with pytest.raises(ModelError, match=r"trainer_state.json: steps_ahead is no key that transformers writes; name"):
        make_trainer(tmp_path / "run", STEPS + 1).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("exp_avg_sq", -1.0, "below 0"), ("exp_avg_sq", math.nan, "not finite"), ("exp_avg", math.inf, "not finite")],
)
def test_moments_that_no_step_leaves_are_named_before_the_next_step(trained, tmp_path, name, value, said):
    tensors = load_file(get_path(trained, STEPS) / STATE_TENSORS)
    key = next(each for each in tensors if each.endswith(f".{name}"))
    tensors[key].view(-1)[0] = value
    checkpoint = change(trained, tmp_path / "run", STATE_TENSORS, save(tensors))
    with pytest.raises(ModelError, match=rf"the optimizer's {name} of parameter \d+ holds numbers .*{said}"):
        make_trainer(tmp_path / "run", STEPS + 1).train(resume_from_checkpoint=str(checkpoint))


def test_a_manifest_without_its_last_newline_is_whole(trained, tmp_path):
    checkpoint = get_path(tmp_path, STEPS)
    shutil.copytree(get_path(trained, STEPS), checkpoint)
    (checkpoint / SEAL).write_text((checkpoint / SEAL).read_text().rstrip("\n"))
    assert find_verified(tmp_path) == (checkpoint, {})


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> settings:
    asked = request.config.getoption("--attacks")
    suite = settings(max_examples=12, derandomize=True)
    drawn = settings(max_examples=asked // 4, derandomize=False, database=None, print_blob=True) if asked else suite
    return settings(drawn, suppress_health_check=list(HealthCheck), deadline=None)


@pytest.mark.parametrize("name", [TRAINER_STATE, STATE, STATE_TENSORS, "model.safetensors"])
def test_whatever_a_checkpoint_says_a_run_goes_on_or_says_why_not(trained, tmp_path, tries, name):
    original = (get_path(trained, STEPS) / name).read_bytes()
    changed = safetensors_files(original) if name.endswith(".safetensors") else json_files([original.decode()])

    @tries
    @given(changed)
    def check(content: bytes) -> None:
        checkpoint = change(trained, tmp_path / "run", name, content)
        doubts = find_doubts(checkpoint)
        assert all(each.isprintable() and len(each) < 300 for each in doubts)
        trainer = make_trainer(tmp_path / "run", STEPS + 1)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        except FinetuneError:
            return
        assert not doubts
        assert trainer.state.global_step == STEPS + 1
        assert math.isfinite(trainer.log_lines.training_seconds)

    check()


@pytest.mark.parametrize("facts", [{"files": 1}, {"files": {"x": 1}}, {"losses": ["x"]}, {"run_id": []}, {"step": 1e3}])
def test_a_manifest_of_other_kinds_is_damaged(trained, tmp_path, facts):
    checkpoint = get_path(tmp_path, STEPS)
    shutil.copytree(get_path(trained, STEPS), checkpoint)
    content = (read_seal(checkpoint) or {}) | facts
    (checkpoint / SEAL).write_text(checkpoints._write_seal(content))
    assert find_verified(tmp_path) == (None, {checkpoint.name: f"has a damaged {SEAL}"})
