"""The two generated files against their sources, and the schema as an editor uses it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from config.run_files import VALID
from peft import LoraConfig
from transformers import TrainingArguments
from trl.trainer.sft_config import SFTConfig

import hf_finetune.config
from hf_finetune.config.sections import Run
from hf_finetune.config.validation.generate import SCHEMA_FILE, build_run_schema, build_settings_table, format_json
from hf_finetune.config.validation.hf_settings import TABLE_FILE, build_train_section, load_table
from hf_finetune.training import apply_defaults

FOLDER = Path(hf_finetune.config.__file__).parent
AGAIN = "run `python -m hf_finetune.config.validation.generate` and read the difference"


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    content = json.loads((FOLDER / SCHEMA_FILE).read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_table_of_the_stack_is_that_of_the_installed_stack():
    assert (FOLDER / TABLE_FILE).read_text("utf-8") == format_json(build_settings_table()), AGAIN


def test_the_schema_is_that_of_the_settings_classes():
    assert (FOLDER / SCHEMA_FILE).read_text("utf-8") == format_json(build_run_schema()), AGAIN


def test_defaults_in_the_table_are_the_defaults_of_training_arguments():
    made = TrainingArguments(output_dir="out", use_cpu=True)
    for name in ("learning_rate", "max_steps", "warmup_steps", "save_total_limit", "per_device_train_batch_size"):
        assert load_table()["TrainingArguments"][name]["default"] == getattr(made, name)
    assert build_train_section("sft").model_fields["learning_rate"].default == 2e-5


RUNS = {
    "continued_pretraining": {"model": {"path": "m"}},
    "continued_pretraining from scratch": {"model": {"scratch": {}, "tokenizer": "t"}},
    "sft": {"model": {"path": "m"}},
    "lora": {"model": {"path": "m"}, "lora": {"r": 4}},
    "classification": {"model": {"path": "m"}},
    "classification of a head": {"model": {"path": "m", "train_only": "head"}},
}
# As the dataclasses take them -> as they keep them: the same setting.
KEPT = {
    "report_to": ([], "none"),
    "debug": ([], ""),
    "resume_from_checkpoint": (None,),  # `auto` is what start_run makes a checkpoint of
    "disable_tqdm": (False, None),
    "pad_to_multiple_of": (None, "auto"),
}


def make_settings(title: str) -> dict[str, object]:
    """Every setting that a run has which sets none."""
    recipe = title.split()[0]
    run = Run(recipe=recipe, data={"train": "t"}, train={}, output_dir="out", **RUNS[title])
    train = apply_defaults(run).train
    given = {name: value for name, value in train.items() if name != "optim" or value != "muon"}
    made = (SFTConfig if recipe in ("sft", "lora") else TrainingArguments)(output_dir="out", **given)
    return {**{name: getattr(value := getattr(made, name), "value", value) for name in vars(made)}, **train}


def test_every_default_of_the_schema_is_the_one_that_runs(schema):
    made = {title: make_settings(title) for title in RUNS}
    differing = {}
    for name, node in schema.schema["$defs"]["SFTConfig"]["properties"].items():
        found = {title: settings[name] for title, settings in made.items() if name in settings}
        wanted = [*KEPT.get(name, ()), node.get("default")]
        if "default" not in node:
            assert "Default: " in node["description"]
        elif not all(value in wanted or name == "accelerator_config" for value in found.values()):
            differing[name] = (node["default"], found)
    assert differing == {}


def test_what_has_no_one_default_in_the_schema_has_none(schema):
    made = [make_settings(title) for title in RUNS]
    without = [
        name for name, node in schema.schema["$defs"]["SFTConfig"]["properties"].items() if "default" not in node
    ]
    of_the_machine = {"use_cpu", "dataloader_pin_memory", "bf16"}
    assert all(len({str(each[name]) for each in made}) > 1 for name in without if name not in of_the_machine)


def test_every_default_of_lora_is_that_of_peft(schema):
    made = LoraConfig()
    for name, node in schema.schema["$defs"]["LoraConfig"]["properties"].items():
        assert name == "runtime_config" or node["default"] == getattr(made, name), name


@pytest.mark.parametrize("name", ["optim", "lr_scheduler_type", "eval_strategy", "save_strategy", "logging_strategy"])
def test_every_word_that_we_offer_is_taken_by_training_arguments(name):
    for word in load_table()["TrainingArguments"][name]["choices"]:
        extra = {"eval_strategy": "steps"} if name == "lr_scheduler_type" else {}
        args = TrainingArguments(output_dir="out", use_cpu=True, **extra, **{name: word})
        assert getattr(args, name) == word


def test_the_run_file_and_the_run_have_the_same_sections(schema):
    assert schema.schema["properties"].keys() == Run.model_fields.keys()


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"train": {"learning_rate": 1e-4, "optim": "muon", "early_stopping_patience": 3, "eval_strategy": "no"}},
        {"data": {"train": ["a.jsonl", {"path": "b.jsonl", "weight": 2}], "format": "lines"}},
        {"model": {"path": "gpt2"}, "eval": {"prompts": ["def "], "top_k": None}},
        {"model": {"path": "gpt2", "train_only": {"last_blocks": 2}}, "eval": {"threshold_metric": "f1_macro"}},
        {"data": {"train": "a.jsonl", "balance": {"spam": 2}, "max_length": "longest_train", "task": "regression"}},
    ],
)
def test_a_valid_file_passes_the_schema(schema, extra):
    assert list(schema.iter_errors(yaml.safe_load(VALID) | extra)) == []


@pytest.mark.parametrize(
    "extra",
    [
        {"recipe": "nonsense"},
        {"unknown": 1},
        {"model": {"pth": "x"}},
        {"model": {"scratch": {"preset": "huge"}}},
        {"data": {}},
        {"data": {"train": [{"weight": 2}]}},
        {"data": {"train": "a.jsonl", "balance": {"spam": 0}}},
        {"data": {"train": "a.jsonl", "balance": "undersampling"}},
        {"data": {"train": "a.jsonl", "max_length": 1}},
        {"model": {"path": "gpt2", "train_only": {"last_blocks": 0}}},
        {"data": {"train": "a.jsonl", "validation_fraction": 1.0}},
        {"train": {"learning_rate": "fast"}},
        {"train": {"learning_rate": 0}},
        {"train": {"optim": "moun"}},
        {"train": {"evaluation_strategy": "no"}},
        {"train": {"push_to_hub": True}},
        {"train": {"per_device_train_batch_size": 0}},
        {"output_dir": ""},
    ],
)
def test_an_invalid_file_fails_the_schema(schema, extra):
    assert not schema.is_valid(yaml.safe_load(VALID) | extra)


def test_the_schema_explains_settings_of_ours_and_of_the_stack(schema):
    definitions = schema.schema["$defs"]
    assert definitions["DataSection"]["properties"]["isolate_documents"]["description"]
    assert definitions["SFTConfig"]["properties"]["learning_rate"]["description"]
    assert definitions["SFTConfig"]["properties"]["packing"]["description"]
