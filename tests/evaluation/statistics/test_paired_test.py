"""Two models on the same rows: what is called a real difference, and what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from hf_finetune.evaluation.classification.statistics import make_label_statistic
from hf_finetune.evaluation.language_modeling.metrics import make_language_statistic
from hf_finetune.evaluation.statistics import paired_test as pairing
from hf_finetune.evaluation.statistics.paired_test import (
    Wording,
    compare_models,
    correct_p_values,
    format_number,
    measure_forgetting,
)
from hf_finetune.metric_info import ALPHA, METRICS, MIN_PAIRS, find_detectable_share


def token_sums(random, tokens, mean, hardness):
    """Sums of rows that are as hard as they are: (rows, 3)."""
    losses = np.abs(mean + hardness + random.normal(size=len(tokens)) * 0.1)
    return np.stack([losses * tokens, np.floor(tokens * 0.4), tokens], axis=1)


def language_pair(random, rows, gain):
    """A base and a model that is better by `gain`, on rows that are far more different than the two are."""
    tokens, hardness = random.integers(5, 40, size=rows), random.normal(size=rows)
    return token_sums(random, tokens, 5.0, hardness), token_sums(random, tokens, 5.0 - gain, hardness)


def statistic_of(sums):
    return make_language_statistic(sums, 4.0 * sums[:, 2], sums[:, 2])


def compared(base, tuned, how=compare_models, **options):
    both = statistic_of(np.concatenate([base, tuned]))
    return how(statistic_of(base), statistic_of(tuned), both, len(base), **options)


def test_values_differences_and_intervals_are_those_of_the_rows():
    random = np.random.default_rng(0)
    base, tuned = language_pair(random, 200, 0.3)
    loss = compared(base, tuned)["figures"]["loss"]
    assert loss["base"] == pytest.approx(base[:, 0].sum() / base[:, 2].sum())
    assert loss["tuned"] == pytest.approx(tuned[:, 0].sum() / tuned[:, 2].sum())
    assert loss["difference"] == pytest.approx(loss["tuned"] - loss["base"])
    low, high = loss["interval"]
    assert low < loss["difference"] < high < 0
    unpaired = 2 * 1.96 * math.sqrt(2 / 200)
    assert high - low < unpaired / 5, "what makes a row hard is hard for both"


def test_words_say_which_way_is_better_and_by_how_much():
    random = np.random.default_rng(1)
    base, tuned = language_pair(random, 200, 0.5)
    words = compared(base, tuned)["words"]
    assert words[0].startswith("loss: ")
    assert "better by 0.5" in words[0]
    assert words[0].endswith("a real difference")
    worse = compared(tuned, base)["words"][0]
    assert "worse by 0.5" in worse
    for sentence in (words[0], worse):
        low, high = sentence.split("(")[1].split(")")[0].split(" to ")
        assert 0 < float(low) < 0.5 < float(high), "as far as it is better or worse, not below nothing"


def test_a_share_is_said_as_tables_have_it_and_its_difference_in_points():
    right = np.arange(200) < 60
    base, tuned = (np.column_stack([np.ones(200), each, np.ones(200)]) for each in (right, np.arange(200) < 150))
    words = compared(base, tuned)["words"]
    (said,) = [line for line in words if line.startswith("token accuracy")]
    assert said.startswith("token accuracy: 30.0% -> 75.0%, better by 45.0 points (")
    low, high = (float(end) for end in said.split("(")[1].split(")")[0].split(" to "))
    assert low < 45 < high
    assert high - low == pytest.approx(100 * 2 * 1.96 * math.sqrt(0.45 * 0.55 / 200), rel=0.1)


def test_what_few_rows_cannot_show_is_said_so():
    base, tuned = language_pair(np.random.default_rng(2), 8, 0.02)
    found = compared(base, tuned)
    assert not any(figure["real"] for figure in found["figures"].values())
    titles = "loss, perplexity, perplexity per word, token accuracy, bits per byte"
    assert found["words"] == [f"no difference that these 8 rows could show: {titles}"]


def test_rows_too_few_for_any_test_are_said_to_be_too_few():
    base, tuned = language_pair(np.random.default_rng(15), 4, 2.0)
    found = compared(base, tuned)
    assert found["outcome"] == "none"
    assert found["verdict"].startswith("4 rows are too few to tell it from its base: loss ")
    assert found["verdict"].endswith(" on them, where a test needs 6 rows at least")
    assert "(" not in found["verdict"], "an interval that leaves out 0 would say that there is a difference"
    assert all(figure["detectable"] is None for figure in found["figures"].values())
    assert compared(*(side[:1] for side in (base, tuned)))["verdict"].startswith("One row is too few to tell it")


def test_six_rows_are_the_fewest_that_any_test_can_tell_apart():
    for rows in (MIN_PAIRS - 1, MIN_PAIRS):
        alike = (np.zeros(rows), np.ones(rows))
        exact = permutation_test(alike, lambda one, other: other.mean() - one.mean(), permutation_type="samples")
        assert (exact.pvalue <= ALPHA) == (rows == MIN_PAIRS)


def test_an_interval_without_0_is_not_called_no_difference():
    """Of many figures one may be that far off by chance: its p-value is said in place of its interval."""
    change = {"base": 2.3, "tuned": 2.1, "difference": -0.2, "interval": [-0.35, -0.05], "p_value": 0.081}
    said = pairing._describe_no_difference("loss", change | {"detectable": 0.25}, 30, Wording())
    assert said == (
        "No real difference from its base: loss 2.30 -> 2.10, better by 0.200 (p = 0.081 over all figures), "
        "no more than chance gives; these 30 rows reliably show 0.250 or more"
    )


def test_what_the_rows_can_show_is_shown_in_four_of_five_comparisons():
    random = np.random.default_rng(16)
    least = np.mean(
        [compared(*language_pair(random, 60, 0.0), seed=seed)["figures"]["loss"]["detectable"] for seed in range(30)]
    )
    found = [compared(*language_pair(random, 60, least), seed=seed) for seed in range(150)]
    assert 0.7 <= np.mean([each["figures"]["loss"]["real"] for each in found]) <= 0.9
    for each in found:
        least = each["figures"]["loss"]["detectable"]
        assert "loss" not in each["verdict"] or f"reliably show {format_number(least)} or more" in each["verdict"]


def test_what_rows_of_right_and_wrong_answers_can_show_is_shown_in_four_of_five_comparisons():
    random = np.random.default_rng(17)

    def compare_answers(gain, seed, apart=0.2, rows=120):
        """Two classifiers that differ on a fifth of the rows, the second right more often by `gain`."""
        kinds = random.random(rows)
        won, lost = kinds < (apart + gain) / 2, kinds > 1 - (apart - gain) / 2
        right = [(~won).astype(float), (~lost).astype(float)]
        sides = [lambda weights, each=each: {"accuracy": each @ weights / weights.sum(axis=0)} for each in right]
        joined = np.concatenate(right)
        both = lambda weights: {"accuracy": joined @ weights / weights.sum(axis=0)}  # noqa: E731
        return compare_models(*sides, both, rows, seed=seed)["figures"]["accuracy"]

    least = np.mean([compare_answers(0.0, seed)["detectable"] for seed in range(40)])
    assert least == pytest.approx(find_detectable_share(math.sqrt(0.2 / 120), 0.0, 120), rel=0.1)
    assert 0.7 <= np.mean([compare_answers(least, seed)["real"] for seed in range(200)]) <= 0.9


def test_a_figure_without_a_better_direction_is_higher_or_lower():
    random = np.random.default_rng(3)
    lengths = random.integers(10, 20, size=(2, 60)).astype(float)
    lengths[1] += 30

    def statistic(values):
        return lambda weights: {"answer_tokens": values @ weights / weights.sum(axis=0)}

    both = statistic(lengths.ravel())
    found = compare_models(statistic(lengths[0]), statistic(lengths[1]), both, 60)
    assert ", higher by 3" in found["words"][0]
    back = compare_models(statistic(lengths[1]), statistic(lengths[0]), both, 60)
    assert ", lower by 3" in back["words"][0]


def test_one_of_twenty_comparisons_of_equal_models_is_called_real_for_any_figure_at_all():
    random, alarms, runs = np.random.default_rng(4), 0, 400
    for seed in range(runs):
        figures = compared(*language_pair(random, 30, 0.0), seed=seed)["figures"]
        assert len(figures) == 5
        alarms += any(figure["real"] for figure in figures.values())
    assert 0.02 <= alarms / runs <= 0.075


def test_equal_classifiers_are_rarely_told_apart_and_unequal_ones_mostly():
    def share_real(right, runs=60):
        random, real = np.random.default_rng(5), 0
        for seed in range(runs):
            references = random.integers(3, size=(60,))
            sides = [np.where(random.random(60) < each, references, (references + 1) % 3) for each in right]
            figures = classifiers(sides, references, seed)["figures"]
            real += figures["accuracy"]["real"]
        return real / runs

    assert share_real((0.7, 0.7)) <= 0.06
    assert share_real((0.5, 0.95)) >= 0.95


def test_the_accuracy_of_classifiers_has_the_p_value_of_a_plain_mean():
    random = np.random.default_rng(14)
    references = random.integers(3, size=40)
    sides = [np.where(random.random(40) < each, references, (references + 1) % 3) for each in (0.5, 0.6)]
    right = [(side == references).astype(float) for side in sides]
    exact = permutation_test(
        tuple(right), lambda one, other: other.mean() - one.mean(), permutation_type="samples", rng=0
    )
    joined = np.concatenate(sides)
    drawn = pairing._draw_swapped_differences(
        label_statistic_of(joined, np.tile(references, 2)), np.arange(40), ["accuracy"], 4000, random
    )
    observed = np.array([right[1].mean() - right[0].mean()])
    assert correct_p_values(observed, drawn)[0] == pytest.approx(exact.pvalue, abs=0.01)


def classifiers(sides, references, seed=0):
    both = label_statistic_of(np.concatenate(sides), np.tile(references, 2))
    return compare_models(*(label_statistic_of(side, references) for side in sides), both, len(references), seed=seed)


def label_statistic_of(chosen, references):
    probabilities = np.full((len(chosen), 3), 0.1) + 0.7 * (chosen[:, None] == np.arange(3))
    return make_label_statistic("single", probabilities, chosen, references)


def test_a_difference_of_0_06_is_found_among_100_rows():
    random = np.random.default_rng(6)
    found = [compared(*language_pair(random, 100, 0.06), seed=seed)["figures"]["loss"]["real"] for seed in range(40)]
    assert sum(found) >= 32


def test_the_p_value_of_one_figure_is_that_of_scipy():
    random = np.random.default_rng(7)
    pairs = random.normal(size=(2, 12)) + np.array([[0.0], [0.6]])
    statistic = [lambda weights, each=each: {"loss": each @ weights / weights.sum(axis=0)} for each in pairs]
    joined = pairs.ravel()
    both = lambda weights: {"loss": joined @ weights / weights.sum(axis=0)}  # noqa: E731
    ours = compare_models(*statistic, both, 12)["figures"]["loss"]["p_value"]
    exact = permutation_test(
        tuple(pairs), lambda one, other: other.mean() - one.mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert ours == pytest.approx(exact.pvalue, abs=0.02)


def test_two_figures_that_are_one_cost_nothing_and_two_of_their_own_do():
    random = np.random.default_rng(8)
    drawn = random.normal(size=(1, 4000))
    alone = correct_p_values(np.array([2.3]), drawn)[0]
    twins = correct_p_values(np.array([2.3, 4.6]), np.concatenate([drawn, 2 * drawn]))
    assert twins == pytest.approx([alone, alone])
    two = correct_p_values(np.array([2.3, 0.1]), random.normal(size=(2, 4000)))
    assert two[0] == pytest.approx(2 * alone, rel=0.25)


@settings(max_examples=100)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_corrected_p_values_are_probabilities_never_smaller_than_alone_and_ordered_as_the_figures(observed, seed):
    drawn = np.random.default_rng(seed).normal(size=(len(observed), 99))
    found = correct_p_values(np.array(observed), drawn)
    alone = [correct_p_values(np.array([one]), row[None])[0] for one, row in zip(observed, drawn, strict=True)]
    assert ((found >= np.array(alone) - 1e-12) & (found <= 1)).all()
    assert found.min() >= 0.01


def test_the_same_models_differ_in_nothing():
    base, _ = language_pair(np.random.default_rng(9), 25, 0.0)
    for figure in compared(base, base)["figures"].values():
        assert (figure["difference"], figure["p_value"], figure["real"]) == (0, 1, False)


def test_a_single_row_and_a_figure_that_one_side_lacks_prove_nothing():
    base, tuned = language_pair(np.random.default_rng(10), 1, 2.0)
    assert not any(figure["real"] for figure in compared(base, tuned)["figures"].values())
    undefined = lambda weights: {"loss": np.full(weights.shape[1], np.nan)}  # noqa: E731
    nothing = {"outcome": "none", "verdict": "No difference from its base", "figures": {}, "words": []}
    assert compare_models(undefined, undefined, undefined, 5) == nothing


def test_swaps_worked_on_in_parts_are_the_same(monkeypatch):
    base, tuned = language_pair(np.random.default_rng(11), 40, 0.1)
    whole = compared(base, tuned)
    monkeypatch.setattr(pairing, "CHUNK_WEIGHTS", 4_000)
    assert compared(base, tuned) == whole
    assert compared(base, tuned, seed=1) != whole


def test_forgetting_is_said_where_it_is_real_and_only_there():
    random = np.random.default_rng(12)
    base, tuned = language_pair(random, 150, -0.4)
    words = compared(base, tuned, measure_forgetting)["words"]
    assert words[0].startswith("on rows it was not trained for, loss: ")
    assert words[0].endswith("it forgot")
    assert "worse by 0.39" in words[0]
    same = language_pair(random, 40, 0.0)
    (nothing,) = compared(*same, measure_forgetting)["words"]
    assert nothing.startswith("nothing forgotten that these 40 rows could show; of the loss they reliably show 0.0")
    better = compared(tuned, base, measure_forgetting)["words"]
    assert better[0].startswith("nothing forgotten that these 150 rows could show; ")
    assert better[0].endswith("; some of it is better, even")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((0, "0"), (2.3149, "2.31"), (0.012345, "0.0123"), (0.00001, "0.0000"), (45.67, "45.7"), (-0.5, "-0.500")),
        *((12345.6, "12,346"), (999.96, "1,000"), (math.inf, "inf"), (1e-300, "0.0000"), (-0.0, "0")),
    ],
)
def test_numbers_have_three_digits(value, written):
    assert format_number(value) == written


def test_every_figure_that_two_models_are_compared_by_has_a_direction():
    random = np.random.default_rng(13)
    for name in statistic_of(language_pair(random, 3, 0.0)[0])(np.ones((3, 1))):
        assert METRICS[name].better in ("higher", "lower")
