"""The target `onnx`: what onnxruntime computes of the graph, asked by hand, is what was trained."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from models.scratch_models import token_ids
from transformers import AutoModelForSequenceClassification, MambaConfig
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base, train
from tuned_classifiers import TAGS, classifier_on, saved_backbone, train_classifier

from hf_finetune.cli import main
from hf_finetune.errors import ModelError
from hf_finetune.folders import EXPORT
from hf_finetune.models.classification_head import fold_decision
from hf_finetune.models.decision import Decision, read_decision, write_decision
from hf_finetune.models.saved import load_for_generation, load_for_prediction
from hf_finetune.release.export import onnx as target
from hf_finetune.release.export.exporting import export_model
from hf_finetune.release.export.onnx import files, writing
from hf_finetune.release.export.onnx.quantizing import _warn_of_little, quantize
from hf_finetune.release.export.options import ExportOptions

FEW = ExportOptions(rows=3)
TEXTS = ["win a prize now", "see you at lunch", "are you free, then call", "ok"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """An adapter over a ScratchGPT with n-grams, whose cache has one more layer: the model, the run and its export."""
    root = tmp_path_factory.mktemp("generator")
    trained = train(adapter_on(saved_base(root / "base", ngram_order=3, ngram_vocab_size=50)))
    save(trained, root / "run")
    result = export_model(str(root / "run"), str(root / "out"), "onnx", FEW)
    return trained, root / "run", root / "out", result


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier of several labels that decides by thresholds, in 8 bits and in float32."""
    root = tmp_path_factory.mktemp("classifier")
    model = train_classifier(classifier_on(saved_backbone(root / "base", "bert"), TAGS), TAGS)
    decision = Decision(TAGS.names, "multi", temperature=1.7, thresholds=(0.45, 0.5, 0.55), metric="f1_macro")
    folded = fold_decision(model, decision)
    model.save_pretrained(root / "run")
    TOKENIZER.save_pretrained(root / "run")
    write_decision(folded, root / "run")
    export_model(str(root / "run"), str(root / "out"), "onnx", FEW)
    return root / "run", root / "out"


@pytest.fixture
def run_command(capsys, monkeypatch):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["hf-finetune", *map(str, words)])
        monkeypatch.setattr(logging.root, "handlers", [])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert not end.value.code, shown.err
        return shown.out

    return run


def test_the_graph_computes_the_logits_of_the_adapter_with_and_without_what_came_before(generator):
    trained, _, out, result = generator
    session = ort.InferenceSession(out / "model.onnx")
    past = [each for each in session.get_inputs() if each.name.startswith("past_key_values.")]
    assert {"input_ids", "attention_mask", "position_ids"} | {each.name for each in past} == {
        each.name for each in session.get_inputs()
    }
    assert session.get_inputs()[0].shape == ["batch", "sequence"]
    assert past[0].shape == ["batch", 4, "past", 8]
    names = [each.name for each in session.get_outputs()]
    ids = token_ids(3, 12, seed=5)
    with torch.no_grad():
        expected = trained(input_ids=ids).logits.numpy()

    def run(part, total, first, held):
        length = part.shape[1]
        positions = np.tile(np.arange(first, first + length), (len(part), 1))
        mask = np.ones((len(part), total), int)
        inputs = {"input_ids": part.numpy(), "attention_mask": mask, "position_ids": positions}
        return dict(zip(names, session.run(None, inputs | held), strict=True))

    empty = {
        each.name: np.zeros((3, each.shape[1], 0, each.shape[3]), "int64" if "int64" in each.type else "float32")
        for each in past
    }
    whole = run(ids, 12, 0, empty)
    np.testing.assert_allclose(whole["logits"], expected, atol=1e-4)
    begun = run(ids[:, :11], 11, 0, empty)
    held = {each.name: begun[each.name.replace("past_key_values", "present")] for each in past}
    np.testing.assert_allclose(run(ids[:, 11:], 12, 11, held)["logits"], expected[:, 11:], atol=1e-4)
    assert result.figures.max_logit_difference <= 1e-4
    assert result.figures.equal_answers == 3


def test_padding_on_the_left_changes_nothing(generator):
    trained, _, out, _ = generator
    model, _ = load_for_generation(str(out))
    ids, mask = token_ids(2, 9, seed=6), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    with torch.no_grad():
        alone = trained(input_ids=ids[:1, 4:]).logits
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[:1, 4:], alone, atol=1e-4, rtol=0)


def test_the_folder_is_whole(generator):
    _, run, out, _ = generator
    names = {path.name for path in out.iterdir()}
    beside = {"config.json", "generation_config.json", "tokenizer.json", "export.json", "README.md"}
    assert {"model.onnx", *beside} <= names
    assert not any(name.endswith((".safetensors", ".npz", ".data", ".aside", ".py")) for name in names)
    card = (out / "README.md").read_text()
    assert "Its weights are in the form `onnx`, for other runtimes than transformers" in card
    assert "hf-finetune generate out" in card
    assert "from_pretrained" not in card
    written = (out / "export.json").read_text()
    assert str(run.parent) not in written
    # torch notes at each operator which line of which file made it.
    graph = (out / "model.onnx").read_bytes()
    assert not any(word in graph for word in (b"site-packages", b"forward", str(run.parent).encode()))
    assert json.loads(written)["versions"].keys() >= {"onnx", "onnxruntime", "onnxscript"}


@pytest.mark.parametrize("sampling", [["--temperature", 0], ["--temperature", 0.9, "--top-k", 20, "--seed", 3]])
def test_generate_says_the_same_of_run_and_export(generator, run_command, sampling):
    _, run, out, _ = generator
    options = ["one", "another prompt", "--max-new-tokens", 20, "--json", *sampling]
    answers = [json.loads(run_command("generate", folder, *options)) for folder in (run, out)]
    assert answers[0] == answers[1]
    assert sum(len(each["continuation"]) for each in answers[0]) > 0


def test_predict_says_the_same_of_run_and_export(classifier, run_command, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    said = []
    for folder in classifier:
        run_command("predict", folder, rows, "--output", tmp_path / f"{folder.name}.jsonl")
        said.append([json.loads(line) for line in (tmp_path / f"{folder.name}.jsonl").read_text().splitlines()])
    assert [row["label"] for row in said[0]] == [row["label"] for row in said[1]]
    for one, other in zip(*said, strict=True):
        assert list(one["scores"].values()) == pytest.approx(list(other["scores"].values()), abs=1e-4)


def test_a_classifiers_graph_has_temperature_and_thresholds_in_it(classifier):
    run, out = classifier
    session, decision = ort.InferenceSession(out / "model.onnx"), read_decision(run)
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    batch = TOKENIZER(TEXTS, padding=True, return_tensors="np")
    inputs = {each.name: batch[each.name].astype("int64") for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(None, inputs), strict=True))
    with torch.no_grad():
        logits = model(**TOKENIZER(TEXTS, padding=True, return_tensors="pt")).logits.numpy()
    probabilities = decision.compute_saved_probabilities(logits)
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_array_equal(found["decision"], decision.choose(probabilities))
    assert 0 < found["decision"].sum() < found["decision"].size
    assert read_decision(out) == decision


def test_8_bits_are_measured_and_what_they_do_not_give_is_said(classifier, tmp_path, caplog):
    run, out = classifier
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out" / EXPORT).unlink()  # it is about the graph in float32
    figures = quantize(tmp_path / "out")
    assert figures["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert figures["bytes_in_float32"] == (out / "model.onnx").stat().st_size
    assert figures["times_smaller"] == pytest.approx(figures["bytes_in_float32"] / figures["bytes"])
    assert figures["times_as_fast"] > 0
    assert [path.name for path in (tmp_path / "out").glob("*.onnx*")] == ["model.onnx"]
    whole, small = (
        load_for_prediction(str(folder))[0](token_ids(4, 9, seed=3)).logits for folder in (run, tmp_path / "out")
    )
    assert 0 < (whole - small).abs().max() < 0.05
    assert target.get_tolerance(replace(FEW, int8=True)).measure == "loss"
    caplog.clear()
    _warn_of_little(1.5, 0.5)
    _warn_of_little(2.0, 1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "in 8 bits the graph is 1.5 times smaller than in float32, and not 2 times",
        "in 8 bits the graph reads a text at 0.50 times the speed of float32 on this machine: it is slower",
    ]


@pytest.mark.parametrize("int8", [False, True])
def test_weights_of_a_large_graph_are_beside_it(generator, run_command, tmp_path, monkeypatch, int8):
    # 2 GiB in truth, which no test writes.
    monkeypatch.setattr(files, "MOST_INLINE", 10_000)
    _, run, out, _ = generator
    export_model(str(run), str(tmp_path / "out"), "onnx", replace(FEW, int8=int8))
    graph, weights = (tmp_path / "out" / name for name in ("model.onnx", "model.onnx.data"))
    written = json.loads((tmp_path / "out" / "export.json").read_text())
    for file in (graph, weights):
        assert written["files"][file.name] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert written["figures"]["bytes"] == graph.stat().st_size + weights.stat().st_size
    assert weights.stat().st_size > graph.stat().st_size / 2
    places = onnx.load(graph, load_external_data=False).graph.initializer
    assert {entry.value for each in places for entry in each.external_data if entry.key == "location"} == {weights.name}
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    if not int8:
        words = ["one", "--max-new-tokens", 12, "--temperature", 0]
        assert run_command("generate", tmp_path / "out", *words) == run_command("generate", out, *words)


def test_8_bits_print_nothing_of_each_operator(generator, tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    _, run, _, _ = generator
    export_model(str(run), str(tmp_path / "out"), "onnx", replace(FEW, int8=True))
    said = capfd.readouterr()
    assert "pre-processing" not in said.out + said.err + caplog.text
    assert not [record for record in caplog.records if "onnx" in record.name.partition(".")[0]]


def test_what_onnx_cannot_hold_is_refused_before_weights_are_read():
    config = MambaConfig()
    with pytest.raises(ModelError, match="a mamba, whose state is no cache of keys and values, as an ONNX graph has"):
        target.check(config, TOKENIZER, FEW, "runs/mamba")


def test_an_architecture_that_cannot_be_traced_is_one_message(tmp_path, monkeypatch):
    class Reads(torch.nn.Module):
        def forward(self, input_ids):
            return {"logits": input_ids if int(input_ids.sum()) > 3 else -input_ids}

    graph = writing.Graph(Reads(), {"input_ids": token_ids(2, 5)}, {"input_ids": {0: None, 1: None}}, {})
    with pytest.raises(ModelError, match=r"runs/odd: cannot be traced into an ONNX graph \("):
        writing._trace(graph, 18, "runs/odd")
