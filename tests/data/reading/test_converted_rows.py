"""`hf-finetune rows` rejects what no run takes, and writes what the name of its output says."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from hf_finetune.data import RowsOptions, convert_rows
from hf_finetune.errors import ConfigError, DataError, FinetuneError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def convert(text: str | bytes, source: str = "rows.csv", target: str = "out.jsonl", **options: object) -> list[dict]:
    Path(source).write_bytes(text if isinstance(text, bytes) else text.encode())
    convert_rows(Path(source), Path(target), RowsOptions(overwrite=True, **options))
    return [json.loads(line) for line in Path(target).read_text(encoding="utf-8").splitlines()]


def refuse(text: str | bytes, source: str = "rows.csv", **options: object) -> list[str]:
    with pytest.raises(FinetuneError) as refused:
        convert(text, source, **options)
    assert not Path("out.jsonl").exists()
    return str(refused.value).splitlines()


NOT_NUMBERS = {
    "007": "write 7, without what stands before it",
    "+3": "write 3, without what stands before it",
    "0,5": "write a decimal point: 0.5",
    "1,000": "write 1000, or 1.000 if the comma is a decimal one",
    "1,000,000": "write 1000000",
    "0x1f": "write digits with a decimal point",
    "1_000": "write digits with a decimal point",
    "12 EUR": "write digits with a decimal point",
    "1e999": "it is too large",
    "nan": "write a number",
}


@pytest.mark.parametrize(("cell", "remedy"), NOT_NUMBERS.items())
def test_a_cell_that_is_no_number_is_rejected_with_the_way_to_write_it(cell, remedy):
    said = refuse(f'text,price\na,12\nb,"{cell}"\nc,0.5\n', numbers=("price",))
    assert said[1].startswith(f'rows.csv:3: price: `price` must be a number, found "{cell}"; {remedy}')


def test_a_number_that_is_missing_is_rejected_and_a_text_is_not_shown():
    said = refuse("text,price\na,\nb,the secret of the house\nc,-1e3\n", numbers=("price",))
    assert said[1].startswith("rows.csv:2: price: `price` is empty, and must be a number")
    assert said[2].startswith("rows.csv:3: price: `price` must be a number, found a text;")
    assert "secret" not in "".join(said)


@pytest.mark.parametrize("source", ["rows.jsonl", "rows.json"])
def test_numbers_are_asked_of_json_too(source):
    rows = [{"text": "a", "label": 7}, {"text": "b", "label": "7"}, {"text": "c"}]
    text = json.dumps(rows) if source.endswith(".json") else "".join(f"{json.dumps(row)}\n" for row in rows)
    said = refuse(text, source, numbers=("label",))
    assert said[1] == f'{source}:2: label: `label` must be a number, found "7"; write it without quotes [HF027]'
    assert said[2].startswith(f"{source}:3: label: there is no field `label`")


LABELS = [
    ([True], 1, 'must be integer or string or array, found bool; write a class as text, such as "yes"'),
    ([None], 1, "must be integer or string or array, found null"),
    ([3, None], 2, "must be a number, found null"),
    ([3, 4.5, True], 3, "must be a number, found a boolean"),
    ([3, "spam"], 2, "must be a number"),
    (["[urgent]", ["urgent"]], 2, "the label's type is list of strings, where string was set by"),
    (["urgent", 3], 2, "the label's type is integer, where string was set by"),
]


@pytest.mark.parametrize(("labels", "line", "reason"), LABELS)
@pytest.mark.parametrize("names", [("text", "label"), ("input", "output")])
def test_a_label_that_every_run_refuses_is_rejected(labels, line, reason, names):
    rows = [dict(zip(names, ("a", label), strict=True)) for label in labels]
    said = refuse("".join(f"{json.dumps(row)}\n" for row in rows), "rows.jsonl")
    assert len(said) == 2
    assert said[1].startswith(f"rows.jsonl:{line}: {names[1]}: ")
    if names[0] == "text":
        assert reason in said[1]


@pytest.mark.parametrize("text", ["", "   "])
def test_a_text_to_label_that_is_empty_is_rejected_unless_it_is_allowed(text):
    table = f"text,label\n{text},a\nx,b\n"
    assert refuse(table)[1].startswith("rows.csv:2: text: `text` is empty: there is nothing to label;")
    assert convert(table, allow_empty=True)[0] == {"text": text, "label": "a"}


@pytest.mark.parametrize(("ending", "unpack"), [(".gz", gzip.decompress), (".zst", None)])
def test_the_output_is_compressed_where_its_name_says_so(ending, unpack):
    Path("rows.csv").write_text("text,label\na,x\nb,y\n")
    unpack = unpack or (lambda packed: zstandard.ZstdDecompressor().decompressobj().decompress(packed))
    found = []
    for _ in range(2):
        convert_rows(Path("rows.csv"), Path(f"out.jsonl{ending}"), RowsOptions(overwrite=True))
        found.append(Path(f"out.jsonl{ending}").read_bytes())
    assert unpack(found[0]) == b'{"text":"a","label":"x"}\n{"text":"b","label":"y"}\n'
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.csv.gz", "out.jsonl.bz2", "out.txt", "out.xlsx"])
def test_a_name_that_promises_another_kind_of_file_is_refused(name):
    with pytest.raises(ConfigError, match=r"is written as JSON Lines, which no .* file holds; name it .jsonl"):
        convert("text\na\n", target=name)
    assert not Path(name).exists()


def test_the_header_once_more_is_found_in_any_case_where_there_are_columns():
    said = refuse("text,label\na,b\nText , LABEL\nc,d\n")
    assert said[1] == "rows.csv:3: row 2: the row repeats the header; take it out; were two files joined? [HF064]"
    assert convert("text\na\nText\n") == [{"text": "a"}, {"text": "Text"}]


@pytest.mark.parametrize("stated", ["sep=;\n", "SEP=;\r\n", '"sep=;"\n', "\ufeffsep=;\n"])
def test_the_line_in_which_excel_states_the_delimiter_is_no_header(stated, caplog):
    caplog.set_level("INFO", "hf_finetune")
    assert convert(f"{stated}text;label\na,1;b\nc,2;d\n")[0] == {"text": "a,1", "label": "b"}
    assert "columns are separated by a semicolon, as its first line says" in caplog.text
    Path("out.jsonl").unlink()
    assert refuse(f"{stated}text;label\na;b\nc\n")[1].startswith("rows.csv:4: row 2: the row has 1 field")


HEADERS = [
    ("Report 2024,\ntext,label\na,b\nc,d\n", "rows.csv:1: the first line is a title"),
    ("Report 2024\ntext,label\na,b\nc,d\n", "the first line names the columns: delete a title above them"),
    ("text,label\na,b,\nc,d,\n", "the rows end in a delimiter: take it away"),
    ("text,label\n'a, b',x\n'c, d',y\n", "in double quotes, not in single ones"),
    ("text,label\na\nb\n", "is a column of the rows missing"),
    ('text,label\n"a", "b, c"\n"d", "e, f"\n', "take away the blank between the delimiter and the quote"),
    ("I like it,good\nI hate it,bad\n", "read as a row: the first line names the columns; write a line above it"),
    ("Text,Label\na,b\nc,d\n", "`--columns text=Text label=Label` takes them as they are"),
]


@pytest.mark.parametrize(("table", "message"), HEADERS)
def test_a_first_line_that_is_no_header_is_told_what_it_is(table, message):
    assert message in refuse(table)[0]


def test_white_space_and_marks_around_the_names_of_columns_are_no_part_of_them():
    assert convert("\ufeff\ufeff text ,\tlabel\na,b\n") == [{"text": "a", "label": "b"}]


def test_a_quote_behind_a_blank_is_not_taken_for_text():
    said = refuse('text,label\n"a", "b"\nc,d\n')
    assert said[1].startswith("rows.csv:2: row 1: a blank stands before a quote, which then is text; take away")
    assert convert('text,label\n" ""a""",b\n') == [{"text": ' "a"', "label": "b"}]


def test_nul_bytes_of_a_small_table_are_named_by_their_row():
    assert refuse(b"text,label\na\0b,x\nc,y\n")[1].startswith("rows.csv:2: row 1: the row has NUL bytes")


def test_an_empty_array_and_a_stream_are_called_what_they_are():
    assert refuse("[]", "rows.json") == ["rows.json: the array is empty; put rows into it, or leave it out [HF007]"]
    with pytest.raises(ConfigError, match="/dev/stdin: standard input is not read"):
        convert_rows(Path("/dev/stdin"), Path("out.jsonl"), RowsOptions())


def test_the_rows_that_are_rejected_are_counted_without_the_summary():
    said = refuse("text,label\na\nb,c\nd\n")
    assert said[0].startswith("rows.csv: 2 of 3 rows are rejected, nothing is written")
    assert said[-1] == "2 problems"


def test_a_run_refuses_an_empty_text_to_label():
    from hf_finetune.config.sections import DataSection
    from hf_finetune.data import load_splits

    Path("rows.jsonl").write_text('{"text": " ", "label": "a"}\n{"text": "x", "label": "b"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:1: text: `text` is empty: there is nothing to label"):
        load_splits(DataSection(train="rows.jsonl"), "labelled", seed=0)
    found = load_splits(DataSection(train="rows.jsonl", allow_empty=True), "labelled", seed=0)
    assert found.rows["train"]["text"][:] == [" ", "x"]
