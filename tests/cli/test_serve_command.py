"""`hf-finetune serve`: what is refused, each in one message; the command for other servers."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import socket
import sys

import pytest
from chat_models import saved_parrot
from tuned_adapters import TIED, adapter_on, save, saved_base, train
from typer.testing import CliRunner

from hf_finetune.cli import app, main
from hf_finetune.release.serve.options import KEY_VARIABLE

KEY = "a-key-of-sixteen-letters"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    saved_parrot(folder / "chat", {"\n": "h"})
    base = saved_base(folder / "llm", **TIED)
    save(train(adapter_on(base, {"r": 4})), folder / "adapter")
    save(train(adapter_on(saved_base(folder / "gone", **TIED), {"r": 4})), folder / "orphan")
    (folder / "gone").rename(folder / "moved")
    save(train(adapter_on(saved_base(folder / "wider", **TIED, hidden_size=48), {"r": 4})), folder / "of_wider")
    classes = {"id2label": {"0": "ham"}, "problem_type": None, "pad_token_id": 0}
    for name, file, changes in (
        ("biased", "adapter_config.json", {"bias": "lora_only"}),
        ("halved", "base_model.json", {"dtype": "bfloat16"}),
        ("classifies", "base_model.json", {"classifier": classes}),
    ):
        shutil.copytree(folder / "adapter", folder / name)
        settings = folder / name / file
        settings.write_text(json.dumps(json.loads(settings.read_text()) | changes), encoding="utf-8")
    shutil.copytree(folder / "chat", folder / "apertus")
    (folder / "apertus" / "config.json").write_text('{"model_type": "apertus", "hidden_act": "relu2"}', "utf-8")
    (folder / "empty").mkdir()
    for name, text in (("none.txt", "# nothing\n"), ("words.txt", "bad\n"), ("key.txt", KEY), ("short.txt", "short")):
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.txt").write_bytes("schön".encode("latin-1"))
    (folder / "rows.jsonl").write_text('{"text": "no vote"}\n', encoding="utf-8")
    return folder


@pytest.fixture
def say(folder, monkeypatch, capsys):
    """Run a command that is refused in the folder; returns its message."""

    def say(*arguments: str) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(logging.root, "handlers", [])  # they keep the stream that was standard error
        monkeypatch.setattr(sys, "argv", ["hf-finetune", "serve", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err
        assert end.value.code == 2, said
        assert "Traceback" not in said
        return said

    return say


REFUSED = [
    ("./nowhere", "./nowhere: no such folder"),
    ("empty", "empty: holds no model"),
    ("orphan", "orphan: is an adapter of"),
    ("llm --adapters a=./nowhere", "./nowhere: no such folder"),
    ("llm --adapters a", "--adapters: a is not NAME=DIR; write support=runs/support [HF603]"),
    ("llm --adapters a=adapter a=adapter", "--adapters: a is given twice; keep one [HF601]"),
    ("llm --adapters llm=adapter", "--name or --adapters: llm is taken"),
    ("chat --name ../x", "--name or --adapters: '../x' is no name for a model"),
    ("chat --port 0 --base-path llm", "chat: is a whole model, which takes no base; leave --base-path out [HF534]"),
    ("adapter --name base", "--name or --adapters: base is taken"),
    ("llm --adapters a=adapter b=of_wider", "of_wider: the adapter was trained on another model"),
    ("adapter --adapters b=biased", "--adapters: an adapter changes the base itself"),
    ("adapter --adapters b=halved", "halved: b and adapter were trained over their base with another dtype"),
    ("llm --adapters b=classifies", "classifies: is the adapter of a classifier"),
    ("chat --host 0.0.0.0", "--api-key-file: whoever reaches 0.0.0.0 could use the model"),
    ("chat --api-key-file none-such.txt", "--api-key-file: the file of the key cannot be read (No such file"),
    ("chat --api-key-file short.txt", "--api-key-file: the key has to be of 16 or more printable"),
    ("chat --filter nothing", "--filter: 'nothing' is neither a word list nor a classifier"),
    ("chat --filter none.txt", "none.txt: --filter: holds no word"),
    ("chat --filter latin.txt", "latin.txt: --filter: the word list cannot be read (it is not UTF-8)"),
    ("chat --port 0 --filter chat=bad", "chat: is no text classifier"),
    ("chat --port 0 --votes rows.jsonl", "rows.jsonl:1: --votes: is no vote"),
    ("chat --port 0 --votes empty", "empty: --votes: is no file"),
    (
        "llm --print-vllm",
        "llm: is a ScratchGPT, which vLLM and TGI do not know; export it first as one that they know, ",
    ),
    (
        "apertus --print-vllm",
        "apertus: is of the kind apertus with another activation than xielu, the one that vLLM computes",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_what_cannot_be_served_is_refused_in_one_message(say, arguments, message):
    assert message in say(*arguments.split())


LOADED = [
    *("adapter --adapters b=biased", "adapter --adapters b=halved", "llm --adapters b=classifies"),
    *("llm --adapters a=adapter b=of_wider", "chat --port 0 --base-path llm", "chat --port 0 --filter chat=bad"),
    *("chat --port 0 --votes rows.jsonl", "chat --port 0 --votes empty"),
]


@pytest.mark.parametrize("arguments", [arguments for arguments, _ in REFUSED])
def test_nothing_is_said_to_be_loaded_before_what_is_refused_without_it(say, arguments):
    said = say(*arguments.split())
    assert ("loading " in said) == (arguments in LOADED), said


def test_a_key_in_the_place_of_its_file_is_not_repeated(say):
    assert KEY not in say("chat", "--api-key-file", KEY)


def test_a_key_of_the_environment_that_is_no_key_is_refused(say, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "two words of a key, long enough")
    said = say("chat", "--host", "0.0.0.0")
    assert f"{KEY_VARIABLE}: the key has to be of 16" in said
    assert "two words" not in said


def test_a_package_that_is_missing_is_named_with_the_extra_that_has_it(say, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name in ("fastapi", "uvicorn") else find(name, *more)
    )
    said = " ".join(say("chat").split())
    assert "fastapi, uvicorn: not installed, and serving needs them; in the clone of hf-finetune:" in said
    assert 'pip install ".[serve]" [HF711]' in said


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(say, monkeypatch):
    monkeypatch.setattr("hf_finetune.models.saved.load_for_generation", None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = say("chat", "--port", str(port))
        assert f"--port: port {port} of 127.0.0.1 is in use" in said
        assert "loading" not in said


def test_the_command_for_other_servers_has_what_was_asked_for(folder, monkeypatch):
    monkeypatch.chdir(folder)
    lines = CliRunner().invoke(app, ["serve", "chat", "--name", "mine", "--print-vllm", "--port", "81"]).stdout
    assert lines.splitlines() == [
        "vllm serve chat --served-model-name mine --host 127.0.0.1 --port 81",
        "text-generation-launcher --model-id chat --hostname 127.0.0.1 --port 81",
    ]
    lines = CliRunner().invoke(app, ["serve", "chat", "--adapters", "a=adapter", "--print-vllm"]).stdout
    assert "--enable-lora --max-lora-rank 8 --lora-modules a=adapter" in lines
    assert "--lora-adapters a=adapter" in lines


def test_a_key_may_be_in_a_file_or_the_environment_and_is_needed_beyond_this_machine(folder, monkeypatch):
    from hf_finetune.release.serve.options import read_key

    monkeypatch.chdir(folder)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert [read_key(host, None) for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1")] == [None] * 4
    assert read_key("0.0.0.0", "key.txt") == read_key("127.0.0.1", "key.txt") == KEY
    monkeypatch.setenv(KEY_VARIABLE, KEY[::-1])
    assert read_key("192.168.1.2", None) == KEY[::-1]
    assert read_key("127.0.0.1", "key.txt") == KEY
