"""Figures by the values of a field: what a slice has, and which gaps are called real."""

from __future__ import annotations

import numpy as np
import pytest

from hf_finetune.errors import DataError
from hf_finetune.evaluation.classification.statistics import make_label_statistic
from hf_finetune.evaluation.language_modeling.answers import Answer, make_answer_statistic
from hf_finetune.evaluation.language_modeling.metrics import make_language_statistic
from hf_finetune.evaluation.statistics.slices import compute_slice_metrics, get_field_values


def labels_of(random, right):
    """A classifier of two labels that is right on each row with a probability of its own."""
    references = random.integers(2, size=len(right))
    chosen = np.where(random.random(len(right)) < right, references, 1 - references)
    probabilities = np.where(chosen[:, None] == np.arange(2), 0.8, 0.2)
    return probabilities, chosen, references


def sums_of(random, tokens, mean=2.0):
    losses = random.gamma(4.0, mean / 4, size=len(tokens))
    return np.stack([losses * tokens, np.floor(0.3 * tokens), tokens], axis=1)


def language(sums):
    return make_language_statistic(sums, 3.0 * sums[:, 2], sums[:, 2])


@pytest.mark.parametrize("kind", ["labels", "language", "answers"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_slice_has_the_figures_of_its_rows_alone(seed, kind):
    random = np.random.default_rng(seed)
    values = random.choice(["en", "de", None], size=60).tolist()

    def statistic_of(rows):
        generator = np.random.default_rng(seed)
        if kind == "language":
            return language(sums_of(generator, generator.integers(1, 30, size=60))[rows])
        if kind == "answers":
            texts = generator.choice(["one two three four", "one two three", "five"], size=(2, 60))
            answers = [Answer(text, len(text), True) for text in texts[0][rows]]
            return make_answer_statistic(answers, texts[1][rows].tolist())
        probabilities, chosen, references = labels_of(generator, np.full(60, 0.8))
        return make_label_statistic("single", probabilities[rows], chosen[rows], references[rows])

    found = compute_slice_metrics(statistic_of(np.arange(60)), values)["values"]
    assert sum(each["rows"] for each in found.values()) == 60
    for value, figures in found.items():
        rows = np.array([number for number, each in enumerate(values) if (each or "(missing)") == value])
        alone = statistic_of(rows)(np.ones((len(rows), 1)))
        shown = {name: figures[name] for name in figures if name not in ("rows", "intervals", "no_interval")}
        assert figures["rows"] == len(rows)
        assert shown == pytest.approx({name: alone[name][0] for name in shown}, abs=1e-7)  # a spread of 0 is rounded
        for name, (low, high) in figures.get("intervals", {}).items():
            assert low <= shown[name] <= high


def test_small_slices_are_listed_without_figures_and_the_largest_come_first():
    values = ["en"] * 30 + ["de"] * 12 + ["fr"] * 3 + [None] * 5
    statistic = make_label_statistic("single", *labels_of(np.random.default_rng(0), np.full(50, 0.7)))
    found = compute_slice_metrics(statistic, values)
    assert list(found["values"]) == ["en", "de", "(missing)", "fr"]
    assert found["values"]["fr"] == {"rows": 3}
    assert found["values"]["(missing)"] == {"rows": 5}
    assert {*found["gaps"][0]} == {"figure", "highest", "lowest", "difference", "interval", "real", "words"}
    assert {gap["highest"] for gap in found["gaps"]} <= {"en", "de"}


def test_one_slice_alone_has_no_gap_and_more_than_50_values_become_49_and_the_rest():
    statistic = make_label_statistic("single", *labels_of(np.random.default_rng(0), np.full(120, 0.7)))
    assert compute_slice_metrics(statistic, ["en"] * 120)["gaps"] == []
    values = [f"value {number % 60}" for number in range(120)]
    found = compute_slice_metrics(statistic, values)
    assert len(found["values"]) == 50
    assert found["values"]["(other)"]["rows"] == 120 - 49 * 2
    assert found["gaps"] == [], "the rest is no group of its own"


def test_a_large_gap_is_named_with_its_size_and_an_interval_that_holds_it():
    right = np.repeat([0.95, 0.9, 0.6], 80)
    values = np.repeat(["en", "de", "fi"], 80).tolist()
    held = real = 0
    for seed in range(40):
        statistic = make_label_statistic("single", *labels_of(np.random.default_rng(seed), right))
        gaps = {gap["figure"]: gap for gap in compute_slice_metrics(statistic, values)["gaps"]}
        gap = gaps["accuracy"]
        low, high = gap["interval"]
        real += gap["real"]
        held += low <= 0.35 <= high
        assert low <= gap["difference"] <= high
        assert not gap["real"] or (gap["lowest"] == "fi" and "a real gap" in gap["words"])
    assert real == 40
    assert held >= 38


@pytest.mark.parametrize("sizes", [(100, 100), (400, 12), (60, 60, 60, 60, 60, 60), (200, 10, 10)])
def test_where_slices_do_not_differ_one_of_twenty_gaps_is_called_real_at_most(sizes):
    values = np.repeat([f"value {number}" for number in range(len(sizes))], sizes).tolist()
    for right in (0.6, 0.95):  # in a slice of 10 rows that are all right, nothing varies
        real = 0
        for seed in range(120):
            random = np.random.default_rng(seed)
            (gap,) = compute_slice_metrics(share_right(random.random(sum(sizes)) < right), values)["gaps"]
            real += gap["real"]
        assert real / 120 <= 0.1, (right, real)


def share_right(right):
    return lambda weights: {"accuracy": right @ weights / weights.sum(axis=0)}


def test_slices_of_short_and_of_long_rows_that_are_equally_hard_are_rarely_told_apart():
    values = np.repeat(["short", "long"], [100, 100]).tolist()
    real = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        tokens = np.concatenate([random.integers(1, 6, size=100), random.integers(50, 400, size=100)])
        gaps = compute_slice_metrics(language(sums_of(random, tokens)), values)["gaps"]
        real += next(gap for gap in gaps if gap["figure"] == "loss")["real"]
    assert real <= 6


def test_a_gap_that_the_rows_prove_goes_before_a_wider_one_that_they_do_not():
    right = np.repeat([1.0, 0.0], [450, 50])
    right = np.concatenate([right, np.repeat([1.0, 0.0], [350, 150]), np.repeat([1.0, 0.0], [6, 4])])
    values = ["large and good"] * 500 + ["large and worse"] * 500 + ["small"] * 10
    (gap,) = compute_slice_metrics(share_right(right), values)["gaps"]
    assert gap["real"]
    assert (gap["highest"], gap["lowest"]) == ("large and good", "large and worse")
    assert gap["difference"] == pytest.approx(0.2)


def test_the_gap_that_is_widest_beside_its_interval_comes_first():
    random = np.random.default_rng(0)
    noisy, sure = random.normal(size=200), random.normal(size=200) * 0.01
    sure[:100] += 1

    def statistic(weights):
        return {"noisy": noisy @ weights / weights.sum(axis=0), "sure": sure @ weights / weights.sum(axis=0)}

    gaps = compute_slice_metrics(statistic, ["a"] * 100 + ["b"] * 100)["gaps"]
    assert [gap["figure"] for gap in gaps] == ["sure", "noisy"]
    assert [gap["real"] for gap in gaps] == [True, False]
    assert "no gap that these rows could show" in gaps[1]["words"]


def test_a_figure_that_is_not_defined_for_a_slice_is_left_out_there():
    probabilities, chosen, references = labels_of(np.random.default_rng(0), np.full(60, 0.7))
    references[:30] = 0  # no ranking of labels where all rows have one
    found = compute_slice_metrics(
        make_label_statistic("single", probabilities, chosen, references), ["one"] * 30 + ["both"] * 30
    )
    assert "roc_auc" not in found["values"]["one"]
    assert "roc_auc" in found["values"]["both"]
    assert "roc_auc" not in {gap["figure"] for gap in found["gaps"]}


def test_values_are_read_from_objects_inside_the_rows():
    rows = [{"meta": {"language": "en"}}, {"meta": {"language": 3}}, {"meta": {}}, {"meta": "none"}, {}]
    rows += [{"meta": {"language": True}}, {"meta": {"language": None}}]
    assert get_field_values(rows, "meta.language") == ["en", "3", None, None, None, "true", None]


def test_a_field_that_no_row_has_is_refused_with_the_one_that_was_meant():
    with pytest.raises(DataError, match=r"eval.by: no row has the field meta.langage; did you mean meta.language\?"):
        get_field_values([{"meta": {"language": "en"}}], "meta.langage")


@pytest.mark.parametrize("value", [["a"], {"a": 1}, "secret " * 20])
def test_a_field_of_texts_or_lists_is_refused_and_its_values_are_not_shown(value):
    with pytest.raises(
        DataError, match=r"f.jsonl: eval.by: in 2 of 3 rows note is a list, an object or a text"
    ) as found:
        get_field_values([{"note": value}, {"note": value}, {"note": "x"}], "note", "f.jsonl")
    assert "secret" not in str(found.value)
