"""What needs no model: the commonest label, and a logistic regression on the words of a text."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from hf_finetune.data.labels import Labels
from hf_finetune.data.splits import Splits
from hf_finetune.evaluation.classification import label_figures, number_figures, plain_decision
from hf_finetune.metric_info import OF_LABELS

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]
Texts = Sequence[str]
Figures = dict[str, dict[str, float]]

MOST_ROWS = 50_000
# Rows times labels: with many labels fewer rows, so that a baseline takes minutes at most.
MOST_CELLS = 2_000_000
MOST_WORDS = 200_000
# scikit-learn's 1.0 is so strong for rows of length 1 that rare words hardly count.
INVERSE_REGULARISATION = 10.0


def add_baselines(evaluation: dict[str, dict[str, Any]], splits: Splits, labels: Labels, *, seed: int) -> None:
    """Put the figures of both baselines beside those of the model, as `baselines` of each split that has any."""
    if not evaluation:
        return
    scored = {name: (texts_of(splits.rows[name]), labels.encode(splits.rows[name]["label"])) for name in evaluation}
    train = splits.rows["train"]
    found = baseline_scores(texts_of(train), labels.encode(train["label"]), scored, labels, seed)
    for name, figures in found.items():
        evaluation[name]["baselines"] = figures


def baseline_scores(
    train_texts: Texts,
    train_labels: npt.NDArray[Any],
    splits: Mapping[str, tuple[Texts, npt.NDArray[Any]]],
    labels: Labels,
    seed: int,
) -> dict[str, Figures]:
    """For each split (texts, encoded labels) the figures of `majority` and `tfidf_logistic_regression`.

    For numbers these are `mean` and `tfidf_ridge`. Fitted to at most 50,000 training rows, and the same each time.
    Where no text has a word, there is only the first.
    """
    rows = _some_rows(len(train_texts), len(labels.names), seed)
    texts, given = [train_texts[row] for row in rows], train_labels[rows]
    names = ("mean", "tfidf_ridge") if labels.kind == "number" else ("majority", "tfidf_logistic_regression")
    found: dict[str, Figures] = {name: {} for name in splits}
    for name, (_, references) in splits.items():
        guessed = np.tile(_most_common(given, labels), (len(references), 1))
        found[name][names[0]] = _figures(guessed, references, labels)
    predicted = _from_words(texts, given, [each for each, _ in splits.values()], labels)
    for (name, (_, references)), guessed in zip(splits.items(), predicted, strict=bool(predicted)):
        found[name][names[1]] = _figures(guessed, references, labels)
    return found


def texts_of(rows: Dataset) -> list[str]:
    """The texts of labelled rows, those of a pair joined by a line feed."""
    pairs = zip(rows["text"][:], rows["text_pair"][:], strict=True)
    return [text if pair is None else f"{text}\n{pair}" for text, pair in pairs]


def _some_rows(rows: int, labels: int, seed: int) -> npt.NDArray[np.int64]:
    most = min(MOST_ROWS, MOST_CELLS // labels)
    if rows <= most:
        return np.arange(rows)
    logger.info("the baselines are fitted to %s of the %s training rows", f"{most:,}", f"{rows:,}")
    return np.sort(np.random.default_rng(seed).choice(rows, size=most, replace=False))


def _most_common(given: npt.NDArray[Any], labels: Labels) -> Array:
    """The share of each label among the training rows, or their mean number: what is said of every row."""
    if labels.kind == "single":
        return np.bincount(given, minlength=len(labels.names)) / len(given)
    return np.atleast_1d(given.mean(axis=0, dtype=np.float64))


def _figures(predicted: Array, references: npt.NDArray[Any], labels: Labels) -> dict[str, float]:
    if labels.kind == "number":
        return number_figures(predicted[:, 0], references.astype(np.float64))
    chosen = plain_decision(labels).choose(predicted)
    figures = label_figures(labels, predicted, chosen, references.astype(np.int64))
    loss = figures["log_loss"]
    return {name: loss if name == "loss" else figures[name] for name in OF_LABELS} | {"log_loss": loss}


def _from_words(texts: Texts, given: npt.NDArray[Any], splits: Sequence[Texts], labels: Labels) -> list[Array]:
    """For each split the probability of each label (rows, labels), or a number (rows, 1); nothing without words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    # By default words of one character are left out, as "u" and "2", or every word of some scripts.
    settings = {"ngram_range": (1, 2), "sublinear_tf": True, "token_pattern": r"\w+", "max_features": MOST_WORDS}
    if not any(re.search(r"\w", text) for text in texts):
        logger.info("no word in the training rows: there is no baseline of words")
        return []
    vectorizer = TfidfVectorizer(**settings)
    words = vectorizer.fit_transform(texts)
    others = [vectorizer.transform(each) for each in splits]
    if labels.kind == "multi":
        columns = [_one_label(words, column, others) for column in given.T]
        return [np.stack(each, axis=1) for each in zip(*columns, strict=True)]
    if labels.kind == "number":
        from sklearn.linear_model import Ridge

        ridge = Ridge(solver="lsqr").fit(words, given.astype(np.float64))
        return [ridge.predict(each)[:, None] for each in others]
    regression = _logistic_regression(words, given)
    return [_in_order(regression.predict_proba(each), regression.classes_, labels) for each in others]


def _one_label(words: Any, given: npt.NDArray[Any], others: Sequence[Any]) -> list[Array]:
    """The probability of one label in each split; where all training rows agree, that is what is said."""
    if given.min() == given.max():
        return [np.full(each.shape[0], float(given[0])) for each in others]
    regression = _logistic_regression(words, given)
    return [regression.predict_proba(each)[:, 1] for each in others]


def _logistic_regression(words: Any, given: npt.NDArray[Any]) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # close enough for what it is compared with
        return LogisticRegression(C=INVERSE_REGULARISATION, max_iter=200).fit(words, given)


def _in_order(probabilities: Array, classes: npt.NDArray[np.int64], labels: Labels) -> Array:
    """Of all labels: one that none of the rows had, where only some were taken, has none."""
    whole = np.zeros((len(probabilities), len(labels.names)))
    whole[:, classes] = probabilities
    return whole
