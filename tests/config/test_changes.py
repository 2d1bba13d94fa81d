"""Settings that are others when a run is typed again: each key has a class, and each change the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from hf_finetune.config import RecipeName, Run, build_run, dump_yaml, find_changes, read_settings
from hf_finetune.config.changes import LONGER, Kind, classify
from hf_finetune.config.validation.run_file import list_section_keys


def make_run(folder: Path, **settings: Any) -> Run:
    """A run of LoRA; a setting is named `train__max_steps`."""
    (folder / "rows.jsonl").touch()
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "config.json").write_text("{}")
    values: dict[str, Any] = {
        "model": {"path": str(folder / "base")},
        "data": {"train": str(folder / "rows.jsonl"), "validation_fraction": 0.1},
        "train": {"max_steps": 60, "learning_rate": 1e-4, "seed": 1},
        "lora": {"r": 8},
        "eval": {},
        "output_dir": str(folder / "run"),
    }
    for name, value in settings.items():
        section, _, key = name.partition("__")
        if key:
            values.setdefault(section, {})[key] = value
        else:
            values[section] = value
    return build_run(values, "lora")


def changes(folder: Path, **settings: Any) -> dict[str, str]:
    before = folder / "run.yaml"
    before.write_text(dump_yaml(make_run(folder)))
    found = find_changes(read_settings(before) or {}, make_run(folder, **settings), 60, same_machine=True)
    return {
        each.key: each.kind + ("" if each.asks or each.kind in ("safe", "fixed") else ", goes on") for each in found
    }


# P12 of the plan: one field each, and what becomes of it.
MUTATIONS: list[tuple[str, Any, str]] = [
    ("train__logging_steps", 7, "safe"),
    ("train__save_steps", 7, "safe"),
    ("train__save_total_limit", 2, "safe"),
    ("train__dataloader_num_workers", 2, "safe"),
    ("train__per_device_eval_batch_size", 4, "safe"),
    ("eval__prompts", ["hello"], "safe"),
    ("card__license", "mit", "safe"),
    ("train__max_steps", 90, "schedule, goes on"),
    ("train__max_steps", 50, "schedule"),
    ("train__learning_rate", 2e-4, "schedule"),
    ("train__lr_scheduler_type", "cosine", "schedule"),
    ("train__warmup_steps", 5, "schedule"),
    ("train__weight_decay", 0.1, "schedule"),
    ("train__per_device_train_batch_size", 2, "unsafe"),
    ("train__gradient_accumulation_steps", 4, "unsafe"),
    ("train__seed", 2, "unsafe"),
    ("train__max_length", 512, "unsafe"),
    ("train__packing", True, "unsafe"),
    ("data__loss_on", "all", "unsafe"),
    ("data__chat_template", "alpaca", "unsafe"),
    ("data__system", "Be brief.", "unsafe"),
    ("lora__lora_alpha", 64, "unsafe"),
    ("model__dtype", "bfloat16", "unsafe"),
    ("train__optim", "sgd", "fixed"),
    ("lora__r", 16, "fixed"),
    ("lora__target_modules", ["q_proj"], "fixed"),
    ("data__validation_fraction", 0.2, "fixed"),
]


@pytest.mark.parametrize(("name", "value", "kind"), MUTATIONS, ids=[f"{name}={value}" for name, value, _ in MUTATIONS])
def test_a_field_that_is_changed_has_the_right_class(tmp_path, name, value, kind):
    assert changes(tmp_path, **{name: value}) == {name.replace("__", "."): kind}


def test_what_is_written_out_and_as_it_was_is_no_change(tmp_path):
    assert changes(tmp_path) == {}
    defaults = {"train__max_grad_norm": 1.0, "train__num_train_epochs": 3, "lora__lora_dropout": 0.0, "hub": None}
    assert changes(tmp_path, **defaults, data__loss_on="assistant", train__resume_from_checkpoint=True) == {}


def test_files_are_compared_by_what_is_in_them_but_weights_and_order_are_settings(tmp_path):
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "rows.jsonl").touch()
    (tmp_path / "more.jsonl").touch()
    moved = str(tmp_path / "moved" / "rows.jsonl")
    assert changes(tmp_path, data__train=moved) == {}
    assert changes(tmp_path, data__train={"path": moved, "weight": 2.0}) == {"data.train": "unsafe"}
    both = [moved, str(tmp_path / "more.jsonl")]
    assert classify("data.train", both, both) == "content"
    assert classify("data.train", both, both[::-1]) == "unsafe"
    assert classify("data.train", both, ["other.jsonl", *both[1:]]) == "content"
    assert classify("model.tokenizer", "a", "b") == "content"
    assert classify("model.tokenizer", None, "b") == "fixed"


def test_what_came_from_the_machine_is_said_on_another_one_and_refused_on_the_same(tmp_path):
    before = tmp_path / "run.yaml"
    before.write_text(dump_yaml(make_run(tmp_path, train__use_cpu=False)))
    run, settings = make_run(tmp_path, train__use_cpu=True), read_settings(before)
    kinds = [find_changes(settings or {}, run, None, same_machine=same)[0].kind for same in (True, False)]
    assert kinds == ["unsafe", "safe"]


def test_a_schedule_that_keeps_its_own_rate_takes_no_other(tmp_path):
    plateau = {"train__lr_scheduler_type": "reduce_lr_on_plateau", "train__eval_strategy": "epoch"}
    before = tmp_path / "run.yaml"
    before.write_text(dump_yaml(make_run(tmp_path, **plateau)))
    run = make_run(tmp_path, **plateau, train__learning_rate=1e-3)
    (change,) = find_changes(read_settings(before) or {}, run, None, same_machine=True)
    assert (change.key, change.kind) == ("train.learning_rate", "fixed")


def test_a_longer_run_trains_on_and_says_so(tmp_path):
    before = tmp_path / "run.yaml"
    before.write_text(dump_yaml(make_run(tmp_path)))
    (change,) = find_changes(
        read_settings(before) or {}, make_run(tmp_path, train__max_steps=90), 60, same_machine=True
    )
    assert str(change) == f"train.max_steps: 60 -> 90: {LONGER}"


def test_a_run_yaml_that_cannot_be_read_is_no_settings(tmp_path):
    assert read_settings(tmp_path / "run.yaml") is None
    (tmp_path / "run.yaml").write_text("train: [")
    assert read_settings(tmp_path / "run.yaml") is None


@pytest.mark.parametrize("recipe", ["continued_pretraining", "classification", "sft", "lora"])
def test_every_key_of_a_run_file_has_a_class(recipe: RecipeName):
    keys = {
        (f"{section}." if section else "") + key
        for section, found in list_section_keys(recipe).items()
        for key in found
    }
    values = ("model.tokenizer.", "model.train_only.", "data.train.", "data.validation.", "data.test.", "eval.forget.")
    settings = {key for key in keys - {"model", "data", "train", "eval"} if not key.startswith(values)}
    assert all(classify(key) in get_args(Kind) for key in settings)
    with pytest.raises(KeyError):
        classify("train.no_such_setting")
