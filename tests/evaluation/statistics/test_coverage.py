"""Intervals of 95 % hold the true figure in 93 to 97 % of 500 simulated splits (benchmarks/bootstrap_coverage.py)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("bootstrap_coverage", ROOT / "benchmarks" / "bootstrap_coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("population", ["losses", "row means", "labels"])
def test_intervals_hold_the_true_figures_of_500_splits(simulation, population):
    draw, true = {
        "losses": (simulation.draw_losses, simulation.true_of_losses()),
        "row means": (simulation.draw_row_means, {"mean_loss": 1.0}),
        "labels": (simulation.draw_labels, simulation.true_of_labels()),
    }[population]
    shares = simulation.coverage(draw, true, rows=200, splits=500, seed=0)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares
