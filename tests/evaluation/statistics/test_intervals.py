"""Which intervals are shown, what they are, and what rows that belong together do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, kurtosis, norm, skew
from scipy.stats import t as student

from hf_finetune.evaluation.classification.intervals import compute_label_intervals
from hf_finetune.evaluation.statistics.bootstrap import bootstrap_intervals, number_groups, resample_metrics
from hf_finetune.evaluation.statistics.intervals import compute_intervals, compute_wilson_interval, get_tail
from hf_finetune.evaluation.statistics.paired_test import compute_paired_metrics
from hf_finetune.evaluation.statistics.slices import compute_slice_metrics
from hf_finetune.label_set import Labels
from hf_finetune.models.decision import Decision

SPAM = Labels(("ham", "spam"), "single")


def mean_of(values, name="loss"):
    return lambda weights: {name: values @ weights / weights.sum(axis=0)}


@pytest.mark.parametrize(("right", "rows"), [(58, 60), (60, 60), (0, 12), (150, 200)])
def test_a_share_of_rows_has_the_interval_of_wilson_even_where_all_agree(right, rows):
    values = (np.arange(rows) < right).astype(float)
    found = compute_intervals(mean_of(values, "accuracy"), rows)["intervals"]["accuracy"]
    expected = binomtest(right, rows).proportion_ci(method="wilson")
    assert found == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_rows_that_repeat_each_other_are_no_more_than_one():
    right = np.repeat((np.arange(40) < 30).astype(float), 10)
    groups = np.repeat(np.arange(40), 10)
    found = compute_intervals(mean_of(right, "accuracy"), 400, groups=groups)["intervals"]["accuracy"]
    once = compute_wilson_interval(0.75, 39, student.ppf(0.975, 39))
    assert found == pytest.approx(list(once), abs=1e-9)
    apart = compute_intervals(mean_of(right, "accuracy"), 400)["intervals"]["accuracy"]
    assert found[1] - found[0] > 2.5 * (apart[1] - apart[0])


def test_a_mean_of_groups_has_the_clustered_standard_error():
    """Miller, 2024, equation 4: the sums of each group's deviations, squared."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 5)
    values = random.normal(size=200)[groups] + random.normal(size=1000)
    low, high = bootstrap_intervals(mean_of(values), 1000, groups=groups, resamples=5000)["loss"]
    error = math.sqrt(sum(float((values[groups == each] - values.mean()).sum()) ** 2 for each in range(200))) / 1000
    assert high - low == pytest.approx(2 * norm.ppf(0.975) * error, rel=0.05)


def test_few_groups_have_no_interval_however_many_rows():
    values, groups = np.random.default_rng(0).normal(size=500), np.arange(500) % 10
    found = compute_intervals(mean_of(values), 500, groups=groups)
    assert found["intervals"] == {}
    assert found["no_interval"]["loss"] == "too few groups for an interval: 10, at least 20 are needed"


def test_a_rare_label_is_named_with_what_is_needed():
    random = np.random.default_rng(0)
    references = np.array([1] * 6 + [0] * 94)
    probabilities = Decision(("ham", "spam"), "single").compute_probabilities(random.normal(size=(100, 2)))
    found = compute_label_intervals(SPAM, probabilities, probabilities.argmax(axis=1), references)
    few = "too few rows with label spam for an interval: 6, at least 15 are needed"
    for name in ("roc_auc", "f1_macro", "balanced_accuracy", "matthews_correlation"):
        assert found["no_interval"][name] == few
    assert "chance alone raises it" in found["no_interval"]["expected_calibration_error"]
    assert {"accuracy", "log_loss"} <= found["intervals"].keys()


@pytest.mark.parametrize(("mistakes", "shows_f1"), [(2, False), (4, True)])
def test_few_mistakes_give_accuracy_an_interval_and_the_log_loss_none(mistakes, shows_f1):
    """One mistake in a label of 150 rows: no resample tells what three of them would do."""
    references = np.arange(300) % 2
    logits = np.where(references[:, None] == np.arange(2), 2.0, -2.0)
    logits[:mistakes] *= -1
    probabilities = Decision(("ham", "spam"), "single").compute_probabilities(logits)
    found = compute_label_intervals(SPAM, probabilities, probabilities.argmax(axis=1), references)
    right = 1 - mistakes / 300
    assert found["intervals"]["accuracy"] == pytest.approx(list(compute_wilson_interval(right, 300)))
    few = f"too few mistakes for an interval: {mistakes} rows have one"
    assert found["no_interval"]["log_loss"].startswith(few)
    assert ("f1_macro" in found["intervals"]) == shows_f1


def test_a_label_that_few_rows_are_given_has_no_interval_of_its_precision():
    references = np.arange(200) % 2
    chosen = np.where((np.arange(200) % 2 == 1) & (np.arange(200) >= 180), 1, 0)
    chosen[:4] = 1
    logits = np.where(chosen[:, None] == np.arange(2), 1.0, -1.0)
    probabilities = Decision(("ham", "spam"), "single").compute_probabilities(logits)
    found = compute_label_intervals(SPAM, probabilities, chosen, references)
    few = "too few rows are called spam for an interval: 14, at least 15 are needed"
    assert found["no_interval"]["precision_macro"] == few
    assert {"f1_macro", "balanced_accuracy"} <= found["intervals"].keys()


@pytest.mark.parametrize("name", ["loss", "log_loss", "token_accuracy", "balanced_accuracy"])
def test_the_freedom_of_a_variance_is_that_of_its_kurtosis(name):
    """By scipy's kurtosis and skew of the rows: a mean's jackknife moves as its rows do."""
    values = np.random.default_rng(3).standard_t(4, size=80)
    found = resample_metrics(mean_of(values, name), 80, resamples=50)[name]
    excess, skewness = kurtosis(values), skew(values)
    lost = {"loss": 2 * excess, "balanced_accuracy": (excess - skewness**2) / 2}.get(name, excess / 2)
    assert lost > 0
    assert found.estimate_freedom(get_tail(name)) == pytest.approx(79 / (1 + lost))


def test_rows_that_vary_less_than_normal_ones_have_all_their_freedom():
    for values in (np.arange(50.0), np.arange(50) % 2 * 1.0):
        found = resample_metrics(mean_of(values), 50, resamples=50)["loss"]
        assert all(found.estimate_freedom(tail) == 49 for tail in ("share", "light", "heavy"))


@pytest.mark.parametrize(("rows", "true"), [(60, 0.98), (60, 0.9), (200, 0.95), (300, 0.95), (1000, 0.5)])
def test_the_interval_of_a_share_holds_it_in_93_to_97_of_100_cases(rows, true):
    """Exactly: the binomial probability of the counts whose interval has it."""
    counts = np.arange(rows + 1)
    held = [low <= true <= high for low, high in (compute_wilson_interval(each / rows, rows) for each in counts)]
    assert 0.93 <= float(binom.pmf(counts, rows, true)[held].sum()) <= 0.97


def draw_alike(random, groups=40, size=6):
    """Differences between two equal models, alike within a group: (rows,), and the groups, (rows,)."""
    member = np.repeat(np.arange(groups), size)
    return random.normal(size=groups)[member] + 0.5 * random.normal(size=len(member)), member


def test_equal_models_differ_in_one_comparison_of_twenty_where_rows_come_in_groups():
    random, false, false_apart = np.random.default_rng(0), 0, 0
    for _ in range(100):
        change, groups = draw_alike(random)
        before, after = 5 - change / 2, 5 + change / 2
        sides = mean_of(before), mean_of(after), mean_of(np.concatenate([before, after]))
        false += compute_paired_metrics(*sides, len(change), groups=groups)["loss"]["real"]
        false_apart += compute_paired_metrics(*sides, len(change))["loss"]["real"]
    assert false <= 11
    assert false_apart >= 25, "taken one by one, rows of a group are called a difference"


def test_equal_slices_are_told_apart_in_one_of_twenty_where_rows_come_in_groups():
    random, false, false_apart = np.random.default_rng(0), 0, 0
    for _ in range(60):
        losses, groups = draw_alike(random)
        values = ["de" if group % 2 else "fr" for group in groups]
        false += compute_slice_metrics(mean_of(losses), values, groups=groups)["gaps"][0]["real"]
        false_apart += compute_slice_metrics(mean_of(losses), values)["gaps"][0]["real"]
    assert false <= 8
    assert false_apart >= 15


def test_groups_are_numbered_by_their_values():
    assert number_groups(np.array(["b", "a", "b"])).tolist() == [1, 0, 1]
