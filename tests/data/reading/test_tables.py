"""Tables become the rows that a JSONL file would have, in constant memory; what is no row is named by row and line."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading import lines, reader
from hf_finetune.data.reading.row_lines import RowSettings, iterate_row_blocks
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import DataError


def read(path, **options):
    """The rows of a file with their numbers, and the numbers and reasons of those that are none."""
    rows, faults = [], []
    for block in iterate_row_blocks(path, path.name, RowSettings(**options)):
        if block.fault is not None:
            faults.append((block.first_line, block.row, block.fault.reason))
        pairs = zip(block.line_numbers, block.lines, strict=True)
        rows += [(number, json.loads(line)) for number, line in pairs if line]
    return rows, faults


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refuse(path, **options):
    with pytest.raises(DataError) as refused:
        read(path, **options)
    return str(refused.value)


# Any table of strings, any JSON array


def clean_name(name):
    """A column's name as it is read: without the white space around it, and without byte order marks."""
    return name.lstrip("\ufeff").strip()


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6).filter(
    lambda name: clean_name(name) not in {"", "messages", "conversations", "tools", "label"}
)
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@st.composite
def tables(draw):
    names = draw(st.lists(NAMES, min_size=2, max_size=4, unique_by=clean_name))
    header = [clean_name(name).casefold() for name in names]
    row = st.lists(CELLS, min_size=len(names), max_size=len(names)).filter(
        lambda cells: any(cells) and [cell.strip().casefold() for cell in cells] != header
    )
    return names, draw(st.lists(row, min_size=1, max_size=6))


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(table=tables(), delimiter=st.sampled_from(",;\t|"), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_any_table_of_strings_is_read_back_as_it_was(tmp_path_factory, table, delimiter, encoding):
    names, cells = table
    text = io.StringIO(newline="")
    # All quoted: in a table of two lines another delimiter could be meant as well as the one that was written.
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([names, *cells])
    path = write(tmp_path_factory.mktemp("any"), "rows.csv", text.getvalue().encode(encoding))
    rows, faults = read(path)
    assert faults == []
    assert [row for _, row in rows] == [dict(zip(map(clean_name, names), row, strict=True)) for row in cells]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab]}\\\"{[,", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.dictionaries(st.text("abé", max_size=3), VALUES, max_size=3), min_size=1, max_size=5),
    indent=st.sampled_from([None, 2]),
    chunk=st.sampled_from([1, 7, 300]),
)
def test_any_json_array_gives_its_elements(tmp_path_factory, rows, indent, chunk):
    path = write(
        tmp_path_factory.mktemp("any"), "rows.json", json.dumps(rows, indent=indent, ensure_ascii=indent is None)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lines, "CHUNK_BYTES", chunk)
        found, faults = read(path)
    assert faults == []
    assert found == list(enumerate(rows, 1))


# Separated values


def test_the_encoding_and_the_delimiter_are_found_and_said(tmp_path, caplog):
    caplog.set_level("INFO", "hf_finetune")
    text = "text;label\nCafé, größer;x\n"
    for content, said in (
        (text.encode("cp1252"), "it is not UTF-8 (3 bytes) and read as Windows-1252"),
        (text.encode("cp1252").replace(b";x\n", b";\x81\n"), "read as Latin-1"),
        (text.encode("utf-8-sig"), "byte order mark"),
        (text.encode("utf-16"), "it is read as UTF-16, by its byte order mark"),
    ):
        caplog.clear()
        rows, _ = read(write(tmp_path, "rows.csv", content))
        assert rows[0][1]["text"] == "Café, größer"
        assert f"rows.csv: {said}" in caplog.text or said in caplog.text
        assert "rows.csv: columns are separated by a semicolon" in caplog.text


def test_plain_utf_8_with_commas_needs_no_word_and_tabs_none_in_a_tsv(tmp_path, caplog):
    caplog.set_level("INFO", "hf_finetune")
    assert read(write(tmp_path, "rows.csv", "text,label\na,b\n"))[0] == [(2, {"text": "a", "label": "b"})]
    assert read(write(tmp_path, "rows.tsv", "text\tlabel\na\tb\n"))[0] == [(2, {"text": "a", "label": "b"})]
    assert caplog.text == ""


def test_a_semicolon_in_the_text_of_the_only_column_separates_nothing(tmp_path):
    rows, faults = read(write(tmp_path, "rows.csv", "text\nHello; world\nBye\n"))
    assert rows == [(2, {"text": "Hello; world"}), (3, {"text": "Bye"})]
    assert faults == []


@pytest.mark.parametrize("size", [20, 21, 22, 40, 41, 42, 61, 62])
def test_the_line_end_of_a_row_that_is_too_long_is_no_blank_row(tmp_path, size):
    path = write(tmp_path, "rows.csv", f"text\r\n{'x' * size}\r\nok\r\n")
    rows, faults = read(path, max_line_bytes=20)
    assert rows == [(3, {"text": "ok"})]
    assert [line for line, *_ in faults] == [2]


def test_a_compressed_table_is_read(tmp_path):
    path = write(tmp_path, "rows.csv.gz", gzip.compress(b"text,label\na,b\n"))
    assert read(path)[0] == [(2, {"text": "a", "label": "b"})]


@pytest.mark.parametrize("name", ["rows.parquet.gz", "rows.gz"])
def test_a_compressed_parquet_file_is_not_called_damaged(tmp_path, name):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "rows.parquet")
    path = write(tmp_path, name, gzip.compress((tmp_path / "rows.parquet").read_bytes()))
    said = refuse(path)
    assert said.startswith(f"{name}: the Parquet file is compressed as a whole")
    assert said.endswith(f"; decompress it, and name {name.removesuffix('.gz')} [HF067]")


def test_a_row_keeps_the_line_that_it_begins_on(tmp_path):
    path = write(tmp_path, "rows.csv", 'text,label\r\n"one\r\ntwo",a\r\n\r\n,\r\nthree,b\r\n')
    assert read(path) == ([(2, {"text": "one\r\ntwo", "label": "a"}), (6, {"text": "three", "label": "b"})], [])


def test_lines_that_end_as_on_an_old_mac_are_lines(tmp_path):
    assert read(write(tmp_path, "rows.csv", "text,label\ra,b\rc,d\r"))[0][1] == (3, {"text": "c", "label": "d"})


def test_a_formula_and_a_number_of_a_spreadsheet_stay_what_is_written(tmp_path):
    path = write(tmp_path, "rows.csv", 'text,label\n=SUM(A1:A3),"=""0012"""\n+1,-2\n')
    assert [row for _, row in read(path)[0]] == [
        {"text": "=SUM(A1:A3)", "label": '="0012"'},
        {"text": "+1", "label": "-2"},
    ]


def test_a_column_without_a_name_is_left_out_and_said(tmp_path, caplog):
    caplog.set_level("INFO", "hf_finetune")
    assert read(write(tmp_path, "rows.csv", ",text\n0,a\n1,b\n"))[0] == [(2, {"text": "a"}), (3, {"text": "b"})]
    assert "a column without a name is left out" in caplog.text


BAD_ROWS = {
    "ragged": ("a\n", "the row has 1 field, the header 2"),
    "too wide": ("a,b,c\n", "the row has 3 fields, the header 2"),
    "the header again": ("text,label\n", "the row repeats the header"),
    "text behind a quote": ('"a"b,c\n', "text follows a closing quote"),
    "NUL bytes": ("a\0,b\n", "the row has NUL bytes"),
}


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named_and_the_others_are_read(tmp_path, row, reason):
    path = write(tmp_path, "rows.csv", f'text,label\n"x\ny",z\n{row}last,z\n')
    rows, [fault] = read(path)
    assert [number for number, _ in rows] == [2, 5]
    assert fault == (4, 2, reason)


def test_of_a_damaged_utf_8_file_only_the_bad_row_is_rejected(tmp_path):
    path = write(tmp_path, "rows.csv", "text,label\nä,x\nö,y\n".encode() + b"\xff,z\n")
    rows, faults = read(path)
    assert [row["text"] for _, row in rows] == ["ä", "ö"]
    assert faults == [(4, 3, "a byte of the row is not UTF-8")]


BAD_TABLES = {
    "a header only": ("text,label\n", "rows.csv:1: there is a header (`text`, `label`) and no row below it"),
    "empty": ("", "rows.csv: the file is empty"),
    "blank": ("\n\n", "rows.csv: the file is empty"),
    "a column twice": ("text,label,text\na,b,c\n", "rows.csv:1: the column `text` occurs 2 times; rename all but one"),
    "a title above": ("My export\ntext,label\na,b\nc,d\n", "rows.csv:1: the first line has 1 column, and those below"),
    "an open quote": ('text,label\na,b\n"c,d\ne,f\n', "rows.csv:3: a quote that opens in the row of this line is not"),
    "cut off in UTF-16": ("text,label\na,b".encode("utf-16")[:-1], "is damaged or cut off"),
    "UTF-16 without a mark": ("text,label\na,b\n".encode("utf-16-le"), "looks like UTF-16LE without a byte order"),
    "binary": (bytes(range(32)) * 9, "this is binary data, not rows"),
}


@pytest.mark.parametrize(("content", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_a_table_that_cannot_be_read_is_one_message(tmp_path, content, message):
    said = refuse(write(tmp_path, "rows.csv", content))
    assert message in said
    assert "\n" not in said


def test_a_row_above_the_limit_is_rejected_and_an_endless_quote_is_not_held(tmp_path):
    path = write(tmp_path, "rows.csv", "text,label\n" + "a" * 300 + ",b\nc,d\n")
    rows, [fault] = read(path, max_line_bytes=200)
    assert (rows, fault[:2]) == ([(3, {"text": "c", "label": "d"})], (2, 1))
    path = write(tmp_path, "rows.csv", 'text,label\n"a,b\n' + "c,d\n" * 100)
    assert "rows.csv:2: a quote that opens" in refuse(path, max_line_bytes=200)


def test_cells_hold_json_lists_and_numbers_where_they_are_asked_for(tmp_path):
    path = write(tmp_path, "rows.csv", 'text,label\na,"[""x"", ""y""]"\nb,[open\n')
    assert [row["label"] for _, row in read(path)[0]] == [["x", "y"], "[open"]
    path = write(tmp_path, "rows.csv", "text,label\na,1.5\nb, 2\nc,many\n")
    assert [row["label"] for _, row in read(path, numbers=("label",))[0]] == [1.5, 2, "many"]


def measure_peak(folder, rows):
    """The most memory, in MiB, of a process that converts so many rows, as the kernel counts it."""
    source = folder / f"{rows}.csv"
    with source.open("w", encoding="utf-8") as file:
        file.write("prompt,completion\n")
        file.writelines(f'"What is {number}, and why?","A number, {number} of them."\n' for number in range(rows))
    code = (
        "import resource, sys; from pathlib import Path; from hf_finetune.data import RowsOptions, convert_rows;"
        "facts = convert_rows(Path(sys.argv[1]), Path(sys.argv[2]), RowsOptions());"
        "print(facts.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(source), str(folder / f"{rows}.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, peak = map(int, done.stdout.split())
    assert count == rows
    return peak / 1024


@pytest.mark.skipif(sys.platform == "darwin", reason="ru_maxrss is in bytes there")
def test_two_hundred_thousand_rows_take_no_more_memory_than_a_few(tmp_path):
    assert measure_peak(tmp_path, 200_000) < measure_peak(tmp_path, 100) + 20


# JSON arrays


def test_elements_that_are_no_rows_are_named_by_row_and_line(tmp_path):
    path = write(tmp_path, "rows.json", '[\n {"text": "a"},\n 3,\n {"text": "b", "text": "c"},\n {"text": "d"}\n]')
    rows, faults = read(path)
    assert [number for number, _ in rows] == [1, 4]
    assert [fault[:2] for fault in faults] == [(2, 2), (3, 3)]
    assert faults[0][2] == "a row must be a JSON object, found a number (line 3 of the file)"
    assert "occurs twice in one object (line 4 of the file)" in faults[1][2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"text": "a"}, {"text": "b', "rows.json:1: the array is cut off in the row of this line"),
        ('[{"text": "a"}', "the array is cut off"),
        ('[{"text": "a"}] [{"text": "b"}]', "something follows the end of the array"),
    ],
)
def test_an_array_that_is_not_whole_is_refused(tmp_path, text, message):
    assert message in refuse(write(tmp_path, "rows.json", text))


def test_an_element_above_the_limit_is_rejected_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "CHUNK_BYTES", 64)
    path = write(tmp_path, "rows.json", json.dumps([{"text": "a" * 5000}, {"text": "b"}, {"text": 'c"]' * 3}]))
    rows, faults = read(path, max_line_bytes=500)
    assert [row["text"] for _, row in rows] == ["b", 'c"]' * 3]
    assert faults[0][:2] == (1, 1)
    assert "5,012 bytes" in faults[0][2]


def test_numbers_and_the_order_of_keys_stay_as_the_array_has_them(tmp_path):
    path = write(tmp_path, "rows.json", '[{"text": "a", "z": 1.0,\n "b": {"y": 1e5, "x": 2}}]')
    [block] = iterate_row_blocks(path, path.name, RowSettings())
    assert block.lines == [b'{"text":"a","z":1.0,"b":{"y": 1e5, "x": 2}}']


# Parquet and Arrow

TABLE = pa.table(
    {
        "text": ["a", None, "c"],
        "label": pa.array([1, 2, None], pa.int8()),
        "nothing": pa.nulls(3),
        "at": pa.array([datetime.datetime(2024, 5, 1, 12), None, None], pa.timestamp("ns")),
        "price": pa.array([decimal.Decimal("1.10"), None, None], pa.decimal128(5, 2)),
        "score": [0.5, float("nan"), None],
        "meta": [{"lang": "de", "tags": ["x"]}, {"lang": None, "tags": None}, None],
        "image": [b"\x89PNG", None, None],
    }
)
EXPECTED = [
    {
        "text": "a",
        "label": 1,
        "nothing": None,
        "at": "2024-05-01T12:00:00",
        "price": "1.10",
        "score": 0.5,
        "meta": {"lang": "de", "tags": ["x"]},
    },
    {"text": None, "label": 2, "nothing": None, "at": None, "price": None, "score": None, "meta": {}},
    {"text": "c", "label": None, "nothing": None, "at": None, "price": None, "score": None, "meta": None},
]


def write_table(path, kind, table=TABLE):
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink:
            make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
            with make(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize(("name", "kind"), [("r.parquet", "parquet"), ("r.arrow", "file"), ("r.arrow", "stream")])
def test_a_typed_table_gives_json_and_its_binary_columns_are_left_out(tmp_path, name, kind, caplog):
    caplog.set_level("INFO", "hf_finetune")
    rows, faults = read(write_table(tmp_path / name, kind))
    assert (rows, faults) == (list(enumerate(EXPECTED, 1)), [])
    assert f"{name}: binary columns are left out, which JSON does not have: `image`" in caplog.text


def test_an_infinite_number_is_a_bad_row_and_a_row_of_nulls_a_blank_one(tmp_path):
    table = pa.table({"text": ["a", None, "b"], "score": [float("inf"), None, 1.0]})
    rows, [fault] = read(write_table(tmp_path / "r.parquet", "parquet", table))
    assert rows == [(3, {"text": "b", "score": 1.0})]
    assert fault == (1, 1, "`score` holds an infinite number, which JSON does not have")


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_of_a_typed_table_only_the_row_whose_text_is_not_utf_8_is_rejected(tmp_path, kind):
    texts = [b"text %d" % number for number in range(600)]
    texts[300] = b"caf\xe9"
    held = pa.array(texts, pa.binary()).buffers()
    table = pa.table({"text": pa.StringArray.from_buffers(len(texts), *held[1:])})
    rows, faults = read(write_table(tmp_path / ("r.parquet" if kind == "parquet" else "r.arrow"), kind, table))
    assert faults == [(301, 301, "a byte of the row is not UTF-8")]
    assert rows == [(number, {"text": f"text {number - 1}"}) for number in range(1, 601) if number != 301]


def test_a_damaged_or_empty_typed_table_is_one_message(tmp_path):
    whole = write_table(tmp_path / "r.parquet", "parquet").read_bytes()
    said = refuse(write(tmp_path, "r.parquet", whole[:-20]))
    assert said.startswith("r.parquet: the Parquet file is damaged or cut off")
    whole = write_table(tmp_path / "r.arrow", "file").read_bytes()
    assert "the Arrow file is damaged or cut off" in refuse(write(tmp_path, "r.arrow", whole[:200]))
    assert "the table has no rows" in refuse(write_table(tmp_path / "e.parquet", "parquet", TABLE.slice(0, 0)))


# A run on them


def splits(path, becomes, **more):
    return load_splits(DataSection(train=str(path), **more), becomes, seed=0)


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "parquet", "arrow"])
def test_a_run_reads_a_table_as_the_jsonl_with_the_same_rows(tmp_path, kind):
    pairs = [{"prompt": f"Q {number}?", "completion": f"A, {number}."} for number in range(5)]
    jsonl = write(tmp_path, "rows.jsonl", "".join(json.dumps(pair) + "\n" for pair in pairs))
    path = tmp_path / f"rows.{kind}"
    if kind in {"csv", "tsv"}:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "completion"], delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows(pairs)
    elif kind == "json":
        path.write_text(json.dumps(pairs, indent=1))
    else:
        write_table(path, kind if kind == "parquet" else "stream", pa.Table.from_pylist(pairs))
    read_from = splits(path, "conversation")
    assert read_from.rows["train"][:] == splits(jsonl, "conversation").rows["train"][:]
    assert read_from.format == "prompt_completion"
    [file] = read_from.files
    assert (file.path, file.lines, file.accepted) == (str(path), 5, 5)
    assert file.bytes == path.stat().st_size


def test_a_bad_row_of_a_table_is_refused_by_its_line_and_counted_when_skipped(tmp_path):
    path = write(tmp_path, "rows.csv", 'text,label\n"a\nb",x\nonly\nc,\nd,y\n')
    with pytest.raises(DataError) as refused:
        splits(path, "labelled")
    assert [problem.line for problem in refused.value.problems] == [4, 5]
    [file] = splits(path, "labelled", on_bad_line="skip").files
    assert (file.lines, file.accepted, file.rejected, file.blank) == (4, 2, 2, 0)


def test_cells_are_numbers_for_a_regression(tmp_path):
    path = write(tmp_path, "rows.csv", "text,label\na,750\nb,410.5\n")
    assert splits(path, "labelled", task="regression").rows["train"]["label"][:] == [750.0, 410.5]


def test_conversations_in_a_cell_or_in_nested_columns_are_read(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "messages"], ["1", json.dumps(turns)]])
    nested = write_table(tmp_path / "rows.parquet", "parquet", pa.table({"messages": [turns]}))
    for each in (path, nested):
        [row] = splits(each, "conversation").rows["train"]
        assert [(turn["role"], turn["content"]) for turn in row["messages"]] == [("user", "Hi"), ("assistant", "Yes.")]


def test_the_same_bytes_under_another_ending_are_read_anew(tmp_path):
    content = b'{"text": "a", "note": "b"}\n'
    jsonl = write(tmp_path, "rows.jsonl", content)
    assert splits(jsonl, "document").rows["train"]["text"][:] == ["a"]
    with pytest.raises(DataError, match=r"this is JSON Lines, not a table of separated values; name it \.jsonl"):
        splits(write(tmp_path, "rows.csv", content), "document")


def test_a_file_that_is_not_there_is_no_table(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        splits(Path(tmp_path, "rows.csv"), "document")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'prompt,"comp"letion\na,b\n', "rows.csv:1: the header is broken: text follows a closing quote"),
        (b"prompt,comp\0letion\na,b\n", "rows.csv:1: the header has bytes that are no text"),
        (
            ("prompt,completion\n" + "a,b\n" * 40_000).encode("utf-16")[:-1],
            "the text of the file is damaged or cut off",
        ),
    ],
)
def test_a_header_or_a_text_that_cannot_be_read_is_refused_by_its_line(tmp_path, content, said):
    assert said in refuse(write(tmp_path, "rows.csv", content))


def test_a_json_file_that_is_no_array_is_refused(tmp_path):
    assert "rows.json:1: this is not one JSON array" in refuse(write(tmp_path, "rows.json", '"prompt"\n'))


def test_a_table_from_a_pipe_is_refused(tmp_path):
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "rows.parquet")
    kept = os.dup(0)
    try:
        with (tmp_path / "rows.parquet").open("rb") as piped:
            os.dup2(piped.fileno(), 0)
            assert "a table cannot be read from standard input" in refuse(lines.STANDARD_INPUT)
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_a_document_that_is_too_large_for_one_row_names_the_formats_that_split_it(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_DOCUMENT_BYTES", 100)
    path = write(tmp_path, "book.txt", "a line of words\n" * 10)
    with pytest.raises(DataError, match=r"book.txt: the file is too large to be one document.*paragraphs or lines"):
        load_splits(DataSection(train=str(path), format="file"), "document", 0)
