"""Each row format is recognized by its keys and becomes the one intermediate form of its kind."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset, List, Value

from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.format_detection import choose_format
from hf_finetune.data.reading.formats import FORMATS, get_features, restore_messages, restore_tools
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError


def loaded(tmp_path, rows, becomes, **settings):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_splits(DataSection(train=str(path), **settings), becomes, seed=0).rows["train"]


def turns(user, assistant):
    plain = {"train": None, "weight": None, "extra": None}
    return [{"role": "user", "content": user, **plain}, {"role": "assistant", "content": assistant, **plain}]


EXAMPLES = [
    ("text", {"text": "a"}, "document", {"text": "a"}),
    ("labelled", {"text": "a", "label": "x"}, "labelled", {"text": "a", "text_pair": None, "label": "x"}),
    (
        "labelled",
        {"text": "a", "text_pair": "b", "label": 3},
        "labelled",
        {"text": "a", "text_pair": "b", "label": 3},
    ),
    ("labelled", {"text": "a", "label": ["x", "y"]}, "labelled", {"text": "a", "text_pair": None, "label": ["x", "y"]}),
    ("messages", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, None, None),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, None, None),
    ("alpaca", {"instruction": "q", "output": "a"}, None, None),
    ("alpaca", {"instruction": "q", "input": "", "output": "a"}, None, None),
    ("instruction", {"instruction": "q", "response": "a"}, None, None),
    ("prompt_completion", {"prompt": "q", "completion": "a"}, "prompt_completion", {"prompt": "q", "completion": "a"}),
    ("input_output", {"input": "q", "output": "a"}, None, None),
    ("user_assistant", {"user": "q", "assistant": "a"}, None, None),
    ("question_answer", {"question": "q", "answer": "a"}, None, None),
]


@pytest.mark.parametrize(("name", "row", "becomes", "expected"), EXAMPLES)
@pytest.mark.parametrize("automatic", [True, False])
def test_each_format_becomes_its_intermediate_form(tmp_path, name, row, becomes, expected, automatic):
    becomes = becomes or "conversation"
    expected = expected or {"messages": turns("q", "a"), "tools": None}
    row = row | {"source": "somewhere", "id": 7}
    rows = loaded(tmp_path, [row, row], becomes, format="auto" if automatic else name)
    assert rows.to_list() == [expected, expected]


def test_every_format_that_is_written_as_json_has_an_example():
    assert {name for name, *_ in EXAMPLES} == {name for name, each in FORMATS.items() if not each.in_text_file}


def test_an_alpaca_input_follows_the_instruction_after_a_blank_line(tmp_path):
    rows = loaded(tmp_path, [{"instruction": "Do", "input": "this", "output": "done"}], "conversation")
    assert rows[0]["messages"] == turns("Do\n\nthis", "done")


def test_input_and_output_are_text_and_label_where_the_task_is_classification(tmp_path):
    rows = loaded(tmp_path, [{"input": "a", "output": "x"}], "labelled", task="classification")
    assert rows.to_list() == [{"text": "a", "text_pair": None, "label": "x"}]


def test_train_and_weight_of_a_message_are_kept(tmp_path):
    messages = [
        {"role": "user", "content": "a", "train": False},
        {"role": "assistant", "content": "b", "weight": 1},
        {"role": "user", "content": "c", "weight": 0.5, "train": True},
    ]
    [row] = loaded(tmp_path, [{"messages": messages}], "conversation")
    assert [message["train"] for message in row["messages"]] == [False, None, True]
    assert [message["weight"] for message in row["messages"]] == [None, 1.0, 0.5]


TOOL_ROWS = [
    {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "function": {"arguments": {"city": "x"}}}],
            },
            {"role": "tool", "tool_call_id": "1", "name": "weather", "content": '{"c": 21}'},
            {"role": "assistant", "content": "21", "reasoning_content": "easy", "refusal": None},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {}}}}}],
    },
    {
        "messages": [
            {"role": "user", "content": "Add"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {"a": 1, "b": None}}}]},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": "both", "tool_calls": []},
        ],
        "tools": [{"name": "add", "strict": True}],
    },
    {"messages": [{"role": "assistant", "content": "plain"}]},
]


def test_messages_with_different_tool_calls_come_back_as_they_were_written(tmp_path):
    rows = loaded(tmp_path, TOOL_ROWS, "conversation")
    for written, row in zip(TOOL_ROWS, rows, strict=True):
        assert restore_messages(row["messages"]) == written["messages"]
        assert restore_tools(row["tools"]) == written.get("tools")


def test_tool_calls_are_kept_byte_for_byte(tmp_path):
    calls = '[ {"b":1.50, "a" : "\\u00e9", "n":[1 ,2]} ]'
    tools = '[{"z":  1e2}]'
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"messages": [{"role": "assistant", "content": "x", "tool_calls": ' + calls + '}], "tools": ' + tools + "}"
    )
    [row] = load_splits(DataSection(train=str(path)), "conversation", seed=0).rows["train"]
    assert row["messages"][0]["extra"] == '{"tool_calls":' + calls + "}"
    assert row["tools"] == tools


def test_tool_calls_of_any_shape_come_back_from_a_mixed_file_as_python_reads_them(tmp_path):
    calls = [
        '{"b": 1.0, "a": 1e5}',
        '{"a": 100000, "z": {"y": null, "x": [], "w": [1, "1", true, -0.0]}}',
        '{"\\u0061\\n": "\\ud83d\\ude00", "n": 1E-7, "big": 9223372036854775807}',
        '"{\\"b\\": 1.0, \\"a\\": 1e5}"',
    ]
    lines = [
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": '
        f'[{{"id": "{number}", "function": {{"name": "f", "arguments": {call}}}}}]}}], "tools": [{call}]}}'
        for number, call in enumerate(calls)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*lines, '{"messages": [{"role": "assistant", "content": "plain"}]}', *lines[::-1]]))
    rows = load_splits(DataSection(train=str(path)), "conversation", seed=0).rows["train"]
    for line, row in zip(path.read_text().splitlines(), rows, strict=True):
        written = json.loads(line)
        # As text, so that 1.0 is not 1, true is not 1, and the order of keys counts.
        assert json.dumps(restore_messages(row["messages"])) == json.dumps(written["messages"])
        assert json.dumps(restore_tools(row["tools"])) == json.dumps(written.get("tools"))
        for message, original in zip(row["messages"], written["messages"], strict=True):
            assert ("tool_calls" in original) == (message["extra"] is not None)
            assert message["extra"] is None or message["extra"].removeprefix('{"tool_calls":')[:-1] in line


def test_features_are_stated_and_not_inferred(tmp_path):
    text = Value("string")
    rows = loaded(tmp_path, TOOL_ROWS[2:], "conversation")
    turn = {"role": text, "content": text, "train": Value("bool"), "weight": Value("float64"), "extra": text}
    assert rows.features == {"messages": List(turn), "tools": text}
    assert get_features("labelled", "list of integers")["label"] == List(Value("int64"))
    assert get_features("labelled", "integer")["label"] == Value("int64")
    assert isinstance(rows, Dataset)


# The auto rule


def choose(keys, task=None):
    return choose_format("auto", dict.fromkeys(keys, "x"), task, "rows.jsonl", 1)


def test_a_format_with_more_of_the_keys_goes_before_one_with_fewer():
    assert choose(["text", "label"]).name == "labelled"
    assert choose(["instruction", "input", "output"]).name == "alpaca"
    assert choose(["input", "output"]).name == "input_output"
    assert choose(["input", "output"], task="classification").becomes == "labelled"
    assert choose(["input", "output"], task="regression").numbers
    assert choose(["text", "label"], task="regression").numbers
    assert choose(["text", "text_pair", "label"], task="classification").numbers is False
    assert choose(["text"], task="regression").name == "text"
    named = choose_format("labelled", {"input": "a", "output": "b"}, "classification", "rows.jsonl", 1)
    assert (named.required, named.becomes) == (("input", "output"), "labelled")


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["text", "messages"], "`text` and `messages`"),
        (["prompt", "completion", "messages"], "`messages` and `prompt_completion`"),
        (["instruction", "output", "response"], "`alpaca` and `instruction`"),
    ],
)
def test_keys_that_fit_two_formats_are_an_error_that_names_both(keys, names):
    with pytest.raises(DataError, match=f"fit the formats {names}; set data.format"):
        choose(keys)


def test_keys_that_fit_no_format_are_an_error_with_a_suggestion():
    with pytest.raises(DataError, match="did you mean `mesages` -> `messages`"):
        choose(["mesages", "id"])
    with pytest.raises(
        DataError, match=r"rows.jsonl:1: no row format has these keys: `foo`, `bar`; say which of them hold a question "
    ):
        choose(["foo", "bar"])
    with pytest.raises(DataError, match="no keys at all"):
        choose([])


# Rows that do not keep to their format


def refusal(format_name, row, first=None):
    decoder = RowDecoder(FORMATS[format_name], (), {})
    if first is not None:
        decoder.decode_line(json.dumps(first).encode(), "rows.jsonl:1")
    with pytest.raises(LineError) as bad:
        decoder.decode_line(json.dumps(row).encode(), "rows.jsonl:9")
    return f"{bad.value.reason}; {bad.value.remedy}"


@pytest.mark.parametrize(
    ("format_name", "row", "message"),
    [
        ("messages", {"mesages": []}, "the key `mesages` is not known; did you mean `messages`?"),
        ("messages", {"messages": []}, "`messages` is empty"),
        ("messages", {"messages": "hi"}, "`messages` must be array, found str"),
        ("messages", {"messages": ["hi"]}, "`messages[0]` must be an object, found a string"),
        ("messages", {"messages": [{"role": "user"}]}, "the key `content` is missing"),
        (
            "messages",
            {"messages": [{"rol": "user", "content": "x"}]},
            "the key `rol` is not known; did you mean `role`?",
        ),
        ("messages", {"messages": [{"role": "", "content": "x"}]}, "`messages[0].role` is empty"),
        (
            "messages",
            {"messages": [{"role": "user", "content": None}]},
            "`messages[0].content` must be string, found null",
        ),
        ("messages", {"messages": [{"role": "user", "content": [{}]}]}, "must be string, found array"),
        (
            "messages",
            {"messages": [{"role": "user", "content": "x", "train": 1}]},
            "`messages[0].train` must be bool or null",
        ),
        ("messages", {"messages": [{"role": "user", "content": "x", "wieght": 1}]}, "did you mean `weight`?"),
        ("messages", {"messages": [{"role": "user", "content": "x", "tool_cals": 1}]}, "did you mean `tool_calls`?"),
        (
            "messages",
            {"messages": [{"role": "u", "content": "x"}], "tools": "[]"},
            "`tools` must be an array, found a string",
        ),
        ("messages", {"messages": [{"role": "u", "content": "x"}], "tool": []}, "did you mean `tools`?"),
        (
            "sharegpt",
            {"conversations": [{"from": "bot", "value": "x"}]},
            "`conversations[0].from` is not a known speaker",
        ),
        ("alpaca", {"instruction": "a", "output": "b", "inputs": "c"}, "did you mean `input`?"),
        (
            "labelled",
            {"text": "a", "label": 1.5},
            "`label` must be integer or string or array, found float; write a class as text or as a whole number; "
            "data.task: regression predicts numbers",
        ),
        ("labelled", {"text": "a", "label": [1.5]}, "`label[0]` must be integer or string, found float; write a class"),
        ("labelled", {"text": "a", "label": []}, "the row has no label; give it one, or set data.allow_empty: true"),
        ("labelled", {"text": "a", "label": ""}, "the label is empty; name it"),
        ("labelled", {"text": "a", "label": "\u3000"}, "the label is empty; name it"),
        ("labelled", {"text": "a", "label": ["x", " "]}, "the label is empty; name it"),
        ("labelled", {"text": "a", "label": [3, 1, 3]}, "the label 3 occurs twice; keep one of them"),
        ("labelled", {"text": "a", "label": True}, "`label` must be integer or string or array, found bool"),
        ("labelled", {"text": "a", "label": None}, "`label` must be integer or string or array, found null"),
        ("labelled", {"text": "a", "label": ["x", 1]}, "the list of labels mixes strings and integers"),
        (
            "labelled",
            {"text": "a"},
            "the key `label` is missing; a `labelled` row has `text`, `label`; this one has `text`",
        ),
    ],
)
def test_a_row_that_breaks_its_format_is_told_where(format_name, row, message):
    assert message in refusal(format_name, row)


@pytest.mark.parametrize(
    ("first", "later", "kinds"),
    [
        (1, "1", ("string", "integer")),
        ("1", 1, ("integer", "string")),
        ("a", ["a"], ("list of strings", "string")),
        (["a"], [1], ("list of integers", "list of strings")),
    ],
)
def test_a_label_of_another_type_names_the_line_that_set_it(first, later, kinds):
    message = refusal("labelled", {"text": "b", "label": later}, first={"text": "a", "label": first})
    assert f"the label's type is {kinds[0]}, where {kinds[1]} was set by rows.jsonl:1" in message


def test_empty_label_lists_fit_either_kind_of_list():
    decoder = RowDecoder(FORMATS["labelled"], (), {}, allow_empty=True)
    for number, label in enumerate([[], [], [1], [], [2, 3]], 1):
        decoder.decode_line(json.dumps({"text": "a", "label": label}).encode(), f"rows.jsonl:{number}")
    assert (decoder.labels.kind, decoder.labels.place) == ("list of integers", "rows.jsonl:3")


# Numbers to predict


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "a", "label": 1}, {"text": "b", "label": 2.5, "text_pair": "c"}, {"text": "d", "label": -3e10}],
        [{"input": "a", "output": 1}, {"input": "b", "output": 2.5}, {"input": "d", "output": -3e10}],
    ],
)
def test_whole_numbers_and_others_are_one_column_where_numbers_are_predicted(tmp_path, rows):
    loaded_rows = loaded(tmp_path, rows, "labelled", task="regression")
    assert loaded_rows.features["label"] == Value("float64")
    assert loaded_rows["label"][:] == [1.0, 2.5, -3e10][: len(rows)]


def test_a_number_is_the_same_row_however_it_is_written(tmp_path):
    path = tmp_path / "rows.jsonl"
    hashes = []
    for number in ("3", "3.0", "9007199254740993", "9007199254740993.0"):
        path.write_text(f'{{"text": "a", "label": {number}}}\n')
        hashes += load_splits(DataSection(train=str(path), task="regression"), "labelled", seed=0).format_row_hashes(
            "train"
        )
    assert hashes[0] == hashes[1] != hashes[2] == hashes[3]


def test_the_cache_of_classes_is_not_read_as_numbers(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 2}]
    for task, kind in ((None, "int64"), ("regression", "float64"), ("classification", "int64")):
        assert loaded(tmp_path, rows, "labelled", task=task).features["label"] == Value(kind)


@pytest.mark.parametrize("label", ["1.5", True, None, [1.5], {"x": 1}])
def test_what_is_no_number_is_not_predicted_as_one(label):
    decoder = RowDecoder(choose(["text", "label"], task="regression"), (), {})
    with pytest.raises(LineError, match="`label` must be a number, found"):
        decoder.decode_line(json.dumps({"text": "a", "label": label}).encode(), "rows.jsonl:1")


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity", "9223372036854775808"])
def test_a_number_beyond_what_is_held_is_refused(number):
    decoder = RowDecoder(choose(["text", "label"], task="regression"), (), {})
    with pytest.raises(LineError):
        decoder.decode_line(f'{{"text": "a", "label": {number}}}'.encode(), "rows.jsonl:1")
