"""From the rows of a split to its figures: in any order, batch and number of processes, and as the report has them."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import transformers
from evaluation.classification.label_runs import NUMBER, TAGS, TOPICS, evaluated, tiny_bert, trainer_of, uneven_rows
from transformers import EvalPrediction

from hf_finetune.errors import NonFiniteError
from hf_finetune.evaluation.classification.metrics import (
    ClassifierOutputs,
    classification_metrics,
    compute_log_loss,
    predict_split,
    score_outputs,
)
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import EVAL_LABEL_METRICS
from hf_finetune.models.decision import Decision

EVERY = (TOPICS, TAGS, NUMBER)
every_kind = pytest.mark.parametrize("labels", EVERY, ids=lambda labels: labels.kind)
HEADLINES = {
    "accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro", "f1_weighted",
    "matthews_correlation", "roc_auc", "pr_auc", "log_loss", "expected_calibration_error",
}  # fmt: skip


def some(labels, rows=60, seed=0):
    random = np.random.default_rng(seed)
    size = len(labels.names)
    logits = random.normal(size=(rows, size)) * 2
    if labels.kind == "single":
        references = random.integers(size, size=rows)
        logits[np.arange(rows), references] += 2
    elif labels.kind == "multi":
        references = random.integers(2, size=(rows, size))
        logits += 2 * references - 1
    else:
        references = logits[:, 0] + random.normal(size=rows)
    return ClassifierOutputs(logits, references)


@every_kind
@pytest.mark.parametrize("kind", [transformers.Trainer, None])
def test_logits_come_in_the_order_of_the_rows_each_as_if_it_were_alone(labels, kind, tmp_path):
    rows = uneven_rows(labels)
    outputs = predict_split(trainer_of(labels, tmp_path, **({"kind": kind} if kind else {})), rows)
    with torch.no_grad():
        model = tiny_bert(labels)
        alone = [model(torch.tensor([row["input_ids"]])).logits[0].double().numpy() for row in rows]
    assert outputs.logits.dtype == np.float64
    np.testing.assert_allclose(outputs.logits, np.stack(alone), atol=1e-5)
    np.testing.assert_array_equal(outputs.references, np.array(rows["labels"][:]))
    assert outputs.references.dtype == (np.float64 if labels.kind == "number" else np.int64)


def test_rows_are_fed_longest_first(tmp_path):
    trainer, widths = trainer_of(TOPICS, tmp_path), []
    trainer.model.register_forward_pre_hook(
        lambda model, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    rows = uneven_rows(TOPICS)
    predict_split(trainer, rows)
    longest_first = sorted(rows["length"], reverse=True)
    assert widths == [longest_first[0], longest_first[3], longest_first[6], longest_first[9]]


def test_a_trainer_that_mixes_rows_up_is_found_out(tmp_path):
    class Shuffling(transformers.Trainer):
        def _get_eval_sampler(self, eval_dataset):
            return torch.utils.data.SequentialSampler(range(len(eval_dataset) - 1))

    with pytest.raises(RuntimeError, match="each row once"):
        predict_split(trainer_of(TOPICS, tmp_path, Shuffling), uneven_rows(TOPICS))


def test_logits_that_are_no_numbers_stop_the_run_with_the_number_of_rows(tmp_path):
    trainer, rows = trainer_of(TOPICS, tmp_path), uneven_rows(TOPICS)
    with torch.no_grad():
        trainer.model.classifier.bias[1] = math.nan
    with pytest.raises(NonFiniteError, match="11 of 11 rows is no number"):
        predict_split(trainer, rows)
    assert all(math.isnan(value) for name, value in trainer.evaluate(rows).items() if name[5:] in EVAL_LABEL_METRICS)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, preloaded):
    folder = tmp_path_factory.mktemp("two")
    tests = Path(__file__).parent.parent.parent
    path = os.pathsep.join([str(tests), str(tests / "evaluation"), str(tests.parent)])
    command = ["accelerate", "launch"]
    command += [
        "--config_file",
        "accelerate_configs/cpu_2proc.yaml",
        "tests/evaluation/classification/label_runs.py",
        str(folder),
    ]
    done = subprocess.run(
        command,
        cwd=tests.parent,
        env={**preloaded, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "seen.json").read_text())


def same(one, other):
    """Equal but for rounding, however deep."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == (other if isinstance(other, str) else pytest.approx(other, rel=1e-4, abs=1e-5, nan_ok=True))


@every_kind
def test_two_processes_count_each_row_once_where_rows_do_not_fill_their_batches(labels, two_processes, tmp_path):
    seen, expected = two_processes[labels.kind], evaluated(tmp_path, labels)
    assert (seen["processes"], expected["processes"]) == (2, 1)
    assert same(seen["logits"], expected["logits"])
    assert seen["references"] == expected["references"]
    assert same(seen["report"], json.loads(json.dumps(expected["report"])))
    timing = ("_runtime", "_per_second", "_time")
    figures = {name: value for name, value in expected["while_training"].items() if not name.endswith(timing)}
    assert len(figures) > 4
    assert same({name: seen["while_training"][name] for name in figures}, figures)


def test_figures_while_training_are_those_of_scikit_learn():
    outputs = some(TOPICS)
    found = classification_metrics(TOPICS)(EvalPrediction((outputs.logits, np.zeros(3)), outputs.references))
    probabilities, chosen = torch.tensor(outputs.logits).softmax(-1).numpy(), outputs.logits.argmax(axis=1)
    given = outputs.references
    assert found == pytest.approx(
        {
            "loss": sk.log_loss(given, probabilities),
            "accuracy": sk.accuracy_score(given, chosen),
            "balanced_accuracy": sk.balanced_accuracy_score(given, chosen),
            "f1_macro": sk.f1_score(given, chosen, average="macro"),
            "f1_micro": sk.f1_score(given, chosen, average="micro"),
            "f1_weighted": sk.f1_score(given, chosen, average="weighted"),
            "matthews_correlation": sk.matthews_corrcoef(given, chosen),
            "roc_auc": sk.roc_auc_score(given, probabilities, multi_class="ovr"),
        }
    )


def test_figures_of_numbers_while_training_are_those_of_scikit_learn():
    outputs = some(NUMBER)
    found = classification_metrics(NUMBER)(EvalPrediction(outputs.logits, outputs.references))
    predicted, given = outputs.logits[:, 0], outputs.references
    expected = {"loss": sk.mean_squared_error(given, predicted), "mae": sk.mean_absolute_error(given, predicted)}
    expected |= {"r2": sk.r2_score(given, predicted), "pearson": np.corrcoef(given, predicted)[0, 1]}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("labels", [TOPICS, TAGS], ids=lambda labels: labels.kind)
def test_the_loss_is_that_of_torch_and_survives_large_logits(labels):
    outputs = some(labels)
    for scale in (1, 1000):
        logits, references = torch.tensor(outputs.logits * scale), torch.tensor(outputs.references)
        if labels.kind == "single":
            expected = torch.nn.functional.cross_entropy(logits, references)
        else:
            expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, references.double())
        assert compute_log_loss(logits.numpy(), references.numpy()) == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("labels", [TOPICS, TAGS], ids=lambda labels: labels.kind)
def test_the_report_has_every_figure_with_its_interval_and_those_of_each_label(labels):
    outputs = some(labels)
    decision = Decision(labels.names, labels.kind, temperature=2.0)
    scores = score_outputs(outputs, labels, decision)
    flat = {name for name, value in scores.items() if isinstance(value, float)}
    before = {"log_loss_before_scaling", "expected_calibration_error_before_scaling"}
    assert flat == HEADLINES | before | {"loss"}
    assert scores["intervals"].keys() == HEADLINES - {"expected_calibration_error"}
    assert scores["no_interval"].keys() == {"expected_calibration_error"}
    assert all(low <= scores[name] <= high for name, (low, high) in scores["intervals"].items())
    assert scores["loss"] == pytest.approx(scores["log_loss_before_scaling"], rel=1e-9)
    assert scores["log_loss"] == pytest.approx(compute_log_loss(outputs.logits / 2, outputs.references), rel=1e-9)
    assert scores["per_class"].keys() == set(labels.names)
    assert {tuple(each) for each in scores["per_class"].values()} == {
        ("precision", "recall", "f1", "support", "roc_auc", "pr_auc")
    }
    assert np.mean([each["f1"] for each in scores["per_class"].values()]) == pytest.approx(scores["f1_macro"])
    assert scores["confusion_matrix"]["labels"] == list(labels.names)
    answers = 60 * (3 if labels.kind == "multi" else 1)
    assert np.sum(scores["confusion_matrix"]["counts"]) == answers
    assert sum(each["rows"] for each in scores["reliability"]) == answers
    gap = sum(abs(each["confidence"] - each["accuracy"]) * each["rows"] for each in scores["reliability"]) / answers
    assert gap == pytest.approx(scores["expected_calibration_error"])
    json.dumps(scores, allow_nan=False)


def test_thresholds_change_what_is_chosen_and_not_the_probabilities():
    outputs = some(TOPICS)
    plain = score_outputs(outputs, TOPICS, None)
    moved = score_outputs(outputs, TOPICS, Decision(TOPICS.names, "single", thresholds=(0.8, 0.1, 0.1)))
    assert moved["accuracy"] < plain["accuracy"]
    for name in ("loss", "log_loss", "roc_auc", "pr_auc", "expected_calibration_error", "reliability"):
        assert moved[name] == plain[name]


def test_numbers_have_figures_with_intervals():
    scores = score_outputs(some(NUMBER), NUMBER, None)
    assert scores.keys() == {"loss", "mae", "r2", "pearson", "intervals"}
    assert all(low <= scores[name] <= high for name, (low, high) in scores["intervals"].items())


def test_a_split_without_a_label_has_no_area_for_it_and_the_rest_is_there():
    names = Labels(("a", "b", "c"), "single", ("a", "b", "c"))
    outputs = some(names)
    kept = outputs.references < 2
    scores = score_outputs(ClassifierOutputs(outputs.logits[kept], outputs.references[kept]), names, None)
    assert math.isnan(scores["per_class"]["c"]["roc_auc"])
    assert scores["per_class"]["c"]["support"] == 0
    assert 0.5 < scores["roc_auc"] < 1


def test_a_split_of_one_row_has_figures():
    scores = score_outputs(
        ClassifierOutputs(np.array([[2.0, 0.0]]), np.array([0])), Labels(("a", "b"), "single", ("a", "b")), None
    )
    assert (scores["accuracy"], scores["intervals"]["accuracy"]) == (1.0, [pytest.approx(0.2065, abs=1e-4), 1.0])
    assert math.isnan(scores["roc_auc"])
