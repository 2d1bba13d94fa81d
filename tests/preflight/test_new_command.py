"""What `hf-finetune new` says, asks and refuses."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_models import saved_parrot
from preflight.odd_files import labelled, questions, sentence, write_jsonl

from hf_finetune.cli import main
from hf_finetune.preflight.plan import choices, model_choice
from hf_finetune.preflight.plan.machine import GIB, Machine
from hf_finetune.preflight.plan.models import Candidate


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", [])  # they keep the stream that was standard error
    return tmp_path


@pytest.fixture
def new(here, monkeypatch, capsys):
    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["hf-finetune", "new", *arguments])
        ended = 0
        try:
            main()
        except SystemExit as end:
            ended = end.code or 0
        said = capsys.readouterr()
        assert ended == code, said
        assert "Traceback" not in said.err
        return said.err if code else said.out

    return run


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##a", "##b"]
    BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return str(folder)


def test_it_ends_with_the_two_next_commands(new, here):
    write_jsonl(here / "my rows.jsonl", labelled(30, 3))
    lines = new("my rows.jsonl", "--model", "scratch").splitlines()
    assert lines[0] == "'my rows.jsonl': 30 rows for train, format labelled"
    assert lines[-2:] == ["  hf-finetune check run.yaml", "  hf-finetune train run.yaml"]


def test_as_json_it_has_what_was_found_and_chosen(new, here):
    write_jsonl(here / "rows.jsonl", [*labelled(30, 3), labelled(1, 1)[0]])
    made = json.loads(new("rows.jsonl", "--json", "--model", "scratch"))
    assert made["recipe"] == "classification"
    assert made["found"]["rows"] == {"train": 31}
    assert made["found"]["repeats"] == 1
    assert made["found"]["labels"] == {"class 0": 11, "class 1": 10, "class 2": 10}
    assert made["found"]["characters"]["total"] == sum(len(row["text"]) for row in labelled(30, 3)) + len(sentence(0))
    assert made["settings"]["data.stratify_by"] == "label"


def test_no_text_of_a_row_is_in_the_file_or_in_what_is_said(new, here):
    write_jsonl(here / "rows.jsonl", [{"text": "quicksilver marmalade", "label": n % 2} for n in range(20)])
    said = new("rows.jsonl", "--model", "scratch") + Path("run.yaml").read_text()
    assert "quicksilver" not in said
    assert "marmalade" not in said


REFUSED = [
    ("nope.jsonl", "nope.jsonl: no such file"),
    ("empty.jsonl", "empty.jsonl: the file is empty; put rows into it"),
    (
        "junk.jsonl",
        "junk.jsonl: this is plain text, not JSON Lines: no line begins with {; name it .txt: each line, or",
    ),
    ("prose", "prose: this is plain text, not JSON Lines: no line begins with {; name it .txt: each line, or"),
    ("a.pdf", "a.pdf: this is a PDF document, not rows; `pdftotext a.pdf rows.txt` [HF005]"),
    ("parquet.txt", "parquet.txt: this is a Parquet file, not rows; name it .parquet [HF005]"),
    ("rows.jsonl rows.jsonl", "rows.jsonl: is named twice; keep one"),
    ("rows.jsonl dev.jsonl", "dev.jsonl: has the same content as train (rows.jsonl); name a file of rows that are not"),
    ("rows.jsonl test.jsonl", "test.jsonl: has the same rows as train (rows.jsonl); name a file of rows that are not"),
    ("torn.jsonl", "torn.jsonl:2: not valid JSON: the line ends inside the row; one whole object a line"),
    ("twice.jsonl", "twice.jsonl:1: text: the key `text` occurs twice in one object; keep one of them [HF012]"),
    ("latin.jsonl", "latin.jsonl:1: byte 14 of the line is 0xE9, which is not UTF-8"),
    ("deep.json", "deep.json:1: nested more than 128 levels deep (line 1 of the file); flatten the row [HF014]"),
    ("uneven.csv", "uneven.csv:2: the row has 1 field, the header 2; is a field or a quote missing? [HF063]"),
    ("nohead.csv", "nohead.csv:1: the first line, which names the columns, reads as a row: one of its values stands"),
    ("blank.jsonl", "blank.jsonl: the file has only blank lines; put rows into it"),
    ("bad.jsonl", "bad.jsonl:1: "),
    ("one.jsonl --model scratch", "the training rows have one label only"),
    ("labels.txt", "labels.txt: each line has one tab, as that of a table has; name it .tsv"),
    ("prose.txt rows.jsonl", "prose.txt: is plain text, and rows.jsonl is not: a run reads one of both; name files of"),
    ("??o*.*", "book.txt: is plain text, and blo.jsonl is not: a run reads one of both; name files of one kind"),
    ("rows.jsonl --model=", "--model: is empty; name a folder, a Hub id or scratch [HF001]"),
    ("rows.jsonl --task sft", "rows.jsonl: --task sft takes conversations, and these rows are labelled texts"),
    ("chat.jsonl --task pretrain", "chat.jsonl: --task pretrain takes texts, and these rows are conversations"),
    ("book.txt --task lora", "book.txt: --task lora takes rows, and this is text"),
    ("unlike.jsonl", "unlike.jsonl:1: no row format has these keys: `a`, `b`; give it the fields"),
    ("chat.jsonl --model scratch", "--model: a model from random weights cannot learn to answer"),
    ("rows.jsonl --model org/nothing", "--model: no tokenizer can be loaded from 'org/nothing'"),
    ("rows.jsonl --output taken.yaml", "taken.yaml: --output: exists already; name another file"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[each for each, _ in REFUSED])
def test_a_mistake_is_one_message_and_nothing_is_written(new, here, arguments, message):
    files = {"empty.jsonl": "", "junk.jsonl": "a\nb\n", "bad.jsonl": '{"text": 3}\n', "taken.yaml": "mine"}
    files |= {
        "labels.txt": "ham\ta text\nspam\tanother\n",
        "book.txt": "a\n\nb\n",
        "unlike.jsonl": '{"a": 1, "b": 2}\n',
        "torn.jsonl": '\n{"text": "a\n',
        "twice.jsonl": '{"text": "a", "text": "b"}\n[1]\n',
        "deep.json": f'[{{"text": {"[" * 200}{"]" * 200}}}]',
        "uneven.csv": "text,label\nalone\n",
        "nohead.csv": "I like it.,good\nI hate it.,bad\nIt is fine.,good\n" * 3,
        "blank.jsonl": "\n \n",
        "prose.txt": "Some text.\n",
        "blo.jsonl": '{"text": "a"}\n',
        "prose": "Some text here, and more.\nOther text, yes.\n",
        "a.pdf": "%PDF-1.7\n",
        "parquet.txt": "PAR1abc",
    }
    (here / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    for name, text in files.items():
        (here / name).write_text(text)
    write_jsonl(here / "rows.jsonl", labelled(20, 2))
    write_jsonl(here / "dev.jsonl", labelled(20, 2))
    write_jsonl(here / "test.jsonl", reversed(labelled(20, 2)))
    write_jsonl(here / "one.jsonl", labelled(20, 1))
    write_jsonl(here / "chat.jsonl", questions(20))
    before = sorted(here.iterdir())
    said = new(*arguments.split(), code=2)
    assert said.startswith(message)
    assert sorted(here.iterdir()) == before
    assert (here / "taken.yaml").read_text() == "mine"


def test_a_run_file_below_a_file_is_refused(new, here):
    write_jsonl(here / "rows.jsonl", labelled(20, 2))
    said = new("rows.jsonl", "--output", "rows.jsonl/run.yaml", "--model", "scratch", code=5)
    assert said.startswith("rows.jsonl/run.yaml: is below rows.jsonl, which is a file; name one in a folder")


def test_an_encoder_is_refused_for_texts_and_taken_for_labels(new, here, encoder):
    write_jsonl(here / "texts.jsonl", [{"text": sentence(n)} for n in range(20)])
    write_jsonl(here / "rows.jsonl", labelled(20, 2))
    assert "is an encoder, which cannot learn to write texts" in new("texts.jsonl", "--model", encoder, code=2)
    assert "recipe classification" in new("rows.jsonl", "--model", encoder)


def test_a_model_that_does_not_fit_the_memory_is_refused_with_both_figures(new, here, monkeypatch):
    saved_parrot(here / "talker", {"a": "b"})
    write_jsonl(here / "chat.jsonl", questions(20))
    from hf_finetune.preflight.plan import make

    monkeypatch.setattr(make, "look_at_machine", lambda: Machine(2, 2**18, "cpu"))
    said = new("chat.jsonl", "--model", "talker", code=2)
    assert said.startswith("--model: talker needs about ")
    assert "2 cores, 0 GiB" in said


def test_without_any_model_a_chat_is_given_one_that_is_made_first(new, here, monkeypatch):
    monkeypatch.setattr(model_choice, "list_models", list)
    write_jsonl(here / "chat.jsonl", questions(20))
    commands = new("chat.jsonl").splitlines()[-3:]
    assert commands[0].split() == ["hf-finetune", "model", "smollm2-135m", "models/smollm2-135m"]
    assert "path: models/smollm2-135m" in Path("run.yaml").read_text()


class Terminal:
    def __init__(self, stream):
        self.stream = stream

    def isatty(self):
        return True

    def __getattr__(self, name):
        return getattr(self.stream, name)


@pytest.mark.parametrize(("typed", "chosen"), [("\n", "scratch"), ("1\n", "talker"), ("talker\n", "talker")])
def test_at_a_terminal_it_asks_for_a_model_and_an_empty_answer_takes_the_proposed(
    new, here, monkeypatch, typed, chosen
):
    import io

    saved_parrot(here / "talker", {"a": "b"})  # too small to be taken unasked
    write_jsonl(here / "texts.jsonl", [{"text": sentence(n)} for n in range(20)])
    monkeypatch.setattr(sys, "stdin", Terminal(io.StringIO(typed)))
    monkeypatch.setattr(sys, "stdout", Terminal(sys.stdout))
    said = new("texts.jsonl")
    assert "1 talker" in said
    assert f"model {'from scratch' if chosen == 'scratch' else chosen}: " in said


MODELS = [
    Candidate("chat", "decoder", 135_000_000, True),
    Candidate("base", "decoder", 100_000_000, False),
    Candidate("trial", "decoder", 1_000_000, False),
    Candidate("encoder", "encoder", 22_000_000, False),
    Candidate("labels", "classifier", 22_000_000, False),
    Candidate("huge", "decoder", 70_000_000_000, True),
]


@pytest.mark.parametrize(
    ("becomes", "first"), [("conversation", "chat"), ("document", "base"), ("labelled", "encoder")]
)
def test_the_model_that_is_taken_unasked_is_of_the_kind_that_the_rows_need(monkeypatch, becomes, first):
    monkeypatch.setattr(model_choice, "list_models", lambda: MODELS)
    reading = model_choice.Reading("auto", becomes)
    machine = Machine(2, 24 * GIB, "cpu")
    assert model_choice.choose_model(reading, machine, None)[0] == first
    assert "huge" not in {each.path for each in model_choice.rank_models(MODELS, reading, machine)}
    assert choices.FILLED < 1


def test_a_file_without_a_name_is_refused(new, here):
    assert new("", "--model", "scratch", code=2) == "a file has no name; name a file of rows [HF001]\n"
    assert not list(here.glob("*.yaml"))


def test_what_a_terminal_would_obey_in_the_name_of_a_column_is_escaped(new, here):
    (here / "odd.csv").write_text("\u202etext,\x1b[31mlabel\n" + "one thing,a\nanother thing,b\n" * 20)
    said = new("odd.csv", "--model", "scratch")
    written = (here / "run.yaml").read_text()
    assert not any(sign in said + written for sign in ("\x1b", "\u202e"))


def test_a_pattern_of_text_files_is_read_as_they_are(new, here):
    for name in ("a.txt", "b.txt"):
        (here / name).write_text("one line\nanother\n" * 9)
    assert "36 rows for train, format lines" in new("*.txt", "--model", "scratch")


def refuse(number: int) -> Callable[..., Any]:
    """A function in the place of one that the system refuses."""

    def refused(given: Any, *_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number), str(given))

    return refused


@pytest.mark.parametrize("entered", [False, True], ids=["the folder", "a file in it"])
def test_what_may_not_be_read_is_said_as_such(new, here, monkeypatch, entered):
    (here / "locked").mkdir()
    write_jsonl(here / "locked" / "rows.jsonl", labelled(20, 2))
    # Root may read everything: what the system would say to others is said for it.
    real = Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path == Path("locked/rows.jsonl"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(Path, "iterdir", refuse(errno.EACCES))
    if entered:
        exists = os.path.exists
        monkeypatch.setattr(os.path, "exists", lambda path: str(path) != "locked/rows.jsonl" and exists(path))
    named = "locked/rows.jsonl" if entered else "locked"
    said = new(named, "--model", "scratch", code=2)
    assert said == f"{named}: cannot be read: Permission denied; check the permissions of its folder [HF002]\n"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device); nothing is left of it; make room, or write to another disk [HF702]"),
        (
            errno.EFBIG,
            "File too large); nothing is left of it; room does not help, the system limits the size",
        ),
        (errno.EACCES, "Permission denied); nothing is left of it; name a folder of yours [HF701]"),
    ],
)
def test_a_run_file_that_cannot_be_written_is_one_message_and_nothing_is_left(new, here, monkeypatch, number, said):
    from hf_finetune.preflight.plan import make

    write_jsonl(here / "rows.jsonl", labelled(20, 2))
    monkeypatch.setattr(make, "write_atomically", refuse(number))
    assert new("rows.jsonl", "--model", "scratch", "--output", "deep/run.yaml", code=5).startswith(
        f"deep/run.yaml: cannot be written ({said}"
    )
    assert not (here / "deep").exists()
