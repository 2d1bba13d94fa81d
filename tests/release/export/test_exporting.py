"""The export itself, to a target that is transformers again: what is asked, compared, kept and refused."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from tuned_adapters import adapter_on, save, saved_base, train
from tuned_classifiers import SPAM, classifier_on, saved_backbone

from hf_finetune.cli import main
from hf_finetune.errors import CannotWriteError, ConfigError, DataError, MachineError, ModelError
from hf_finetune.folders import EXPORT, MANIFEST
from hf_finetune.folders.exported import WRITTEN
from hf_finetune.models.classification_head import fold_decision
from hf_finetune.models.decision import Decision, read_decision, write_decision
from hf_finetune.release.export import checks
from hf_finetune.release.export.checks import check_export
from hf_finetune.release.export.compare import Figures, warn_of_other_answers
from hf_finetune.release.export.exporting import export_model
from hf_finetune.release.export.options import ExportOptions
from hf_finetune.release.export.runtimes import TransformersClassifier, TransformersLanguageModel
from hf_finetune.release.export.source import save_companions
from hf_finetune.release.export.summary import describe_result
from hf_finetune.release.export.targets import TARGETS, Target, Tolerance, Written
from hf_finetune.release.hub.files import find_allowed_files
from hf_finetune.release.merge import merge_adapter

FEW = ExportOptions(rows=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An adapter, its base, and a classifier that decides by thresholds."""
    root = tmp_path_factory.mktemp("models")
    save(train(adapter_on(saved_base(root / "base"))), root / "adapter")
    classifier = classifier_on(saved_backbone(root / "backbone", "bert"))
    decision = Decision(SPAM.names, "single", temperature=1.7, thresholds=(0.7, 0.3), metric="f1_macro")
    write_decision(fold_decision(classifier, decision), save_classifier(classifier, root / "classifier"))
    return root


def save_classifier(model, folder):
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder.parent / "backbone").save_pretrained(folder)
    return folder


@pytest.fixture
def copied(monkeypatch):
    """The target `copy`, which writes what transformers reads; what is done to its weights is put in its place."""

    def open_runtime(folder, options):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if read_decision(folder) is None:
            return TransformersLanguageModel(AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        return TransformersClassifier(model, read_decision(folder))

    def write(source, folder, options):
        copy.change(source.model)
        source.model.save_pretrained(folder)
        save_companions(source, folder)
        return Written(("nothing",), {"bytes": 7})

    copy = SimpleNamespace(
        check=lambda *of: None,
        get_tolerance=lambda options: copy.tolerance,
        tolerance=Tolerance("logits", 1e-4),
        change=lambda model: None,
        open_runtime=open_runtime,
        write=write,
    )
    monkeypatch.setitem(sys.modules, "copy_target", copy)
    monkeypatch.setitem(TARGETS, "copy", Target("copy_target"))
    monkeypatch.setitem(WRITTEN, "copy", ())
    return copy


def add_to_head(amount):
    def change(model):
        with torch.no_grad():
            model.get_output_embeddings().weight[5].add_(amount)

    return change


def test_an_adapter_is_exported_as_the_model_that_merging_makes(folders, copied, tmp_path):
    # Into folders that are not there yet, as merging does.
    result = export_model(str(folders / "adapter"), str(tmp_path / "new" / "out"), "copy", FEW)
    merge_adapter(str(folders / "adapter"), str(tmp_path / "merged"))
    exported, merged = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("new/out", "merged"))
    pairs = zip(exported.state_dict().values(), merged.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert exported.generation_config.eos_token_id == merged.generation_config.eos_token_id
    assert (result.figures.rows, result.figures.equal_answers) == (3, 3)
    assert 0 <= result.figures.max_logit_difference < 1e-5
    assert result.figures.loss_before == pytest.approx(result.figures.loss_after, rel=1e-6)


def test_what_was_exported_and_how_far_it_is_stands_beside_it(folders, copied, tmp_path):
    write = copied.write

    def write_folder(source, folder, options):
        (folder / "additional_chat_templates").mkdir()  # as of a tokenizer with several
        return write(source, folder, options)

    copied.write = write_folder
    export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", FEW)
    written = (tmp_path / "out" / "export.json").read_text()
    record = json.loads(written)
    assert str(tmp_path) not in written
    assert str(folders) not in written
    assert record["format"] == 1
    assert (record["target"], record["kind"]) == ("copy", "language-model")
    assert {"hf-finetune", "torch", "transformers"} <= record["versions"].keys()
    assert "adapter_model.safetensors" in record["source"]["adapter"]["sha256"]
    assert "model.safetensors" in record["source"]["base"]["sha256"]
    assert record["figures"]["rows"] == 3
    assert record["figures"]["bytes"] == 7
    assert record["left_out"] == ["nothing"]
    assert record["tolerance"] == {"measure": "logits", "most": 1e-4}


def test_a_classifier_is_compared_by_its_decisions_on_rows_that_are_named(folders, copied, tmp_path):
    data = tmp_path / "rows.jsonl"
    texts = ["win a prize now", "see you at lunch", "ok", "Win, win"]
    labels = ["spam", "ham", "ham", "spam"]
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = export_model(str(folders / "classifier"), str(tmp_path / "out"), "copy", ExportOptions(data=str(data)))
    model = AutoModelForSequenceClassification.from_pretrained(folders / "classifier").eval()
    tokenizer, decision = AutoTokenizer.from_pretrained(folders / "classifier"), read_decision(folders / "classifier")
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts]).numpy()
    chosen = decision.choose(decision.compute_saved_probabilities(logits))
    right = sum(decision.labels[place] == label for place, label in zip(chosen, labels, strict=True)) / 4
    assert result.kind == "classifier"
    assert (result.figures.rows, result.figures.equal_answers) == (4, 4)
    assert (result.figures.accuracy_before, result.figures.accuracy_after) == (right, right)
    assert read_decision(tmp_path / "out") == decision


def test_random_tokens_have_no_accuracy(folders, copied, tmp_path):
    figures = export_model(str(folders / "classifier"), str(tmp_path / "out"), "copy", FEW).figures.as_dict()
    assert "accuracy_before" not in figures
    assert figures["equal_answers"] == 3


def test_an_export_that_differs_is_refused_with_its_figures_and_leaves_nothing(folders, copied, tmp_path):
    copied.change = add_to_head(0.01)
    said = r"out: the export differs: largest logit difference \S+ on \d+ places of 3 rows, mean loss .* 0\.0001 of the"
    with pytest.raises(ModelError, match=said):
        export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", FEW)
    assert [*tmp_path.iterdir()] == []
    copied.tolerance = Tolerance("loss", 1e-9)
    with pytest.raises(ModelError, match="of the mean loss was allowed; nothing was kept; so few tokens say"):
        export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", FEW)
    export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", replace(FEW, tolerance=1.0))


def test_answers_that_differ_though_the_logits_do_not_are_refused(folders, copied, tmp_path, monkeypatch):
    whole = copied.open_runtime

    def forgetful(folder, options):
        runtime = whole(folder, options)
        right = runtime.continue_greedily  # as a cache that is put together wrongly would have it
        runtime.continue_greedily = lambda ids, tokens: [(token + 1) % 61 for token in right(ids, tokens)]
        return runtime

    copied.open_runtime = forgetful
    with pytest.raises(ModelError, match="answers otherwise, though its logits are the same"):
        export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", FEW)
    assert [*tmp_path.iterdir()] == []


def test_an_export_takes_the_place_of_an_export_alone(folders, copied, tmp_path):
    out = str(tmp_path / "out")
    export_model(str(folders / "classifier"), out, "copy", FEW)
    with pytest.raises(ConfigError, match="is there already"):
        export_model(str(folders / "classifier"), out, "copy", FEW)
    export_model(str(folders / "classifier"), out, "copy", replace(FEW, overwrite=True))
    with pytest.raises(ConfigError, match="would take the place of what it is made of"):
        export_model(out, out, "copy", replace(FEW, overwrite=True))
    check_export(out, str(tmp_path / "again"), "onnx", FEW)  # transformers reads its weights
    record = json.loads((tmp_path / "out" / EXPORT).read_text())
    (tmp_path / "out" / EXPORT).write_text(json.dumps(record | {"target": "vllm"}))
    with pytest.raises(ConfigError, match="out: is an export already"):  # in fewer bits
        check_export(out, str(tmp_path / "again"), "onnx", FEW)
    (tmp_path / "out" / EXPORT).write_text(json.dumps(record | {"target": "onnx", "files": {}}))
    (tmp_path / "out" / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="out: is an export already; name the run or model that it was made of"):
        check_export(out, str(tmp_path / "again"), "onnx", FEW)


def test_the_command_prints_a_table_or_json(folders, copied, tmp_path, monkeypatch, capsys):
    shown = []
    for name, more in (("one", []), ("two", ["--json"])):
        words = ["export", str(folders / "classifier"), str(tmp_path / name), "--to", "copy", "--rows", "2", *more]
        monkeypatch.setattr(sys, "argv", ["hf-finetune", *words])
        monkeypatch.setattr(logging.root, "handlers", [])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        shown.append(capsys.readouterr().out)
    table = dict(line.strip().split("  ", 1) for line in shown[0].splitlines())
    assert (table["target"], table["compared on"], table["answers"]) == ("copy", "2 rows", "2 of 2 equal")
    assert (table["size"], table["left out"]) == ("7 bytes", "nothing")
    assert re.fullmatch(r"\d\.\d{4} before, \d\.\d{4} after \(0\.\d{3} % apart\)", table["mean loss"])
    result = json.loads(shown[1])
    assert result["output"] == str(tmp_path / "two")
    assert result["figures"]["equal_answers"] == 2
    assert json.loads((tmp_path / "two" / "export.json").read_text())["figures"] == result["figures"]


def test_every_figure_of_a_target_is_said_and_bytes_have_a_unit(folders, copied, tmp_path):
    result = export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", FEW)
    own = {"bytes": 3_000_000, "bytes_in_float32": 12_345_678, "times_smaller": 4.1, "times_as_fast": 1.5}
    own |= {"architecture": "LlamaForCausalLM", "stored": {"F16": 23, "F32": 7}, "quant": "f16", "new_figure": 5}
    result = replace(result, own_figures=own, options={"int8": True, "opset": 18})
    said = [": ".join(pair) for pair in describe_result(result)]
    assert {
        "target: copy, int8, opset 18",
        "architecture: LlamaForCausalLM",
        "size: 3.0 MB in f16",
        "weights: 23 in F16, 7 in F32",
        "in 8 bits: 4.1 times smaller, 1.50 times as fast on this machine as the 12.3 MB of float32",
        "new figure: 5",
    } <= {*said}
    assert any(re.fullmatch(r"compared on: 3 rows, \d+ tokens", line) for line in said)
    assert not any("{" in line for line in said)
    assert max(len(line.partition(":")[0]) for line in said) <= 12


def test_rows_that_are_named_are_scored_and_not_trained(folders, copied, tmp_path, caplog):
    rows = tmp_path / "rows.jsonl"
    chat = {"messages": [{"role": "user", "content": "the"}, {"role": "assistant", "content": "cat"}]}
    rows.write_text(json.dumps(chat) + "\n", encoding="utf-8")
    with caplog.at_level("INFO"):
        export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", replace(FEW, data=str(rows)))
    (counted,) = [line for line in caplog.messages if "the longest" in line]
    assert re.match(r"test: 1 conversation, \d+ tokens, \d+ of them scored", counted)
    assert "of them trained" not in caplog.text


@pytest.mark.parametrize("command", ["export", "merge"])
def test_rows_at_fault_are_refused_before_torch_is_imported(command, folders, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n{"text": 5}\n', encoding="utf-8")
    (tmp_path / "labels.jsonl").write_text('{"text": "a", "label": "x"}\n', encoding="utf-8")
    more = ["--to", "llama"] if command == "export" else []
    for name, said in (("rows.jsonl", "rows.jsonl:2: text"), ("none.jsonl", "--data: no such file")):
        words = [command, str(folders / "adapter"), str(tmp_path / "out"), *more, "--data", str(tmp_path / name)]
        program = f"import sys; sys.argv[1:] = {words!r}; from hf_finetune.cli import main\n"
        program += "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules, 'imported'"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert said in done.stderr


def test_an_export_has_its_card_when_it_gets_its_name(folders, copied, tmp_path, monkeypatch):
    named = []
    replace_folder = os.replace

    def note(old, new):
        if Path(new).name == "out":
            named.append((Path(old) / "README.md").read_text(encoding="utf-8"))
        replace_folder(old, new)

    monkeypatch.setattr(os, "replace", note)
    export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", FEW)
    assert len(named) == 1
    assert "# out" in named[0]
    assert ".aside" not in named[0]
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == named[0]


def test_an_export_may_lie_in_its_run_but_not_under_the_name_of_a_checkpoint(folders, copied, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folders / "base", run)
    (run / MANIFEST).write_text('{"run_id": "1"}', encoding="utf-8")
    for inside in ("onnx", "checkpoint-x"):
        check_export(str(run), str(run / inside), "copy", FEW)
    with pytest.raises(ConfigError, match="the run around it would take the export for a checkpoint of its own"):
        check_export(str(run), str(run / "checkpoint-5"), "copy", FEW)
    export_model(str(run), str(run / "onnx"), "copy", FEW)
    assert not any(name.startswith("onnx") for name in find_allowed_files(run))  # what is pushed


def test_a_file_of_the_run_that_the_card_cannot_be_written_of_is_said_at_once(folders, copied, tmp_path):
    run = shutil.copytree(folders / "base", tmp_path / "run")
    (run / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json: is torn, or no JSON"):
        check_export(str(run), str(tmp_path / "out"), "copy", FEW)


def test_what_only_an_adapter_has_is_refused_of_a_whole_model(folders, copied, tmp_path, monkeypatch):
    monkeypatch.setitem(TARGETS, "copy", Target("copy_target", options=("adapter_only",)))
    base, out = str(folders / "base"), str(tmp_path / "out")
    with pytest.raises(ConfigError, match="--base: this is a whole model, which takes no base"):
        check_export(base, out, "copy", replace(FEW, base=base))
    with pytest.raises(ConfigError, match="--adapter-only: this is a whole model, and no adapter"):
        check_export(base, out, "copy", replace(FEW, adapter_only=True))
    check_export(str(folders / "adapter"), out, "copy", replace(FEW, base=base, adapter_only=True))


def test_a_folder_that_cannot_be_written_is_one_message(folders, copied, tmp_path):
    with pytest.raises(CannotWriteError, match="cannot be written"):
        export_model(str(folders / "classifier"), "/proc/none/out", "copy", FEW)  # where nobody makes a folder


def test_what_cannot_be_is_refused_before_a_model_is_loaded(folders, tmp_path, monkeypatch):
    run, out = str(folders / "adapter"), str(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--to: there is no target 'onx'; did you mean onnx\?"):
        check_export(run, out, "onx", FEW)
    monkeypatch.setitem(TARGETS, "copy", Target("copy_target"))
    with pytest.raises(ConfigError, match="--opset: --to copy does not take it; leave it out: it is for --to onnx"):
        check_export(run, out, "copy", replace(FEW, opset=18))
    for opset in (9, 99):
        said = rf"--opset: torch writes no operators of version {opset}; name one from 18 to 23, or leave it out"
        with pytest.raises(ConfigError, match=said):
            check_export(run, out, "onnx", replace(FEW, opset=opset))
    for to, quant, remedy in (
        ("vllm", "fp4", "it may be fp8, int8, int4"),
        ("vllm", "q4_k_m", "it may be fp8, int8, int4"),
        ("gguf", "q4_k_m", "export f16, and then: llama-quantize model.gguf OUTPUT Q4_K_M"),
    ):
        with pytest.raises(ConfigError, match=f"--quant: no such quantization is written here: '{quant}'; {remedy}"):
            check_export(run, out, to, replace(FEW, quant=quant))
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r'the package onnx is not installed, which --to onnx needs; .*"\.\[onnx\]"'):
        check_export(run, out, "onnx", FEW)


@pytest.mark.parametrize(
    "words",
    [
        ["--to", "onnx", "--opset", "99"],
        ["--to", "gguf", "--quant", "q9"],
        ["--to", "vllm", "--quant", "q8_0"],
        ["--to", "llama", "--int8"],
        ["--to", "onnx", "--adapter-only"],
    ],
)
def test_an_option_that_is_none_is_refused_before_torch_is_imported(folders, tmp_path, words):
    program = "import sys; from hf_finetune.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", program, "export", str(folders / "base"), str(tmp_path / "out"), *words]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.strip()) == (2, "False"), ended.stderr
    assert f"{words[2]}: " in ended.stderr


def test_the_base_may_have_moved(folders, copied, tmp_path):
    logging.getLogger("hf_finetune").setLevel(logging.INFO)
    (folders / "base").rename(folders / "moved")
    try:
        with pytest.raises(ConfigError, match="which is not there; say where it is now with --base"):
            check_export(str(folders / "adapter"), str(tmp_path / "out"), "copy", FEW)
        options = replace(FEW, base=str(folders / "moved"))
        check_export(str(folders / "adapter"), str(tmp_path / "out"), "copy", options)
        assert export_model(str(folders / "adapter"), str(tmp_path / "out"), "copy", options).figures.equal_answers == 3
    finally:
        (folders / "moved").rename(folders / "base")


def test_an_export_that_answers_most_rows_otherwise_is_kept_with_a_warning(caplog):
    figures = Figures(rows=5, compared=40, max_logit_difference=1.0, logit_scale=9.0, loss_before=2.0, loss_after=2.0,
                      relative_loss_difference=0.001, equal_answers=1, ties=1, accuracy_before=None,
                      accuracy_after=None)  # fmt: skip
    warn_of_other_answers(figures, "exported")
    assert "exported answers 1 of 5 rows as the run does" in caplog.text
    caplog.clear()
    for equal in (2, None):
        warn_of_other_answers(replace(figures, equal_answers=equal), "exported")
    assert caplog.text == ""
