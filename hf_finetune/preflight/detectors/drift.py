"""Whether rows are such as the training rows: a classifier is to tell the two apart (https://arxiv.org/abs/1610.06545).

Where it cannot, it is right of one pair in two; how often it is right of a pair of rows that it has not seen, one of
each side, is the area under its curve (AUC). It learns from one half of the rows and is measured on the other: scores
that are put together of several folds vary more than an interval says.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.data.splitting.assignment import Rows, shuffle_by_hash
from hf_finetune.data.splitting.signs import SIGNS
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.preflight.detectors.texts import iterate_texts, number_rows
from hf_finetune.preflight.findings import Finding

MOST_ROWS = 2_000
"""Of each side: the AUC is then known to about one pair in a hundred."""
# Half of them are left to be measured: with 25 of each side an interval is some 0.3 wide.
_FEWEST_ROWS = 50
_TOLD_APART = 0.6
_MOST_LETTERS = 2_000
_MOST_FEATURES = 20_000
_WORDS_SHOWN = 5
# Words; of scripts that set none between blanks, each sign.
# The pattern of scikit-learn has no word of one letter, and takes a whole sentence of Chinese for a word.
_TOKEN = f"[{SIGNS}]|[^\\W{SIGNS}]+"
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Drift:
    """How well training rows and others are told apart, with an interval of 95 %, and of how many rows."""

    auc: float
    low: float
    high: float
    train_rows: int
    other_rows: int
    words: tuple[str, ...] = ()
    """Those that are a sign of the others, if they are asked for."""
    train_words: tuple[str, ...] = ()


def detect_drift(
    splits: Splits, seed: int = 0, against: tuple[Splits, str] | None = None, *, show_data: bool = False
) -> tuple[list[Finding], dict[str, Any]]:
    """Tell the rows of each other split, or those `against` which the training rows are held, from training rows.

    `against`: rows in one split, and the file as the user wrote it. At most `MOST_ROWS` of each side are read, drawn by
    `seed`, and with fewer than 50 of one nothing is said. Counts: the fields of `Drift` by split; with `show_data` with
    the words that differ, which are those of rows.
    """
    if "train" not in splits.rows:
        return [], {}
    others = {name: (splits, name, name) for name in splits.rows if name != "train"}
    if against is not None:
        (split,) = against[0].rows
        others = {against[1]: (against[0], split, f"rows of {against[1]}")}
    findings, counts = [], {}
    train = draw_texts(splits, "train", seed)
    for key, (theirs, split, named) in others.items():
        drift = measure_drift(train, draw_texts(theirs, split, seed), show_words=show_data)
        if drift is None:
            continue
        counts[key] = {name: value for name, value in asdict(drift).items() if show_data or "words" not in name}
        # The low end of the interval, and not the AUC: of few rows that is above 0.6 by chance now and then.
        if drift.low > _TOLD_APART:
            findings.append(Finding("HF381", _say(named, drift), None if against else split, 0))
    return findings, counts


def _say(named: str, drift: Drift) -> str:
    pairs, low, high = (f"{100 * value:.1f}" for value in (drift.auc, drift.low, drift.high))
    said = (
        f"{named}: a classifier tells them from training rows in {pairs} of 100 pairs (95 % interval {low} to {high})"
    )
    if not drift.words:
        return said
    lists = (", ".join(map(repr, words)) for words in (drift.words, drift.train_words))
    return "; ".join(
        [said, *(f"{side} {words}" for side, words in zip(("there:", "in training rows:"), lists, strict=True))]
    )


def draw_texts(splits: Splits, split: str, seed: int) -> list[str]:
    """Draw texts of a split, none of them twice, in their order."""
    numbers, own = number_rows(splits.rows[split])
    hashes = splits.hashes[split][own]
    _, distinct = np.unique(hashes, return_index=True)
    # Ascending, as a table is read once from its beginning; which rows are drawn does not change by that.
    drawn: Rows = np.sort(distinct[shuffle_by_hash(hashes[distinct], seed)[:MOST_ROWS]])
    read = iterate_texts(splits.rows[split], numbers[drawn])
    return [text.as_py()[:_MOST_LETTERS] for _, texts in read for text in texts]


def measure_drift(train: list[str], others: list[str], *, show_words: bool = False) -> Drift | None:
    """Measure how well a classifier of words tells two lists of texts apart, or None where one is too short."""
    if min(len(train), len(others)) < _FEWEST_ROWS:
        return None
    # Here, for it takes a second to import.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import train_test_split

    words = TfidfVectorizer(
        token_pattern=_TOKEN, ngram_range=(1, 2), max_features=_MOST_FEATURES, sublinear_tf=True, dtype=np.float32
    )
    is_other = np.repeat([0, 1], [len(train), len(others)])
    learned, held_out = train_test_split(np.arange(len(is_other)), test_size=0.5, random_state=0, stratify=is_other)
    texts = [*train, *others]
    try:
        # The words, too, are learned from one half: weights of the other would tell of the rows to be measured on.
        features = words.fit_transform(texts[row] for row in learned)
    except ValueError:  # not a word in any of them
        return None
    model = LogisticRegression(class_weight="balanced", solver="liblinear", random_state=0)
    model.fit(features, is_other[learned])
    scores = model.decision_function(words.transform(texts[row] for row in held_out))
    auc = float(roc_auc_score(is_other[held_out], scores))
    low, high = _compute_interval(auc, *np.bincount(is_other[held_out]).tolist())
    shown: tuple[tuple[str, ...], ...] = ((), ())
    if show_words:
        shown = _pick_words(words.get_feature_names_out(), model.coef_[0])
    return Drift(auc, low, high, len(train), len(others), *shown)


def _pick_words(names: npt.NDArray[Any], weights: npt.NDArray[np.float64]) -> tuple[tuple[str, ...], ...]:
    """Pick the words with the largest and those with the smallest weights; `names` and `weights`: (words,)."""
    order = np.argsort(weights, kind="stable")
    return tuple(tuple(map(str, names[each])) for each in (order[::-1][:_WORDS_SHOWN], order[:_WORDS_SHOWN]))


def _compute_interval(auc: float, ones: int, others: int) -> tuple[float, float]:
    """Compute the interval of 95 % of an AUC by Hanley and McNeil (https://doi.org/10.1148/radiology.143.1.7063747).

    On the scale of the logarithm of the odds, and half a row off the ends: no classifier is known to be
    always right. What was counted is always within.
    """
    fewer, counted = min(ones, others), auc
    auc = (auc * fewer + 0.5) / (fewer + 1)
    # Q1 and Q2 of the paper: that two of the others outrank one training row, and that one of them outranks two.
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (others - 1) * (first - auc**2) + (ones - 1) * (second - auc**2)
    # By the delta method: the derivative of log(auc / (1 - auc)) is 1 / (auc * (1 - auc)).
    margin = 1.96 * math.sqrt(spread / (ones * others)) / (auc * (1 - auc))
    middle = math.log(auc / (1 - auc))
    low, high = 1 / (1 + math.exp(margin - middle)), 1 / (1 + math.exp(-margin - middle))
    return min(low, counted), max(high, counted)
