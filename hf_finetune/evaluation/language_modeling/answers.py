"""The metrics of generated answers, and for many resamples of the rows at once.

BLEU and chrF of the rows are sacrebleu's; those of resamples are here, of sums of sacrebleu's counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.metrics.answer_functions import (
    ROUGE_METRICS,
    average_rows,
    compute_corpus_bleu,
    compute_corpus_chrf,
    compute_repetition,
    compute_rouge,
    compute_token_f1,
    is_refusal,
    match_answer,
)

if TYPE_CHECKING:  # scipy, which `generate` and `chat` need nothing of
    from hf_finetune.evaluation.statistics.bootstrap import Statistic

Array = npt.NDArray[np.float64]

# sacrebleu's defaults: runs of one to four words, of one to six characters; recall counts twice as much.
BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2
# The order of report.json.
COMPARED_METRICS = ("exact_match", "token_f1", "bleu", "chrf", *ROUGE_METRICS)
METRICS = (*COMPARED_METRICS, "answer_tokens", "repetition", "refusal_rate", "stop_rate")


@dataclass(frozen=True)
class Answer:
    """What a model generated after a prompt."""

    text: str
    tokens: int
    """Tokens that were generated, the end token included."""
    finished: bool
    """The model ended the text itself."""


def compute_answer_metrics(answers: Sequence[Answer], references: Sequence[str] | None) -> dict[str, float]:
    """Compute every metric of the answers, with `references` also those that compare; (rows,) each.

    BLEU and chrF go to 100, shares to 1. NaN where no row has the metric.
    """
    found = {name: average_rows(values) for name, values in _score_rows(answers, references).items()}
    if references is not None:
        texts = [answer.text for answer in answers]
        found |= {"bleu": compute_corpus_bleu(texts, references)[0], "chrf": compute_corpus_chrf(texts, references)[0]}
    return {name: found[name] for name in METRICS if name in found}


def make_answer_statistic(answers: Sequence[Answer], references: Sequence[str] | None) -> Statistic:
    """Make `compute_answer_metrics` a function of row weights: (rows, resamples) -> (resamples,) each.

    A metric is NaN for a resample in which no row that has it counts.
    """
    means = {name: np.asarray(values, dtype=np.float64) for name, values in _score_rows(answers, references).items()}
    defined = {name: ~np.isnan(values) for name, values in means.items()}
    if references is not None:
        texts = [answer.text for answer in answers]
        bleu_counts, chrf_counts = _count_bleu(texts, references), _count_chrf(texts, references)

    def statistic(weights: Array) -> dict[str, Array]:  # (rows, resamples) -> (resamples,) each
        found = {
            name: _divide(np.where(defined[name], values, 0.0) @ weights, defined[name] @ weights)
            for name, values in means.items()
        }
        if references is not None:
            rows = weights.sum(axis=0)
            found["bleu"] = np.where(rows > 0, compute_bleu(bleu_counts @ weights), np.nan)
            found["chrf"] = np.where(rows > 0, compute_chrf(chrf_counts @ weights), np.nan)
        return found

    return statistic


def _score_rows(answers: Sequence[Answer], references: Sequence[str] | None) -> dict[str, Sequence[float]]:
    """Compute the metrics that are means over rows, of each row: (rows,) each, NaN for a row without one."""
    texts = [answer.text for answer in answers]
    compared: dict[str, Sequence[float]] = {}
    if references is not None:
        compared["exact_match"] = list(map(match_answer, texts, references))
        compared["token_f1"] = list(map(compute_token_f1, texts, references))
        compared |= compute_rouge(texts, references)
    return compared | {
        "answer_tokens": [answer.tokens for answer in answers],
        "repetition": list(map(compute_repetition, texts)),
        "refusal_rate": list(map(is_refusal, texts)),
        "stop_rate": [answer.finished for answer in answers],
    }


def compute_bleu(sums: Array) -> Array:
    """Compute BLEU as sacrebleu, exponentially smoothed, of sums of `_count_bleu`: (10, resamples) -> (resamples,)."""
    words, reference_words = sums[:2]
    shared, runs = sums[2 : 2 + BLEU_ORDER], sums[2 + BLEU_ORDER :]
    # Lengths without a shared run count as half a run, then a quarter: shared [3, 1, 0, 0] -> [3, 1, 1/2, 1/4].
    missed = (shared == 0).cumsum(axis=0)
    smoothed = np.where(shared == 0, 0.5**missed, shared)
    logs = np.log(smoothed / np.where(runs > 0, runs, 1.0)).mean(axis=0)
    penalty = np.exp(np.minimum(0.0, 1 - reference_words / np.where(words > 0, words, 1.0)))
    possible = (runs > 0).all(axis=0) & shared.any(axis=0)
    return np.asarray(np.where(possible, 100 * penalty * np.exp(logs), 0.0))


def compute_chrf(sums: Array) -> Array:
    """Compute chrF2, as sacrebleu, of sums of `_count_chrf`: (18, resamples) -> (resamples,)."""
    runs, reference_runs, shared = (sums[part::3] for part in range(3))  # (6, resamples) each
    counted = (runs > 0) & (reference_runs > 0)
    lengths = np.maximum(1, counted.sum(axis=0))
    precision, recall = (
        np.divide(shared, whole, out=np.zeros_like(shared), where=counted).sum(axis=0) / lengths
        for whole in (runs, reference_runs)
    )
    weight = CHRF_BETA**2
    return _divide(100 * (1 + weight) * precision * recall, weight * precision + recall, otherwise=0.0)


def _count_bleu(texts: Sequence[str], references: Sequence[str]) -> Array:
    """Count the words of each row, of its reference, and by length shared runs and all runs of words: (10, rows)."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(force=True, effective_order=True)  # no warning; the counts are the same
    scores = [bleu.sentence_score(text, [reference]) for text, reference in zip(texts, references, strict=True)]
    rows = [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2 + 2 * BLEU_ORDER).T


def _count_chrf(texts: Sequence[str], references: Sequence[str]) -> Array:
    """Count for each row, by length, its runs of characters, its reference's, and those they share: (18, rows)."""
    rows = [_count_chrf_row(*pair) for pair in zip(texts, references, strict=True)]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 3 * CHRF_ORDER).T


def _count_chrf_row(text: str, reference: str) -> list[int]:
    # "ab" beside "abc": of one character 2, 3 and 2, of two 1, 2 and 1, of three 0, 1 and 0.
    texts = "".join(text.split()), "".join(reference.split())
    row = []
    for length in range(1, CHRF_ORDER + 1):
        one, other = (
            Counter(each[start : start + length] for start in range(len(each) - length + 1)) for each in texts
        )
        # As in sacrebleu, an answer's runs do not count beside a reference that has none of their length.
        row += [one.total() if other else 0, other.total(), (one & other).total()]
    return row


def _divide(top: Array, bottom: Array, otherwise: float = np.nan) -> Array:
    """(resamples,) each -> (resamples,); `otherwise` where the denominator is 0."""
    return np.asarray(np.divide(top, bottom, out=np.full_like(top, otherwise), where=bottom > 0))
