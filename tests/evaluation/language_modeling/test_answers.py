"""The figures of answers: from sums over resamples and of the rows themselves, which must agree."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_finetune.evaluation.language_modeling.answers import (
    Answer,
    compute_answer_metrics,
    compute_bleu,
    compute_chrf,
    make_answer_statistic,
)
from hf_finetune.evaluation.statistics.bootstrap import bootstrap_intervals

OWN = {"answer_tokens", "repetition", "refusal_rate", "stop_rate"}
COMPARED = {"exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL"}
TEXTS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat.", "I cannot", "東京", "x"]), max_size=9).map(
    " ".join
)
ANSWERS = st.builds(Answer, TEXTS, st.integers(1, 50), st.booleans())
# A quarter of the references are their answers.
ROWS = st.lists(
    st.tuples(ANSWERS, TEXTS, st.integers(0, 3)).map(lambda row: (row[0], row[1] if row[2] else row[0].text)),
    min_size=1,
    max_size=12,
)


def unzipped(rows):
    return [answer for answer, _ in rows], [reference for _, reference in rows]


def at_weights(statistic, weights):
    return {name: values.tolist() for name, values in statistic(np.asarray(weights, dtype=float)).items()}


@settings(max_examples=20)
@given(rows=ROWS, seed=st.integers(0, 2**32 - 1))
def test_a_resample_has_the_figures_of_its_rows(rows, seed):
    answers, references = unzipped(rows)
    drawn = np.random.default_rng(seed).integers(len(rows), size=len(rows))
    weights = np.stack([np.ones(len(rows)), np.bincount(drawn, minlength=len(rows))], axis=1)
    found = at_weights(make_answer_statistic(answers, references), weights)
    assert found.keys() == OWN | COMPARED
    for column, taken in enumerate((range(len(rows)), drawn)):
        expected = compute_answer_metrics([answers[row] for row in taken], [references[row] for row in taken])
        assert {name: values[column] for name, values in found.items()} == pytest.approx(
            expected, abs=1e-9, nan_ok=True
        )


@settings(max_examples=200)
@given(rows=ROWS)
def test_bleu_and_chrf_of_sums_are_those_of_sacrebleu(rows):
    answers, references = unzipped(rows)
    texts = [answer.text for answer in answers]
    found = at_weights(make_answer_statistic(answers, references), np.ones((len(rows), 1)))
    bleu, chrf = sacrebleu.corpus_bleu(texts, [references], force=True), sacrebleu.corpus_chrf(texts, [references])
    assert found["bleu"][0] == pytest.approx(bleu.score, abs=1e-9)
    assert found["chrf"][0] == pytest.approx(chrf.score, abs=1e-9)


def test_rows_that_do_not_count_change_nothing_and_without_rows_there_are_no_figures():
    answers = [
        Answer("the cat sat on the mat", 7, True),
        Answer("I cannot say that at all", 9, False),
        Answer("x", 1, True),
    ]
    references = ["the cat sat on a mat", "yes", "x"]
    found = at_weights(make_answer_statistic(answers, references), [[1, 0], [0, 0], [1, 0]])
    kept = compute_answer_metrics([answers[0], answers[2]], [references[0], references[2]])
    assert {name: values[0] for name, values in found.items()} == pytest.approx(kept, abs=1e-9)
    assert all(math.isnan(values[1]) for values in found.values())
    assert all(math.isnan(value) for value in compute_answer_metrics([], []).values())


def test_without_references_the_figures_of_the_answers_alone_are_left():
    answers = [Answer("a b c d a b c d", 9, True), Answer("I'm sorry, but no", 64, False)]
    figures = compute_answer_metrics(answers, None)
    assert figures == {
        "answer_tokens": 36.5,
        "repetition": pytest.approx(1 / 10),
        "refusal_rate": 0.5,
        "stop_rate": 0.5,
    }
    assert at_weights(make_answer_statistic(answers, None), [[1], [1]]) == {name: [x] for name, x in figures.items()}


def test_short_answers_have_no_bleu_and_still_a_chrf():
    right = [Answer("Paris", 2, True)] * 3
    figures = compute_answer_metrics(right, ["Paris"] * 3)
    assert (figures["exact_match"], figures["bleu"]) == (1, 0)
    assert figures["chrf"] == pytest.approx(100)
    sums = np.zeros((10, 2)), np.zeros((18, 2))
    assert compute_bleu(sums[0]).tolist() == compute_chrf(sums[1]).tolist() == [0, 0]


def test_many_resamples_of_many_answers_take_seconds():
    random = np.random.default_rng(0)
    words = random.choice(["the", "cat", "sat", "on", "mat"], size=(500, 2, 30))
    answers = [Answer(" ".join(said), 30, True) for said, _ in words]
    statistic = make_answer_statistic(answers, [" ".join(given) for _, given in words])
    began = time.process_time()
    intervals = bootstrap_intervals(statistic, 500)
    assert time.process_time() - began < 3
    assert intervals.keys() == OWN | COMPARED
    low, high = intervals["bleu"]
    assert 0 < low < high < 100
