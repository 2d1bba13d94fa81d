"""`data.stream`: what it needs, what does not go with it, and what a URL asks for without it."""

from __future__ import annotations

import re

import pytest
from config.run_files import VALID, VALID_SFT

STREAM = ("data.stream=true", "model.tokenizer=base", "train.max_steps=5")

CONFLICTS = [
    (["data.stream_part=5"], "data.stream_part", "has no effect without data.stream"),
    (["data.train=s3://bucket/rows.jsonl"], "data.train", "is read by data.stream alone"),
    (["data.validation=https://host/rows.jsonl"], "data.validation", "is not of this machine"),
    ([*STREAM, "data.validation_fraction=0.1"], "data.validation_fraction", "never all there under data.stream"),
    ([*STREAM, "data.test_fraction=0.1"], "data.test_fraction", "name a file of its own in data.test"),
    ([*STREAM, "data.group_by=author", "data.test=validation.jsonl"], "data.group_by", "nothing is split or resampled"),
    ([*STREAM, "data.train=[{path: train.jsonl, weight: 2.0}]"], "data.train", "reads every shard once in a pass"),
    ([*STREAM, "data.train=org/corpus"], "data.train", r"hf://datasets/org/corpus/\*\*/\*\.parquet"),
    ([*STREAM, "train.max_steps=null"], "train.max_steps", "a stream has no end"),
    ([*STREAM, "train.num_train_epochs=2"], "train.num_train_epochs", "set train.max_steps alone"),
    ([*STREAM, "train.auto_find_batch_size=true"], "train.auto_find_batch_size", "whose parts are fixed"),
    ([*STREAM[:1], "train.max_steps=5", "model.tokenizer={train: {kind: char}}"], "model.tokenizer", "are all there"),
]


@pytest.mark.parametrize(("overrides", "key", "text"), CONFLICTS)
def test_what_does_not_go_together_is_said(only_problem, overrides, key, text):
    given = dict(each.split("=", 1) for each in overrides)  # the last of a name holds
    problem = only_problem(VALID, *(f"{name}={value}" for name, value in given.items()))
    assert problem.key == key
    assert problem.line is not None or problem.path == "command line"
    assert re.search(text, str(problem))


def test_a_stream_of_shards_elsewhere_is_accepted(load):
    run = load(VALID, *STREAM, "data.train=[hf://datasets/a/b/**/*.jsonl, s3://bucket/c.jsonl.gz, train.jsonl]")
    assert run.data.stream
    assert load(VALID_SFT, "data.stream=true", "data.train=https://host/rows.jsonl").data.stream_part is None


def test_no_other_recipe_streams(only_problem):
    text = "recipe: classification\noutput_dir: run\nmodel: {path: base}\ndata: {train: train.jsonl}\n"
    assert "belongs to the recipes continued_pretraining, sft, lora" in str(only_problem(text, "data.stream=true"))
