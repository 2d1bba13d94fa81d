"""What so many rows can show: held against simulated tests of scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from hf_finetune.evaluation.statistics.bootstrap import resample_metrics
from hf_finetune.evaluation.statistics.power import find_detectable_mean
from hf_finetune.metric_info import find_detectable_share


@pytest.mark.parametrize("rows", [8, 20, 80])
def test_a_mean_difference_of_that_size_is_found_by_the_t_test_in_four_of_five_cases(rows):
    least = find_detectable_mean(0.5 / math.sqrt(rows), rows)
    drawn = np.random.default_rng(rows).normal(least, 0.5, size=(4000, rows))
    assert np.mean(ttest_1samp(drawn, 0, axis=1).pvalue <= 0.05) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("rows", "apart"), [(60, 0.3), (200, 0.1), (1000, 0.05)])
def test_a_difference_of_shares_of_that_size_is_found_by_mcnemars_test_in_four_of_five_cases(rows, apart):
    least = find_detectable_share(math.sqrt(apart / rows), 0.0, rows)
    random, found = np.random.default_rng(rows), 0
    for _ in range(1000):
        won, lost, _same = random.multinomial(rows, [(apart + least) / 2, (apart - least) / 2, 1 - apart])
        found += won + lost > 0 and binomtest(won, won + lost).pvalue <= 0.05
    assert 0.68 <= found / 1000 <= 0.85, "the exact test is careful, by some points with few rows"


def test_rows_that_two_models_answer_alike_can_show_what_eight_of_them_do():
    assert find_detectable_share(0.0, 0.0, 400) == pytest.approx(7.85 / 400, rel=0.01)
    assert find_detectable_mean(0.0, 400) is None


@pytest.mark.parametrize("rows", [60, 200, 1000])
def test_what_rows_show_after_a_run_is_never_less_than_what_is_said_before_it(rows):
    before = find_detectable_share(0.0, 0.0, rows)
    for apart in (0.0, 0.5 * before, before, 0.3):
        after = find_detectable_share(math.sqrt(apart / rows), 0.0, rows)
        assert after == pytest.approx(before) if apart <= before else after > before


@pytest.mark.parametrize("rows", [1, 5])
def test_fewer_rows_than_any_test_needs_show_nothing(rows):
    assert find_detectable_mean(0.1, rows) is None
    assert find_detectable_share(0.1, 0.0, rows) is None


def test_the_error_of_a_mean_is_its_standard_deviation_over_the_root_of_the_rows():
    values = np.random.default_rng(0).normal(size=50)
    found = resample_metrics(lambda weights: {"loss": values @ weights / weights.sum(axis=0)}, 50)
    assert found["loss"].error == pytest.approx(values.std(ddof=1) / math.sqrt(50))
