"""`data.columns` makes rows of ours from any names, and a name that no row has is an error with its place."""

from __future__ import annotations

import json

import pytest

from hf_finetune.config.sections import DataSection, RowField
from hf_finetune.data.reading.columns import ColumnMapper, format_columns, make_example, suggest_columns
from hf_finetune.data.reading.formats import FORMATS
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import ConfigError, DataError

PAIRS = {"prompt": "query", "completion": "answer.text"}


def write(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def splits(path, becomes, columns, **more):
    return load_splits(DataSection(train=str(path), columns=columns, **more), becomes, seed=0)


def refuse(path, becomes, columns, error=DataError, **more):
    with pytest.raises(error) as refused:
        splits(path, becomes, columns, **more)
    return str(refused.value)


def test_the_fields_that_can_be_named_are_those_of_the_formats():
    fields = {field for each in FORMATS.values() for field in (*each.required, *each.optional)}
    assert fields == set(RowField.__args__)


def test_fields_come_from_columns_and_from_inside_objects(tmp_path, caplog):
    caplog.set_level("INFO", "hf_finetune")
    rows = [{"id": number, "query": f"q{number}", "answer": {"text": f"a{number}"}} for number in range(3)]
    read = splits(write(tmp_path, *rows), "conversation", PAIRS)
    assert read.rows["train"][:] == {"prompt": ["q0", "q1", "q2"], "completion": ["a0", "a1", "a2"]}
    assert caplog.text.count("rows.jsonl: columns query -> prompt, answer.text -> completion") == 1


def test_a_name_with_a_dot_in_it_is_a_name_first(tmp_path):
    path = write(tmp_path, {"query": "q", "answer.text": "flat", "answer": {"text": "nested"}})
    assert splits(path, "conversation", PAIRS).rows["train"]["completion"][:] == ["flat"]


def test_texts_and_labels_are_mapped_and_splits_go_by_either_name(tmp_path):
    rows = [{"body": f"t{number}", "kind": "xy"[number % 2], "who": number // 4} for number in range(40)]
    columns = {"text": "body", "label": "kind"}
    for stratify_by in ("kind", "label"):
        read = splits(
            write(tmp_path, *rows),
            "labelled",
            columns,
            stratify_by=stratify_by,
            group_by="who",
            validation_fraction=0.2,
        )
        assert read.rows["validation"]["label"][:].count("x") == read.rows["validation"]["label"][:].count("y")


def test_tools_and_numbers_reach_the_row_as_they_were_written(tmp_path):
    tools = '[{"type": "function", "n": 1.0, "z": {"b": 1, "a": 2}}]'
    line = '{"chat": [{"role": "assistant", "content": "a"}], "can": ' + tools + "}"
    read = splits(write(tmp_path, line), "conversation", {"messages": "chat", "tools": "can"})
    assert read.rows["train"]["tools"][:] == [tools]


def test_two_fields_may_come_from_one_column(tmp_path):
    read = splits(write(tmp_path, {"body": "a"}), "conversation", {"prompt": "body", "completion": "body"})
    assert read.rows["train"][0] == {"prompt": "a", "completion": "a"}


def test_a_mapped_field_goes_before_a_column_of_its_name(tmp_path):
    read = splits(write(tmp_path, {"text": "old", "body": "new"}), "document", {"text": "body"})
    assert read.rows["train"]["text"][:] == ["new"]


def test_the_fields_that_are_named_decide_between_formats(tmp_path):
    row = {"question": "q", "answer": "a", "query": "x", "reply": "y"}
    read = splits(write(tmp_path, row), "conversation", {"prompt": "query", "completion": "reply"})
    assert read.format == "prompt_completion"


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json"])
def test_a_column_that_no_row_has_is_named_with_what_was_meant(tmp_path, name):
    row = {"qeury": "q", "reply": "a"}
    if name == "rows.csv":
        path = write(tmp_path, "qeury,reply", "q,a", name=name)
    else:
        path = write(tmp_path, [row] if name == "rows.json" else row, name=name)
    said = refuse(path, "conversation", {"prompt": "query", "completion": "reply"})
    assert said == (
        f"{path}:1: data.columns: there is no column `query`, which `prompt` is to be taken from; did you mean "
        "`qeury`? [HF024]"
    )


def test_all_missing_columns_are_named_and_those_inside_objects_are_listed(tmp_path):
    path = write(tmp_path, "", {"ask": "q", "answer": {"body": "a"}})
    said = refuse(path, "conversation", PAIRS)
    assert said.count("rows.jsonl:2: data.columns: there is no column") == 2
    assert "the columns are `ask`, `answer`, `answer.body`" in said


def test_an_optional_column_may_lack_in_rows_but_not_in_all(tmp_path):
    columns = {"text": "a", "label": "c", "text_pair": "b"}
    rows = [{"a": "1", "c": "x"}, {"a": "2", "b": "3", "c": "y"}]
    assert splits(write(tmp_path, *rows), "labelled", columns).rows["train"]["text_pair"][:] == [None, "3"]
    assert "data.columns: no row has `b`" in refuse(write(tmp_path, rows[0]), "labelled", columns)


def test_a_bad_row_is_said_in_the_words_of_the_file(tmp_path):
    rows = [{"query": "q", "answer": {"text": "a"}}, {"query": 3, "answer": {"text": "b"}}, {"query": "q"}]
    said = refuse(write(tmp_path, *rows), "conversation", PAIRS)
    assert "rows.jsonl:2: prompt: `prompt` must be string, found int (it is taken from the column `query`)" in said
    assert (
        "rows.jsonl:3: completion: the key `completion` is missing (it is taken from the column `answer.text`)" in said
    )


def test_a_line_that_is_no_row_keeps_its_own_reason(tmp_path):
    said = refuse(write(tmp_path, {"query": "q", "answer": {"text": "a"}}, "{oops"), "conversation", PAIRS)
    assert "rows.jsonl:2: not valid JSON" in said


def test_fields_that_make_no_row_together_say_what_is_missing(tmp_path):
    path = write(tmp_path, {"query": "q"})
    assert "prompt alone makes no row; prompt_completion needs completion too" in refuse(
        path, "conversation", {"prompt": "query"}
    )
    both = {"prompt": "query", "text": "query"}
    assert "no row format has all of prompt, text" in refuse(path, "conversation", both)
    assert "format text has no field prompt; it has text" in refuse(
        path, "document", {"prompt": "query"}, format="text"
    )


def test_columns_that_fit_no_format_are_listed_with_the_line_that_helps(tmp_path):
    said = refuse(write(tmp_path, "query,reply", "q,a", name="rows.csv"), "conversation", {})
    assert "no row format has these keys: `query`, `reply`" in said
    assert "the nearest format is question_answer: `data.columns: {question: query, answer: reply}`" in said
    said = refuse(write(tmp_path, "foo,bar", "q,a", name="rows.csv"), "conversation", {})
    assert "say which of them hold a question and its answer" in said
    assert said.endswith("such as `data.columns: {question: foo, answer: bar}` [HF020]")
    # A message and a department would make a classifier's rows, or a document: of `sft` they are asked to be neither.
    columns = "customer_message,agent_reply,department"
    said = refuse(write(tmp_path, columns, "q,a,d", name="rows.csv"), "conversation", {})
    assert "`data.columns: {question: customer_message, answer: agent_reply}`" in said
    assert "the nearest format is text" not in said
    said = refuse(write(tmp_path, "foo", "q", name="rows.csv"), "conversation", {})
    assert "the formats are text: text; labelled: text, label" in said
    assert "data.columns takes their fields from other names" in said


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["user_query", "Reply"], {"question": "user_query", "answer": "Reply"}),
        (["nr", "customer_text", "our_reply", "channel"], {"question": "customer_text", "answer": "our_reply"}),
        (["datum", "mail_text", "abteilung"], {"text": "mail_text", "label": "abteilung"}),
        (["id", "review", "sentiment"], {"text": "review", "label": "sentiment"}),
        (["body"], {"text": "body"}),
        (["dialogue"], {"messages": "dialogue"}),
        (["a", "b"], {}),
    ],
)
def test_a_suggestion_is_made_from_usual_names(names, columns):
    row = {name: "12" if name in {"id", "nr", "datum"} else f"the {name}" for name in names}
    assert suggest_columns(row) == columns


def test_an_example_takes_columns_of_text_and_for_the_label_the_shortest():
    row = {"nr": "17", "Betreff": "My parcel is late", "Abteilung": "delivery", "Datum": "2024-01-01"}
    assert make_example(row, "labelled") == {"text": "Betreff", "label": "Abteilung"}
    assert make_example(row, "conversation") == {"question": "Betreff", "answer": "Abteilung"}
    assert make_example(row, "document") == {"text": "Betreff"}


def test_a_suggestion_can_be_pasted():
    assert format_columns({"text": "my text"}) == '`data.columns: {text: "my text"}`'
    assert format_columns({"text": "my text"}, "--columns") == "`--columns 'text=my text'`"


def test_a_mapper_leaves_the_other_columns_as_they_are():
    mapper = ColumnMapper(PAIRS, "rows.jsonl")
    row = {"id": 1, "query": "q", "answer": {"text": "a", "by": "Ada"}}
    assert mapper.map_row(row, 1) == {"prompt": "q", "completion": "a", "id": 1, "answer": row["answer"]}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.json"])
def test_a_column_whose_name_a_field_has_taken_stays_under_another(tmp_path, name, caplog):
    caplog.set_level("INFO", "hf_finetune")
    rows = [{"text": f"old {number}", "original_text": "taken", "body": f"new {number}"} for number in range(3)]
    path = tmp_path / name
    if name.endswith(".csv"):
        path.write_text("text,original_text,body\n" + "".join(f"{','.join(row.values())}\n" for row in rows))
    else:
        path.write_text(json.dumps(rows) if name.endswith(".json") else "".join(f"{json.dumps(row)}\n" for row in rows))
    settings = RowSettings(columns={"text": "body"})
    lines = [line for block in iterate_row_blocks(path, name, settings) for line in block.lines]
    assert [json.loads(line) for line in lines] == [
        {"text": row["body"], "original_text": "taken", "original_original_text": row["text"]} for row in rows
    ]
    said = f"{name}: `text` is taken from the column `body`; the column `text` stays as `original_original_text`"
    assert caplog.messages.count(said) == 1


def test_two_fields_that_change_their_names_lose_nothing(tmp_path, caplog):
    path = write(tmp_path, {"question": "a", "answer": "q"})
    settings = RowSettings(columns={"question": "answer", "answer": "question"})
    (block,) = iterate_row_blocks(path, "rows.jsonl", settings)
    assert json.loads(block.data) == {"question": "q", "answer": "a"}
    assert "stays as" not in caplog.text


def test_a_pair_of_one_text_with_itself_is_refused(tmp_path):
    path = write(tmp_path, {"message": "a", "label": "x"})
    message = refuse(path, "labelled", {"text": "message", "text_pair": "message"}, error=ConfigError)
    assert message.startswith("data.columns: text and text_pair are both taken from the column `message`")


def test_a_name_that_was_written_with_the_blanks_of_the_header_is_found(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("id, body \n1,a\n2,b\n")
    assert splits(path, "document", {"text": " body "}).rows["train"]["text"][:] == ["a", "b"]
