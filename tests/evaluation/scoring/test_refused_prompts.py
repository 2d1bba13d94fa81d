"""A prompt that the chat template refuses is named by the file and line of its row, before a row is scored."""

from __future__ import annotations

import json

import pytest
from chat_models import talking_tokenizer

from hf_finetune.chat.rendering import TemplateLimitError
from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.one_split import load_rows
from hf_finetune.errors import DataError
from hf_finetune.evaluation.scoring import rows as scored_rows
from hf_finetune.evaluation.scoring.rows import build_prompts

TOKENIZER = talking_tokenizer()


def splits_of(folder, *asked):
    rows = [{"question": text, "answer": "yes"} for text in asked]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_rows(str(path), DataSection(test=str(path)), None), path


def test_each_row_whose_prompt_is_refused_is_named(tmp_path, monkeypatch):
    refusing = "{% if add_generation_prompt and 'bad' in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    monkeypatch.setattr(TOKENIZER, "chat_template", refusing + TOKENIZER.chat_template)
    splits, path = splits_of(tmp_path, "bad", "good", "worse", "bad bad")
    with pytest.raises(DataError) as refused:
        build_prompts(splits, TOKENIZER, DataSection(test="x"))
    what = "the chat template refuses it: no (in its prompt); change the row [HF141]"
    assert str(refused.value).splitlines() == [f"{path}:1: {what}", f"{path}:4: {what}", "2 problems"]
    good, _ = splits_of(tmp_path, "good", "worse")
    assert [prompt.row for prompt in build_prompts(good, TOKENIZER, DataSection(test="x"))] == [0, 1]


def test_a_prompt_on_which_a_limit_is_exceeded_is_named_and_the_third_is_the_last(tmp_path, monkeypatch):
    splits, path = splits_of(tmp_path, *("ok", "slow", "slow", "slow", "slow"))

    def encode(tokenizer, messages, tools):
        if messages[0]["content"] == "slow":
            raise TemplateLimitError("did not end within 1 s", "x")
        return [1]

    monkeypatch.setattr(scored_rows, "encode_prompt", encode)
    with pytest.raises(DataError) as refused:
        build_prompts(splits, TOKENIZER, DataSection(test="x"))
    lines = str(refused.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{line}" for line in (2, 3, 4)] + ["3 problems"]
    assert "the chat template did not end within 1 s on its prompt; look into it" in lines[0]
