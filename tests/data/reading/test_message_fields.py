"""Keys of a message, and of what stands in it, that are other tools' or slips; content that is written in parts."""

from __future__ import annotations

import json
import logging

import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError

ASKED = {"role": "user", "content": "2 + 2?"}
ANSWERED = {"role": "assistant", "content": "4"}


def read(tmp_path, *messages, field="messages"):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({field: [ASKED, ANSWERED]}) + "\n" + json.dumps({field: list(messages)}) + "\n")
    return load_splits(DataSection(train=str(file)), "conversation", 0)


REFUSED = [
    ({"loss": False}, "the key `loss` of `messages[1]` is another tool's; `train: false` leaves a message out"),
    ({"training": False}, "another tool's"),
    ({"masked": True}, "the key `masked` of `messages[1]` is another tool's; `train: false` leaves a message out"),
    ({"loss_weight": 0.0}, "`weight` is 0 or 1"),
    ({"Loss": True}, "another tool's"),
    ({"wieght": 0}, "did you mean `weight`?"),
    ({"tool_calls": [{"function": {"nmae": "rain"}}]}, "did you mean `name`?"),
    ({"tool_calls": [{"functoin": {"name": "rain"}}]}, "did you mean `function`?"),
    ({"tool_calls": [{"name": "rain", "argument": {}}]}, "did you mean `arguments`?"),
    ({"function_call": {"name": "rain", "argumnets": "{}"}}, "did you mean `arguments`?"),
    ({"content": [{"type": "text", "txt": "4"}]}, "did you mean `text`?"),
    ({"content": [{"type": "text", "text": "4", "cache": 1}]}, "the key `cache` of `messages[1].content[0]`"),
    (
        {"content": [{"type": "image_url", "image_url": {}}]},
        "`messages[1].content[0]` is a part of the type `image_url`",
    ),
    ({"content": [{"type": "text", "text": 4}]}, "`messages[1].content[0].text` must be string, found a number"),
]


@pytest.mark.parametrize(("more", "said"), REFUSED, ids=[json.dumps(more) for more, _ in REFUSED])
def test_a_key_that_is_another_tools_or_a_slip_is_refused_with_ours(tmp_path, more, said):
    with pytest.raises(DataError) as refused:
        read(tmp_path, ASKED, ANSWERED | more)
    [problem] = refused.value.problems
    assert str(problem).startswith(f"{tmp_path / 'rows.jsonl'}:2: ")
    assert said in str(problem)


def test_what_only_a_template_may_read_is_said(tmp_path, caplog):
    call = {"function": {"name": "rain", "arguments": {"loss": 1}, "strict": True}, "id": "1"}
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        splits = read(tmp_path, ASKED | {"speaker": "Ada"}, ANSWERED | {"tool_calls": [call]})
    assert (
        "keys of messages that nothing but a chat template reads: messages[].speaker, messages[].tool_calls[].strict"
        in caplog.messages
    )
    extra = json.loads(splits.rows["train"][1]["messages"][0]["extra"])
    assert extra == {"speaker": "Ada"}


def test_content_in_parts_is_its_text(tmp_path):
    parts = [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2?"}]
    rows = read(tmp_path, ASKED | {"content": parts}, ANSWERED | {"content": [{"text": "4", "type": "text"}]}).rows
    assert rows["train"][1] == rows["train"][0]


def test_an_answer_without_any_part_says_nothing(tmp_path):
    with pytest.raises(DataError, match="the assistant says nothing"):
        read(tmp_path, ASKED, ANSWERED | {"content": [{"type": "text", "text": ""}]})
