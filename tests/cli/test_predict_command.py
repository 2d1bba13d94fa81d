"""`hf-finetune predict` as a user meets it: what goes where, exit codes, and no half output file."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from evaluation.prediction.labelling_models import saved_classifier

from hf_finetune.cli import main

ROWS = '{"id": 1, "text": "good day"}\n\n{"id": 2,"text":"bad film"}\n'


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return saved_classifier(tmp_path_factory.mktemp("model"))


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(ROWS)
    return file


@pytest.fixture
def predict(capfdbinary, monkeypatch):
    """The command in this process: exit code, standard output, standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hf-finetune", "predict", *map(str, arguments)])
        monkeypatch.setattr(logging.root, "handlers", [])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capfdbinary.readouterr()
        return end.value.code or 0, shown.out.decode(), shown.err.decode()

    return run


@pytest.fixture
def started(environment_of_a_user):
    """The command in a process of its own, with pipes for its standard streams."""
    processes = []

    def run(*arguments: str | Path, stdin: Any = subprocess.PIPE) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hf_finetune.cli", "predict", *map(str, arguments)]
        pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # What runs in the background of a shell ignores Ctrl-C.
        sees_ctrl_c = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        processes.append(subprocess.Popen(command, env=environment_of_a_user, preexec_fn=sees_ctrl_c, **pipes))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_rows_go_to_standard_output_and_all_else_to_standard_error(predict, classifier, rows):
    code, shown, notes = predict(classifier, rows)
    assert code == 0
    lines = shown.splitlines()
    assert [line.partition(', "label": ')[0] + "}" for line in lines] == [line for line in ROWS.splitlines() if line]
    assert [list(json.loads(line)) for line in lines] == [["id", "text", "label", "score", "scores"]] * 2
    assert "2 rows in " in notes


def test_a_file_gets_the_same_rows_and_the_facts_are_json(predict, classifier, rows, tmp_path):
    _, shown, _ = predict(classifier, rows)
    code, facts, _ = predict(classifier, rows, "--output", tmp_path / "out.jsonl", "--json")
    assert code == 0
    assert (tmp_path / "out.jsonl").read_text() == shown
    facts = json.loads(facts)
    assert facts.pop("seconds") > 0
    assert facts == {"rows": 2, "left_out": 0, "truncated": 0, "empty": 0, "seen_rows": {}}
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "out.jsonl"}


def test_without_an_output_file_the_facts_are_beside_the_rows(predict, classifier, rows):
    _, shown, notes = predict(classifier, rows, "--json")
    assert len(shown.splitlines()) == 2
    assert json.loads(notes[notes.index("{") :])["rows"] == 2


def test_bad_rows_end_in_exit_code_2_with_the_others_labelled(predict, classifier, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "good"}\n{"text": 3}\n{"text": "bad"}\nnothing\n')
    code, shown, notes = predict(classifier, rows, "--output", tmp_path / "out.jsonl")
    assert code == 2
    assert f"{tmp_path}/out.jsonl: 2 rows" in shown
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert f"{rows}:2: text: `text` must be string, found int" in notes
    assert f"{rows}:4: not valid JSON" in notes
    assert "2 of 4 rows could not be labeled" in notes
    assert "Traceback" not in notes


def test_an_output_that_exists_is_replaced_only_when_told_to(predict, classifier, rows, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("mine")
    code, _, notes = predict(classifier, rows, "--output", output)
    assert (code, output.read_text()) == (2, "mine")
    assert "--overwrite" in notes
    assert predict(classifier, rows, "--output", output, "--overwrite")[0] == 0
    assert len(output.read_text().splitlines()) == 2


def test_a_folder_or_a_device_is_no_output(predict, classifier, rows, tmp_path):
    for place, kind in ((tmp_path, "folder"), ("/dev/null", "device or a pipe")):
        code, _, notes = predict(classifier, rows, "--output", place, "--overwrite")
        assert code == 2
        assert f"is a {kind}; name a file, such as labelled.jsonl" in notes


def test_what_is_read_is_never_written_over(predict, classifier, rows, tmp_path):
    (tmp_path / "link.jsonl").symlink_to(rows)
    code, _, notes = predict(classifier, rows, "--output", tmp_path / "link.jsonl", "--overwrite")
    assert (code, rows.read_text()) == (2, ROWS)
    assert "is the file to read as well" in notes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("no/such/model", "{rows}"), 2, "no/such/model"),
        (("{classifier}", "nothing.jsonl"), 2, "nothing.jsonl: no such file"),
        (("{classifier}", "{rows}", "--output", "no/such/folder/out.jsonl"), 5, "cannot be written (No such file"),
        (("{classifier}", "{rows}", "--base-path", "x"), 2, "--base-path"),
        (("{classifier}", "{rows}", "--max-length", "99"), 2, "--max-length"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(predict, classifier, rows, tmp_path, arguments, code, message):
    names = {"classifier": classifier, "rows": rows}
    found, shown, notes = predict(*(argument.format(**names) for argument in arguments))
    assert (found, shown) == (code, "")
    assert message in notes
    assert "Traceback" not in notes


def test_a_language_model_gets_no_random_head(predict, rows, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    code, shown, notes = predict(tmp_path / "model", rows)
    assert (code, shown) == (2, "")
    assert "is a language model, not a text classifier; let it write: hf-finetune generate" in notes


def test_standard_input_is_read_and_a_reader_may_leave(started, classifier, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "good day"}\n' * 30_000)
    with (tmp_path / "rows.jsonl").open() as rows:
        process = started(classifier, "-", stdin=rows)
    assert json.loads(process.stdout.readline())["label"] in ("bad", "good")
    process.stdout.close()
    assert process.wait(60) == 0
    said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert "Broken pipe" not in said


def test_ctrl_c_leaves_no_half_output(started, classifier, tmp_path):
    process = started(classifier, "-", "--output", tmp_path / "out.jsonl")
    process.stdin.write(b'{"text": "good day"}\n' * 30_000)
    process.stdin.flush()
    end = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert [*tmp_path.iterdir()] == []
    assert b"Traceback" not in process.stderr.read()


def test_every_field_comes_back_where_a_column_has_the_name_of_the_text(predict, classifier, tmp_path):
    (tmp_path / "rows.csv").write_text("text,body\nRe: hi,good day\n")
    code, out, said = predict(classifier, tmp_path / "rows.csv", "--columns", "text=body")
    assert code == 0
    assert {"text": "good day", "original_text": "Re: hi"}.items() <= json.loads(out).items()
    assert "the column `text` stays as `original_text`" in said


def test_texts_that_are_empty_are_counted(predict, classifier, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "good"}\n{"text": "  "}\n{"text": ""}\n')
    code, out, said = predict(classifier, tmp_path / "rows.jsonl")
    assert (code, len(out.splitlines())) == (0, 3)
    assert "2 of 3 rows have no text, so that their labels say nothing" in said


def test_the_output_is_compressed_by_its_name_or_refused(predict, classifier, rows, tmp_path):
    _, plain, _ = predict(classifier, rows)
    assert predict(classifier, rows, "--output", tmp_path / "out.jsonl.gz")[0] == 0
    assert gzip.decompress((tmp_path / "out.jsonl.gz").read_bytes()).decode() == plain
    code, _, said = predict(classifier, rows, "--output", tmp_path / "out.csv")
    assert (code, (tmp_path / "out.csv").exists()) == (2, False)
    assert "is written as JSON Lines, which no .csv file holds" in said


def test_plain_text_is_answered_with_what_predict_reads(predict, classifier, tmp_path):
    (tmp_path / "lines.txt").write_text("good day\nbad film\n")
    code, _, said = predict(classifier, tmp_path / "lines.txt")
    assert code == 2
    assert said.splitlines()[-1].endswith('write each text on a line of its own, as {"text": "..."} [HF005]')


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_of_the_model_that_is_torn_is_named(predict, classifier, rows, tmp_path, name):
    torn = shutil.copytree(classifier, tmp_path / "torn")
    whole = (torn / name).read_bytes()
    for content, what in ((whole[: len(whole) // 2], "is damaged: it holds no JSON object"), (b"", "is empty")):
        (torn / name).write_bytes(content)
        code, _, said = predict(torn, rows)
        assert (code, said) == (2, f"{torn}/{name}: {what}; copy the model's folder again [HF501]\n")


def test_a_model_without_its_tokenizer_is_told_so(predict, classifier, rows, tmp_path):
    bare = shutil.copytree(classifier, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    code, _, said = predict(bare, rows)
    assert code == 2
    assert f"'{bare}' holds no tokenizer: no tokenizer.json; copy the model's folder again" in said
