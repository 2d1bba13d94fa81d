"""log.jsonl as it is read: whole lines, each once, while it grows, is cut, written anew or damaged."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_finetune.errors import DataError
from hf_finetune.reporting import diagnose, read_run
from hf_finetune.reporting.run_log import MAX_LINE_BYTES, LogReader, RunLog, read_log

HEAD = {"log": 1, "max_steps": 60, "time": 1.5}
WRITTEN = [
    HEAD,
    {"step": 0, "sample": {"prompt": "é", "continuation": "\u2028"}, "time": 2.0},
    *({"step": step, "loss": 2.0 / step, "epoch": step / 60, "time": 2.0 + step} for step in range(1, 9)),
    {"step": 8, "eval_loss": None, "time": 11.0},
    {"step": 8, "train_runtime": 1.0, "epoch": 1.0},
]
LOG = b"".join((json.dumps(line) + "\n").encode() for line in WRITTEN)


def write(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_bytes(content)
    return folder


def in_words(log: RunLog) -> str:
    return repr(log)  # NaN is not equal to itself


def test_a_log_that_is_cut_at_any_byte_reads_as_its_whole_lines(tmp_path):
    for cut in range(0, len(LOG) + 1, 3):
        whole = LOG[:cut].count(b"\n")
        found = read_log(write(tmp_path, LOG[:cut]))
        expected = [line for line in WRITTEN[:whole] if "loss" in line or "eval_loss" in line]
        assert (found.lines, found.problems) == (whole, []), cut
        assert [entry["step"] for entry in found.history] == [line["step"] for line in expected], cut
        assert found.times == [line["time"] for line in expected], cut
        assert found.max_steps == (60 if whole else None), cut
        assert len(found.samples) == (whole >= 2), cut
        assert bool(found.summary) == (whole == len(WRITTEN)), cut


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, len(LOG)), max_size=6))
def test_a_log_that_grows_reads_as_if_it_had_been_there_at_once(tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("log")
    reader = LogReader(folder)
    assert not reader.read()
    known = 0
    for cut in sorted(cuts):
        new = reader.read() if write(folder, LOG[:cut]) else False
        assert new == (LOG[:cut].count(b"\n") > known)
        known = LOG[:cut].count(b"\n")
    write(folder, LOG)
    reader.read()
    assert in_words(reader.log) == in_words(read_log(folder))
    assert not reader.read()


def test_one_that_is_written_anew_is_read_from_its_start(tmp_path):
    reader = LogReader(write(tmp_path, LOG))
    reader.read()
    cut = LOG[: LOG.index(b'{"step": 5')]
    (tmp_path / "other").write_bytes(cut)
    os.replace(tmp_path / "other", tmp_path / "log.jsonl")
    assert reader.read()
    assert reader.log.step == 4
    # In the same file, and longer than before.
    write(tmp_path, LOG[: LOG.index(b'{"step": 3')] + b'{"step": 3, "loss": 9.0}\n' * 9)
    assert reader.read()
    assert [entry["loss"] for entry in reader.log.history] == [2.0, 1.0, *[9.0] * 9]
    (tmp_path / "log.jsonl").unlink()
    assert reader.read()
    assert reader.log.lines == 0


@pytest.mark.parametrize(
    ("damage", "lines"),
    [
        (lambda line: b"\0" * len(line) + b"\n", [4]),
        (lambda line: line[:-20] + line, [4]),
        (lambda line: b"[" * 100_000 + b"\n", [4]),
        (lambda line: b'{"loss": 1.0}\n{"step": true, "loss": 1.0}\n{"step": -1}\n', [4, 5, 6]),
        (lambda line: b"9" * (MAX_LINE_BYTES + 5) + b"\n", [4]),
        (lambda line: b'{"step": 4, "loss": ' + b"9" * 400 + b"}\n", []),
    ],
)
def test_a_damaged_line_is_named_and_the_rest_is_shown(tmp_path, caplog, damage, lines):
    before, line, after = LOG.partition(b'{"step": 2, "loss"')
    end = after.index(b"\n") + 1
    run = read_run(write(tmp_path, before + damage(line + after[:end]) + after[end:]))
    found = read_log(tmp_path)
    assert [problem.line for problem in found.problems] == lines
    for number in lines:
        assert f"log.jsonl:{number}: is no line of a log: " in caplog.text
    warned = [record for record in caplog.records if "is no line of a log" in record.getMessage()]
    assert [record.code for record in warned] == ["HF953"] * len(lines)
    assert not any("[HF953]" in message for message in caplog.messages), "the form of the log puts it there"
    assert {1, 3, 8} <= {int(entry["step"]) for entry in run.history}
    diagnose(run)


def test_the_log_of_another_version_is_named_and_read(tmp_path):
    found = read_log(write(tmp_path, LOG.replace(b'"log": 1', b'"log": 2')))
    said = "log.jsonl:1: is the head of a log of form 2, where this version writes 1; it is left out, and the rest is"
    assert f"{said} shown" in str(found.problems[0])
    assert found.step == 8
    assert math.isnan(found.history[-1]["eval_loss"])


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")
def test_what_is_no_file_is_refused_at_once(tmp_path, make_unreadable):
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(DataError, match=r"log\.jsonl: is no file; take it away"):
        read_run(tmp_path)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(DataError, match="is no file"):
        read_run(tmp_path)


def test_one_that_cannot_be_read_or_has_no_end_is_refused(tmp_path, monkeypatch):
    write(tmp_path, LOG)
    monkeypatch.setattr("hf_finetune.reporting.run_log.MAX_LOG_BYTES", 100)
    with pytest.raises(DataError, match=r"log\.jsonl: has \d+ bytes, more than 100; raise train\.logging_steps"):
        read_run(tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"log\.jsonl: cannot be read \(Input/output error\); check its permissions"):
        read_log(tmp_path)


def test_of_a_log_that_takes_seconds_it_is_said_before_it_is_read(tmp_path, monkeypatch, caplog):
    write(tmp_path, LOG)
    monkeypatch.setattr("hf_finetune.reporting.run_log.LONG_LOG_BYTES", len(LOG) - 1)
    reader = LogReader(tmp_path)
    reader.read()
    assert "log.jsonl has 0 MB: it takes some seconds to be read and drawn" in caplog.text
    caplog.clear()
    reader.read()
    assert caplog.text == ""  # what is added is read at once


def test_a_hundred_thousand_lines_are_read_in_seconds_and_what_is_added_at_once(tmp_path):
    line = b'{"step": %d, "epoch": 0.5, "grad_norm": 0.5, "learning_rate": 0.0001, "loss": 2.5, "time": 1764435000.5}\n'
    reader = LogReader(write(tmp_path, b"".join(line % step for step in range(100_000))))
    began = time.process_time()
    reader.read()
    assert time.process_time() - began < 4
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(line % 100_000)
    began = time.process_time()
    assert reader.read()
    assert time.process_time() - began < 0.1
    assert reader.log.step == 100_000
