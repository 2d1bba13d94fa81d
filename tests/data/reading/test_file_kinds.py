"""A file that holds no rows is named for what it is, by its first bytes, with the command that helps: one message."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.file_kinds import choose_layout, get_ending
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError


def archive(*names):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return packed.getvalue()


def tarred():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        entry = tarfile.TarInfo("rows.jsonl")
        entry.size = 3
        file.addfile(entry, io.BytesIO(b"{}\n"))
    return packed.getvalue()


def parquet():
    packed = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), packed)
    return packed.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><body>404</body></html>\n"
PROSE = b"# Title\n\nSome words, and more.\n"

NO_ROWS = {
    "Excel": (
        "rows.xlsx",
        archive("[Content_Types].xml", "xl/workbook.xml"),
        "a spreadsheet",
        "convert-to csv rows.xlsx",
    ),
    "Word": ("rows.docx", archive("[Content_Types].xml", "word/document.xml"), "a text document", "txt:Text rows.docx"),
    "PDF": ("rows.pdf", b"%PDF-1.7\n%\xe2\xe3\n", "a PDF document", "pdftotext rows.pdf"),
    "zip": ("rows.jsonl", archive("rows.jsonl"), "a zip archive", "unzip rows.jsonl"),
    "tar": ("rows.jsonl", tarred(), "a tar archive", "tar -xf rows.jsonl"),
    "a web page": ("rows.jsonl", PAGE, "an HTML page", "head -c 300 rows.jsonl"),
    "a web page as a table": ("rows.csv", PAGE, "an HTML page", "head -c 300 rows.csv"),
    "a pointer": ("rows.jsonl", POINTER, "a Git LFS pointer", "git lfs pull --include rows.jsonl"),
    "a pointer to a table": ("rows.parquet", POINTER, "a Git LFS pointer", "git lfs pull --include rows.parquet"),
    "an array": ("rows.jsonl", b'[{"text": "a"}]', "one JSON array", "hf-finetune rows rows.jsonl converted.jsonl"),
    "Parquet": ("rows.jsonl", parquet(), "a Parquet file", "hf-finetune rows rows.jsonl converted.jsonl"),
    "a table": (
        "rows.jsonl",
        b"text,label\na,b\n",
        "looks like a table",
        "hf-finetune rows rows.jsonl converted.jsonl",
    ),
    "prose": ("rows.jsonl", PROSE, "plain text, not JSON Lines", "data.format to lines"),
    "Markdown": ("rows.md", PROSE, "is Markdown text", "data.format to lines"),
    "Python": ("rows.py", b"import os\n", "is Python source", "data.format to lines"),
    "text as Parquet": ("rows.parquet", PROSE, "this is text, not a Parquet file", "write it again"),
    "noise": ("rows.jsonl", bytes(range(256)), "binary data", "write its rows as JSONL"),
    "nothing": ("rows.csv", b"", "the file is empty", "put rows into it"),
}


@pytest.mark.parametrize(("name", "content", "what", "remedy"), NO_ROWS.values(), ids=NO_ROWS)
def test_what_is_no_rows_is_one_message_that_names_it(tmp_path, monkeypatch, name, content, what, remedy):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        load_splits(DataSection(train=name), "document", seed=0)
    [problem] = refused.value.problems
    assert problem.path == name
    assert what in problem.what
    assert remedy in problem.remedy


def test_json_of_another_kind_is_still_named_line_by_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('[1]\n"a"\nnull\n')
    with pytest.raises(DataError) as refused:
        load_splits(DataSection(train=str(path)), "document", seed=0)
    assert [problem.line for problem in refused.value.problems] == [1, 2, 3]


def test_a_few_bytes_of_damage_reject_their_row_and_not_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "one row of several words"}\n{"text": "a \0 byte in its words"}\n')
    with pytest.raises(DataError) as refused:
        load_splits(DataSection(train=str(path)), "document", seed=0)
    assert [problem.line for problem in refused.value.problems] == [2]


@pytest.mark.parametrize("name", ["rows.md", "rows.py", "rows.txt", "rows.rst"])
def test_a_whole_text_file_is_one_document(tmp_path, name):
    path = tmp_path / name
    path.write_text("# Title\n\nWords.\n")
    for source in (path, tmp_path):  # named, and as the file of a folder
        assert load_splits(DataSection(train=str(source), format="file"), "document", seed=0).rows["train"]["text"][
            :
        ] == ["# Title\n\nWords.\n"]


def test_a_table_is_not_cut_into_documents(tmp_path):
    for name in ("rows.csv", "rows.parquet"):
        (tmp_path / name).write_bytes(b"text\na\n")
        with pytest.raises(DataError, match="is a table, which format lines would train on as plain text"):
            load_splits(DataSection(train=str(tmp_path / name), format="lines"), "document", seed=0)


def test_a_folder_of_tables_says_how_they_are_named(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=rf"it has 3 .csv files: name them by a pattern, {tmp_path}/\*.csv"):
        load_splits(DataSection(train=str(tmp_path)), "document", seed=0)


def test_the_name_decides_only_where_the_bytes_do_not():
    assert choose_layout(b'{"text": "a"}\n', "rows.json") == "jsonl"
    assert choose_layout(b'[{"text": "a"}]', "rows") == "json"
    assert choose_layout(b"text,label\na,b\n", "rows.csv.gz") == "csv"
    assert choose_layout(b"text,label\na,b\n", "rows.jsonl", by_content=True) == "csv"
    assert choose_layout(parquet(), "rows.jsonl", by_content=True) == "parquet"
    assert get_ending("A/Rows.CSV.gz") == ".csv"
