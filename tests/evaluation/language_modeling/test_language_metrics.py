"""The figures of a language model: of all rows, of sums over resamples, and by formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.scratch_models import tiny_model, token_ids

from hf_finetune.evaluation.language_modeling.metrics import compute_language_metrics, make_language_statistic
from hf_finetune.evaluation.language_modeling.trainer_metrics import reduce_logits
from hf_finetune.evaluation.statistics.bootstrap import bootstrap_intervals

NAMES = ["loss", "perplexity", "word_perplexity", "token_accuracy", "bits_per_byte"]


def some_rows(random, rows):
    """Sums as `reduce_logits` gives them, bytes and words; some rows are empty."""
    tokens = random.integers(0, 60, rows) * (random.random(rows) < 0.9)
    correct = random.binomial(tokens, 0.4)
    nll = random.exponential(2.0, rows) * tokens
    return np.stack([nll, correct, tokens], axis=1).astype(float), tokens * random.integers(1, 6), tokens // 2


def by_hand(sums, row_bytes, row_words):
    nll, correct, tokens = sums.sum(axis=0)
    return {
        "loss": nll / tokens,
        "perplexity": math.e ** (nll / tokens),
        "word_perplexity": math.e ** (nll / row_words.sum()),
        "token_accuracy": correct / tokens,
        "bits_per_byte": nll / math.log(2) / row_bytes.sum(),
    }


def test_figures_and_statistic_are_those_of_formulas_on_many_generated_splits():
    random = np.random.default_rng(0)
    for _ in range(1_000):
        rows = some_rows(random, int(random.integers(3, 40)))
        expected = by_hand(*rows) if rows[2].any() else None
        if expected is None:
            continue
        found = make_language_statistic(*rows)(np.ones((len(rows[1]), 1)))
        assert {name: values[0] for name, values in found.items()} == pytest.approx(expected, rel=1e-9)
        assert compute_language_metrics(*rows) == pytest.approx(expected, rel=1e-9)


@given(rows=st.integers(2, 20), seed=st.integers(0, 2**32 - 1))
def test_a_resample_has_the_figures_of_its_rows(rows, seed):
    random = np.random.default_rng(seed)
    sums, row_bytes, row_words = some_rows(random, rows)
    sums[0], row_bytes[0], row_words[0] = (10.0, 2, 4), 20, 3
    drawn = np.append(random.integers(rows, size=rows), 0)
    found = make_language_statistic(sums, row_bytes, row_words)(
        np.bincount(drawn, minlength=rows)[:, None].astype(float)
    )
    assert list(found) == NAMES
    expected = by_hand(sums[drawn], row_bytes[drawn], row_words[drawn])
    assert {name: values[0] for name, values in found.items()} == pytest.approx(expected, rel=1e-9)


def test_the_sums_of_a_real_model_give_the_loss_that_it_says():
    model, ids = tiny_model(), token_ids(4, 12)
    with torch.no_grad():
        output = model(input_ids=ids, labels=ids)
    sums = reduce_logits(output.logits.double(), ids).numpy()
    figures = compute_language_metrics(sums, np.full(4, 30), np.full(4, 5))
    assert figures["loss"] == pytest.approx(output.loss.item(), rel=1e-5)
    assert figures["word_perplexity"] == pytest.approx(math.exp(figures["loss"] * 44 / 20), rel=1e-9)


def test_the_order_of_rows_and_so_the_number_of_processes_changes_no_bit():
    rows = some_rows(np.random.default_rng(1), 200)
    order = np.random.default_rng(2).permutation(200)
    assert compute_language_metrics(*rows) == compute_language_metrics(*(each[order] for each in rows))


def test_text_without_words_has_no_perplexity_per_word():
    sums = np.asarray([[3.0, 1, 2]])
    assert list(compute_language_metrics(sums, np.asarray([9]), np.asarray([0]))) == [
        n for n in NAMES if "word" not in n
    ]
    assert "word_perplexity" not in make_language_statistic(sums, np.asarray([9]), np.asarray([0]))(np.ones((1, 1)))


def test_what_is_not_defined_is_nan_and_what_is_too_large_is_infinite():
    nothing = make_language_statistic(np.asarray([[3.0, 1, 2]]), np.asarray([9]), np.asarray([1]))(np.zeros((1, 2)))
    assert all(np.isnan(values).all() for values in nothing.values())
    assert all(map(math.isnan, compute_language_metrics(np.zeros((0, 3)), np.zeros(0), np.zeros(0)).values()))
    broken = np.asarray([[math.nan, 0, 2], [1.0, 1, 2]]), np.asarray([5, 5]), np.asarray([1, 1])
    found = make_language_statistic(*broken)(np.ones((2, 1)))
    assert np.isnan([found["loss"][0], compute_language_metrics(*broken)["loss"]]).all()
    assert found["token_accuracy"] == compute_language_metrics(*broken)["token_accuracy"] == 0.25
    huge = np.asarray([[1e6, 0, 1]]), np.asarray([5]), np.asarray([1])
    assert (
        make_language_statistic(*huge)(np.ones((1, 1)))["perplexity"]
        == compute_language_metrics(*huge)["perplexity"]
        == math.inf
    )


def test_long_rows_count_more_in_the_interval_of_the_loss():
    random = np.random.default_rng(3)
    tokens = np.where(np.arange(100) < 5, 2_000, 20)
    sums = np.stack([tokens * random.uniform(1, 3, 100), 0 * tokens, tokens], axis=1).astype(float)
    wide = bootstrap_intervals(make_language_statistic(sums, tokens, tokens), 100)["loss"]
    sums = np.stack([20 * sums[:, 0] / tokens, 0 * tokens, 0 * tokens + 20], axis=1)
    narrow = bootstrap_intervals(make_language_statistic(sums, tokens, tokens), 100)["loss"]
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
