"""The classification recipe, run: what a run leaves, in which ways it can be run, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from tuned_classifiers import saved_backbone
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.errors import FinetuneError
from hf_finetune.models.decision import read_decision

QUICK = ("train.max_steps=4", "train.eval_strategy=no", "train.save_strategy=no", "train.load_best_model_at_end=false")
QUICK += ("train.metric_for_best_model=null", "train.bf16=false")
PLAIN = ("model.scratch=null", "model.tokenizer=null")


def rows_of(path: Path, count: int, labels: tuple, start: int = 0) -> Path:
    """Texts that begin with their label's own letter."""
    rows = []
    for number in range(start, start + count):
        kind = number % len(labels)
        rows.append(
            {"text": "abc"[kind] * (1 + number % 3) + f" {number:02d} x" * (1 + number % 5), "label": labels[kind]}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def spam(tmp_path: Path) -> tuple[str, ...]:
    """Settings of 24 training rows, 7 for validation and 6 for the test, in files of their own."""
    rows_of(tmp_path / "train.jsonl", 24, ("ham", "spam"))
    rows_of(tmp_path / "validation.jsonl", 7, ("ham", "spam"), start=30)
    rows_of(tmp_path / "test.jsonl", 6, ("ham", "spam"), start=60)
    files = [f"data.{name}={tmp_path}/{name}.jsonl" for name in ("train", "validation", "test")]
    return (*files, "data.validation_fraction=null", "data.test_fraction=null", "data.stratify_by=null")


NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}


def folder_of(tmp_path: Path, architecture: str) -> str:
    fields = NO_DROPOUT.get(architecture, {})
    return f"model.path={saved_backbone(tmp_path / architecture, architecture, **fields)}"


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "gpt2", "llama", "scratch_gpt"])
def test_a_head_on_any_model_leaves_a_classifier_with_its_labels_and_scores(run_recipe, tmp_path, spam, architecture):
    report = run_recipe("classification", *QUICK, *PLAIN, *spam, folder_of(tmp_path, architecture))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["id2label"] == {"0": "ham", "1": "spam"}
    assert config["problem_type"] == "single_label_classification"
    assert config["pad_token_id"] == 0
    test = report["evaluation"]["test"]
    assert test["confusion_matrix"]["labels"] == ["ham", "spam"]
    assert sum(map(sum, test["confusion_matrix"]["counts"])) == report["data"]["test"]["rows"] == 6
    assert set(test["baselines"]) == {"majority", "tfidf_logistic_regression"}
    low, high = test["intervals"]["accuracy"]
    assert low <= test["accuracy"] <= high
    assert report["data"]["train"]["labels"] == {"ham": 12, "spam": 12}


def test_the_scores_of_the_report_are_those_of_the_saved_folder(run_recipe, tmp_path, spam):
    report = run_recipe("classification", *QUICK, *spam, "train.learning_rate=0.01")
    folder = tmp_path / "run"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    right, losses = 0, []
    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    for row in rows:
        with torch.no_grad():
            likely = model(torch.tensor([tokenizer(row["text"])["input_ids"]])).logits[0].softmax(-1)
        right += model.config.id2label[int(likely.argmax())] == row["label"]
        losses.append(-likely[model.config.label2id[row["label"]]].log())
    found = report["evaluation"]["validation"]
    assert found["accuracy"] == right / len(rows)
    assert found["log_loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert found["log_loss"] <= found["log_loss_before_scaling"] + 1e-9


def test_several_labels_and_numbers_are_learnt_where_the_rows_have_them(run_recipe, tmp_path):
    report = run_recipe("multilabel", *QUICK)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["problem_type"] == "multi_label_classification"
    assert len(read_decision(tmp_path / "run").thresholds) == len(report["data"]["train"]["labels"]) == 8
    rows_of(tmp_path / "numbers.jsonl", 20, (1, 2.5))
    settings = (f"data.train={tmp_path}/numbers.jsonl", "data.task=regression", "data.stratify_by=null")
    report = run_recipe("classification", *QUICK, *settings, f"output_dir={tmp_path}/numbers")
    assert {"loss", "mae", "r2", "pearson"} <= set(report["evaluation"]["validation"])
    assert json.loads((tmp_path / "numbers" / "config.json").read_text())["problem_type"] == "regression"
    assert read_decision(tmp_path / "numbers") is None


def command(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("architecture", ["distilbert", "scratch_gpt"])
def test_the_head_is_in_the_adapter_and_survives_the_merge(run_recipe, tmp_path, spam, architecture):
    base = folder_of(tmp_path, architecture)
    report = run_recipe("classification_lora", *QUICK, *spam, base, "eval.threshold_metric=f1_macro")
    held = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert any("score" in name or "classifier" in name for name in held)
    assert report["parameters"]["trainable"] == sum(weight.numel() for weight in held.values())
    merged = tmp_path / "merged"
    facts = command("merge", str(tmp_path / "run"), str(merged), "--json")
    assert json.loads(facts)["max_logit_difference"] < 1e-4
    predicted = {}
    for folder in (tmp_path / "run", merged):
        rows = command("predict", str(folder), str(tmp_path / "test.jsonl"), "--prefix", "p_")
        predicted[folder.name] = [json.loads(line) for line in rows.splitlines()]
    assert [row["p_label"] for row in predicted["run"]] == [row["p_label"] for row in predicted["merged"]]
    scores = [[row["p_scores"]["spam"] for row in rows] for rows in predicted.values()]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    classify = pipeline("text-classification", str(merged))
    texts = [json.loads(line)["text"] for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert [found["label"] for found in classify(texts)] == [row["p_label"] for row in predicted["run"]]


def test_only_what_was_asked_for_is_trained(run_recipe, tmp_path, spam):
    base = folder_of(tmp_path, "roberta")
    before = load_file(tmp_path / "roberta" / "model.safetensors")
    run_recipe("classification", *QUICK, *PLAIN, *spam, base, "model.train_only={last_blocks: 1}")
    after = load_file(tmp_path / "run" / "model.safetensors")
    changed = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert changed
    assert all(".layer.2." in name for name in changed)


def test_two_processes_give_the_losses_and_scores_of_one(run_recipe, tmp_path, spam, project_root, preloaded):
    """Seven rows for validation and 21 for training, so that the processes get some of them twice."""
    odd = rows_of(tmp_path / "odd.jsonl", 21, ("ham", "spam"))
    settings = (
        *QUICK,
        *PLAIN,
        f"data.train={odd}",
        *(each for each in spam if not each.startswith("data.train=")),
        folder_of(tmp_path, "gpt2"),
        "train.logging_steps=1",
        "train.learning_rate=0.001",
    )
    settings += ("train.optim=sgd", "train.per_device_eval_batch_size=2", "eval.threshold_metric=accuracy")
    plain = run_recipe("classification", *settings, "train.per_device_train_batch_size=8", f"output_dir={tmp_path}/one")
    command = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
    command += ["recipes/classification.py", "recipes/configs/classification.yaml", *settings, "train.use_cpu=true"]
    command += ["train.per_device_train_batch_size=4", f"output_dir={tmp_path}/two"]
    done = subprocess.run(command, cwd=project_root, env=preloaded, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["distributed"]["processes"] == 2
    assert losses(report) == pytest.approx(losses(plain), rel=1e-5)
    for split in ("validation", "test"):
        one, two = (each["evaluation"][split] for each in (plain, report))
        assert two["confusion_matrix"] == one["confusion_matrix"]
        assert two["intervals"]["accuracy"] == one["intervals"]["accuracy"]
        assert two["log_loss"] == pytest.approx(one["log_loss"], rel=1e-5)


def losses(report: dict) -> list[float]:
    return [entry["loss"] for entry in report["train"]["history"] if "loss" in entry]


def test_textbook_padding_gives_the_scores_of_padding_by_batch(run_recipe, tmp_path, spam):
    base = folder_of(tmp_path, "bert")
    settings = (*QUICK, *PLAIN, *spam, base, "train.optim=sgd")
    reports = [
        run_recipe("classification", *settings, f"data.max_length={width}", f"output_dir={tmp_path}/{width}")
        for width in ("null", "longest_train")
    ]
    for name in ("loss", "log_loss", "accuracy"):
        one, other = (report["evaluation"]["test"][name] for report in reports)
        assert one == pytest.approx(other, rel=1e-4), name


def test_texts_of_mistakes_are_shown_only_where_asked_for(run_recipe, tmp_path, spam, capsys):
    wrong = tmp_path / "validation.jsonl"
    wrong.write_text('{"text": "secretword", "label": "ham"}\n{"text": "secretword", "label": "spam"}\n')
    report = run_recipe("classification", *QUICK, *spam)
    (mistake,) = [each for each in report["samples"] if each["split"] == "validation"]
    assert (Path(mistake["path"]).name, mistake["line"] in (1, 2)) == ("validation.jsonl", True)
    assert "secretword" not in capsys.readouterr().err + (tmp_path / "run" / "report.json").read_text()
    report = run_recipe("classification", *QUICK, *spam, "eval.show_data=true", f"output_dir={tmp_path}/shown")
    assert "secretword" in [each["text"] for each in report["samples"]]
    assert "secretword" in capsys.readouterr().err


def test_a_run_without_a_validation_split_is_scored_on_the_test_split_with_plain_decisions(run_recipe, tmp_path, spam):
    report = run_recipe("classification", *QUICK, *spam, "data.validation=null")
    assert set(report["evaluation"]) == {"test"}
    assert {each["split"] for each in report["samples"]} <= {"test"}
    assert not (tmp_path / "run" / "decision.json").exists()


def test_a_classifier_is_trained_further_on_its_own_labels_and_on_others_only_where_that_is_said(
    run_recipe, tmp_path, spam
):
    run_recipe("classification", *QUICK, *spam, f"output_dir={tmp_path}/first")
    again = (*QUICK, *PLAIN, f"model.path={tmp_path}/first")
    run_recipe("classification", *again, *spam, f"output_dir={tmp_path}/second")
    rows_of(tmp_path / "train.jsonl", 24, ("art", "law", "sport"))
    for name, count in (("validation", 7), ("test", 6)):
        rows_of(tmp_path / f"{name}.jsonl", count, ("art", "law", "sport"), start=40 + count)
    with pytest.raises(FinetuneError, match=r"2 labels \(ham, spam\).*3 labels \(art, law, sport\).*new_head"):
        run_recipe("classification", *again, *spam, f"output_dir={tmp_path}/third")
    report = run_recipe("classification", *again, *spam, "model.new_head=true", f"output_dir={tmp_path}/fourth")
    assert list(report["data"]["train"]["labels"]) == ["art", "law", "sport"]


def test_a_label_that_training_does_not_know_is_named_by_file_and_line(run_recipe, tmp_path, spam):
    with (tmp_path / "test.jsonl").open("a") as rows:
        rows.write('{"text": "late", "label": "Spam"}\n')
    with pytest.raises(FinetuneError, match=r"test\.jsonl:7: .*Spam.*did you mean .?spam"):
        run_recipe("classification", *QUICK, *spam)
    assert not (tmp_path / "run" / "report.json").exists()
