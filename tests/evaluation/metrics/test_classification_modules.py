"""The metric modules of classifiers and regressions against scikit-learn called directly, and against formulas."""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from evaluate import Metric
from sklearn import metrics as sk

from hf_finetune.evaluation import metrics
from hf_finetune.evaluation.classification.metrics import compute_label_metrics, compute_per_class_metrics
from hf_finetune.evaluation.metrics.accuracy import Accuracy
from hf_finetune.evaluation.metrics.balanced_accuracy import BalancedAccuracy
from hf_finetune.evaluation.metrics.confusion_matrix import ConfusionMatrix
from hf_finetune.evaluation.metrics.expected_calibration_error import ExpectedCalibrationError
from hf_finetune.evaluation.metrics.f1 import F1
from hf_finetune.evaluation.metrics.log_loss import LogLoss
from hf_finetune.evaluation.metrics.matthews_correlation import MatthewsCorrelation
from hf_finetune.evaluation.metrics.mean_absolute_error import MeanAbsoluteError
from hf_finetune.evaluation.metrics.mean_squared_error import MeanSquaredError
from hf_finetune.evaluation.metrics.pearson import Pearson
from hf_finetune.evaluation.metrics.pr_auc import PrAuc
from hf_finetune.evaluation.metrics.precision import Precision
from hf_finetune.evaluation.metrics.r2 import R2
from hf_finetune.evaluation.metrics.recall import Recall
from hf_finetune.evaluation.metrics.roc_auc import RocAuc
from hf_finetune.label_set import Labels

FOLDER = Path(metrics.__file__).parent
OF_LABELS = {
    "accuracy": Accuracy,
    "balanced_accuracy": BalancedAccuracy,
    "confusion_matrix": ConfusionMatrix,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "precision": Precision,
    "recall": Recall,
}
OF_SCORES = {
    "expected_calibration_error": ExpectedCalibrationError,
    "log_loss": LogLoss,
    "pr_auc": PrAuc,
    "roc_auc": RocAuc,
}
OF_NUMBERS = {
    "mean_absolute_error": MeanAbsoluteError,
    "mean_squared_error": MeanSquaredError,
    "pearson": Pearson,
    "r2": R2,
}
ALL = OF_LABELS | OF_SCORES | OF_NUMBERS


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """Metrics by kind and config, each made once: that takes longer than most of them compute."""
    made: dict[tuple[type, str | None], Metric] = {}
    folder = str(tmp_path_factory.mktemp("metrics"))

    def get(kind, config=None):
        if (kind, config) not in made:
            made[kind, config] = kind(config, keep_in_memory=True, cache_dir=folder)
        return made[kind, config]

    return get


def single_case(random):
    """Labels that may be missing among rows or predictions, and scores with many ties."""
    rows, labels = int(random.integers(1, 40)), int(random.integers(2, 6))
    references = random.integers(labels, size=rows)
    scores = random.dirichlet(np.ones(labels), size=rows)
    if random.random() < 0.5:
        scores = np.round(scores, 1) + 0.01
        scores /= scores.sum(axis=1, keepdims=True)
    predictions = scores.argmax(axis=1) if random.random() < 0.5 else random.integers(labels, size=rows)
    return references, predictions, scores


def multi_case(random):
    rows, labels = int(random.integers(1, 30)), int(random.integers(2, 5))
    references = (random.random((rows, labels)) < random.random(labels)).astype(int)
    scores = np.round(random.random((rows, labels)), int(random.integers(1, 6)))
    return references, (scores > 0.5).astype(int), scores


def of_scikit_learn(function, *arguments, **settings):
    """Its warnings are of what is undefined, for which it has a value all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **settings)


def assert_averages_agree(metric, config, references, predictions, average, labels):
    settings = {"average": average} | ({"labels": list(range(labels))} if average is None else {})
    theirs = sk.precision_recall_fscore_support(references, predictions, **settings, zero_division=0)
    for kind, expected in zip((Precision, Recall, F1), theirs, strict=False):
        (ours,) = metric(kind, config)._compute(predictions.tolist(), references.tolist(), **settings).values()
        assert ours == pytest.approx(expected, abs=1e-9)


def one_in_turn(number):
    return (None, "macro", "micro", "weighted")[number % 4]


def defined_areas(function, given, scores):
    """Of each label that some rows have and, for the ROC curve, some have not."""
    enough = [column.any() and (function is sk.average_precision_score or not column.all()) for column in given.T]
    return function(given[:, enough], scores[:, enough], average=None) if any(enough) else [math.nan]


def assert_areas_agree(metric, config, references, given, scores):
    for kind, function in ((RocAuc, sk.roc_auc_score), (PrAuc, sk.average_precision_score)):
        (ours,) = metric(kind, config)._compute(scores.tolist(), references.tolist()).values()
        areas = defined_areas(function, given, scores)
        assert ours == pytest.approx(np.mean(areas), abs=1e-9, nan_ok=True)


def calibration_error(confidences, correct):
    """Guo et al. (2017), equation 3, bin by bin."""
    total = 0.0
    for number in range(15):
        inside = [
            (confidence, right)
            for confidence, right in zip(confidences, correct, strict=True)
            if number / 15 < confidence <= (number + 1) / 15 or (number == 0 and confidence == 0)
        ]
        if inside:
            gap = np.mean([right for _, right in inside]) - np.mean([confidence for confidence, _ in inside])
            total += len(inside) / len(confidences) * abs(gap)
    return total


def test_150_cases_with_one_label_a_row_are_what_scikit_learn_says(metric):
    random = np.random.default_rng(0)
    for number in range(150):
        references, predictions, scores = single_case(random)
        labels = scores.shape[1]
        pair = (predictions.tolist(), references.tolist())
        assert metric(Accuracy)._compute(*pair)["accuracy"] == sk.accuracy_score(references, predictions)
        for kind, function in (
            (BalancedAccuracy, sk.balanced_accuracy_score),
            (MatthewsCorrelation, sk.matthews_corrcoef),
        ):
            expected = of_scikit_learn(function, references, predictions)
            assert list(metric(kind)._compute(*pair).values()) == pytest.approx([expected], abs=1e-9)
        assert_averages_agree(metric, None, references, predictions, one_in_turn(number), labels)
        if labels > 2:
            assert_areas_agree(metric, None, references, references[:, None] == np.arange(labels), scores)
        loss = metric(LogLoss)._compute(scores.tolist(), references.tolist())["log_loss"]
        assert loss == pytest.approx(sk.log_loss(references, scores, labels=np.arange(labels)), abs=1e-9)
        matrix = metric(ConfusionMatrix)._compute(*pair, labels=list(range(labels)))["confusion_matrix"]
        assert matrix == sk.confusion_matrix(references, predictions, labels=np.arange(labels)).tolist()
        error = metric(ExpectedCalibrationError)._compute(scores.tolist(), references.tolist())
        expected = calibration_error(scores.max(axis=1), scores.argmax(axis=1) == references)
        assert error["expected_calibration_error"] == pytest.approx(expected, abs=1e-9)


def test_80_cases_with_several_labels_a_row_are_what_scikit_learn_says(metric):
    random = np.random.default_rng(1)
    for number in range(80):
        references, predictions, scores = multi_case(random)
        pair = (predictions.tolist(), references.tolist())
        several = "multilabel"
        assert metric(Accuracy, several)._compute(*pair)["accuracy"] == sk.accuracy_score(references, predictions)
        for kind, function in (
            (BalancedAccuracy, sk.balanced_accuracy_score),
            (MatthewsCorrelation, sk.matthews_corrcoef),
        ):
            each = [of_scikit_learn(function, *columns) for columns in zip(references.T, predictions.T, strict=True)]
            (ours,) = metric(kind, several)._compute(*pair).values()
            assert ours == pytest.approx(np.mean(each), abs=1e-9)
        assert_averages_agree(metric, several, references, predictions, one_in_turn(number), scores.shape[1])
        assert_areas_agree(metric, several, references, references, scores)
        loss = metric(LogLoss, several)._compute(scores.tolist(), references.tolist())["log_loss"]
        columns = zip(references.T, scores.T, strict=True)
        losses = [sk.log_loss(given, score, labels=[0, 1]) for given, score in columns]
        assert loss == pytest.approx(np.mean(losses), abs=1e-9)
        matrix = metric(ConfusionMatrix, several)._compute(*pair)["confusion_matrix"]
        assert matrix == sk.multilabel_confusion_matrix(references, predictions).tolist()
        error = metric(ExpectedCalibrationError, several)._compute(scores.tolist(), references.tolist())
        expected = calibration_error(scores.ravel(), references.ravel())
        assert error["expected_calibration_error"] == pytest.approx(expected, abs=1e-9)


def test_of_two_labels_the_areas_are_those_of_the_second(metric):
    random = np.random.default_rng(2)
    for _ in range(50):
        references = np.append(random.integers(2, size=20), [0, 1])
        scores = random.dirichlet([1, 1], size=22)
        given = {"prediction_scores": scores, "references": references}
        roc_auc, pr_auc = (metric(kind).compute(**given) for kind in (RocAuc, PrAuc))
        assert roc_auc["roc_auc"] == pytest.approx(sk.roc_auc_score(references, scores[:, 1]), abs=1e-9)
        expected = sk.average_precision_score(references, scores[:, 1])
        assert pr_auc["pr_auc"] == pytest.approx(expected, abs=1e-9)
        each = metric(PrAuc).compute(**given, average=None)["pr_auc"]
        first = sk.average_precision_score(1 - references, scores[:, 0])
        assert each == pytest.approx([first, expected], abs=1e-9)


def test_numbers_are_what_scikit_learn_says(metric):
    random = np.random.default_rng(3)
    for _ in range(200):
        references = random.normal(5, 2, size=int(random.integers(2, 50)))
        predictions = references + random.normal(size=len(references))
        pair = (predictions.tolist(), references.tolist())
        expected = {
            "mean_absolute_error": sk.mean_absolute_error(references, predictions),
            "mean_squared_error": sk.mean_squared_error(references, predictions),
            "r2": sk.r2_score(references, predictions),
            "pearson": np.cov(references, predictions)[0, 1] / references.std(ddof=1) / predictions.std(ddof=1),
        }
        ours = {name: metric(kind)._compute(*pair)[name] for name, kind in OF_NUMBERS.items()}
        assert ours == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("config", [None, "multilabel"])
def test_compute_gives_what_a_copy_through_arrow_and_batches_give(metric, config):
    random = np.random.default_rng(4)
    references, predictions, scores = (single_case if config is None else multi_case)(random)
    for kinds, given in (
        (OF_LABELS, {"predictions": predictions, "references": references}),
        (OF_SCORES, {"prediction_scores": scores, "references": references}),
    ):
        for name, kind in kinds.items():
            direct = metric(kind, config)._compute(**given)[name]
            assert np.allclose(metric(kind, config).compute(**given)[name], direct, rtol=1e-12, equal_nan=True)
            for row in range(len(references)):
                metric(kind, config).add_batch(**{column: values[row : row + 1] for column, values in given.items()})
            assert np.allclose(metric(kind, config).compute()[name], direct, rtol=1e-12, equal_nan=True)


def test_what_is_undefined_is_nan_and_neither_an_error_nor_a_warning(metric):
    one_class = {"prediction_scores": [[0.2, 0.8], [0.3, 0.7]], "references": [0, 0]}
    assert math.isnan(metric(RocAuc).compute(**one_class)["roc_auc"])
    assert math.isnan(metric(PrAuc).compute(**one_class)["pr_auc"])
    assert metric(RocAuc).compute(**one_class, average=None)["roc_auc"] == pytest.approx([math.nan] * 2, nan_ok=True)
    constant = {"predictions": [1.0, 2.0], "references": [3.0, 3.0]}
    assert math.isnan(metric(R2).compute(**constant)["r2"])
    assert math.isnan(metric(Pearson).compute(**constant)["pearson"])
    same = {"predictions": [1, 1], "references": [1, 1]}
    assert metric(MatthewsCorrelation).compute(**same)["matthews_correlation"] == 0
    assert metric(BalancedAccuracy).compute(predictions=[0, 1], references=[1, 1])["balanced_accuracy"] == 0.5


# As somebody else would call them, in a process that may not open a socket and does not have our package.
LOAD = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import evaluate
names = {}
for path in sys.argv[1:]:
    metric = evaluate.load(path)
    given = {name: [[0.9, 0.1], [0.2, 0.8]] if name == "prediction_scores" else [0, 1] for name in metric.features}
    names.update(metric.compute(**given))
    if "int64" in str(metric.features["references"]):
        several = evaluate.load(path, "multilabel")
        given = {name: [[1, 0], [0, 1]] for name in several.features}
        several.compute(**given)
assert not any(name.startswith("hf_finetune") for name in sys.modules)
print(json.dumps(names))
"""


def test_every_metric_loads_by_its_path_without_network_or_package(tmp_path):
    online = {name: value for name, value in os.environ.items() if not name.endswith("OFFLINE")}
    files = [str(FOLDER / f"{name}.py") for name in ALL]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, *files],
        capture_output=True,
        text=True,
        env={**online, "HF_HOME": str(tmp_path)},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("confusion_matrix") == [[1, 0], [0, 1]]
    others = {"log_loss": -math.log(0.9 * 0.8) / 2, "expected_calibration_error": 0.15}
    others |= {"mean_absolute_error": 0.0, "mean_squared_error": 0.0}
    assert found == pytest.approx(dict.fromkeys(found, 1.0) | others)
    assert found.keys() == ALL.keys() - {"confusion_matrix"}


def test_formulas_import_none_of_their_neighbors_which_evaluate_would_not_copy():
    for path in FOLDER.glob("*_functions.py"):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        assert not [node.module for node in imports if node.level], path


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_report_has_what_the_modules_publish_to_the_last_bit(metric, kind):
    random, config = np.random.default_rng(5), None if kind == "single" else "multilabel"
    for _ in range(50):
        references, predictions, scores = (single_case if kind == "single" else multi_case)(random)
        names = tuple(map(str, range(scores.shape[1])))
        found = compute_label_metrics(Labels(names, kind, names), scores, predictions, references)
        pair = {"predictions": predictions, "references": references}
        beside = {"prediction_scores": scores, "references": references}
        expected = {}
        for each in (Accuracy, BalancedAccuracy, MatthewsCorrelation):
            expected |= metric(each, config)._compute(**pair)
        for each in (Precision, Recall, F1):
            for average in ("macro", "micro", "weighted"):
                ((name, value),) = metric(each, config)._compute(**pair, average=average).items()
                expected[f"{name}_{average}"] = value
        for each in OF_SCORES.values():
            expected |= metric(each, config)._compute(**beside)
        np.testing.assert_array_equal(list(found.values()), [expected[name] for name in found])


def test_what_is_no_average_no_probability_or_no_class_is_an_error_and_not_another_figure(metric):
    pair = {"predictions": [0, 1], "references": [1, 1]}
    with pytest.raises(ValueError, match="'binary' is none of macro"):
        metric(F1).compute(**pair, average="binary")
    logits = {"prediction_scores": [[2.0, -1.0], [0.5, 0.5]], "references": [0, 1]}
    with pytest.raises(ValueError, match="between 0 and 1"):
        metric(LogLoss).compute(**logits)
    with pytest.raises(ValueError, match="2 columns"):
        metric(LogLoss).compute(prediction_scores=[[0.2, 0.8]], references=[-1])
    with pytest.warns(UserWarning, match="add up to 1"):
        metric(LogLoss).compute(prediction_scores=[[0.2, 0.2]], references=[1])


def test_several_labels_that_are_one_are_that_label_and_not_a_pair_of_yes_and_no():
    random = np.random.default_rng(6)
    references, scores = random.integers(2, size=(40, 1)), random.random((40, 1))
    predictions = (scores > 0.5).astype(int)
    labels = Labels(("spam",), "multi", ("spam",))
    expected = sk.f1_score(references.ravel(), predictions.ravel(), average="binary")
    assert compute_label_metrics(labels, scores, predictions, references)["f1_macro"] == pytest.approx(
        expected, abs=1e-12
    )
    assert compute_per_class_metrics(labels, scores, predictions, references)["spam"]["f1"] == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("config", [None, "multilabel"])
@pytest.mark.parametrize("kind", OF_SCORES.values())
def test_without_rows_a_figure_of_scores_is_nan(metric, kind, config):
    assert math.isnan(*metric(kind, config).compute(prediction_scores=[], references=[]).values())


@pytest.mark.parametrize("config", [None, "multilabel"])
@pytest.mark.parametrize("name", OF_LABELS)
def test_without_rows_a_figure_of_labels_is_nan_and_nothing_is_counted(metric, name, config):
    [figure] = metric(OF_LABELS[name], config).compute(predictions=[], references=[]).values()
    assert figure == [] if name == "confusion_matrix" else math.isnan(figure)


def test_without_rows_each_label_that_was_asked_for_has_its_figure(metric):
    nothing = {"predictions": [], "references": [], "labels": [0, 1]}
    assert metric(ConfusionMatrix).compute(**nothing)["confusion_matrix"] == [[0, 0], [0, 0]]
    for name in ("f1", "precision", "recall"):
        found = metric(OF_LABELS[name]).compute(**nothing, average=None)[name]
        assert found == pytest.approx([math.nan] * 2, nan_ok=True)


def test_one_column_of_several_labels_is_one_label(metric):
    said = {"predictions": [[1], [1], [0], [1], [0]], "references": [[1], [1], [0], [1], [1]]}
    flat = [[row[0] for row in said[name]] for name in ("references", "predictions")]
    assert metric(ConfusionMatrix, "multilabel").compute(**said)["confusion_matrix"] == [
        sk.confusion_matrix(*flat).tolist()
    ]
    direct = {"f1": sk.f1_score, "precision": sk.precision_score, "recall": sk.recall_score}
    for name, function in direct.items():
        assert metric(OF_LABELS[name], "multilabel").compute(**said, average=None)[name] == [function(*flat)]


@pytest.mark.parametrize("name", ALL)
def test_each_file_says_what_goes_in_and_what_comes_out(metric, name):
    info = metric(ALL[name])._info()
    assert all(feature in info.inputs_description for feature in info.features)
    assert f"\n    {name}: " in info.inputs_description
