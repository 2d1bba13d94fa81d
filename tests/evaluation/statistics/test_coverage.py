"""Intervals that are shown hold the true figure in 93 to 97 % of 500 splits (benchmarks/bootstrap_coverage.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# 97 %, and half a standard error of 500 splits.
HIGHEST = 0.974


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("bootstrap_coverage", ROOT / "benchmarks" / "bootstrap_coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def regimes(simulation):
    return simulation.list_regimes(200, 0)


@pytest.mark.parametrize("name", ["losses", "labels", "20 losses", "heavy tails, 60 rows", "40 documents"])
def test_intervals_hold_the_true_figures_of_500_splits(simulation, regimes, name):
    for figure, (shown, held) in simulation.coverage(regimes[name], 500, seed=0).items():
        assert shown > 0.97, figure
        assert 0.93 <= held <= HIGHEST, (figure, held)


def test_rows_in_groups_are_resampled_by_group(simulation, regimes):
    for shown, held in simulation.coverage(regimes["40 groups of 8"], 500, seed=0).values():
        assert (shown, 0.93 <= held <= HIGHEST) == (1, True)
    for _, held in simulation.coverage(regimes["the same, not known"], 200, seed=0).values():
        assert held < 0.8


def test_figures_of_fitted_rows_have_the_intervals_of_other_rows(simulation, regimes):
    found = simulation.coverage(regimes["fitted"], 60, seed=0)
    assert all(shown > 0.95 and held >= 0.88 for shown, held in found.values()), found


def test_five_rows_of_a_label_show_no_area_under_the_curve(simulation, regimes):
    found = simulation.coverage(regimes["5 positives"], 100, seed=0)
    for figure in ("roc_auc", "pr_auc", "f1_macro", "matthews_correlation", "balanced_accuracy"):
        assert found[figure][0] <= 0.02, figure
    assert found["expected_calibration_error"][0] == 0
