"""Run files of classification: what loads, what is refused, and its settings in the run files of other recipes."""

from __future__ import annotations

import pytest
from config.run_files import VALID, VALID_CLASSIFICATION, VALID_LORA, VALID_SFT

import hf_finetune.config.checks.machine as checks_machine
from hf_finetune.config import dump_yaml, read_recipe_name
from hf_finetune.config.checks.classification import LABELLED_FORMATS
from hf_finetune.config.sections import LastBlocks
from hf_finetune.data.reading.formats import FORMATS, LABELLED_INPUT_OUTPUT, NUMBERS, NUMBERS_INPUT_OUTPUT

SPLIT = "data.validation_fraction=0.2"
SCRATCH = "model={scratch: {preset: nano}, tokenizer: {train: {kind: bpe, vocab_size: 300}}}"


def test_the_defaults_are_those_of_the_documentation(load):
    run = load(VALID_CLASSIFICATION)
    assert read_recipe_name("run.yaml") == run.recipe == "classification"
    assert (run.model.train_only, run.model.new_head) == ("all", False)
    assert (run.data.task, run.data.max_length, run.data.balance) == (None, None, "none")
    assert (run.eval.threshold_metric, run.eval.calibrate, run.eval.show_data) == (None, True, False)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.train_only=head", "model.new_head=true"],
        ["model.train_only={last_blocks: 2}"],
        ["lora={r: 4}", "model.load_in_4bit=true", "model.dtype=float16", "model.new_head=true"],
        [SCRATCH, "data.max_length=128"],
        [SCRATCH, "model.scratch.max_position_embeddings=128", "data.max_length=128"],
        ["data.task=regression", SPLIT, "eval.calibrate=false", "data.max_length=longest_train"],
        ["data.task=classification", "data.format=input_output", "data.allow_empty=true"],
        ["data.balance=undersample", SPLIT, "data.stratify_by=label", "data.group_by=user"],
        ["data.balance={spam: 2, ham: 0.5}", SPLIT, "eval={threshold_metric: f1_macro, show_data: true}"],
        ["data.balance={0: 1, 1: 4.5, no: 2, 'on sale': 1, ~/x: 1}"],
        ["data.balance.spam=2"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_settings_that_go_together_load_and_load_again_from_the_run_folder(load, monkeypatch, overrides):
    monkeypatch.setattr(checks_machine, "_is_installed", lambda package: True)
    run = load(VALID_CLASSIFICATION, *overrides)
    assert load(dump_yaml(run)) == run


def test_blocks_and_weights_are_typed(load):
    run = load(VALID_CLASSIFICATION, "model.train_only={last_blocks: 3}", "data.balance={0: 1, 1: 4.5}")
    assert run.model.train_only == LastBlocks(last_blocks=3)
    assert run.data.balance == {"0": 1.0, "1": 4.5}


NUMBERS_ASKED_FOR = "data.task=regression"
CONFLICTS = [
    (["model.train_only=heads"], "model.train_only", "expected one of all, head or a section of keys, found 'heads'"),
    (["model.train_only={last_blocks: 0}"], "model.train_only.last_blocks", "at least 1"),
    (["model.train_only=head", "lora={r: 4}"], "model.train_only", "trains its adapter and the head alone"),
    ([SCRATCH, "model.train_only=head"], "model.train_only", "would train the head on weights that are random"),
    ([SCRATCH, "model.train_only={last_blocks: 1}"], "model.train_only", "would train the last blocks on weights"),
    ([SCRATCH, "model.new_head=true"], "model.new_head", "belongs to model.path"),
    ([SCRATCH, "lora={r: 4}"], "model.scratch", "an adapter needs a trained model"),
    (
        [SCRATCH, "model.scratch.max_position_embeddings=64", "data.max_length=65"],
        "data.max_length",
        "more than the 64",
    ),
    (["model.load_in_8bit=true"], "model.load_in_8bit", "only adapters on them"),
    (["model.dtype=float16"], "model.dtype", "cannot be trained"),
    (["model.num_labels=2"], "model.num_labels", "is not a setting of a run file"),
    (["data.max_length=longest"], "data.max_length", "expected longest_train or a whole number, found 'longest'"),
    (["data.max_length=1"], "data.max_length", "at least 2"),
    (["data.balance=undersampling"], "data.balance", "expected one of none, undersample"),
    (["data.balance={}"], "data.balance", "is empty"),
    (["data.balance={spam: 0}"], "data.balance.spam", "greater than 0"),
    (["data.balance={spam: true}"], "data.balance.spam", "expected a number, found true"),
    (["data.balance={spam: twice}"], "data.balance.spam", "expected a number, found 'twice'"),
    (["data.balance={spam: .inf}"], "data.balance.spam", "must be a finite number"),
    (["data.format=messages"], "data.format", "messages rows are not labelled texts, which classification reads"),
    (["data.block_size=64"], "data.block_size", "belongs to the recipe continued_pretraining"),
    (["data.too_long=cut"], "data.too_long", "belongs to the recipes sft and lora"),
    (["eval.prompts=[Hello]"], "eval.prompts", "belongs to the recipes continued_pretraining, sft and lora"),
    (["eval.threshold_metric=f1_macro"], "eval.threshold_metric", "tuned on the validation split, and there is none"),
    (["eval.threshold_metric=f1", SPLIT], "eval.threshold_metric", "expected one of accuracy"),
    ([NUMBERS_ASKED_FOR, "data.balance=focal"], "data.balance", "needs classes"),
    ([NUMBERS_ASKED_FOR, SPLIT, "eval.threshold_metric=accuracy"], "eval.threshold_metric", "needs classes"),
    (["train.packing=true"], "train.packing", "is not a setting of the section train"),
]


@pytest.mark.parametrize(("overrides", "key", "what"), CONFLICTS, ids=[" ".join(case[0][-2:]) for case in CONFLICTS])
def test_settings_that_do_not_go_together_are_refused_by_the_key_to_change(only_problem, overrides, key, what):
    problem = only_problem(VALID_CLASSIFICATION, *overrides)
    assert problem.key == key
    assert what in problem.what


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train.max_length=128", "data.max_length"),
        ("train.max_seq_length=128", "data.max_length"),
        ("train.class_weights=[1, 2]", "data.balance"),
        ("model.problem_type=x", "data.task"),
    ],
)
def test_what_others_call_a_setting_leads_to_ours(only_problem, name, key):
    assert only_problem(VALID_CLASSIFICATION, name).remedy == f"did you mean {key}?"


@pytest.mark.parametrize("text", [VALID, VALID_SFT, VALID_LORA], ids=["continued_pretraining", "sft", "lora"])
@pytest.mark.parametrize(
    "override",
    [
        "model.train_only=head",
        "model.train_only={last_blocks: 2}",
        "model.new_head=true",
        "data.task=regression",
        "data.balance=weights",
        "data.balance={a: 1}",
        "data.max_length=128",
        "eval.threshold_metric=accuracy",
        "eval.calibrate=false",
        "eval.show_data=true",
    ],
)
def test_settings_of_classification_are_refused_in_other_recipes(only_problem, text, override):
    problem = only_problem(text, override)
    assert (problem.key, problem.what) == (override.partition("=")[0], "belongs to the recipe classification")


def test_the_length_of_other_recipes_is_named(only_problem):
    assert only_problem(VALID, "data.max_length=128").remedy == "write data.block_size"
    assert only_problem(VALID_SFT, "data.max_length=128").remedy == "write train.max_length"


def test_the_formats_that_are_offered_are_those_with_a_label():
    readable = {name for name, each in FORMATS.items() if each.becomes == "labelled"} | {"input_output"}
    assert readable == set(LABELLED_FORMATS)
    assert all(each.becomes == "labelled" for each in (LABELLED_INPUT_OUTPUT, NUMBERS, NUMBERS_INPUT_OUTPUT))
