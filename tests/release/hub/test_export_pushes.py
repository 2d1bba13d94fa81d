"""Each kind of export is pushed as it was made, with its card, and nothing of the run's rows."""

from __future__ import annotations

import hashlib
import json
import random
import shutil

import numpy as np
import onnx
import pytest
import torch
from release.export.gguf_models import chat_tokenizer, tiny
from release.hub.hub_folders import model_folder
from release.hub.planted_secrets import KINDS, draw_secret
from transformers import AutoConfig
from tuned_adapters import saved_base
from tuned_classifiers import SPAM, TOKENIZER, classifier_on, saved_backbone, train_classifier

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import DataError
from hf_finetune.folders.exported import WRITTEN
from hf_finetune.models.adapters.attach import attach_adapter, save_adapter
from hf_finetune.models.decision import Decision, write_decision
from hf_finetune.models.loading import load_causal_lm
from hf_finetune.release.export.exporting import export_model
from hf_finetune.release.export.onnx import files
from hf_finetune.release.export.options import ExportOptions
from hf_finetune.release.export.targets import TARGETS
from hf_finetune.release.hub import PushOptions, plan_push, push_folder
from hf_finetune.release.hub.exports import read_words
from hf_finetune.reporting.card import write_card
from hf_finetune.row_prints import RowPrints, write_row_prints

PRIVATE = PushOptions(license="mit")
OF_ALL = {"README.md", "config.json", "export.json", "tokenizer.json", "tokenizer_config.json"}
CHAT = OF_ALL | {"chat_template.jinja", "generation_config.json"}
NEVER = ("row_prints.npz", "row_scores.json", "mine.onnx", "notes.gguf", "Modelfile.old", "log.jsonl")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A chat model, an adapter over it, a classifier and a GPT from scratch, each with prints of its rows."""
    root = tmp_path_factory.mktemp("models")
    tiny().save_pretrained(root / "chat")
    chat_tokenizer().save_pretrained(root / "chat")
    labels = train_classifier(classifier_on(saved_backbone(root / "backbone", "bert"), SPAM), SPAM)
    labels.save_pretrained(root / "labels")
    TOKENIZER.save_pretrained(root / "labels")
    write_decision(Decision(SPAM.names, "single", temperature=1.7, thresholds=(0.45, 0.55)), root / "labels")
    saved_base(root / "scratch", gated_mlp=True, qk_norm=False)
    section, config = ModelSection(path=str(root / "chat")), AutoConfig.from_pretrained(root / "chat")
    tuned = attach_adapter(load_causal_lm(section, config, 16, bf16=False), {"r": 4, "lora_alpha": 8})
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    tuned.save_pretrained(root / "adapter")
    save_adapter(tuned, root / "adapter")
    chat_tokenizer().save_pretrained(root / "adapter")
    nothing = RowPrints(bytes(32), *[np.zeros(0, np.uint64)] * 2)
    for name in ("chat", "labels", "scratch", "adapter"):
        write_row_prints(root / name, nothing)
        write_card(root / name)
    return root


KINDS_OF_EXPORTS = {
    "onnx": ("chat", {}, CHAT | {"model.onnx"}),
    "onnx in two files": ("chat", {}, CHAT | {"model.onnx", "model.onnx.data"}),
    "onnx of labels": ("labels", {}, OF_ALL | {"model.onnx", "decision.json"}),
    "gguf": ("chat", {"quant": "f16"}, CHAT | {"model.gguf"}),
    "gguf of an adapter": ("adapter", {"adapter_only": True}, CHAT | {"adapter.gguf"}),
    "llama": ("scratch", {}, OF_ALL | {"generation_config.json", "model.safetensors"}),
    "ollama": ("chat", {}, CHAT | {"model.gguf", "Modelfile"}),
    "vllm": ("chat", {"quant": "int8"}, CHAT | {"model.safetensors"}),
}


def test_each_target_has_its_files():
    assert WRITTEN.keys() == TARGETS.keys()
    assert {kind.split()[0] for kind in KINDS_OF_EXPORTS} == TARGETS.keys()


def make(models, tmp_path, kind, monkeypatch):
    name, options, names = KINDS_OF_EXPORTS[kind]
    if kind == "onnx in two files":
        monkeypatch.setattr(files, "MOST_INLINE", 0)
    if "gguf" in kind or kind == "ollama":
        pytest.importorskip("xllamacpp")
    once = models / "exports" / kind
    if not once.exists():
        export_model(str(models / name), str(once), kind.split()[0], ExportOptions(rows=3, **options))
    return shutil.copytree(once, tmp_path / "exported"), names


@pytest.mark.parametrize("kind", KINDS_OF_EXPORTS)
def test_an_export_is_pushed_whole_and_nothing_beside_it(hub, models, tmp_path, monkeypatch, kind):
    out, names = make(models, tmp_path, kind, monkeypatch)
    for name in NEVER:
        (out / name).write_text("private")
    facts = push_folder(out, "ada/exported", options=PRIVATE)
    there = hub.files("ada/exported")
    assert set(there) == names | {".gitattributes"}
    assert facts.files == len(names)
    assert all(there[name] == (out / name).read_bytes() for name in names - {"README.md"})
    assert b"license: mit" in there["README.md"]
    assert str(tmp_path.parent).encode() not in b"".join(there.values())
    assert push_folder(out, "ada/exported", options=PRIVATE).sent_files == 0


def test_what_the_export_did_not_write_is_refused(models, tmp_path, monkeypatch):
    out, _ = make(models, tmp_path, "onnx", monkeypatch)
    with (out / "model.onnx").open("ab") as file:
        file.write(b"\0")
    (out / "tokenizer.json").unlink()
    with pytest.raises(DataError) as refused:
        plan_push(out, "ada/exported", options=PRIVATE)
    assert [(each.code, each.what) for each in refused.value.problems] == [
        ("HF822", "is not what the export wrote"),
        ("HF822", "is missing: the export wrote it"),
    ]
    (out / "export.json").write_text('{"target": "nowhere"}')
    with pytest.raises(DataError, match=r"export\.json: is not what an export writes.*HF821"):
        plan_push(out, "ada/exported", options=PRIVATE)


def test_a_secret_in_the_words_of_a_graph_is_found_and_its_numbers_are_not_read(models, tmp_path, monkeypatch):
    out, _ = make(models, tmp_path, "onnx", monkeypatch)
    graph = onnx.load(out / "model.onnx")
    text, secret = draw_secret(KINDS[0], random.Random(0))
    graph.metadata_props.add(key="note", value=text)
    onnx.save(graph, out / "model.onnx")
    words = read_words(out / "model.onnx")
    assert graph.graph.initializer[0].name.encode() in words
    assert (
        len(words)
        < (out / "model.onnx").stat().st_size - sum(len(each.raw_data) for each in graph.graph.initializer) + 10_000
    )
    record = json.loads((out / "export.json").read_text())
    record["files"]["model.onnx"] = hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest()
    (out / "export.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"model\.onnx: holds what looks like .*in its header.*HF831") as refused:
        plan_push(out, "ada/exported", options=PRIVATE)
    assert secret not in str(refused.value)
    (out / "model.onnx").write_bytes(b"\x3a\xff\xff\xff\xff\x0f")
    record["files"]["model.onnx"] = hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest()
    (out / "export.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"is not an ONNX file.*HF501"):
        plan_push(out, "ada/exported", options=PRIVATE)


def test_a_run_pushed_over_an_export_takes_its_place_and_leaves_what_others_put_there(
    hub, models, tmp_path, monkeypatch
):
    out, _ = make(models, tmp_path, "onnx", monkeypatch)
    run = model_folder(tmp_path / "run")
    push_folder(out, "ada/model", options=PRIVATE)
    hub.put("ada/model", "other.onnx", b"by hand")
    assert sorted(push_folder(run, "ada/model").removed) == ["export.json", "model.onnx"]
    assert "other.onnx" in hub.files("ada/model")
    hub.put("ada/model", "model.gguf", b"by hand")
    assert push_folder(run, "ada/model").removed == ()
    # A run's own weights go where an export takes their place.
    shutil.rmtree(run)
    assert "model.safetensors" in push_folder(out, "ada/model", options=PRIVATE).removed


def test_an_export_without_its_record_is_not_said_to_have_no_weights(models, tmp_path, monkeypatch):
    out, _ = make(models, tmp_path, "onnx", monkeypatch)
    record = (out / "export.json").read_text()
    (out / "export.json").unlink()
    with pytest.raises(DataError, match=r"export\.json: is missing: model\.onnx beside it is of an export.*HF822"):
        plan_push(out, "ada/exported", options=PRIVATE)
    # Another tool's graph beside a whole model stays behind, as what else is not named does.
    shutil.copy(models / "chat" / "model.safetensors", out)
    names = {each.name for each in plan_push(out, "ada/exported", options=PRIVATE)}
    assert "model.safetensors" in names
    assert "model.onnx" not in names
    # And so does its export.json: ours names a target.
    (out / "export.json").write_text('{"format": "onnx"}')
    assert "export.json" not in {each.name for each in plan_push(out, "ada/exported", options=PRIVATE)}
    (out / "export.json").write_text(record)
    (out / "model.safetensors").unlink()
    assert "model.onnx" in {each.name for each in plan_push(out, "ada/exported", options=PRIVATE)}
