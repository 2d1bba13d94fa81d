from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_finetune.reporting.charts.scales import Scale, compute_linear_ticks, compute_log_ticks, fit_scale, label_ticks
from hf_finetune.reporting.charts.svg import (
    COLUMNS,
    STRETCHES,
    TREND_FROM,
    UNITS,
    Mark,
    Series,
    compute_trend,
    make_line_chart,
    make_reliability_chart,
    thin_points,
)

VALUES = st.floats(min_value=-1e12, max_value=1e12)
ANY_VALUE = VALUES | st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 5e-324, 0.0])


def curves(values):
    return st.lists(values, min_size=1, max_size=80).map(lambda ys: [(float(x), y) for x, y in enumerate(ys)])


def drawn(path: str) -> list[list[tuple[int, int]]]:
    """The stretches of a path, by a parser of its own."""
    assert re.fullmatch(r"(M-?\d+ -?\d+(L-?\d+ -?\d+)+)*", path)
    return [
        [tuple(map(int, pair.split())) for pair in stretch.split("L")]  # type: ignore[misc]
        for stretch in path.split("M")
        if stretch
    ]


@given(st.lists(curves(ANY_VALUE), min_size=1, max_size=3), st.booleans())
def test_whatever_is_logged_is_drawn_inside_the_plot_or_not_at_all(given_curves, from_zero):
    chart = make_line_chart(
        "Loss", [Series(f"c{i}", points) for i, points in enumerate(given_curves)], from_zero=from_zero
    )
    if chart is None:
        assert not any(abs(y) < 1e100 for points in given_curves for _, y in points)
        return
    for curve in chart.curves:
        for stretch in drawn(curve.path):
            assert all(0 <= x <= UNITS and 0 <= y <= UNITS for x, y in stretch)
    for tick in (*chart.x_ticks, *chart.y_ticks):
        assert -0.01 <= tick.at <= 100.01


@given(st.lists(VALUES, min_size=2, max_size=30, unique=True))
def test_ticks_are_inside_a_scale_few_and_told_apart_by_their_labels(values):
    scale = fit_scale(values, from_zero=False)
    ticks = compute_log_ticks(scale) if scale.log else compute_linear_ticks(scale)
    assert len(ticks) <= 9
    assert all(-1e-6 <= scale.share(tick) <= 1 + 1e-6 for tick in ticks)
    names = [label for _, label in label_ticks(ticks, log=scale.log)]
    assert len(set(names)) == len(names)
    if not scale.log:
        assert len(ticks) >= 3


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (5, 120, [20, 40, 60, 80, 100, 120]),
        (0, 10000, [0, 2000, 4000, 6000, 8000, 10000]),
    ],
)
def test_ticks_are_the_numbers_that_a_person_would_choose(low, high, expected):
    assert compute_linear_ticks(Scale(low, high), about=4) == expected


def test_labels_of_ticks_have_the_decimals_that_they_need():
    assert [label for _, label in label_ticks([0.0, 0.0001, 0.0002])] == ["0", "0.0001", "0.0002"]
    assert [label for _, label in label_ticks([1.5, 2.0, 2.5])] == ["1.5", "2.0", "2.5"]
    assert [label for _, label in label_ticks([0.1, 1.0, 10.0, 1000.0], log=True)] == ["0.1", "1", "10", "1,000"]
    assert [label for _, label in label_ticks([1e-6, 1e-5, 1e8], log=True)] == ["1e-6", "1e-5", "1e8"]


@settings(max_examples=25)
@given(st.integers(0, 10), st.integers(0, 9_999))
def test_thinning_ten_thousand_points_keeps_every_spike_and_the_ends(seed, at):
    points = [(float(x), math.sin(x * (seed + 1)) + (100.0 if x == at else 0.0)) for x in range(10_000)]
    kept = thin_points(points, Scale(0.0, 9_999.0))
    assert len(kept) <= 2 * COLUMNS + 4
    assert points[at] in kept
    assert kept == sorted(kept)
    assert set(kept) <= set(points)


def test_a_value_that_is_not_finite_leaves_a_gap_also_where_a_curve_is_thinned():
    for length in (10, 10_000):
        points = [(float(x), math.nan if x == length // 2 else 1.0 + x) for x in range(length)]
        (raw, *_) = make_line_chart("Loss", [Series("training", points)]).curves
        assert len(drawn(raw.path)) == 2


def test_a_point_between_gaps_is_drawn_as_a_dot_of_the_line():
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, 2.0), (3.0, math.inf), (4.0, 1.5)]
    (curve,) = make_line_chart("Loss", [Series("training", points)]).curves
    assert [len(stretch) for stretch in drawn(curve.path)] == [2, 2, 2]
    assert all(one == other for one, other in drawn(curve.path))


def test_a_long_noisy_curve_gets_medians_that_an_outlier_does_not_move():
    points = [(float(x), 3.0 - 2.0 * x / 1000 + (50.0 if x % 97 == 0 else 0.0)) for x in range(1000)]
    smooth = compute_trend(points)
    assert len(smooth) == STRETCHES
    assert all(abs(y - (3.0 - 2.0 * x / 1000)) < 0.05 for x, y in smooth)
    assert compute_trend(points[: TREND_FROM - 1]) == []
    chart = make_line_chart("Loss", [Series("training", points)])
    assert [curve.thin for curve in chart.curves] == [True, False]
    assert "medians" in chart.note


def test_a_scale_becomes_logarithmic_only_where_values_are_positive_and_range_widely():
    def chart(*values: float, **options):
        return make_line_chart("Norm", [Series("n", [(float(x), y) for x, y in enumerate(values)])], **options)

    assert chart(1.0, 1000.0).title == "Norm (logarithmic)"
    assert chart(1.0, 20.0).title == "Norm"
    assert chart(0.0, 1000.0).title == "Norm"
    assert chart(1.0, 1000.0, from_zero=True).title == "Norm"


def test_equal_decades_are_equally_far_apart_on_a_logarithmic_scale():
    points = [(0.0, 1.0), (1.0, 10.0), (2.0, 100.0), (3.0, 1000.0)]
    (curve,) = make_line_chart("Norm", [Series("n", points)]).curves
    heights = [y for _, y in drawn(curve.path)[0]]
    steps = [a - b for a, b in pairwise(heights)]
    assert max(steps) - min(steps) <= 1
    assert steps[0] > 250


def test_marks_are_where_their_step_is_and_their_words_do_not_cover_each_other():
    series = [Series("training", [(0.0, 1.0), (100.0, 2.0)])]
    chart = make_line_chart(
        "Loss", series, marks=[Mark(75, "best"), Mark(20, "broken", "broken"), Mark(999, "outside")]
    )
    assert [(mark.at, mark.label, mark.on_the_left) for mark in chart.marks] == [
        (20.0, "broken", False),
        (75.0, "best", True),
    ]
    assert len({mark.row for mark in chart.marks}) == 2


def test_a_chart_says_in_words_what_it_shows():
    chart = make_line_chart("Loss", [Series("training", [(10, 3.0), (20, 1.0), (30, 2.0), (40, math.nan)])])
    said = "Training: 3 at 10, 2 at 30; lowest 1 at 20, highest 3 at 10; 1 values are not finite."
    assert chart.said == said


def test_reliability_is_drawn_on_the_unit_square_with_larger_dots_for_more_rows():
    chart = make_reliability_chart("test", [(0.25, 0.5), (0.9, 1.0)], [10, 90])
    dots = chart.curves[1].dots
    assert [(dot.x, dot.y) for dot in dots] == [(25.0, 50.0), (90.0, 0.0)]
    assert dots[0].radius < dots[1].radius
    assert dots[0].label == "10 rows: confidence 0.25, right 50.0%"


def test_a_single_line_has_a_legend_and_its_values_can_be_pointed_at():
    points = [(float(step), 3.0 - step / 1000) for step in range(1, 1001)]
    chart = make_line_chart("Loss", [Series("training", points)])
    assert [curve.name for curve in chart.legend] == ["training"]
    (curve,) = chart.legend
    assert len(curve.targets) == 60
    assert (curve.targets[0].label, curve.targets[-1].label) == ("training, 1: 2.999", "training, 1,000: 2")
    dotted = make_line_chart("Loss", [Series("validation", points[:5], dots=True)])
    assert [(len(each.dots), len(each.targets)) for each in dotted.curves] == [(5, 0)]
