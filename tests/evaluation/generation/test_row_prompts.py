"""What a run asks where its file names no prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection, EvalSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.evaluation.generation.row_prompts import fill_prompts
from hf_finetune.models.tokenizer_training import train_tokenizer

TRAIN = {"question": "train?", "answer": "yes"}


def asked(folder: Path, rows: list[dict], *, prompts: list[str] | str = "validation", validation: bool = True):
    """The prompts of a run whose validation rows are `rows`."""
    other = TRAIN if "question" in rows[0] else _turns(["user", "another"], ["assistant", "z"])
    for name, each in (("train", [other]), ("validation", rows)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in each))
    held_out = str(folder / "validation.jsonl") if validation else None
    data = DataSection(train=str(folder / "train.jsonl"), validation=held_out)
    tokenizer = train_tokenizer("char", ["".join(map(chr, range(32, 127))) + "\n"])
    load_chat_template(data, tokenizer)
    settings = EvalSection(prompts=prompts)
    return fill_prompts(settings, load_splits(data, "conversation", 0), tokenizer, 200).prompts


def _turns(*said: list[str]) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def test_the_first_two_different_questions_of_the_validation_rows_are_asked_in_their_order(tmp_path, caplog):
    rows = [
        {"question": text, "answer": answer} for text, answer in (("b?", "1"), ("b?", "2"), ("a?", "1"), ("c?", "1"))
    ]
    caplog.set_level("INFO")
    assert asked(tmp_path, rows) == ["b?", "a?"]
    assert "first questions of the validation rows (eval.prompts: validation)" in caplog.text


@pytest.mark.parametrize(("prompts", "expected"), [(["mine"], ["mine"]), ([], [])])
def test_what_the_run_file_says_is_asked(tmp_path, prompts, expected):
    assert asked(tmp_path, [{"question": "b?", "answer": "1"}], prompts=prompts) == expected


def test_a_run_without_validation_rows_asks_nothing(tmp_path):
    assert asked(tmp_path, [{"question": "b?", "answer": "1"}], validation=False) == []


def test_rows_that_are_not_one_short_question_are_passed_over(tmp_path, caplog):
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    rows = [
        _turns(["system", "Be brief."], ["user", "a?"], ["assistant", "b"]),
        _turns(["user", "x" * 501], ["assistant", "b"]),
        _turns(["user", "x" * 190], ["assistant", "b"]),  # 190 and its turns are more than 200 tokens
        _turns(["user", "snow \u2603?"], ["assistant", "b"]),
        _turns(["user", "with a tool?"], ["assistant", "b"]) | {"tools": [tool]},
    ]
    caplog.set_level("INFO")
    assert asked(tmp_path, rows) == []
    assert "no validation row is one short question" in caplog.text
    assert asked(tmp_path, [*rows, _turns(["user", "plain?"], ["assistant", "b"], ["user", "c"])]) == ["plain?"]
