"""Mistakes on the command line, each one message of few lines: in this process, where `message_recorder` sees each.

`test_refusals.py` has those after which nothing heavy may have been imported; here they are made again.
"""

from __future__ import annotations

import logging
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli.test_refusals import MODELS, REST, RUNS, VALID, folder  # noqa: F401

import hf_finetune as hf
from hf_finetune.cli import main
from hf_finetune.config import load_run, sampling_settings
from hf_finetune.data.corpora.canaries import read_canaries
from hf_finetune.errors import FinetuneError
from hf_finetune.release.hub.card import read_card_metadata
from hf_finetune.release.hub.files import find_allowed_files
from hf_finetune.reporting import check_recordable

SCORE = "recipe: score\nmodel: {path: runs/lm}\ndata: {test: rows.jsonl}\noutput_dir: out/scores\n"


@pytest.fixture
def say(folder, monkeypatch, capsys):  # noqa: F811
    """Run a command that is refused in the folder; returns its lines on standard error."""

    def say(*arguments: str) -> list[str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(logging.root, "handlers", [])  # they keep the stream that was standard error
        monkeypatch.setattr(sys, "argv", ["hf-finetune", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        assert end.value.code == 2, said
        assert "Traceback" not in said
        return said.splitlines()

    return say


@pytest.mark.parametrize(("command", "message"), MODELS + REST, ids=[command for command, _ in MODELS + REST])
def test_a_command_is_refused_in_one_message(say, command, message):
    assert say(*command.split())[0].startswith(message)


@pytest.mark.parametrize(("arguments", "message"), RUNS, ids=[" ".join(arguments) for arguments, _ in RUNS])
def test_a_run_is_refused_in_one_message(say, folder, arguments, message):  # noqa: F811
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    assert say("train", "run.yaml", *arguments)[0].startswith(message)


COMMANDS = [
    ("corpus source -", "-: is no name of a file; name a file, such as corpus.jsonl"),
    ("predict runs/classifier rows.jsonl --output rows.jsonl", "rows.jsonl: --output: is the file to read as well"),
    (
        "predict runs/classifier rows.jsonl --output used",
        "used: --output: is a folder; name a file, such as labelled.jsonl",
    ),
    ("predict runs/classifier rows.jsonl --output used/precious.txt", "used/precious.txt: --output: exists already"),
    ("rows rows.jsonl new.jsonl --columns prompt", "--columns: prompt is not FIELD=COLUMN"),
    ("rows rows.jsonl new.jsonl --columns text=a --columns text=b", "--columns: text is given twice"),
    (
        "rows rows.jsonl new.jsonl --columns tekst=a",
        "--columns: no row format has a field `tekst`; the fields are text",
    ),
    ("rows used new.jsonl", "used: is a folder, not rows"),
    ("rows nope.jsonl new.jsonl", "nope.jsonl: no such file"),
    ("rows rows.jsonl rows.jsonl", "rows.jsonl: is the file to read as well; name another one"),
    ("rows rows.jsonl used", "used: is a folder; name a file, such as rows.jsonl"),
    ("rows rows.jsonl used/precious.txt", "used/precious.txt: exists already; name another file, or add --overwrite"),
    ("init .", ".: is there already, and holds "),
    ("init . --overwrite", ".: holds 1 of the "),
    ("model nope", "'nope' is no model that is known here; "),
    ("model smollm", "'smollm' is no model that is known here; "),
    ("model minilm", "the folder to make is missing; add one, such as models/minilm"),
    ("model nope.gguf made", "nope.gguf: no such file; name a GGUF file that is there"),
    ("model runs/lm made", "runs/lm: is a folder already; name it in the run file: model.path"),
    ("model minilm made --dtype bfloat16", "--dtype: "),
    ("corpus canaries used", "used: is a folder; name a file"),
    ("corpus canaries used/precious.txt", "used/precious.txt: exists already; name another file, or add --overwrite"),
    ("corpus canaries new.jsonl --copies many", "--copies: "),
    ("corpus canaries new.jsonl --format labelled", "--format: canaries do not come in the row format labelled"),
    ("corpus source new.jsonl --max-bytes 3", "not one row fits in 3 bytes; allow "),
]


@pytest.mark.parametrize(("command", "message"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_mistake_of_other_commands_is_one_message(say, folder, command, message):  # noqa: F811
    if command.startswith("init"):
        (folder / "recipes").mkdir()
        (folder / "recipes" / "sft.py").write_text("", encoding="utf-8")
    (line,) = say(*command.split())
    assert line.startswith(message)


SCORES = [
    ("data.test=null", "data.test: is missing; give the rows to score"),
    ("train.max_steps=1", "train: is no section of score, which trains and pushes nothing; leave it out"),
    ("data.test=[{path: rows.jsonl, weight: 2}]", "data.test: has a weight, which is for training rows"),
    ("eval.verbatim_prefix=8", "eval.verbatim_prefix: needs the rows that the model was trained on"),
    ("data.train=rows.jsonl", "data.train: is read only to measure memorization"),
    ("eval.forget=rows.jsonl", "eval.forget: needs the model as it was before, to compare with"),
]


@pytest.mark.parametrize(("override", "message"), SCORES, ids=[override for override, _ in SCORES])
def test_a_run_file_of_score_is_refused_in_one_message(say, folder, override, message):  # noqa: F811
    (folder / "score.yaml").write_text(SCORE, encoding="utf-8")
    (line,) = say("train", "score.yaml", override)
    assert line.startswith(f"command line: {message}")


TRAINED = [
    ("model.path=./runs/minilm", "command line: model.path: no such folder: ./runs/minilm"),
    ("data.train=runs/*.jsonl", "command line: data.train: no file matches runs/*.jsonl"),
    ("data.chat_template_kwargs={messages: 1}", "command line: data.chat_template_kwargs.messages: is given to the"),
    ("data.chat_template_kwargs={a-b: 1}", "command line: data.chat_template_kwargs.a-b: 'a-b' is no name of a "),
    ("eval.base=runs/lm", "command line: eval.base: "),
    ("eval.base=true", "command line: eval.base: "),
    (f"data.train=./{'n' * 300}", "command line: data.train: is not a valid path; name a file, a folder, a glob or a "),
    (f"model.path=./{'n' * 300}", "command line: model.path: is not a valid path; name a folder or a Hub id"),
    ("model.path=tiny.gguf", "command line: model.path: tiny.gguf is a GGUF file, whose weights cannot be trained as "),
    ("data.train=null", "command line: data.train: "),
]


@pytest.mark.parametrize(("override", "message"), TRAINED, ids=[override[:40] for override, _ in TRAINED])
def test_a_setting_of_a_training_run_is_refused_in_one_message(say, folder, override, message):  # noqa: F811
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    (folder / "tiny.gguf").write_bytes(b"GGUF")
    (line,) = say("train", "run.yaml", override)
    assert line.startswith(message)


FROM_SCRATCH = """\
recipe: continued_pretraining
model: {scratch: {preset: nano}, tokenizer: {train: {kind: char}}}
data: {train: rows.jsonl, validation: rows.jsonl}
output_dir: out
"""


def test_random_weights_have_no_base(say, folder):  # noqa: F811
    (folder / "run.yaml").write_text(FROM_SCRATCH, encoding="utf-8")
    (line,) = say("train", "run.yaml", "eval.base=true")
    assert line.startswith("command line: eval.base: is asked of random weights, which have no base")


def test_early_stopping_needs_a_metric(say, folder):  # noqa: F811
    (folder / "run.yaml").write_text(FROM_SCRATCH, encoding="utf-8")
    (line,) = say("train", "run.yaml", "train.early_stopping_patience=2", "train.eval_strategy=steps")
    assert line.startswith("command line: train.early_stopping_patience: needs to know which metric is best")


def test_a_run_file_that_is_a_device_is_refused(say):
    (line,) = say("train", "/dev/null")
    assert line.startswith("/dev/null: is not a regular file; name a .yaml file")


TABLES = [
    ("blank.jsonl", b"\n\n", "blank.jsonl: the file has only blank "),
    ("open.csv", b'text\n"never closed\n', "open.csv:2: "),
    ("list.json", b'[{"text": "a"}, {"text": ', "list.json:1: "),
    ("word.json", b"[1, 2]", "word.json: 2 of 2 rows are rejected, nothing is written; "),
]


@pytest.mark.parametrize(("name", "content", "message"), TABLES, ids=[name for name, _, _ in TABLES])
def test_a_table_that_cannot_be_read_is_refused(say, folder, name, content, message):  # noqa: F811
    (folder / name).write_bytes(content)
    assert say("rows", name, "new.jsonl")[0].startswith(message)


def test_a_parquet_file_of_bytes_is_refused(say, folder):  # noqa: F811
    pq.write_table(pa.table({"picture": [b"\x00"]}), folder / "pictures.parquet")
    (line,) = say("rows", "pictures.parquet", "new.jsonl")
    assert line.startswith("pictures.parquet: all columns are binary: ")


def test_a_parquet_file_with_a_column_twice_is_refused(say, folder):  # noqa: F811
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), folder / "t.parquet"
    )
    (line,) = say("rows", "t.parquet", "new.jsonl")
    assert line.startswith("t.parquet: the column `text` occurs twice; rename one")


def test_mistakes_of_the_python_api_are_one_message_each(folder, monkeypatch):  # noqa: F811
    monkeypatch.chdir(folder)
    (folder / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    (folder / "used" / "README.md").write_bytes(b"---\nlicense: caf\xe9\n---\n")
    (folder / "latin.jsonl").write_bytes(b"caf\xe9\n")
    for call, message in (
        (lambda: sampling_settings({"temprature": 1.0}), "temprature: is no such option; did you mean temperature?"),
        (lambda: load_run([5], "sft"), "5 is no run; give a run file, or a dict of its sections"),
        (
            lambda: hf.predict("runs/classifier", "nope.jsonl"),
            "nope.jsonl: no such file; name a JSONL file, or give a ",
        ),
        (lambda: read_card_metadata(folder), f"{folder / 'README.md'}: what stands between the dashes"),
        (
            lambda: read_card_metadata(folder / "used"),
            f"{folder / 'used' / 'README.md'}: is not UTF-8; save it as UTF-8",
        ),
        (
            lambda: find_allowed_files(folder / "rows.jsonl"),
            f"{folder / 'rows.jsonl'}: is not a folder; name the folder ",
        ),
        (lambda: check_recordable("runs/lm", "a/b"), ("--record: ", "runs/lm: ")),
        (lambda: read_canaries("latin.jsonl"), "latin.jsonl: eval.canaries: is no UTF-8 text; name the JSONL file of "),
    ):
        with pytest.raises(FinetuneError) as refused:
            call()
        assert str(refused.value).startswith(message)


TYPED = [
    ("score runs/lm rows.jsonl --forget rows.jsonl", "command line: --forget: needs the model as it was before, to"),
    ("score runs/lm rows.jsonl --verbatim-prefix 5", "command line: --verbatim-prefix: needs the rows that the model"),
    ("score runs/lm rows.jsonl --swaps gendr", "command line: --swaps: expected one of gender"),
    ("model --list foo bar", "--list takes no arguments; leave it out to make a model"),
    ("report runs/lm runs/../runs/lm", "runs/../runs/lm: is the same folder as runs/lm; name each run once"),
    ("train recipes/sft.py", "recipes/sft.py: is a recipe, not a run file; name a run file of it, such as"),
]


@pytest.mark.parametrize(("command", "message"), TYPED, ids=[command for command, _ in TYPED])
def test_what_was_typed_is_what_is_named(say, command, message):
    said = say(*command.split())
    assert said[0].startswith(message)
    assert "eval." not in "".join(said)


def test_a_flag_of_another_tool_is_told_how_a_setting_is_written(say, folder):  # noqa: F811
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    assert say("train", "run.yaml", "--max_steps", "5") == [
        "command line: max_steps: --max_steps is a flag; settings have no flags here; write train.max_steps=... [HF601]"
    ]


def test_a_flag_of_another_tool_is_told_so_by_check_too(say, folder):  # noqa: F811
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    assert say("check", "run.yaml", "--max_steps=5")[0].endswith("write train.max_steps=... [HF601]")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ("train run.yaml --max-restart 3", ["--max-restart is no option; did you mean --max-restarts?"]),
        ("train --max_restarts=3 run.yaml", ["--max_restarts is no option; did you mean --max-restarts?"]),
        ("check run.yaml --stric", ["--stric is no option; did you mean --strict?"]),
        (
            "train run.yaml --onn cpu --numprocesses 2",
            ["--onn is no option; did you mean --on?", "--numprocesses is no option; did you mean --num-processes?"],
        ),
    ],
)
def test_a_mistyped_option_beside_settings_is_told_which_was_meant(say, folder, words, messages):  # noqa: F811
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    assert say(*words.split())[: len(messages)] == [f"command line: {message} [HF601]" for message in messages]


def test_a_model_whose_tokenizer_settings_are_torn_is_not_said_to_have_no_template(say, folder):  # noqa: F811
    (folder / "runs/lm/tokenizer_config.json").write_text('{"chat_templ', encoding="utf-8")
    assert say("chat", "runs/lm")[0].startswith("runs/lm/tokenizer_config.json: is damaged: it holds no JSON object")
