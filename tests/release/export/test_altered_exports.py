"""The files of an export are those that were compared with the run, wherever its folder is opened."""

from __future__ import annotations

import json
import logging
import os
import shutil

import pytest
from release.export.gguf_models import chat_tokenizer, tiny
from tuned_classifiers import SPAM, TOKENIZER, classifier_on, saved_backbone, train_classifier
from typer.testing import CliRunner

from hf_finetune import api
from hf_finetune.cli import app
from hf_finetune.errors import FinetuneError, ModelError
from hf_finetune.files import hash_file
from hf_finetune.folders import exported
from hf_finetune.models import load_for_generation, load_for_prediction
from hf_finetune.models.decision import Decision, write_decision
from hf_finetune.release.export import ExportOptions, export_model

FEW = ExportOptions(rows=3)
ROW = '{"prompt": "hi", "completion": "you"}\n'
COMMANDS = {
    "generate": ["generate", "OUT", "hi"],
    "generate --input": ["generate", "OUT", "--input", "ROWS"],
    "chat": ["chat", "OUT"],
    "score": ["score", "OUT", "ROWS"],
    "serve": ["serve", "OUT", "--port", "0"],
    "export": ["export", "OUT", "OTHER", "--to", "gguf"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    tiny().save_pretrained(root / "chat")
    chat_tokenizer().save_pretrained(root / "chat")
    labels = train_classifier(classifier_on(saved_backbone(root / "backbone", "bert"), SPAM), SPAM)
    labels.save_pretrained(root / "labels")
    TOKENIZER.save_pretrained(root / "labels")
    write_decision(Decision(SPAM.names, "single"), root / "labels")
    export_model(str(root / "chat"), str(root / "onnx"), "onnx", FEW)
    export_model(str(root / "labels"), str(root / "onnx of labels"), "onnx", FEW)
    # Its weights are safetensors, which no length tells from others.
    int8 = ExportOptions(rows=3, tolerance=1.0, quant="int8")
    export_model(str(root / "chat"), str(root / "vllm"), "vllm", int8)
    return root


@pytest.fixture
def out(whole, tmp_path):
    return shutil.copytree(whole / "onnx", tmp_path / "out")


def flip(path, place):
    """Change one bit, in the middle of what it stands in."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def ask(words, out, tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROW)
    names = {"OUT": str(out), "ROWS": str(tmp_path / "rows.jsonl"), "OTHER": str(tmp_path / "other")}
    return CliRunner().invoke(app, [names.get(word, word) for word in words])


def refused(answer):
    """The message of a command that ends with exit code 2."""
    assert isinstance(answer.exception, FinetuneError), answer
    assert answer.exception.exit_code == 2
    return str(answer.exception)


@pytest.mark.parametrize("command", COMMANDS)
def test_one_changed_bit_of_the_weights_is_refused_before_anything_is_loaded(out, tmp_path, command, caplog):
    caplog.set_level(logging.INFO)
    flip(out / "model.onnx", -(out / "model.onnx").stat().st_size // 2)
    answer = ask(COMMANDS[command], out, tmp_path)
    said = refused(answer)
    assert f"{out}/model.onnx: is not what the export wrote" in said
    assert "export the model again" in said
    assert said.count("HF977") == 1
    assert "loading" not in caplog.text


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["model.onnx", "config.json", "tokenizer.json"])
def test_a_file_that_is_gone_is_named_as_such(out, tmp_path, name, command):
    (out / name).unlink()
    answer = ask(COMMANDS[command], out, tmp_path)
    said = refused(answer)
    assert f"{out}/{name}: is missing: the export wrote it" in said
    assert said.count("HF") == 1


def test_a_classifier_is_held_against_its_record_too(whole, tmp_path):
    out = shutil.copytree(whole / "onnx of labels", tmp_path / "out")
    (tmp_path / "texts.jsonl").write_text('{"text": "win a prize"}\n')
    asked = ["predict", str(out), str(tmp_path / "texts.jsonl")]
    assert CliRunner().invoke(app, asked).exit_code == 0
    # A threshold that was edited: every file decides what is answered.
    decision = json.loads((out / "decision.json").read_text())
    (out / "decision.json").write_text(json.dumps(decision | {"temperature": 9.0}))
    answer = CliRunner().invoke(app, asked)
    said = refused(answer)
    assert f"{out}/decision.json: is not what the export wrote" in said
    with pytest.raises(ModelError, match="HF977"):
        api.predict(out, ["win a prize"])
    with pytest.raises(ModelError, match="HF977"):
        load_for_prediction(str(out))


def test_from_python_it_is_refused_as_well(whole, tmp_path):
    out = shutil.copytree(whole / "vllm", tmp_path / "out")
    flip(out / "model.safetensors", -1)
    with pytest.raises(ModelError, match=r"model\.safetensors: is not what the export wrote.*HF977"):
        api.generate(out, "hi")
    with pytest.raises(ModelError, match="HF977"):
        load_for_generation(str(out))


def test_whoever_has_changed_it_takes_the_record_out(out, tmp_path):
    settings = json.loads((out / "generation_config.json").read_text())
    (out / "generation_config.json").write_text(json.dumps(settings | {"temperature": 0.5}))
    said = refused(ask(COMMANDS["generate"], out, tmp_path))
    assert "take export.json out of the folder: it is about another model" in said
    (out / "export.json").unlink()
    assert ask(COMMANDS["generate"], out, tmp_path).exit_code == 0


def test_what_is_not_opened_here_is_anybodys(out, tmp_path):
    record = json.loads((out / "export.json").read_text())
    record["files"]["Modelfile"] = "0" * 64
    (out / "export.json").write_text(json.dumps(record))
    (out / "README.md").write_text("mine")
    (out / "notes.txt").write_text("mine")
    assert ask(COMMANDS["generate"], out, tmp_path).exit_code == 0


@pytest.mark.parametrize(
    "record",
    ["", '{"target":', "[]", '{"target": "nowhere"}', '{"target": []}', '{"target": "onnx", "files": []}']
    + [json.dumps({"target": "onnx", "files": {name: "0" * 64}}) for name in ("/etc/passwd", "../out/x", "..", "")],
)
def test_a_record_that_is_none_is_refused(out, tmp_path, record):
    (out / "export.json").write_text(record)
    answer = ask(COMMANDS["generate"], out, tmp_path)
    said = refused(answer)
    assert f"{out}/export.json: is not what an export writes; export the model again [HF821]" in said


@pytest.mark.parametrize("record", ["{}", '{"format": "onnx"}', '{"target": "onnx"}'])
def test_a_record_of_others_or_without_hashes_says_nothing(out, tmp_path, record):
    (out / "export.json").write_text(record)
    assert ask(COMMANDS["generate"], out, tmp_path).exit_code == 0


def test_a_pipe_is_not_waited_for(out, tmp_path):
    (out / "model.onnx").unlink()
    os.mkfifo(out / "model.onnx")
    assert "model.onnx: is missing" in refused(ask(COMMANDS["generate"], out, tmp_path))


def test_a_folder_is_hashed_once_in_a_process_and_again_once_it_has_changed(out, monkeypatch, caplog):
    hashed = []
    monkeypatch.setattr(exported, "_LARGE", 1000)
    monkeypatch.setattr(exported, "hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    with caplog.at_level(logging.INFO):
        assert exported.find_altered(out, "out") == exported.find_altered(out, "out") == []
    assert len(hashed) == len(set(hashed)) == len(json.loads((out / "export.json").read_text())["files"])
    assert caplog.text.count("GB, to compare them with export.json") == 1
    flip(out / "tokenizer.json", 40)
    assert [each.path for each in exported.find_altered(out, "out")] == ["out/tokenizer.json"]


def test_what_cannot_be_read_is_said(out, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(exported, "hash_file", refuse)
    (out / "model.onnx").touch()
    said = {each.path: each.what for each in exported.find_altered(out, "out")}
    assert said["out/model.onnx"] == "cannot be read (Permission denied)"


def test_an_adapter_for_llama_cpp_is_not_said_to_lack_weights(out, tmp_path):
    (out / "model.onnx").rename(out / "adapter.gguf")
    (out / "export.json").unlink()
    said = refused(ask(COMMANDS["generate"], out, tmp_path))
    assert "is an adapter for llama.cpp alone (adapter.gguf)" in said
    assert "model.safetensors" not in said
