"""Conversations in which the assistant has something to learn, and the others by line and roles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError

SECRET = "swordfish"
GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def talk(*roles, **more):
    return {"messages": [{"role": role, "content": SECRET} | more for role in roles]}


def load(*rows, **settings):
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_splits(DataSection(train="rows.jsonl", **settings), "conversation", seed=0)


def refused(*rows, **settings):
    with pytest.raises(DataError) as error:
        load(*rows, **settings)
    return error.value.problems


BAD = {
    "unknown role": (talk("user", "asistant"), "`messages[1]` has an unknown role (roles: user, asistant)"),
    "nobody answers": (talk("system", "user", "user"), "the assistant never speaks (roles: system, user, user)"),
    "system late": (
        talk("user", "assistant", "system", "user", "assistant"),
        "`messages[2]` is a system message after others (roles: user, assistant, system, user, assistant)",
    ),
    "developer late": (talk("user", "developer", "assistant"), "`messages[1]` is a developer message after others"),
    "twice in a row": (
        talk("user", "assistant", "assistant"),
        "the assistant speaks twice in a row in `messages[2]` (roles: user, assistant, assistant)",
    ),
    "nothing trained": (talk("user", "assistant", train=False), "`train` or `weight` leaves out every turn"),
    "nothing weighed": (talk("user", "assistant", weight=0), "`train` or `weight` leaves out every turn"),
}


@pytest.mark.parametrize(("row", "what"), BAD.values(), ids=BAD)
def test_a_conversation_of_no_use_is_named_by_line_and_roles_without_its_text(row, what):
    (problem,) = refused(GOOD, row, GOOD)
    assert (problem.path, problem.line) == ("rows.jsonl", 2)
    assert what in problem.what
    assert SECRET not in str(problem)


def test_a_role_of_another_spelling_is_guessed():
    assert refused(talk("user", "Assistant"))[0].remedy == "did you mean assistant?"
    assert refused(talk("user", "narrator"))[0].remedy.startswith("the roles are system, developer, user")


def test_of_a_long_conversation_the_roles_around_the_fault_are_shown():
    (problem,) = refused(talk(*["user", "assistant"] * 50, "assistant", *["user", "assistant"] * 50))
    assert "`messages[100]` (roles: …, user," in problem.what
    assert problem.what.endswith("user, assistant, assistant, user, assistant, …)")


@pytest.mark.parametrize(
    "roles",
    [
        ["assistant"],
        ["user", "user", "assistant"],
        ["system", "developer", "user", "assistant", "user"],
        ["user", "assistant", "tool", "tool", "assistant"],
        ["user", "assistant", "function", "assistant"],
    ],
    ids=" ".join,
)
def test_what_a_template_may_take_is_left_to_it(roles):
    assert len(load(talk(*roles)).rows["train"]) == 1


def test_one_trained_turn_is_enough():
    first = {"role": "assistant", "content": "a", "train": False}
    last = {"role": "assistant", "content": "c", "weight": 1}
    assert len(load({"messages": [first, {"role": "user", "content": "b"}, last]}).rows["train"]) == 1


EMPTY = {
    "messages": ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}, "messages[1]"),
    "sharegpt": ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": " \n"}]}, "tions[1]"),
    "no calls": ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages[0]"),
    "alpaca": ({"instruction": "q", "output": "\t"}, "`output` is empty"),
    "instruction": ({"instruction": "q", "response": ""}, "`response` is empty"),
    "prompt_completion": ({"prompt": "q", "completion": "\u3000"}, "`completion` is empty"),
    "input_output": ({"input": "q", "output": ""}, "`output` is empty"),
    "user_assistant": ({"user": "q", "assistant": ""}, "`assistant` is empty"),
    "question_answer": ({"question": "q", "answer": "\u00a0"}, "`answer` is empty"),
}


@pytest.mark.parametrize(("row", "what"), EMPTY.values(), ids=EMPTY)
def test_an_empty_answer_is_refused_unless_it_is_allowed(row, what):
    (problem,) = refused(row)
    assert what in problem.what
    assert "data.allow_empty: true" in problem.remedy
    assert len(load(row, allow_empty=True).rows["train"]) == 1
    refused(row)  # what was read with another setting is not found in the cache


def test_an_answer_may_be_nothing_but_a_tool_call():
    for call in ({"tool_calls": [{"function": {"name": "f"}}]}, {"function_call": {"name": "f"}}):
        for content in ("", None):
            assert len(load({"messages": [{"role": "assistant", "content": content, **call}]}).rows["train"]) == 1


def test_an_empty_question_is_no_fault():
    splits = load({"question": "", "answer": "a"}, {"question": "b", "answer": "a"})
    assert [row["messages"][0]["content"] for row in splits.rows["train"]] == ["", "b"]


def test_rows_of_no_use_can_be_skipped_and_are_counted():
    splits = load(GOOD, talk("user"), GOOD, on_bad_line="skip")
    (facts,) = splits.files
    assert (facts.accepted, facts.rejected) == (2, 1)
    assert facts.rejected_lines[0][0] == 2
    assert [splits.locate("train", row) for row in (0, 1)] == [("rows.jsonl", 1), ("rows.jsonl", 3)]
