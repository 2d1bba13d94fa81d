from __future__ import annotations

import ast
import inspect
import json
import os
import os.path
import subprocess
import sys
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

import pytest

from hf_finetune.config.sections import DataSection
from hf_finetune.data.corpora import standard_library as corpus
from hf_finetune.data.corpora.standard_library import KINDS, write_corpus
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import CannotWriteError, ConfigError, MachineError

LIBRARY = Path(sysconfig.get_path("stdlib"))
BECOMES = {
    "source": "document",
    "docstrings": "conversation",
    "modules": "labelled",
    "tools": "conversation",
    "topics": "labelled",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every corpus whole, once: the facts and the file of each."""
    folder = tmp_path_factory.mktemp("corpora")
    return {kind: (write_corpus(kind, folder / f"{kind}.jsonl"), folder / f"{kind}.jsonl") for kind in KINDS}


@pytest.fixture
def small_library(tmp_path_factory, monkeypatch) -> Path:
    """A library of a few real files, where which rows there are does not matter."""
    folder = tmp_path_factory.mktemp("library")
    for name in ("bisect.py", "colorsys.py", "textwrap.py"):
        (folder / name).write_bytes((LIBRARY / name).read_bytes())
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(folder))
    return folder


def rows_of(path: Path) -> list[dict]:
    # Not splitlines(): the library has form feeds and U+2028 in its strings.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("kind", KINDS)
def test_the_facts_are_those_of_the_file(written, kind):
    facts, path = written[kind]
    assert facts.rows == len(rows_of(path)) == path.read_bytes().count(b"\n")
    assert facts.bytes == path.stat().st_size
    assert facts.python == ".".join(map(str, sys.version_info[:3]))
    assert {row["license"] for row in rows_of(path)} == {"PSF-2.0"}


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_reader_takes_every_row_and_finds_the_format_itself(written, kind):
    facts, path = written[kind]
    splits = load_splits(DataSection(train=str(path)), BECOMES[kind], seed=0)
    formats = {"document": "text", "conversation": "instruction", "labelled": "labelled"}
    assert splits.format == formats[BECOMES[kind]]
    assert splits.rows["train"].num_rows == facts.rows


def test_source_rows_are_the_files_of_the_library_as_python_reads_them(written):
    rows = rows_of(written["source"][1])
    assert len(rows) > 300
    names = [row["source"] for row in rows]
    assert names == sorted(set(names))
    assert {"os.py", "json/decoder.py", "asyncio/queues.py"} <= set(names)
    for row in rows[::25]:
        with tokenize.open(LIBRARY / row["source"]) as file:
            assert row["text"] == file.read()


def test_tests_and_generated_tables_and_what_is_not_of_the_library_stay_out(written):
    names = {row["source"] for row in rows_of(written["source"][1])}
    assert not [name for name in names if {"test", "tests", "idlelib", "lib2to3", "site-packages"} & {*name.split("/")}]
    assert not names & {"pydoc_data/topics.py", "keyword.py", "encodings/cp1252.py", "sitecustomize.py"}
    assert not [name for name in names if name.startswith(("_sysconfigdata", "config-"))]


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_holds_a_path_of_this_machine(written, kind):
    text = written[kind][1].read_text(encoding="utf-8")
    assert str(LIBRARY) not in text
    assert not [row for row in rows_of(written[kind][1]) if row.get("source", "").startswith("/")]


def test_docstring_rows_answer_with_the_docstring(written):
    rows = {row["instruction"]: row["response"] for row in rows_of(written["docstrings"][1])}
    assert rows["What does os.path.join do?"] == inspect.getdoc(os.path.join)
    about_wrap = [answer for question, answer in rows.items() if "textwrap.wrap" in question.split("?")[0].split()]
    assert inspect.getdoc(__import__("textwrap").wrap) in about_wrap
    assert "Call it as textwrap.wrap(text, width=70, **kwargs)" in about_wrap


def test_a_method_is_called_without_self_and_a_static_one_with_all_its_arguments(written):
    answers = {row["response"] for row in rows_of(written["docstrings"][1])}
    assert "Call it as collections.abc.MutableSet.add(value)" in answers
    assert "Call it as statistics.NormalDist.from_samples(data)" in answers
    assert not [answer for answer in answers if answer.startswith("Call it as") and "(self" in answer]


def test_every_question_is_asked_once_in_several_ways_and_answered_with_words(written):
    rows = rows_of(written["docstrings"][1])
    assert len(rows) > 3000
    assert len({row["instruction"] for row in rows}) == len(rows)
    assert min(len(row["response"].split()) for row in rows) >= 3
    openings = Counter(" ".join(row["instruction"].split()[:2]) for row in rows)
    assert sum(count > 200 for count in openings.values()) >= 6
    assert not [row for row in rows if any(part.startswith("_") for part in row["module"].split("."))]


def test_labelled_rows_are_definitions_of_many_packages_and_none_of_them_is_most(written):
    rows = rows_of(written["modules"][1])
    labels = Counter(row["label"] for row in rows)
    assert len(labels) >= 8
    assert {"asyncio", "email", "unittest", "xml"} <= set(labels)
    assert len(rows) > 500
    assert min(labels.values()) >= 40
    assert max(labels.values()) <= 100
    assert len({row["text"] for row in rows}) == len(rows)
    for row in rows:
        assert row["label"] == row["source"].split("/")[0]
        assert 200 <= len(row["text"]) <= 4000
        (definition,) = ast.parse(row["text"]).body
        assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def test_a_tool_is_what_inspect_says_of_the_function(written):
    rows = rows_of(written["tools"][1])
    assert len(rows) == 800
    checked = 0
    for row in rows:
        answer = json.loads(row["response"])
        assert list(answer) == ["name", "description", "parameters"]
        (definition,) = ast.parse(row["instruction"].split("\n", 1)[1]).body
        assert ast.get_docstring(definition) == answer["description"]
        if row["module"] in {"calendar", "shutil", "zipfile", "statistics"}:
            found = getattr(__import__(row["module"]), answer["name"], None)
            if inspect.isfunction(found) and (inspect.getdoc(found) or "").startswith(answer["description"]):
                assert list(inspect.signature(found).parameters) == answer["parameters"]
                checked += 1
    assert checked >= 3


def test_topics_are_sentences_of_many_files_and_as_many_of_each(written):
    rows = rows_of(written["topics"][1])
    labels = Counter(row["label"] for row in rows)
    assert len(labels) == 7
    assert set(labels.values()) == {150}
    assert len({row["text"] for row in rows}) == len(rows), "a text of two topics"
    assert len({row["source"] for row in rows}) > 100
    assert {row["label"] for row in rows[:40]} == set(labels), "in no order of topic"


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_with_another_hash_seed_writes_the_same_bytes(written, kind, tmp_path, environment_of_a_user):
    other = tmp_path / "other.jsonl"
    code = "from pathlib import Path; from hf_finetune.data.corpora.standard_library import write_corpus; "
    code += f"write_corpus({kind!r}, Path({str(other)!r}))"
    environment = environment_of_a_user | {"PYTHONHASHSEED": "12345", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert other.read_bytes() == written[kind][1].read_bytes()


def test_a_smaller_corpus_is_a_sample_of_the_whole_one_and_fits(written, tmp_path):
    whole = written["modules"][1].read_bytes().split(b"\n")
    facts = write_corpus("modules", tmp_path / "small.jsonl", max_bytes=200_000)
    small = (tmp_path / "small.jsonl").read_bytes().split(b"\n")
    assert 150_000 < facts.bytes <= 200_000
    place = {line: number for number, line in enumerate(whole)}
    places = [place[line] for line in small[:-1]]
    assert places == sorted(places), "in the order of the whole corpus"
    assert places[0] < len(whole) / 4 < 3 * len(whole) / 4 < places[-1], "from all over the library"
    assert facts.files < written["modules"][0].files


def test_a_size_that_no_row_fits_is_refused_with_the_size_that_one_needs(tmp_path, small_library):
    with pytest.raises(ConfigError, match=r"not one row fits in 10 bytes; allow [0-9,]+ bytes"):
        write_corpus("source", tmp_path / "small.jsonl", max_bytes=10)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path, small_library):
    path = tmp_path / "mine.jsonl"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_corpus("source", path)
    assert path.read_text() == "mine"
    write_corpus("source", path, overwrite=True)
    assert rows_of(path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.jsonl"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, small_library, monkeypatch):
    path = tmp_path / "mine.jsonl"
    path.write_text("mine")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotWriteError, match="No space left on device"):
        write_corpus("source", path, overwrite=True)
    assert path.read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["mine.jsonl"]


def test_a_folder_of_its_own_is_made_and_a_place_below_a_file_is_refused(tmp_path, small_library):
    write_corpus("source", tmp_path / "new" / "corpus.jsonl")
    assert rows_of(tmp_path / "new" / "corpus.jsonl")
    with pytest.raises(CannotWriteError):
        write_corpus("source", tmp_path / "new" / "corpus.jsonl" / "below.jsonl")


def test_a_kind_that_does_not_exist_and_a_folder_as_target_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="sources: there is no such corpus; did you mean source\\?"):
        write_corpus("sources", tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match="is a folder"):
        write_corpus("source", tmp_path, overwrite=True)
    with pytest.raises(ConfigError, match="is a device or a pipe"):
        write_corpus("source", Path("/dev/null"), overwrite=True)


def test_a_name_too_long_for_a_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(CannotWriteError, match="File name too long"):
        write_corpus("modules", tmp_path / ("n" * 300), max_bytes=50_000)


@pytest.mark.parametrize("kind", KINDS)
def test_a_python_without_its_source_is_told_apart(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path / "nothing"))
    with pytest.raises(MachineError, match="no source files"):
        write_corpus(kind, tmp_path / "a.jsonl")


def test_reading_the_library_imports_none_of_it(environment_of_a_user, tmp_path):
    code = (
        "import sys; from pathlib import Path; from hf_finetune.data.corpora.standard_library import write_corpus;"
        f"write_corpus('docstrings', Path({str(tmp_path / 'a.jsonl')!r}), max_bytes=10000);"
        "print({'torch', 'datasets', 'turtle', 'this', 'antigravity', 'tkinter', 'wsgiref'} & {*sys.modules})"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], check=True, env=environment_of_a_user, capture_output=True, text=True
    )
    assert shown.stdout.strip() == "set()"
