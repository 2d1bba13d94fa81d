"""Bootstrap intervals: what they hold, and the fast figures of resamples against those of their rows."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, kurtosis, norm
from scipy.stats import t as student

from hf_finetune.evaluation.classification.metrics import compute_label_metrics, compute_regression_metrics
from hf_finetune.evaluation.classification.statistics import make_label_statistic, make_regression_statistic
from hf_finetune.evaluation.statistics import bootstrap as our_module
from hf_finetune.evaluation.statistics.bootstrap import bootstrap_intervals, limit_resamples
from hf_finetune.evaluation.statistics.intervals import compute_intervals
from hf_finetune.label_set import Labels
from hf_finetune.models.decision import Decision


def split_of(kind, rows, labels, seed):
    """Probabilities, chosen labels and references; rounded, so that scores are often equal."""
    random = np.random.default_rng(seed)
    decision = Decision(tuple("abcdef"[:labels]), kind)
    logits = np.round(random.normal(size=(rows, labels)) * 2, 1)
    if kind == "single":
        references = random.integers(labels, size=rows)
        logits[np.arange(rows), references] += 1
    else:
        references = (random.random((rows, labels)) < 0.4).astype(np.int64)
        logits += 2 * references - 1
    probabilities = decision.compute_probabilities(logits)
    return probabilities, decision.choose(probabilities), references


@pytest.mark.parametrize("kind", ["single", "multi"])
@settings(max_examples=25)
@given(rows=st.integers(1, 30), labels=st.integers(2, 5), seed=st.integers(0, 2**32 - 1))
def test_a_resample_has_the_figures_of_its_rows(kind, rows, labels, seed):
    probabilities, chosen, references = split_of(kind, rows, labels, seed)
    drawn = np.random.default_rng(seed).integers(rows, size=rows)
    weights = np.stack([np.ones(rows), np.bincount(drawn, minlength=rows)], axis=1)
    found = make_label_statistic(kind, probabilities, chosen, references)(weights)
    names = Labels(tuple("abcdef"[:labels]), kind)
    for column, taken in enumerate((np.arange(rows), drawn)):
        expected = compute_label_metrics(names, probabilities[taken], chosen[taken], references[taken])
        assert found.keys() == expected.keys()
        ours = {name: float(values[column]) for name, values in found.items()}
        assert ours == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(max_examples=50)
@given(rows=st.integers(1, 20), seed=st.integers(0, 2**32 - 1), level=st.sampled_from([0, 1e3, -1e6]))
def test_a_resample_of_numbers_has_the_figures_of_its_rows(rows, seed, level):
    random = np.random.default_rng(seed)
    references = level + random.integers(5, size=rows)
    predicted = references + random.integers(-2, 3, size=rows).astype(float)
    drawn = random.integers(rows, size=rows)
    found = make_regression_statistic(predicted, references)(np.bincount(drawn, minlength=rows)[:, None].astype(float))
    expected = compute_regression_metrics(predicted[drawn], references[drawn])
    assert {name: float(values[0]) for name, values in found.items()} == pytest.approx(expected, abs=1e-6, nan_ok=True)


def share_right(right):
    return lambda weights: {"accuracy": right @ weights / len(right)}


@pytest.mark.parametrize(("rows", "true"), [(200, 0.8), (300, 0.95)])
def test_intervals_of_95_percent_hold_the_true_accuracy_in_95_percent_of_500_splits(rows, true):
    random = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        right = (random.random(rows) < true).astype(float)
        low, high = compute_intervals(share_right(right), rows)["intervals"]["accuracy"]
        held += low <= true <= high
    assert 0.93 <= held / 500 <= 0.97


def test_an_interval_is_as_wide_as_theory_has_it():
    right = np.repeat([1.0, 0.0], [800, 200])
    low, high = bootstrap_intervals(share_right(right), 1000, resamples=5000)["accuracy"]
    error = math.sqrt(0.8 * 0.2 / 1000)
    assert (low, high) == pytest.approx((0.8 - 1.96 * error, 0.8 + 1.96 * error), abs=0.004)
    narrow = bootstrap_intervals(share_right(right), 1000, level=0.5)["accuracy"]
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * error, rel=0.1)


def test_the_interval_of_a_skewed_figure_is_that_of_scipy():
    values = np.random.default_rng(0).lognormal(size=60)
    low, high = bootstrap_intervals(lambda weights: {"mean": values @ weights / 60}, 60, resamples=20_000)["mean"]
    # Expanded by what t has more than the normal distribution, of three quarters of the rows that decide it.
    carriers = 60 / kurtosis(values, fisher=False)
    level = 2 * norm.cdf(student.ppf(0.975, 0.75 * carriers) * math.sqrt(60 / 59)) - 1
    by_method = {
        method: bootstrap(
            (values,), np.mean, n_resamples=20_000, confidence_level=level, method=method, rng=0
        ).confidence_interval
        for method in ("BCa", "percentile")
    }
    assert (low, high) == pytest.approx(tuple(by_method["BCa"]), rel=0.01)
    assert (low, high) != pytest.approx(tuple(by_method["percentile"]), rel=0.015)


def test_a_figure_that_every_resample_overestimates_is_in_its_interval():
    values = np.random.default_rng(0).normal(size=100)
    values -= values.mean()
    low, high = bootstrap_intervals(lambda weights: {"gap": np.abs(values @ weights / 100)}, 100)["gap"]
    assert low == pytest.approx(0, abs=1e-9)
    assert 0.1 < high < 0.5


def test_resamples_without_a_figure_do_not_count_and_figures_without_any_have_no_interval():
    probabilities, chosen, references = split_of("single", 40, 2, seed=1)
    references[:] = 0
    references[0] = 1  # a third of the resamples has no row of the second label
    found = bootstrap_intervals(make_label_statistic("single", probabilities, chosen, references), 40)
    assert all(0 <= low <= high <= 1 for low, high in [found["roc_auc"]])
    references[0] = 0
    found = bootstrap_intervals(make_label_statistic("single", probabilities, chosen, references), 40)
    assert np.isnan(found["roc_auc"]).all()
    assert not np.isnan(found["accuracy"]).any()


@settings(max_examples=30)
@given(rows=st.integers(1, 60), labels=st.integers(2, 4), seed=st.integers(0, 1000))
def test_an_interval_holds_the_figure_itself(rows, labels, seed):
    split = split_of("single", rows, labels, seed)
    statistic = make_label_statistic("single", *split)
    point = statistic(np.ones((rows, 1)))
    for name, (low, high) in bootstrap_intervals(statistic, rows, resamples=100).items():
        assert math.isnan(low) == math.isnan(high) == bool(np.isnan(point[name][0]))
        assert math.isnan(low) or low <= point[name][0] <= high


def test_a_split_that_is_all_right_has_intervals_without_width():
    found = bootstrap_intervals(share_right(np.ones(30)), 30)
    assert found == {"accuracy": (1.0, 1.0)}
    assert bootstrap_intervals(share_right(np.ones(1)), 1) == {"accuracy": (1.0, 1.0)}


def test_the_same_seed_gives_the_same_intervals_however_many_are_worked_on_at_once(monkeypatch):
    statistic = make_label_statistic("single", *split_of("single", 50, 3, seed=0))
    one = bootstrap_intervals(statistic, 50, seed=3)
    assert one == bootstrap_intervals(statistic, 50, seed=3)
    assert one != bootstrap_intervals(statistic, 50, seed=4)
    monkeypatch.setattr(our_module, "CHUNK_WEIGHTS", 70)
    again = bootstrap_intervals(statistic, 50, seed=3)
    assert {name: pytest.approx(ends, abs=1e-9) for name, ends in one.items()} == again


def test_12_figures_of_1000_rows_take_less_than_3_seconds():
    statistic = make_label_statistic("single", *split_of("single", 1000, 2, seed=0))
    began = time.process_time()
    assert len(bootstrap_intervals(statistic, 1000)) == 12
    assert time.process_time() - began < 3


def test_many_rows_and_labels_have_fewer_resamples_but_never_few():
    assert limit_resamples(1_000, 2) == 1000
    assert limit_resamples(100_000, 1) == 335
    assert limit_resamples(10_000_000, 150) == 200
