"""What holds no rows of ours is one refusal, the same for `rows`, for a run and for `score` and `predict`."""

from __future__ import annotations

import io
import json
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.sources import resolve_sources
from hf_finetune.data.reading.tables.convert import RowsOptions, convert_rows
from hf_finetune.data.splitting.one_split import load_rows
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import CannotWriteError, ConfigError, DataError
from hf_finetune.evaluation.prediction.rows import read_windows
from hf_finetune.evaluation.prediction.texts import make_text_kind


def pack(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return packed.getvalue()


def parquet(**columns: object) -> bytes:
    packed = io.BytesIO()
    pq.write_table(pa.table(columns), packed)
    return packed.getvalue()


PAGE = b"<!DOCTYPE html>\n<html><body>404</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PROSE = b"# A title\n\nSome words, and more.\n"
HEADER = b"prompt,completion\n"
TORN = parquet(prompt=["a"] * 500, completion=["b"] * 500)[:-20]

# The file, and what is said of it: by `rows`, and by a run where that is something else.
REFUSED = {
    "a ragged row": ("rows.csv", HEADER + b"a,b\nonly\n", "rows.csv:3: ", "the row has 1 field, the header 2"),
    "two header lines": ("rows.csv", HEADER + HEADER + b"a,b\n", "rows.csv:2: ", "the row repeats the header"),
    "a title above": ("rows.csv", b"My export\n" + HEADER + b"a,b\n", "rows.csv:1: ", "delete a title above them"),
    "a column twice": ("rows.csv", b"prompt,completion,prompt\na,b,c\n", "rows.csv:1: ", "`prompt` occurs 2 times"),
    "UTF-16 without a mark": ("rows.csv", (HEADER + b"a,b\n").decode().encode("utf-16-le"), "rows.csv:1: ", "iconv -f"),
    "an open quote": ("rows.csv", HEADER + b'a,b\n"c,d\n', "rows.csv:3: ", "a quote that opens"),
    "nothing": ("rows.csv", b"", "rows.csv: ", "the file is empty"),
    "a header alone": ("rows.csv", HEADER, "rows.csv:1: ", "there is a header (`prompt`, `completion`) and no row"),
    "null": ("rows.parquet", parquet(prompt=["a", None], completion=["b", "c"]), "rows.parquet:2: ", "null"),
    "a null column": ("rows.parquet", parquet(prompt=pa.nulls(1), completion=["b"]), "rows.parquet:1: ", "null"),
    "nested": ("rows.parquet", parquet(prompt=[{"x": "a"}], completion=["b"]), "rows.parquet:1: ", "prompt.x"),
    "a torn Parquet": ("rows.parquet", TORN, "rows.parquet: ", "the Parquet file is damaged or cut off"),
    "a CSV of no format": ("rows.csv", b"foo,bar\na,b\n", "rows.csv:2: ", "no row format has these keys: `foo`, `bar`"),
    "a TSV of no format": ("rows.tsv", b"foo\tbar\na\tb\n", "rows.tsv:2: ", "no row format has these keys"),
    "a Parquet of no format": ("rows.parquet", parquet(foo=["a"], bar=["b"]), "rows.parquet:1: ", "no row format has"),
    "Markdown": ("rows.md", PROSE, "rows.md: ", "data.format to lines"),
    "a table in Markdown": ("rows.md", b"| a | b |\n|---|---|\n| c | d |\n", "rows.md: ", "Markdown text"),
    "Python": ("rows.py", b"import os, sys\nx, y = 1, 2\n", "rows.py: ", "Python source"),
    "a spreadsheet": ("rows.xlsx", pack("[Content_Types].xml", "xl/workbook.xml"), "rows.xlsx: ", "convert-to csv"),
    "a zip": ("rows.zip", pack("rows.jsonl"), "rows.zip: ", "`unzip rows.zip`"),
    "a web page": ("rows.csv", PAGE, "rows.csv: ", "`head -c 300 rows.csv` shows what the server answered"),
    "a web page as JSONL": ("rows.jsonl", PAGE, "rows.jsonl: ", "this is an HTML page"),
    "a pointer": ("rows.parquet", POINTER, "rows.parquet: ", "a Git LFS pointer, not rows; `git lfs pull --include"),
}
cases = pytest.mark.parametrize(("name", "content", "place", "said"), REFUSED.values(), ids=REFUSED)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def check_refused(error: DataError, place: str, said: str) -> None:
    """One problem is the file's; where rows are rejected, `rows` says before how many."""
    assert place in str(error)
    assert said in str(error)
    own = [problem for problem in error.problems if "nothing is written" not in problem.what]
    assert len(own) == 1, error


@cases
def test_rows_refuses_it_and_writes_nothing(name, content, place, said):
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        convert_rows(Path(name), Path("new/deep/out.jsonl"), RowsOptions())
    check_refused(refused.value, place, said)
    assert files() == [name]


@cases
def test_so_does_a_run(name, content, place, said):
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        load_splits(DataSection(train=name), "conversation", seed=0)
    check_refused(refused.value, place, said)


@cases
def test_so_does_score(name, content, place, said):
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        load_rows(name, DataSection(test=name), None)
    check_refused(refused.value, place, said)


@pytest.mark.parametrize("case", [case for case in REFUSED if "null" not in case and "nested" not in case])
def test_predict_says_so_too_or_that_there_is_no_text(case):
    name, content, _, said = REFUSED[case]
    if name == "rows.csv":
        content = content.replace(b"prompt", b"text")
    Path(name).write_bytes(content)
    try:
        windows = read_windows(Path(name), name, make_text_kind(""))
        shown = "\n".join(str(problem) for window in windows for problem in window.problems)
    except DataError as refused:
        shown = str(refused)
    if "no format" in case:
        said = "the columns are `foo`, `bar`; take it from another: --columns text=COLUMN"
    assert said.replace("`prompt`", "`text`") in shown
    assert len(shown.splitlines()) == 1


def test_a_folder_says_what_to_name_and_no_setting_that_score_does_not_have(folder):
    Path("tables").mkdir()
    Path("tables/a.csv").write_text("text\na\n")
    with pytest.raises(DataError, match=r"^tables: is a folder, not rows; name one of its files"):
        convert_rows(Path("tables"), Path("out.jsonl"), RowsOptions())
    said = r"^tables: data.train: the folder has no .*: name them by .*tables/\*.csv \[HF055\]$"
    with pytest.raises(DataError, match=said):
        load_splits(DataSection(train="tables"), "document", seed=0)
    with pytest.raises(DataError, match=r"^tables: the folder has no \*.jsonl"):
        load_rows("tables", DataSection(test="tables"), None)


READ = {
    "a BOM": (HEADER + "Café?,größer\n".encode()).decode().encode("utf-8-sig"),
    "latin-1": (HEADER + "Café?,größer\n".encode()).decode().encode("latin-1"),
    "UTF-16": (HEADER + "Café?,größer\n".encode()).decode().encode("utf-16"),
    "semicolons": b"prompt;completion\n" + "Café?;größer\n".encode(),
    "a quoted line": HEADER + '"Café?","größer"\n'.encode(),
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_what_can_be_read_is_read_alike_by_rows_and_by_a_run(content):
    Path("rows.csv").write_bytes(content)
    convert_rows(Path("rows.csv"), Path("out.jsonl"), RowsOptions())
    assert json.loads(Path("out.jsonl").read_text()) == {"prompt": "Café?", "completion": "größer"}
    assert load_splits(DataSection(train="rows.csv"), "conversation", seed=0).rows["train"][0]["prompt"] == "Café?"


def test_an_array_is_read_under_its_name_and_becomes_jsonl_under_another():
    content = json.dumps([{"prompt": "a", "completion": "b"}] * 2)
    Path("rows.json").write_text(content)
    Path("rows.jsonl").write_text(content)
    assert load_splits(DataSection(train="rows.json"), "conversation", seed=0).files[0].rows == 2
    with pytest.raises(DataError, match=r"one JSON array.*`hf-finetune rows rows.jsonl converted.jsonl`"):
        load_splits(DataSection(train="rows.jsonl"), "conversation", seed=0)
    assert convert_rows(Path("rows.jsonl"), Path("converted.jsonl"), RowsOptions()).rows == 2
    assert load_splits(DataSection(train="converted.jsonl"), "conversation", seed=0).files[0].rows == 2


def test_a_column_inside_a_struct_is_found_by_its_path_and_missed_by_name():
    Path("rows.parquet").write_bytes(parquet(ask=[{"x": "a", "y": {"z": "b"}}, {"x": "c", "y": {"z": "d"}}]))
    columns = {"prompt": "ask.x", "completion": "ask.y.z"}
    read = load_splits(DataSection(train="rows.parquet", columns=columns), "conversation", seed=0)
    assert read.rows["train"][:] == {"prompt": ["a", "c"], "completion": ["b", "d"]}
    with pytest.raises(DataError, match=r"no column `ask.y.zz`, .*; did you mean `ask.y.z`\?"):
        load_splits(DataSection(train="rows.parquet", columns={**columns, "completion": "ask.y.zz"}), "conversation", 0)


def test_a_mapping_of_a_missing_column_is_refused_by_rows_under_its_option():
    Path("rows.csv").write_text("query,reply\na,b\n")
    with pytest.raises(DataError, match=r"rows.csv:1: --columns: there is no column `quary`.*did you mean `query`\?"):
        convert_rows(Path("rows.csv"), Path("out.jsonl"), RowsOptions({"prompt": "quary", "completion": "reply"}))
    with pytest.raises(ConfigError, match=r"--columns: no row format has a field `promt`; did you mean `prompt`\?"):
        convert_rows(Path("rows.csv"), Path("out.jsonl"), RowsOptions({"promt": "query"}))
    with pytest.raises(DataError, match=r"rows.csv:2: --numbers: there is no field `lable`"):
        convert_rows(Path("rows.csv"), Path("out.jsonl"), RowsOptions({"text": "query", "label": "reply"}, ("lable",)))


def test_the_command_prints_its_counts_as_json_and_refuses_words_that_map_nothing():
    Path("rows.csv").write_text("query,reply\na,b\nonly\n")
    options = ["rows", "rows.csv", "out.jsonl", "--columns", "prompt=query", "completion=reply"]
    done = CliRunner().invoke(app, [*options, "--on-bad-line", "skip", "--json"], catch_exceptions=False)
    counts = json.loads(done.stdout)
    assert (counts["rows"], counts["rejected"], counts["blank"]) == (1, 1, 0)
    assert counts["problems"][0].startswith("rows.csv:3: row 2: ")
    with pytest.raises(ConfigError, match=r"--columns: reply is not FIELD=COLUMN.*\n--columns: prompt is given twice"):
        CliRunner().invoke(app, [*options[:-1], "reply", "prompt=x"], catch_exceptions=False)


# The output


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("rows.csv", "is the file to read as well"),
        ("old.jsonl", "exists already; name another file, or add --overwrite"),
        ("/dev/full", "is a device or a pipe; name a file"),
        ("-", "standard output is not written"),
    ],
)
def test_an_output_that_cannot_be_is_refused_and_what_is_there_stays(target, message):
    Path("rows.csv").write_bytes(HEADER + b"a,b\n")
    Path("old.jsonl").write_text("old")
    with pytest.raises(ConfigError, match=message):
        convert_rows(Path("rows.csv"), Path(target), RowsOptions(overwrite=target == "rows.csv"))
    assert Path("old.jsonl").read_text() == "old"
    assert files() == ["old.jsonl", "rows.csv"]


def test_overwriting_replaces_a_whole_file_by_a_whole_one_or_leaves_it():
    Path("old.jsonl").write_text("old")
    Path("rows.csv").write_bytes(HEADER + b"a,b\nonly\n")
    with pytest.raises(DataError):
        convert_rows(Path("rows.csv"), Path("old.jsonl"), RowsOptions(overwrite=True))
    assert Path("old.jsonl").read_text() == "old"
    convert_rows(Path("rows.csv"), Path("old.jsonl"), RowsOptions(on_bad_line="skip", overwrite=True))
    assert json.loads(Path("old.jsonl").read_text()) == {"prompt": "a", "completion": "b"}
    assert files() == ["old.jsonl", "rows.csv"]


def test_where_there_is_no_room_nothing_half_written_is_left():
    """A limit of the process on the size of a file stands for the disk that is full."""
    Path("rows.csv").write_bytes(HEADER + b"".join(b"question %d,answer\n" % number for number in range(20_000)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CannotWriteError, match=r"new/out.jsonl: cannot be written \(File too large\)"):
            convert_rows(Path("rows.csv"), Path("new/out.jsonl"), RowsOptions())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files() == ["rows.csv"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle_it_leaves_nothing(folder, environment_of_a_user, number, code):
    with Path("rows.csv").open("wb") as file:
        file.write(HEADER)
        file.writelines(b"question %d,answer %d\n" % (row, row) for row in range(2_000_000))
    command = [sys.executable, "-m", "hf_finetune.cli", "rows", "rows.csv", "new/out.jsonl"]
    process = subprocess.Popen(
        command, env=environment_of_a_user, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    while not any(path.stat().st_size > 100_000 for path in Path().glob("new/.*.aside")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert said.startswith("there is no folder new: it is made\n")
    assert (process.returncode, said.count("\n")) == (code, 2), said
    assert said.endswith("nothing was finished; the same command begins again\n")
    assert files() == ["rows.csv"]


def test_a_folder_says_which_tables_it_leaves_out(folder, caplog):
    Path("mixed").mkdir()
    for name in ("a.jsonl", "b.csv", "c.json"):
        Path("mixed", name).write_text('{"text": "a"}\n')
    resolve_sources("mixed", "train", "auto")
    assert [said.partition(" are read, ")[2] for said in caplog.messages] == ["so that these are not: b.csv, c.json"]


def test_a_name_that_is_too_long_is_one_message(folder):
    Path("rows.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ConfigError, match=r"is no path \(File name too long\)"):
        convert_rows(Path("rows.jsonl"), Path("n" * 300), RowsOptions({}, (), "fail", overwrite=False))


def test_rows_names_the_line_that_is_too_long(tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "' + "x" * (1 << 24) + '"}\n{"text": "short"}\n')
    stats = convert_rows(source, tmp_path / "out.jsonl", RowsOptions(on_bad_line="skip"))
    assert (stats.rows, stats.rejected) == (1, 1)
    assert "rows.jsonl:1: the line is too long" in str(stats.problems[0])


@pytest.mark.parametrize(
    ("header", "bad", "reason"),
    [
        ("question,answer", "Who?,", "answer: `answer` is empty: the model would learn to answer nothing"),
        ("prompt,completion", "Who?, ", "completion: `completion` is empty"),
    ],
)
def test_rows_rejects_what_a_run_would_refuse(tmp_path, header, bad, reason):
    source, target = tmp_path / "rows.csv", tmp_path / "rows.jsonl"
    source.write_text(f"{header}\na,b\n{bad}\nc,d\n")
    with pytest.raises(DataError, match=rf"1 of 3 rows is rejected(.|\n)*rows.csv:3: {reason}"):
        convert_rows(source, target, RowsOptions())
    becomes = "labelled" if "label" in header else "conversation"
    with pytest.raises(DataError, match=reason):
        load_splits(DataSection(train=str(source)), becomes, 0)
    target.unlink(missing_ok=True)
    assert convert_rows(source, target, RowsOptions(allow_empty=True)).rows == 3
