"""The figures of generated answers, through the metric modules and for many resamples at once."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_finetune.evaluation.statistics.bootstrap import Statistic

Array = npt.NDArray[np.float64]

# sacrebleu's defaults: runs of one to four words, of one to six characters; recall counts twice as much.
BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2


@dataclass(frozen=True)
class Answer:
    """What a model generated after a prompt."""

    text: str
    tokens: int
    """Tokens that were generated, the end token included."""
    finished: bool
    """The model ended the text itself."""


def compute_answer_metrics(answers: Sequence[Answer], references: Sequence[str] | None) -> dict[str, float]:
    """Every figure of the answers, and beside `references` those that compare; BLEU and chrF go to 100, shares to 1."""

    # `evaluate` takes half a second to import, which a run without answers need not spend.
    from hf_finetune.evaluation.metrics.answer_length import AnswerLength
    from hf_finetune.evaluation.metrics.bleu import Bleu
    from hf_finetune.evaluation.metrics.chrf import Chrf
    from hf_finetune.evaluation.metrics.exact_match import ExactMatch
    from hf_finetune.evaluation.metrics.refusal_rate import RefusalRate
    from hf_finetune.evaluation.metrics.repetition import Repetition
    from hf_finetune.evaluation.metrics.rouge import Rouge
    from hf_finetune.evaluation.metrics.stop_rate import StopRate
    from hf_finetune.evaluation.metrics.token_f1 import TokenF1

    texts = {"predictions": [answer.text for answer in answers]}
    found: dict[str, float] = {}
    # A metric makes a folder even when it keeps everything in memory.
    with tempfile.TemporaryDirectory() as folder:
        kept = {"keep_in_memory": True, "cache_dir": folder}
        if references is not None:
            for compared in (ExactMatch, TokenF1, Bleu, Chrf, Rouge):
                found |= compared(**kept).compute(**texts, references=list(references))
        found |= AnswerLength(**kept).compute(tokens=[answer.tokens for answer in answers])
        found |= Repetition(**kept).compute(**texts)
        found |= RefusalRate(**kept).compute(**texts)
        found |= StopRate(**kept).compute(finished=[answer.finished for answer in answers])
    return {name: value for name, value in found.items() if not name.endswith("_signature")}


def make_answer_statistic(answers: Sequence[Answer], references: Sequence[str] | None) -> Statistic:
    """What `compute_answer_metrics` gives the rows of resamples, from what each row adds to the sums behind them.

    Weights may be any that are not negative; a figure is NaN where no row that has it counts.
    """
    means = _own_figures(answers)
    if references is not None:
        texts = [answer.text for answer in answers]
        means = _compared_figures(texts, references) | means
        bleu_counts, chrf_counts = _bleu_counts(texts, references), _chrf_counts(texts, references)
    defined = {name: ~np.isnan(values) for name, values in means.items()}

    def statistic(weights: Array) -> dict[str, Array]:
        figures = {
            name: _ratio(np.where(defined[name], values, 0.0) @ weights, defined[name] @ weights)
            for name, values in means.items()
        }
        if references is not None:
            rows = weights.sum(axis=0)
            figures["bleu"] = np.where(rows > 0, compute_bleu(bleu_counts @ weights), np.nan)
            figures["chrf"] = np.where(rows > 0, compute_chrf(chrf_counts @ weights), np.nan)
        return figures

    return statistic


def compute_bleu(sums: Array) -> Array:
    """BLEU with exponential smoothing of words, reference's words, shared and all runs of each length: (10, n)."""
    said, given = sums[:2]
    shared, runs = sums[2 : 2 + BLEU_ORDER], sums[2 + BLEU_ORDER :]
    missed = (shared == 0).cumsum(axis=0)  # each length without a shared run halves what it is taken for
    smoothed = np.where(shared == 0, 0.5**missed, shared)
    logs = np.log(smoothed / np.where(runs > 0, runs, 1.0)).mean(axis=0)
    penalty = np.exp(np.minimum(0.0, 1 - given / np.where(said > 0, said, 1.0)))
    possible = (runs > 0).all(axis=0) & shared.any(axis=0)
    return np.asarray(np.where(possible, 100 * penalty * np.exp(logs), 0.0))


def compute_chrf(sums: Array) -> Array:
    """chrF2 of all, the reference's and shared runs of each length, one after the other: (18, n)."""
    said, given, shared = (sums[part::3] for part in range(3))
    counted = (said > 0) & (given > 0)
    lengths = np.maximum(1, counted.sum(axis=0))
    precision, recall = (
        np.divide(shared, whole, out=np.zeros_like(shared), where=counted).sum(axis=0) / lengths
        for whole in (said, given)
    )
    weight = CHRF_BETA**2
    return _ratio(100 * (1 + weight) * precision * recall, weight * precision + recall, otherwise=0.0)


def _own_figures(answers: Sequence[Answer]) -> dict[str, Array]:
    from hf_finetune.evaluation.metrics.refusal_rate import refuses
    from hf_finetune.evaluation.metrics.repetition import repeated_share

    rows: dict[str, list[float]] = {
        "answer_tokens": [answer.tokens for answer in answers],
        "repetition": [repeated_share(answer.text) for answer in answers],
        "refusal_rate": [refuses(answer.text) for answer in answers],
        "stop_rate": [answer.finished for answer in answers],
    }
    return {name: np.asarray(values, dtype=np.float64) for name, values in rows.items()}


def _compared_figures(texts: Sequence[str], references: Sequence[str]) -> dict[str, Array]:
    """The figures that are means over rows, of each row."""
    from hf_finetune.evaluation.metrics.rouge import FIGURES, rouge_of_rows
    from hf_finetune.evaluation.metrics.text_words import normalize_answer
    from hf_finetune.evaluation.metrics.token_f1 import shared_words

    pairs = list(zip(texts, references, strict=True))
    exact = [float(normalize_answer(text) == normalize_answer(reference)) for text, reference in pairs]
    rouge = np.asarray(rouge_of_rows(texts, references), dtype=np.float64).reshape(-1, len(FIGURES))
    return {
        "exact_match": np.asarray(exact),
        "token_f1": np.asarray([shared_words(*pair) for pair in pairs]),
        **dict(zip(FIGURES, rouge.T, strict=True)),
    }


def _bleu_counts(texts: Sequence[str], references: Sequence[str]) -> Array:
    """For each row: its words, its reference's, shared runs of words and all of them, by length: (10, rows)."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(force=True, effective_order=True)  # which changes its figure and not its counts, and needs no warning
    scores = [bleu.sentence_score(text, [reference]) for text, reference in zip(texts, references, strict=True)]
    rows = [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2 + 2 * BLEU_ORDER).T


def _chrf_counts(texts: Sequence[str], references: Sequence[str]) -> Array:
    """For each row and length of runs of characters: its runs, its reference's, and those they share: (18, rows)."""
    rows = [_chrf_row(*pair) for pair in zip(texts, references, strict=True)]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 3 * CHRF_ORDER).T


def _chrf_row(text: str, reference: str) -> list[int]:
    said, given = "".join(text.split()), "".join(reference.split())
    row = []
    for length in range(1, CHRF_ORDER + 1):
        one, other = (
            Counter(each[start : start + length] for start in range(len(each) - length + 1)) for each in (said, given)
        )
        # As sacrebleu has it: beside a reference without such runs, the answer's are not held against it.
        row += [one.total() if other else 0, other.total(), (one & other).total()]
    return row


def _ratio(top: Array, bottom: Array, otherwise: float = np.nan) -> Array:
    return np.asarray(np.divide(top, bottom, out=np.full_like(top, otherwise), where=bottom > 0))
