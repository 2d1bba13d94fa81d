"""Every template is what its README says: read in full, by `auto` and by name, and worth copying."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import FORMATS, restore_messages, restore_tools
from hf_finetune.data.reading.sources import TEXT_FORMATS
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "data_templates"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
RUN_FILES = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))

TABLE = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
TEMPLATES = [(file, name) for name, _, files, _ in TABLE for file in re.findall(r"\]\(([^)]+)\)", files)]
IN_JSONL = [(file, name) for file, name in TEMPLATES if name not in TEXT_FORMATS]


def read(file, format_name):
    data = DataSection(train=str(FOLDER / file), format=format_name, allow_empty=file == "multilabel.jsonl")
    name = format_name if format_name != "auto" else dict(TEMPLATES)[file]
    return load_splits(data, FORMATS[name].becomes, seed=0)


def objects(file):
    return [json.loads(line) for line in (FOLDER / file).read_text(encoding="utf-8").splitlines()]


def content(row):
    """What a row trains on, as one text: the same in two rows is a duplicate."""
    said = [turn["content"] for turn in row["messages"] if turn["role"] == "user"] if "messages" in row else []
    parts = said or [row.get(key) or "" for key in ("text", "text_pair", "prompt")]
    return " ".join(" ".join(parts).casefold().split())


def test_the_table_has_every_format_once_with_its_fields():
    assert [name for name, *_ in TABLE] == list(FORMATS)
    for name, fields, _, _ in TABLE:
        if name not in TEXT_FORMATS:
            written = {field: bool(mark) for field, mark in re.findall(r"`(\w+)`(\?)?", fields)}
            expected = dict.fromkeys(FORMATS[name].required, False) | dict.fromkeys(FORMATS[name].optional, True)
            assert written == expected, name


def test_the_table_names_every_file_and_every_file_exists():
    files = {path.name for path in FOLDER.iterdir() if path.name != "README.md"}
    assert sorted(file for file, _ in TEMPLATES) == sorted(name for name in files if not name.endswith(".csv"))
    assert all(f"[{name}]({name})" in README for name in files)


def test_the_table_promises_no_recipe_that_is_missing():
    for name, _, _, recipes in TABLE:
        named = re.findall(r"`(\w+)`", recipes)
        assert named or "(planned)" in recipes, name
        assert all((ROOT / "recipes" / f"{recipe}.py").exists() for recipe in named), name


@pytest.mark.parametrize(("file", "name"), TEMPLATES)
def test_a_template_is_read_in_full_by_its_format(file, name):
    splits = read(file, name)
    facts = splits.files[0]
    assert facts.rejected == 0
    rows = splits.rows["train"]
    if name == "file":
        assert len(rows) == 1
        return
    assert 12 <= len(rows) <= 40
    contents = Counter(map(content, rows))
    assert "" not in contents
    assert contents.most_common(1)[0][1] == 1


@pytest.mark.parametrize(("file", "name"), IN_JSONL)
def test_auto_finds_the_format_of_a_template(file, name):
    found, named = read(file, "auto"), read(file, name)
    assert found.format == name
    assert found.format_row_hashes("train") == named.format_row_hashes("train")


@pytest.mark.parametrize(("file", "name"), IN_JSONL)
def test_a_template_has_no_field_that_the_readme_does_not_explain(file, name):
    assert set(read(file, name).unused_keys) <= {"source", "language"}


@pytest.mark.parametrize("file", ["text.jsonl", "text_domain.jsonl", "text_multilingual.jsonl"])
def test_documents_are_long_enough_to_learn_from(file):
    words = [len(row["text"].split()) for row in objects(file)]
    assert len(words) >= 24
    assert min(words) >= (60 if file == "text.jsonl" else 25)


@pytest.mark.parametrize("file", ["paragraphs.txt", "file.txt"])
def test_a_text_file_has_some_kilobytes_of_prose(file):
    assert 6_000 <= (FOLDER / file).stat().st_size <= 10_000


def test_each_language_has_rows_for_every_split():
    languages = Counter(row["language"] for row in objects("text_multilingual.jsonl"))
    assert len(languages) >= 5
    assert min(languages.values()) >= 4


def test_labels_are_balanced():
    for file, classes in (("labelled.jsonl", 4), ("labelled_pairs.jsonl", 3)):
        counts = Counter(row["label"] for row in objects(file))
        assert len(counts) == classes
        assert len(set(counts.values())) == 1


def test_the_templates_show_what_the_labelled_formats_can_hold():
    assert all(row["text_pair"] for row in objects("labelled_pairs.jsonl"))
    labels = [row["label"] for row in objects("multilabel.jsonl")]
    assert {len(label) for label in labels} >= {0, 2, 3}
    assert min(Counter(each for label in labels for each in label).values()) >= 3


def test_the_messages_template_shows_what_a_conversation_can_hold():
    rows = read("messages.jsonl", "messages").rows["train"]
    turns = [turn for row in rows for turn in row["messages"]]
    assert {turn["role"] for turn in turns} == {"system", "user", "assistant", "tool"}
    assert sum(turn["train"] is False for turn in turns) >= 1
    assert sum(len([turn for turn in row["messages"] if turn["role"] == "user"]) > 1 for row in rows) >= 4
    with_tools = [row for row in rows if restore_tools(row["tools"])]
    assert with_tools
    for row in with_tools:
        offered = {tool["function"]["name"] for tool in restore_tools(row["tools"])}
        calls = [call for message in restore_messages(row["messages"]) for call in message.get("tool_calls", ())]
        answers = [
            message["tool_call_id"] for message in restore_messages(row["messages"]) if message["role"] == "tool"
        ]
        assert {call["function"]["name"] for call in calls} <= offered
        assert [call["id"] for call in calls] == answers
        assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)


def test_conversations_end_with_an_answer():
    for file, name in IN_JSONL:
        if FORMATS[name].becomes == "conversation":
            last = [row["messages"][-1] for row in read(file, name).rows["train"]]
            assert all(turn["role"] == "assistant" and turn["content"] for turn in last), file


@pytest.mark.parametrize(
    ("table", "same", "columns"),
    [
        ("questions.csv", "question_answer.jsonl", {}),
        ("tickets.csv", "labelled.jsonl", {"text": "message", "label": "team"}),
    ],
)
def test_a_table_has_the_rows_of_its_jsonl(table, same, columns):
    becomes = FORMATS[dict(TEMPLATES)[same]].becomes
    data = DataSection(train=str(FOLDER / table), columns=columns)
    rows = load_splits(data, becomes, seed=0).rows["train"]
    of_jsonl = read(same, "auto").rows["train"]
    assert [content(row) for row in rows][: len(of_jsonl)] == [content(row) for row in of_jsonl]


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_run_file_names_templates_that_exist_in_their_format(path):
    run = yaml.safe_load(path.read_text(encoding="utf-8"))
    data = run["data"]
    named = re.findall(r"data_templates/[\w.*/-]+", path.read_text(encoding="utf-8"))
    assert all((ROOT / each).is_file() for each in named)
    read_first = data["test" if run["recipe"] == "score" else "train"]
    if read_first.startswith("data_templates/"):
        rows = read(Path(read_first).name, data.get("format", "auto")).rows["train"]
        columns = {"continued_pretraining": ["text"], "classification": ["text", "text_pair", "label"]}
        assert rows.column_names == columns.get(run["recipe"], ["messages", "tools"])


ACCEPTED = {
    "mark, line ends and blank lines": ("document", 2, '\ufeff{"text": "one"}\r\n\r\n \n{"text": ""}'),
    "another field": ("document", 1, '{"text": "one", "note": 3}'),
    "null for an optional field": ("labelled", 1, '{"text": "a", "label": 1, "text_pair": null}'),
    "several labels": ("labelled", 2, '{"text": "a", "label": ["x"]}\n{"text": "b", "label": ["y", "x"]}'),
    "an alpaca row without input": ("conversation", 1, '{"instruction": "a", "output": "b", "input": null}'),
    "null for tools": (
        "conversation",
        1,
        '{"messages": [{"role": "assistant", "content": "a", "weight": 1}], "tools": null}',
    ),
    "a silent call": ("conversation", 1, '{"messages": [{"role": "assistant", "tool_calls": [{}]}]}'),
    "every field of a message": (
        "conversation",
        1,
        '{"messages": [{"role": "assistant", "content": "a", "train": true, "weight": 0.5, "tool_call_id": "1", '
        '"name": "f", "function_call": {}, "reasoning_content": "b"}]}',
    ),
    "a tool of ShareGPT": (
        "conversation",
        1,
        '{"conversations": [{"from": "observation", "value": "a"}, {"from": "gpt", "value": "b"}]}',
    ),
}
REFUSED = {
    "no text": ("document", '{"text": null}'),
    "a number for a text": ("document", '{"text": 3}'),
    "only empty texts": ("document", '{"text": ""}'),
    "a key twice": ("document", '{"text": "a", "text": "b"}'),
    "not a number": ("document", '{"text": "a", "n": NaN}'),
    "beyond 64 bits": ("document", '{"text": "a", "n": 9223372036854775808}'),
    "an array": ("document", '[{"text": "a"}]'),
    "pretty-printed": ("document", '{\n"text": "a"\n}'),
    "a misspelt field": ("document", '{"txt": "a"}'),
    "another format's row": ("document", '{"text": "a"}\n{"question": "b", "answer": "c"}'),
    "two formats": ("prompt_completion", '{"prompt": "a", "completion": "b", "text": "c"}'),
    "a misspelt optional field": (
        "labelled",
        '{"text": "a", "label": 1}\n{"text": "b", "label": 1, "text_pairs": "c"}',
    ),
    "labels of two types": ("labelled", '{"text": "a", "label": 1}\n{"text": "b", "label": "1"}'),
    "no label of several": ("labelled", '{"text": "a", "label": ["x"]}\n{"text": "b", "label": []}'),
    "a label twice": ("labelled", '{"text": "a", "label": ["x", "x"]}'),
    "a blank label": ("labelled", '{"text": "a", "label": " "}'),
    "a fraction as label": ("labelled", '{"text": "a", "label": 0.5}'),
    "a boolean as label": ("labelled", '{"text": "a", "label": true}'),
    "no messages": ("conversation", '{"messages": []}'),
    "silence without a call": ("conversation", '{"messages": [{"role": "user", "content": null}]}'),
    "tools that are no list": ("conversation", '{"messages": [{"role": "assistant", "content": "a"}], "tools": {}}'),
    "an empty answer": ("conversation", '{"question": "a", "answer": " "}'),
    "an assistant who never speaks": ("conversation", '{"messages": [{"role": "user", "content": "a"}]}'),
    "an unknown speaker": ("conversation", '{"conversations": [{"from": "bing", "value": "a"}]}'),
}


@pytest.mark.parametrize(("kind", "rows", "text"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_readme_allows_is_read(kind, rows, text, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode())
    assert load_splits(DataSection(train=str(path)), kind, seed=0).files[0].rows == rows


@pytest.mark.parametrize(("kind", "text"), REFUSED.values(), ids=REFUSED)
def test_what_the_readme_refuses_is_refused(kind, text, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_splits(DataSection(train=str(path)), kind, seed=0)
    assert "are needed here" not in str(error.value)  # refused for what it is, not for the kind asked for


def test_the_formats_that_auto_chooses_are_those_of_the_readme(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n', encoding="utf-8")
    assert load_splits(DataSection(train=str(path)), "labelled", seed=0).format == "labelled"
    assert load_splits(DataSection(train=str(path), format="text"), "document", seed=0).rows["train"]["text"] == ["a"]
    path.write_text('{"instruction": "a", "input": "b", "output": "c"}\n', encoding="utf-8")
    asked = load_splits(DataSection(train=str(path)), "conversation", seed=0)
    assert asked.format == "alpaca"
    assert asked.rows["train"][0]["messages"][0]["content"] == "a\n\nb"
    path.write_text('{"input": "a", "output": "b"}\n', encoding="utf-8")
    assert load_splits(DataSection(train=str(path)), "conversation", seed=0).format == "input_output"
    classified = load_splits(DataSection(train=str(path), task="classification"), "labelled", seed=0)
    assert classified.rows["train"][0]["label"] == "b"


def test_what_the_readme_says_of_labels_holds(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": ["x"]}\n{"text": "b", "label": []}\n', encoding="utf-8")
    splits = load_splits(DataSection(train=str(path), allow_empty=True), "labelled", seed=0)
    assert splits.rows["train"]["label"][:] == [["x"], []]
    path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0.5}\n', encoding="utf-8")
    splits = load_splits(DataSection(train=str(path), task="regression"), "labelled", seed=0)
    assert splits.rows["train"]["label"][:] == [1.0, 0.5]


def test_a_folder_stands_for_the_files_right_inside_it(tmp_path):
    (tmp_path / "inner").mkdir()
    for number, name in enumerate(("a.jsonl", ".hidden.jsonl", "notes.txt", "inner/b.jsonl")):
        (tmp_path / name).write_text(json.dumps({"text": str(number)}) + "\n", encoding="utf-8")

    def texts(train, **settings):
        return load_splits(DataSection(train=train, **settings), "document", seed=0).rows["train"]["text"][:]

    assert texts(str(tmp_path)) == ["0"]
    assert texts(str(tmp_path), format="lines") == ['{"text": "2"}']
    assert texts(str(tmp_path / "**" / "*.jsonl")) == ["0", "3"]
    assert texts([{"path": str(tmp_path / "a.jsonl"), "weight": 2.0}, str(tmp_path / "inner")]) == ["0", "0", "3"]
    for refused in (str(tmp_path / "notes.txt"), [str(tmp_path), str(tmp_path / "a.jsonl")]):
        with pytest.raises(DataError):
            texts(refused)
