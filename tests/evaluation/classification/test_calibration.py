"""Temperature and thresholds: never worse on validation, and as good as every threshold tried one by one."""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_expit
from scipy.stats import norm

from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation.classification import thresholds
from hf_finetune.evaluation.classification.calibration import (
    choose_temperature,
    compute_smoothed_log_loss,
    fit_decision,
    fit_temperature,
    score_decision,
    split_folds,
    tune_thresholds,
)
from hf_finetune.evaluation.classification.fitted import score_fitted
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs, score_outputs
from hf_finetune.label_set import Labels
from hf_finetune.models.decision import Decision

METRICS = ["accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "f1_weighted", "matthews_correlation"]
every_metric = pytest.mark.parametrize("metric", METRICS)
seeds = st.integers(0, 2**32 - 1)


def names(labels, kind="single"):
    return Labels(tuple("abcdefgh"[:labels]), kind)


def outputs_of(kind, rows, labels, seed, *, scale=1.0, rounded=None):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, labels))
    if kind == "single":
        references = random.choice(labels, size=rows, p=random.dirichlet(np.ones(labels)))
        logits[np.arange(rows), references] += random.uniform(0, 2)
    else:
        references = (random.random((rows, labels)) < random.random(labels)).astype(np.int64)
        logits += (2 * references - 1) * random.uniform(0, 1) + random.normal(size=labels)
    logits *= scale
    return ClassifierOutputs(logits if rounded is None else np.round(logits, rounded), references)


def by_scikit_learn(metric, outputs, decision):
    """The metric of the labels that `decision` chooses; several labels: as the metric modules define it."""
    chosen, given = decision.choose(decision.compute_probabilities(outputs.logits)), outputs.references
    if metric == "accuracy":
        return sk.accuracy_score(given, chosen)
    if metric.startswith("f1_"):
        return sk.f1_score(given, chosen, average=metric.removeprefix("f1_"), zero_division=0)
    function = {"balanced_accuracy": sk.balanced_accuracy_score, "matthews_correlation": sk.matthews_corrcoef}[metric]
    pairs = [(given, chosen)] if given.ndim == 1 else zip(given.T, chosen.T, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels that nothing has
        return float(np.mean([function(*pair) for pair in pairs]))


def every_threshold(told):
    """One above each distinct probability, and one below all."""
    values = np.unique(told)
    return [values[0] / 2, *((values[1:] + values[:-1]) / 2), (values[-1] + 1) / 2]


@settings(max_examples=60)
@given(kind=st.sampled_from(["single", "multi"]), rows=st.integers(1, 60), labels=st.integers(2, 5), seed=seeds)
def test_no_other_temperature_is_likelier(kind, rows, labels, seed):
    outputs = outputs_of(kind, rows, labels, seed, scale=10 ** np.random.default_rng(seed).uniform(-2, 2))

    def weigh(temperature):
        """The posterior, up to a factor: the likelihood of the rows and of two average ones, and a log-normal prior."""
        likelihood = -(rows + 2) * compute_smoothed_log_loss(outputs, temperature)
        return (likelihood + norm.logpdf(math.log(temperature), scale=math.log(2))) / (rows + 2)

    found = weigh(fit_temperature(outputs))
    assert all(found >= weigh(each) - 1e-5 for each in [1.0, *np.geomspace(0.05, 20, 50)])


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_one_that_the_logits_were_multiplied_by(kind, true):
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 3)) * 2
    probabilities = Decision(("a", "b", "c"), kind).compute_probabilities(logits)
    if kind == "single":
        references = (random.random((len(logits), 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    else:
        references = (random.random(logits.shape) < probabilities).astype(np.int64)
    assert fit_temperature(ClassifierOutputs(logits * true, references)) == pytest.approx(true, rel=0.03)


def test_calibration_halves_the_error_of_an_overconfident_model_on_rows_it_was_not_fitted_to():
    outputs = outputs_of("single", 2000, 3, seed=5, scale=4)
    halves = [
        ClassifierOutputs(outputs.logits[part], outputs.references[part]) for part in (slice(1000), slice(1000, None))
    ]
    decision = fit_decision(halves[0], names(3), EvalSection())
    scores = score_outputs(halves[1], names(3), decision)
    before = scores["expected_calibration_error_before_scaling"]
    assert scores["expected_calibration_error"] <= before / 2
    assert scores["log_loss"] < scores["log_loss_before_scaling"]


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize(("rows", "wrong"), [(1, 0), (4, 0), (500, 0), (100, 3)])
def test_rows_and_one_right_and_one_wrong_decide_between_temperatures_that_are_likeliest_at_one(kind, rows, wrong):
    """Laplace's rule of succession and a log-normal prior, for rows of which the model is equally sure."""
    given = np.arange(rows) % 2
    told = np.where(np.arange(rows) < wrong, 1 - given, given)
    logits = np.where(told[:, None] == np.arange(2), 4.0, -4.0)
    references = given if kind == "single" else (given[:, None] == np.arange(2)).astype(np.int64)
    margin = 8.0 if kind == "single" else 4.0  # of two labels the difference of their logits decides
    tried = np.geomspace(0.05, 20, 100_001)
    right, missed = log_expit(margin / tried), log_expit(-margin / tried)
    posterior = (rows - wrong + 1) * right + (wrong + 1) * missed + norm.logpdf(np.log(tried), scale=math.log(2))
    found = fit_temperature(ClassifierOutputs(logits, references))
    assert found == pytest.approx(tried[posterior.argmax()], rel=1e-3)
    assert found > 1 if rows < 10 else True, "few rows without a mistake do not make the model surer"


def test_logits_that_say_nothing_leave_the_temperature_at_one():
    assert fit_temperature(ClassifierOutputs(np.zeros((6, 3)), np.arange(6) % 3)) == 1.0


def test_rows_that_are_all_wrong_leave_it_within_its_bounds(caplog):
    caplog.set_level(logging.INFO)
    references = np.arange(5000) % 2
    logits = np.where(references[:, None] == np.arange(2), -8.0, 8.0)
    decision = fit_decision(ClassifierOutputs(logits, references), names(2), EvalSection())
    assert 1 < decision.temperature <= 20
    assert "at its bound" in caplog.text


def test_logits_that_overflow_a_softmax_do_no_harm():
    logits = np.array([[4000.0, -4000.0], [-4000.0, 4000.0], [4000.0, -4000.0]])
    temperature = fit_temperature(ClassifierOutputs(logits, np.array([0, 1, 1])))
    assert temperature == pytest.approx(20, rel=1e-3)


@every_metric
@pytest.mark.parametrize("kind", ["single", "multi"])
@settings(max_examples=25)
@given(rows=st.integers(1, 40), labels=st.integers(2, 5), seed=seeds, rounded=st.sampled_from([None, 0, 1]))
def test_tuned_thresholds_never_lower_the_metric(kind, metric, rows, labels, seed, rounded):
    outputs = outputs_of(kind, rows, labels, seed, rounded=rounded)
    even = Decision(tuple("abcdefgh"[:labels]), kind, temperature=1.7)
    tuned = tune_thresholds(outputs, even, metric)
    assert by_scikit_learn(metric, outputs, tuned) >= by_scikit_learn(metric, outputs, even) - 1e-12
    assert score_decision(outputs, tuned, metric) == pytest.approx(by_scikit_learn(metric, outputs, tuned), abs=1e-12)
    assert (tuned.temperature, tuned.metric) == (1.7, metric)
    assert all(0 < threshold < 1 for threshold in tuned.thresholds)
    assert kind == "multi" or sum(tuned.thresholds) == pytest.approx(1)


@every_metric
@settings(max_examples=25)
@given(rows=st.integers(1, 15), seed=seeds, rounded=st.sampled_from([None, 0, 1]))
def test_of_two_labels_no_threshold_is_better(metric, rows, seed, rounded):
    outputs = outputs_of("single", rows, 2, seed, rounded=rounded)
    even = Decision(("a", "b"), "single")
    told = even.compute_probabilities(outputs.logits)[:, 1]
    tried = [replace(even, thresholds=(1 - each, each)) for each in every_threshold(told)]
    best = max(by_scikit_learn(metric, outputs, each) for each in [even, *tried])
    assert by_scikit_learn(metric, outputs, tune_thresholds(outputs, even, metric)) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1_macro", "f1_weighted", "matthews_correlation"])
@settings(max_examples=15)
@given(rows=st.integers(1, 6), seed=seeds, rounded=st.sampled_from([None, 0]))
def test_of_several_labels_no_thresholds_are_better(metric, rows, seed, rounded):
    outputs = outputs_of("multi", rows, 2, seed, rounded=rounded)
    even = Decision(("a", "b"), "multi")
    told = even.compute_probabilities(outputs.logits)
    tried = itertools.product(*(every_threshold(column) for column in told.T))
    best = max(by_scikit_learn(metric, outputs, replace(even, thresholds=each)) for each in [(0.5, 0.5), *tried])
    assert by_scikit_learn(metric, outputs, tune_thresholds(outputs, even, metric)) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("metric", ["accuracy", "f1_micro"])
@settings(max_examples=15)
@given(rows=st.integers(1, 8), seed=seeds)
def test_where_labels_depend_on_each_other_no_change_of_one_threshold_is_better(metric, rows, seed):
    outputs = outputs_of("multi", rows, 3, seed)
    even = Decision(("a", "b", "c"), "multi")
    tuned = tune_thresholds(outputs, even, metric)
    reached = by_scikit_learn(metric, outputs, tuned)
    for label, column in enumerate(even.compute_probabilities(outputs.logits).T):
        for each in every_threshold(column):
            changed = list(tuned.thresholds)
            changed[label] = each
            assert by_scikit_learn(metric, outputs, replace(even, thresholds=tuple(changed))) <= reached + 1e-12


@settings(max_examples=15)
@given(rows=st.integers(2, 12), seed=seeds)
def test_of_many_labels_no_change_of_one_threshold_is_better(rows, seed):
    outputs = outputs_of("single", rows, 3, seed)
    even = Decision(("a", "b", "c"), "single")
    tuned = tune_thresholds(outputs, even, "f1_macro")
    reached = by_scikit_learn("f1_macro", outputs, tuned)
    for label, factor in itertools.product(range(3), np.exp(np.linspace(-4, 4, 41))):
        changed = np.array(tuned.thresholds)
        changed[label] *= factor
        other = replace(even, thresholds=tuple((changed / changed.sum()).tolist()))
        assert by_scikit_learn("f1_macro", outputs, other) <= reached + 1e-12


def test_rare_labels_gain_from_thresholds():
    random = np.random.default_rng(0)
    references = np.repeat([0, 1, 2], [900, 60, 40])
    logits = random.normal(size=(1000, 3)) + np.array([2.0, 0.0, 0.0])
    logits[np.arange(1000), references] += 1.5
    outputs, even = ClassifierOutputs(logits, references), Decision(("a", "b", "c"), "single")
    tuned = tune_thresholds(outputs, even, "balanced_accuracy")
    assert (
        score_decision(outputs, tuned, "balanced_accuracy") > score_decision(outputs, even, "balanced_accuracy") + 0.2
    )
    assert tuned.thresholds[0] > max(tuned.thresholds[1:])


def logits_of(probabilities):
    return np.stack([np.zeros(len(probabilities)), np.log(probabilities) - np.log1p(-np.asarray(probabilities))], 1)


def test_the_threshold_is_the_middle_of_the_best_range_that_is_nearest_to_even():
    told = np.array([0.1, 0.2, 0.6, 0.8, 0.9])
    outputs = ClassifierOutputs(logits_of(told), np.array([0, 0, 0, 1, 1]))
    tuned = tune_thresholds(outputs, Decision(("a", "b"), "single"), "accuracy")
    assert tuned.thresholds == pytest.approx((0.3, 0.7))
    # Three of four are right with a threshold from 0.1 to 0.3, and from 0.6 to 0.8, which is nearer to 0.5.
    outputs = ClassifierOutputs(logits_of(np.array([0.1, 0.3, 0.6, 0.8])), np.array([0, 1, 0, 1]))
    tuned = tune_thresholds(outputs, Decision(("a", "b"), "single"), "accuracy")
    assert tuned.thresholds == pytest.approx((0.3, 0.7))


def test_thresholds_stay_even_where_none_are_better():
    outputs = ClassifierOutputs(logits_of(np.array([0.1, 0.2, 0.7, 0.9])), np.array([0, 0, 1, 1]))
    for metric in METRICS:
        assert tune_thresholds(outputs, Decision(("a", "b"), "single"), metric).thresholds == (0.5, 0.5)


def test_a_label_that_gains_nothing_keeps_its_threshold_where_another_gains():
    told = np.array([[0.1, 0.1], [0.2, 0.2], [0.7, 0.4], [0.9, 0.9]])
    outputs = ClassifierOutputs(np.log(told) - np.log1p(-told), np.array([[0, 0], [0, 0], [1, 1], [1, 1]]))
    for metric in METRICS:
        tuned = tune_thresholds(outputs, Decision(("a", "b"), "multi"), metric)
        assert tuned.thresholds == (0.5, pytest.approx(0.3))


@pytest.mark.parametrize("told", [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1e-300, 1e-300, 1e-300]])
def test_probabilities_of_zero_and_one_leave_thresholds_that_can_be_written_down(told):
    logits = np.where(np.array(told)[:, None] > 0.5, [[-800.0, 800.0]], [[800.0, -800.0]])
    for metric in METRICS:
        outputs = ClassifierOutputs(logits, np.array([1, 0, 1]))
        decision = tune_thresholds(outputs, Decision(("a", "b"), "single"), metric)
        assert np.isfinite(decision.offsets).all()


def test_a_grid_for_very_many_labels_gains_and_never_lowers_the_metric(monkeypatch):
    monkeypatch.setattr(thresholds, "MAX_COUNTS", 15)  # three margins of 30
    even, gained = Decision(tuple("abcde"), "single"), 0
    for seed in range(40):
        outputs = outputs_of("single", 30, 5, seed)
        before = score_decision(outputs, even, "f1_macro")
        after = score_decision(outputs, tune_thresholds(outputs, even, "f1_macro"), "f1_macro")
        assert after >= before
        gained += after > before
    assert gained >= 10


def test_nothing_is_fitted_without_a_validation_split_or_to_numbers(caplog):
    caplog.set_level(logging.INFO)
    assert fit_decision(None, names(2), EvalSection()) is None
    assert "no validation split" in caplog.text
    numbers = ClassifierOutputs(np.zeros((3, 1)), np.zeros(3))
    assert fit_decision(numbers, Labels(("value",), "number"), EvalSection()) is None


def test_what_is_not_asked_for_is_not_fitted(caplog):
    caplog.set_level(logging.INFO)
    outputs = outputs_of("single", 200, 3, seed=0, scale=5)
    plain = fit_decision(outputs, names(3), EvalSection(calibrate=False))
    assert plain == Decision(("a", "b", "c"), "single")
    warm = fit_decision(outputs, names(3), EvalSection())
    assert warm.temperature > 2
    assert warm.thresholds == pytest.approx((1 / 3,) * 3)
    both = fit_decision(outputs, names(3), EvalSection(threshold_metric="f1_macro"))
    assert both.temperature == warm.temperature
    assert both.metric == "f1_macro"
    assert math.isfinite(sum(both.thresholds))
    assert f"temperature {warm.temperature:.3f}: log-loss on rows that it was not fitted to" in caplog.text
    assert "thresholds for f1_macro on validation" in caplog.text


def test_a_temperature_that_says_nothing_of_other_rows_is_not_kept(caplog):
    """Calibrated logits: what a few rows say of them is chance. Judge is sklearn's log-loss of 2,000 rows more."""
    caplog.set_level(logging.INFO)
    random, even = np.random.default_rng(0), Decision(("a", "b", "c"), "single")
    ours, always = [], []
    for _ in range(40):
        logits = random.normal(size=(2040, 3)) * 2
        told = even.compute_probabilities(logits)
        given = (random.random((len(logits), 1)) > told.cumsum(axis=1)).sum(axis=1)
        outputs = ClassifierOutputs(logits, given)
        fitted, others = outputs.select_rows(np.arange(40)), outputs.select_rows(np.arange(40, 2040))
        for found, temperature in ((ours, choose_temperature(fitted)), (always, fit_temperature(fitted))):
            found.append(
                sk.log_loss(
                    others.references, replace(even, temperature=temperature).compute_probabilities(others.logits)
                )
            )
    assert np.mean(ours) < np.mean(always)
    assert "no gain, 1 is kept" in caplog.text


def test_few_rows_and_few_groups_are_not_fitted_to_and_the_log_says_so(caplog):
    caplog.set_level(logging.INFO)
    outputs = outputs_of("single", 9, 3, seed=0, scale=5)
    assert choose_temperature(outputs) == 1.0
    assert "no temperature: validation has 9 rows, and at least 10 are needed" in caplog.text
    many = outputs_of("single", 300, 3, seed=0, scale=5)
    assert choose_temperature(many) > 1.5
    assert choose_temperature(replace(many, groups=np.arange(300) % 9)) == 1.0
    assert "validation has 9 groups of rows" in caplog.text


def test_the_fewer_the_rows_the_nearer_the_temperature_stays_to_one():
    """Rows that are all alike, four of five right: they fit one temperature however many they are."""
    given = np.arange(2000) % 2
    told = np.where(np.arange(2000) % 5 == 0, 1 - given, given)
    outputs = ClassifierOutputs(np.where(told[:, None] == np.arange(2), 4.0, -4.0), given)
    fitted = [fit_temperature(outputs.select_rows(np.arange(rows))) for rows in (10, 30, 100, 2000)]
    assert 1 < fitted[0] < fitted[1] < fitted[2] < fitted[3]
    assert fitted[3] == pytest.approx(8 / math.log(4), rel=0.01)


def test_rows_of_a_group_are_held_out_together():
    groups = np.arange(100) % 17
    folds = split_folds(groups)
    assert sum(held_out.sum() for held_out, _ in folds) == 100
    for held_out, others in folds:
        assert not set(groups[held_out]) & set(groups[others])


def test_figures_of_the_rows_that_thresholds_were_fitted_to_say_so_and_flatter():
    """On rows without a signal every threshold is chance: cross-fitted, none is better than guessing."""
    random = np.random.default_rng(0)
    outputs = ClassifierOutputs(random.normal(size=(120, 2)), random.integers(2, size=120))
    decision = tune_thresholds(outputs, Decision(("a", "b"), "single"), "f1_macro")
    found = score_fitted(outputs, names(2), decision)
    assert found["fitted"]["fitted"] == ["thresholds"]
    own = by_scikit_learn("f1_macro", outputs, decision)
    assert found["fitted"]["cross_fitted"]["f1_macro"] < own - 0.02
    low, high = found["intervals"]["f1_macro"]
    assert low < 0.5 < high
    assert found["fitted"]["words"][0].startswith("thresholds were fitted to these rows, and their intervals are")
    assert score_fitted(outputs, names(2), Decision(("a", "b"), "single")) == {}
