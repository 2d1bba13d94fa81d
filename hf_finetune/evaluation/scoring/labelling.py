"""A saved classifier and labelled rows -> what it says of them, and the figures of that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.config.document import shown
from hf_finetune.config.suggestions import did_you_mean
from hf_finetune.data.labels import Labels
from hf_finetune.data.splits import Splits
from hf_finetune.data.tokenization import EncodedTexts, encode_texts
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, NonFiniteError, Problem
from hf_finetune.evaluation.bootstrap import Statistic
from hf_finetune.evaluation.classification import Outputs, plain_decision, score_split
from hf_finetune.evaluation.prediction import Classifier, window_logits
from hf_finetune.evaluation.resampled import label_statistic, number_statistic
from hf_finetune.evaluation.scoring.processes import shared_work
from hf_finetune.evaluation.scoring.rows import SPLIT
from hf_finetune.models.decisions import Array, Decision
from hf_finetune.models.heads import labels_of

ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class MeasuredLabels:
    """What a classifier said of the rows of a split."""

    labels: Labels
    decision: Decision | None
    """None where it predicts numbers."""
    outputs: Outputs
    facts: dict[str, Any]

    def figures(self) -> dict[str, Any]:
        """As `score_split` gives them, with intervals, and for each label."""
        return score_split(self.outputs, self.labels, self.decision)

    def statistic(self, beside: MeasuredLabels | None = None) -> Statistic:
        """The figures of rows that count differently; with `beside`, of its rows behind these as if they were more."""
        measured = [self] if beside is None else [self, beside]
        references = np.concatenate([each.outputs.references for each in measured])
        if self.decision is None:
            return number_statistic(np.concatenate([each.outputs.logits[:, 0] for each in measured]), references)
        probabilities, chosen = zip(*(each._decided() for each in measured), strict=True)
        return label_statistic(self.decision.kind, np.concatenate(probabilities), np.concatenate(chosen), references)

    def said(self) -> list[Any]:
        """What each row was labelled, to see where two models, or two texts, are labelled otherwise."""
        if self.decision is None:
            return list(self.outputs.logits[:, 0].round(6).tolist())
        _, chosen = self._decided()
        return [tuple(row) for row in chosen] if chosen.ndim == 2 else list(chosen.tolist())

    def of_rows(self, rows: npt.NDArray[np.int64]) -> MeasuredLabels:
        """The same for some of the rows."""
        return replace(self, outputs=Outputs(self.outputs.logits[rows], self.outputs.references[rows]))

    def _decided(self) -> tuple[Array, npt.NDArray[np.int64]]:
        decision: Any = self.decision
        probabilities = decision.probabilities(self.outputs.logits)
        return probabilities, decision.choose(probabilities)


def labels_of_classifier(classifier: Classifier) -> Labels:
    """The labels of a classifier as its rows have them: each is its name, in any number of them as it decides."""
    labels = labels_of(_config(classifier))
    kind = labels.kind if classifier.decision is None else classifier.decision.kind
    return Labels(labels.names, kind, labels.names)


def _config(classifier: Classifier) -> Any:
    return classifier.model.config


def measure_classifier(classifier: Classifier, splits: Splits) -> MeasuredLabels:
    """Label every row; every process calls it and gets all results.

    Raises `DataError` naming each row whose label the model does not have.
    """
    rows = splits.rows[SPLIT]
    labels = labels_of_classifier(classifier)
    references = encoded_labels(splits, labels)
    encoded = encode_texts(classifier.tokenizer, rows["text"][:], rows["text_pair"][:], classifier.max_length)
    logits = _logits(classifier, encoded)
    decision = classifier.decision
    if decision is not None:
        # As they were trained: the saved head holds the temperature, and perhaps the thresholds.
        logits = (logits - decision.offsets if decision.offsets_in_weights else logits) * decision.temperature
    tokens = sum(len(ids) for ids in encoded.input_ids)
    facts = {"rows": len(rows), "tokens": tokens, "truncated": encoded.truncated, "dropped": 0}
    return MeasuredLabels(labels, decision or _plain(labels), Outputs(logits, references), facts)


def _plain(labels: Labels) -> Decision | None:
    return None if labels.kind == "number" else plain_decision(labels)


def _logits(classifier: Classifier, rows: EncodedTexts) -> Array:
    """(rows, labels); the longest rows first, so that those of one length come together."""
    order = sorted(range(len(rows.input_ids)), key=lambda row: -len(rows.input_ids[row]))
    parts = [order[start : start + ROWS_AT_ONCE] for start in range(0, len(order), ROWS_AT_ONCE)]

    def predict(part: list[int]) -> list[tuple[int, list[float]]]:
        types = None if rows.token_type_ids is None else [rows.token_type_ids[row] for row in part]
        some = EncodedTexts([rows.input_ids[row] for row in part], types, 0)
        return list(zip(part, window_logits(classifier, some).tolist(), strict=True))

    found = dict(shared_work(parts, predict))
    logits = np.array([found[row] for row in range(len(order))], dtype=np.float64)
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        remedy = "load it in another precision, or train it again with a lower train.learning_rate"
        raise NonFiniteError(Problem(f"the model's answer to {broken:,} of {len(logits):,} rows is no number", remedy))
    return logits


def encoded_labels(splits: Splits, labels: Labels) -> npt.NDArray[Any]:
    """The labels of the rows as numbers. Raises `DataError` naming each row whose label the model does not have."""
    column = splits.rows[SPLIT]["label"][:]
    if labels.kind == "number":
        return np.asarray(column, dtype=np.float64)
    named = [[str(each) for each in label] if isinstance(label, list) else [str(label)] for label in column]
    several = labels.kind == "multi"
    problems: list[Problem] = []
    total = 0
    for row, names in enumerate(named):
        wrong = [name for name in names if name not in labels.names] or ([] if several or len(names) == 1 else names)
        total += bool(wrong)
        if wrong and len(problems) < MAX_PROBLEMS_SHOWN:
            problems.append(_unknown(wrong[0], labels, *splits.where(SPLIT, row)))
    if problems:
        raise DataError(problems, total=total)
    return labels.encode(named if several else [names[0] for names in named]).astype(np.int64)


def _unknown(name: str, labels: Labels, path: str, line: int) -> Problem:
    close = did_you_mean(name, labels.names)
    listed = ", ".join(labels.names[:20])
    remedy = f"did you mean {shown(close)}?" if close else f"its labels are {listed}"
    if name in labels.names:
        return Problem("a row has several labels, and the model gives one", "keep one of them", path, line, "label")
    return Problem(f"the model has no label {shown(name)}", remedy, path, line, "label")
