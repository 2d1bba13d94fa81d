from __future__ import annotations

import logging

import pytest
from config.run_files import VALID

from hf_finetune.config.reading.deprecated import (
    REFUSED,
    RENAMED,
    SET_BY_RECIPE,
    SFT_RENAMED,
    translate_deprecated_names,
)
from hf_finetune.config.reading.document import Place, RunDocument
from hf_finetune.config.validation.hf_settings import build_lora_section, build_train_section, load_table


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("evaluation_strategy: no", {"eval_strategy": "no"}),
        ("warmup_ratio: 0.03", {"warmup_steps": 0.03}),
        ("warmup_ratio: 0", {"warmup_steps": 0}),
        ("no_cuda: true", {"use_cpu": True}),
        ("per_gpu_train_batch_size: 4", {"per_device_train_batch_size": 4}),
        ("per_gpu_eval_batch_size: 4", {"per_device_eval_batch_size": 4}),
        ("group_by_length: true", {"train_sampling_strategy": "group_by_length"}),
        ("group_by_length: false", {"train_sampling_strategy": "random"}),
        ("include_tokens_per_second: true", {"include_num_input_tokens_seen": True}),
    ],
)
def test_a_retired_name_of_the_same_meaning_is_translated_with_a_note(load, caplog, old, new):
    with caplog.at_level(logging.WARNING, "hf_finetune"):
        run = load(VALID.replace("max_steps: 5", old))
    assert run.train == new
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"run.yaml:8: train.{old.split(':')[0]}: this name is deprecated; read as train."
    )


def test_torch_dtype_and_tokenizer_move_to_where_they_are_now(load):
    text = "recipe: continued_pretraining\ntokenizer: base\nmodel: {path: base, torch_dtype: torch.bfloat16}\n"
    run = load(text + "data: {train: train.jsonl, format: text}\ntrain: {max_seq_length: 64}\noutput_dir: out\n")
    assert (run.model.dtype, run.model.tokenizer, run.data.block_size, run.train) == ("bfloat16", "base", 64, {})


def test_max_seq_length_is_max_length_for_sft():
    document = RunDocument(
        "run.yaml", {"train": {"max_seq_length": 64}}, {("train", "max_seq_length"): Place("run.yaml", 2)}
    )
    translate_deprecated_names(document, "sft")
    assert document.values == {"train": {"max_length": 64}}


def test_a_problem_of_a_translated_value_keeps_its_line(only_problem):
    problem = only_problem(VALID.replace("max_steps: 5", "no_cuda: 7"))
    assert (problem.line, problem.key) == (8, "train.use_cpu")


@pytest.mark.parametrize("ratio", ["1.0", "1", "2", "-0.1", "true", "some"])
def test_a_warmup_ratio_that_warmup_steps_would_take_for_steps_is_refused(only_problem, ratio):
    assert only_problem(VALID.replace("max_steps: 5", f"warmup_ratio: {ratio}")).key == "train.warmup_ratio"


def test_an_old_and_a_new_name_together_are_refused(only_problem):
    text = VALID.replace("max_steps: 5", "evaluation_strategy: no\n  eval_strategy: no")
    problem = only_problem(text)
    assert (problem.line, problem.key) == (8, "train.evaluation_strategy")
    assert problem.remedy == "keep train.eval_strategy alone"


@pytest.mark.parametrize("name", [name for name in REFUSED if name.startswith("train.")])
def test_a_setting_that_is_not_one_here_is_refused_with_the_way_out(only_problem, name):
    problem = only_problem(VALID, f"{name}=true")
    assert (problem.key, problem.remedy) == (name, REFUSED[name])


def test_retired_names_are_gone_from_the_stack_and_new_names_are_in_it():
    training = load_table()["TrainingArguments"]
    sft = training | load_table()["SFTConfig"]
    for old, renamed in (RENAMED | SFT_RENAMED).items():
        if old.startswith("train."):
            assert old.removeprefix("train.") not in sft
            assert renamed.new.removeprefix("train.") in sft
    still_there = {name for name in REFUSED if name.removeprefix("train.") in sft}
    assert not {f"train.{name}" for name in build_train_section("sft").model_fields} & still_there
    assert not {f"lora.{name}" for name in build_lora_section().model_fields} & SET_BY_RECIPE.keys()
