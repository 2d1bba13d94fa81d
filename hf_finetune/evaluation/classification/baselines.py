"""Baselines: the majority class, and a logistic regression on TF-IDF features."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import PartialState
from datasets import Dataset

from hf_finetune.data.splitting.splits import Splits
from hf_finetune.evaluation.classification.fitted import score_fitted
from hf_finetune.evaluation.classification.metrics import (
    ClassifierOutputs,
    compute_label_metrics,
    compute_regression_metrics,
    make_default_decision,
    score_outputs,
)
from hf_finetune.evaluation.statistics.bootstrap import Statistic
from hf_finetune.evaluation.statistics.paired_test import compute_paired_metrics
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import EVAL_LABEL_METRICS
from hf_finetune.models.decision import Decision

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]
Texts = Sequence[str]
Metrics = dict[str, dict[str, Any]]

MAX_ROWS = 50_000
# Rows times labels: with many labels fewer rows are used, so that a baseline takes minutes at most.
MAX_CELLS = 2_000_000
MAX_WORDS = 200_000
# scikit-learn's default, C=1.0, is so strong for TF-IDF rows, whose norm is 1, that rare words hardly count.
INVERSE_REGULARIZATION = 10.0


def score_with_baselines(
    outputs: Mapping[str, ClassifierOutputs], labels: Labels, decision: Decision | None, splits: Splits, *, seed: int
) -> dict[str, dict[str, Any]]:
    """The `evaluation` part of a classifier's report: the metrics of each split, beside them those of both baselines.

    Every rank calls it; the main process alone computes, and the others get nothing.
    """
    if not PartialState().is_main_process:
        return {}
    evaluation = {name: score_outputs(found, labels, decision) for name, found in outputs.items()}
    if decision is not None and "validation" in outputs:
        evaluation["validation"] |= score_fitted(outputs["validation"], labels, decision)
    scores = {name: score_rows(labels, *_decide(found, labels, decision)) for name, found in outputs.items()}
    add_baselines(evaluation, splits, labels, seed=seed, row_scores=scores)
    return evaluation


def _decide(outputs: ClassifierOutputs, labels: Labels, decision: Decision | None) -> tuple[Any, Any]:
    """(what is answered, what is right) of each row."""
    if labels.kind == "number":
        return outputs.logits[:, 0], outputs.references
    decision = decision or make_default_decision(labels)
    return decision.choose(decision.compute_probabilities(outputs.logits)), outputs.references


def score_rows(labels: Labels, answered: npt.NDArray[Any], references: npt.NDArray[Any]) -> Array:
    """Score each row, (rows,), by what its split is judged by: 1 where it is right, or the absolute error."""
    if labels.kind == "number":
        errors: Array = np.abs(answered - references)
        return errors
    exact: npt.NDArray[np.bool_] = answered == references
    return np.asarray(exact if labels.kind == "single" else exact.all(axis=1), dtype=np.float64)


def compare_rows(name: str, baseline: Array, model: Array) -> dict[str, Any]:
    """Compare the scores of rows, (rows,) each, by the paired test: `{name: figures of compute_paired_metrics}`."""

    def make(scores: Array) -> Statistic:
        return lambda weights: {name: scores @ weights / weights.sum(axis=0)}

    both = make(np.concatenate([baseline, model]))
    return compute_paired_metrics(make(baseline), make(model), both, len(model))


def add_baselines(
    evaluation: dict[str, dict[str, Any]],
    splits: Splits,
    labels: Labels,
    *,
    seed: int,
    row_scores: Mapping[str, Array] | None = None,
) -> None:
    """Add the metrics of both baselines to each split of `evaluation`, as its `baselines`.

    With `row_scores` of the model, (rows,) for each split, each has a `comparison` with it on the same rows.
    """
    if not evaluation:
        return
    scored = {
        name: (join_text_pairs(splits.rows[name]), labels.encode(splits.rows[name]["label"])) for name in evaluation
    }
    train = splits.rows["train"]
    # Before their texts are read: a hundred million rows have more of them than the memory holds.
    train = train.select(_sample_rows(len(train), len(labels.names), seed))
    found = score_baselines(join_text_pairs(train), labels.encode(train["label"]), scored, labels, seed, row_scores)
    for name, figures in found.items():
        evaluation[name]["baselines"] = figures


def score_baselines(
    train_texts: Texts,
    train_labels: npt.NDArray[Any],
    splits: Mapping[str, tuple[Texts, npt.NDArray[Any]]],
    labels: Labels,
    seed: int,
    row_scores: Mapping[str, Array] | None = None,
) -> dict[str, Metrics]:
    """Compute the metrics of `majority` and `tfidf_logistic_regression` for each split: (texts, encoded labels).

    For a regression they are `mean` and `tfidf_ridge`. Encoded labels: (rows,), or (rows, labels) for multi-label. Both
    are fitted to at most 50,000 training rows, the same for the same seed. Without words there is only the first.
    """
    rows = _sample_rows(len(train_texts), len(labels.names), seed)
    texts, given = [train_texts[row] for row in rows], train_labels[rows]
    names = ("mean", "tfidf_ridge") if labels.kind == "number" else ("majority", "tfidf_logistic_regression")
    found: dict[str, Metrics] = {name: {} for name in splits}
    for name, (_, references) in splits.items():
        guessed = np.tile(_fit_constant(given, labels), (len(references), 1))
        found[name][names[0]] = _score(guessed, references, labels, (row_scores or {}).get(name))
    predicted = _predict_from_words(texts, given, [each for each, _ in splits.values()], labels)
    for (name, (_, references)), guessed in zip(splits.items(), predicted, strict=bool(predicted)):
        found[name][names[1]] = _score(guessed, references, labels, (row_scores or {}).get(name))
    return found


def join_text_pairs(rows: Dataset) -> list[str]:
    """Return the texts of labeled rows, those of a pair joined by a line feed."""
    pairs = zip(rows["text"][:], rows["text_pair"][:], strict=True)
    return [text if pair is None else f"{text}\n{pair}" for text, pair in pairs]


def _sample_rows(rows: int, labels: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the indices of the training rows that the baselines are fitted to, ascending: (sampled,)."""
    # 100,000 rows: 50,000 of them for 2 labels, 20,000 for 100 labels.
    most = min(MAX_ROWS, MAX_CELLS // labels)
    if rows <= most:
        return np.arange(rows)
    logger.info("the baselines are fitted to %s of the %s training rows", f"{most:,}", f"{rows:,}")
    return np.sort(np.random.default_rng(seed).choice(rows, size=most, replace=False))


def _fit_constant(given: npt.NDArray[Any], labels: Labels) -> Array:
    """Return what is predicted for every row: each label's share of the training rows, (labels,), or a mean, (1,)."""
    if labels.kind == "single":
        return np.bincount(given, minlength=len(labels.names)) / len(given)
    return np.atleast_1d(given.mean(axis=0, dtype=np.float64))


def _score(predicted: Array, references: npt.NDArray[Any], labels: Labels, model: Array | None) -> dict[str, Any]:
    """The metrics of a baseline, and its comparison with the scores of the model's rows, (rows,), where there are."""
    figures: dict[str, Any] = _compute_metrics(predicted, references, labels)
    if model is None or not np.isfinite(model).all() or not np.isfinite(predicted).all():
        return figures
    numbers = labels.kind == "number"
    answered = predicted[:, 0] if numbers else make_default_decision(labels).choose(predicted)
    given = references.astype(np.float64 if numbers else np.int64)
    return figures | {
        "comparison": compare_rows("mae" if numbers else "accuracy", score_rows(labels, answered, given), model)
    }


def _compute_metrics(predicted: Array, references: npt.NDArray[Any], labels: Labels) -> dict[str, float]:
    """`predicted`: probabilities (rows, labels), or numbers (rows, 1); `references`: (rows,) or (rows, labels)."""
    if labels.kind == "number":
        return compute_regression_metrics(predicted[:, 0], references.astype(np.float64))
    chosen = make_default_decision(labels).choose(predicted)
    figures = compute_label_metrics(labels, predicted, chosen, references.astype(np.int64))
    loss = figures["log_loss"]
    return {name: loss if name == "loss" else figures[name] for name in EVAL_LABEL_METRICS} | {"log_loss": loss}


def _predict_from_words(texts: Texts, given: npt.NDArray[Any], splits: Sequence[Texts], labels: Labels) -> list[Array]:
    """Predict the probabilities, (rows, labels), or the numbers, (rows, 1), of each split; [] if no text has a word."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # scikit-learn's default token_pattern, `\b\w\w+\b`, leaves out words of one character: "u", "2", most of Chinese.
    settings = {"ngram_range": (1, 2), "sublinear_tf": True, "token_pattern": r"\w+", "max_features": MAX_WORDS}
    if not any(re.search(r"\w", text) for text in texts):
        logger.info("no word in the training rows: there is no baseline of words")
        return []
    vectorizer = TfidfVectorizer(**settings)
    words = vectorizer.fit_transform(texts)
    others = [vectorizer.transform(each) for each in splits]
    if labels.kind == "multi":
        columns = [_predict_one_label(words, column, others) for column in given.T]
        return [np.stack(each, axis=1) for each in zip(*columns, strict=True)]
    if labels.kind == "number":
        from sklearn.linear_model import Ridge

        ridge = Ridge(solver="lsqr").fit(words, given.astype(np.float64))
        return [ridge.predict(each)[:, None] for each in others]
    regression = _fit_logistic_regression(words, given)
    return [_align_columns(regression.predict_proba(each), regression.classes_, labels) for each in others]


def _predict_one_label(words: Any, given: npt.NDArray[Any], others: Sequence[Any]) -> list[Array]:
    """Predict the probability of one label in each split, (rows,); 0 or 1 if all training rows, `given`, agree."""
    if given.min() == given.max():
        return [np.full(each.shape[0], float(given[0])) for each in others]
    regression = _fit_logistic_regression(words, given)
    return [regression.predict_proba(each)[:, 1] for each in others]


def _fit_logistic_regression(words: Any, given: npt.NDArray[Any]) -> Any:
    """`words`: sparse (rows, words); `given`: (rows,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 iterations are close enough for a baseline
        return LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=200).fit(words, given)


def _align_columns(probabilities: Array, classes: npt.NDArray[np.int64], labels: Labels) -> Array:
    """(rows, classes) -> (rows, labels): a label that no sampled training row has gets probability 0."""
    whole = np.zeros((len(probabilities), len(labels.names)))
    whole[:, classes] = probabilities
    return whole
