"""A saved classifier and labeled rows -> its predictions, and their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.chat.given_up import name_rows
from hf_finetune.config.reading.document import format_value
from hf_finetune.data.splitting.one_split import SPLIT
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.tokenization.text import EncodedTexts, encode_texts
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem, suggest
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs, make_default_decision, score_outputs
from hf_finetune.evaluation.classification.statistics import make_label_statistic, make_regression_statistic
from hf_finetune.evaluation.prediction.predict import Classifier, compute_logits, warn_of_empty_texts
from hf_finetune.evaluation.scoring.distributed import distribute_work
from hf_finetune.evaluation.scoring.precision import Precision
from hf_finetune.evaluation.scoring.result import check_finite
from hf_finetune.evaluation.statistics.bootstrap import Statistic
from hf_finetune.label_set import Labels, suggest_label_map
from hf_finetune.models.classification_head import read_labels
from hf_finetune.models.decision import Array, Decision

ROWS_AT_ONCE = 1_000
MAX_LABELS_NAMED = 20


@dataclass(frozen=True)
class ClassPredictions:
    """What a classifier predicted for the rows of a split."""

    labels: Labels
    decision: Decision | None
    """None for a regression."""
    outputs: ClassifierOutputs
    facts: dict[str, Any]

    def compute_metrics(self) -> dict[str, Any]:
        """Compute the metrics of `score_outputs`, with intervals and by label."""
        return score_outputs(self.outputs, self.labels, self.decision)

    def make_statistic(self, beside: ClassPredictions | None = None) -> Statistic:
        """Make the metrics a function of row weights, (rows, resamples); `beside` appends another model's rows."""
        measured = [self] if beside is None else [self, beside]
        references = np.concatenate([each.outputs.references for each in measured])
        if self.decision is None:
            return make_regression_statistic(
                np.concatenate([each.outputs.logits[:, 0] for each in measured]), references
            )
        probabilities, chosen = zip(*(each._decide() for each in measured), strict=True)
        return make_label_statistic(
            self.decision.kind, np.concatenate(probabilities), np.concatenate(chosen), references
        )

    def list_predictions(self) -> list[Any]:
        """Return the predicted label (labels, number) of each row, to see where two models or two texts differ."""
        if self.decision is None:
            return list(self.outputs.logits[:, 0].round(6).tolist())
        _, chosen = self._decide()
        return [tuple(row) for row in chosen] if chosen.ndim == 2 else list(chosen.tolist())

    def select_rows(self, rows: npt.NDArray[np.int64]) -> ClassPredictions:
        """Return the predictions for the rows with the indices `rows`, (selected,)."""
        return replace(self, outputs=self.outputs.select_rows(rows))

    def _decide(self) -> tuple[Array, npt.NDArray[np.int64]]:
        """Return the probabilities, (rows, labels), and the chosen labels, (rows,) or (rows, labels) if multi-label."""
        decision: Any = self.decision
        probabilities = decision.compute_probabilities(self.outputs.logits)
        return probabilities, decision.choose(probabilities)


def get_classifier_labels(classifier: Classifier) -> Labels:
    """Return the classifier's labels by name (`id2label`); multi-label if its decision is."""
    config: Any = classifier.model.config
    labels = read_labels(config)
    kind = labels.kind if classifier.decision is None else classifier.decision.kind
    return Labels(labels.names, kind, labels.names)


def evaluate_classifier(classifier: Classifier, splits: Splits, precision: Precision) -> ClassPredictions:
    """Predict every row; every process calls it and gets all results.

    Raises `DataError` naming each row whose label the model does not have, and `NonFiniteError` for NaN or infinite
    logits.
    """
    rows = splits.rows[SPLIT]
    labels = get_classifier_labels(classifier)
    references = encode_row_labels(splits, labels)
    warn_of_empty_texts(sum(not text.strip() for text in rows["text"][:]), len(rows))
    with name_rows(partial(splits.locate, SPLIT)):
        encoded = encode_texts(classifier.tokenizer, rows["text"][:], rows["text_pair"][:], classifier.max_length)
    with precision.of_model(classifier.model), precision.of_forward(classifier.model):
        logits = _compute_logits(classifier, encoded)
    decision = classifier.decision
    if decision is not None:
        # Back to the logits as they were trained: the temperature, and perhaps the thresholds, are folded into the
        # saved head, so that `pipeline` applies them, too.
        logits = decision.restore_logits(logits)
    tokens = sum(len(ids) for ids in encoded.input_ids)
    facts = {"rows": len(rows), "tokens": tokens, "truncated": encoded.truncated, "dropped": 0}
    if decision is None and labels.kind != "number":
        decision = make_default_decision(labels)
    return ClassPredictions(labels, decision, ClassifierOutputs(logits, references, splits.groups.get(SPLIT)), facts)


def _compute_logits(classifier: Classifier, rows: EncodedTexts) -> Array:
    """Compute the logits, (rows, labels), longest rows first, so that rows of similar length share a batch."""
    order = sorted(range(len(rows.input_ids)), key=lambda row: -len(rows.input_ids[row]))
    parts = [order[start : start + ROWS_AT_ONCE] for start in range(0, len(order), ROWS_AT_ONCE)]

    def predict(part: list[int]) -> list[tuple[int, list[float]]]:
        types = None if rows.token_type_ids is None else [rows.token_type_ids[row] for row in part]
        some = EncodedTexts([rows.input_ids[row] for row in part], types, 0)
        return list(zip(part, compute_logits(classifier, some).tolist(), strict=True))

    found = dict(distribute_work(parts, predict, "rows labeled"))
    logits = np.array([found[row] for row in range(len(order))], dtype=np.float64)
    check_finite(logits)
    return logits


def encode_row_labels(splits: Splits, labels: Labels) -> npt.NDArray[Any]:
    """Encode the labels of the rows: class numbers or numbers (rows,), or 0 and 1 for multi-label (rows, labels).

    Raises `DataError` naming each row whose label the model does not have.
    """
    column = splits.rows[SPLIT]["label"][:]
    if labels.kind == "number":
        return np.asarray(column, dtype=np.float64)
    named = [[str(each) for each in label] if isinstance(label, list) else [str(label)] for label in column]
    several = labels.kind == "multi"
    found = sorted({name for names in named for name in names})
    if found and not set(found) & set(labels.names):
        raise DataError(_explain_other_labels(found, labels, *splits.locate(SPLIT, 0)))
    problems: list[Problem] = []
    total = 0
    for row, names in enumerate(named):
        wrong = [name for name in names if name not in labels.names] or ([] if several or len(names) == 1 else names)
        total += bool(wrong)
        if wrong and len(problems) < MAX_PROBLEMS_SHOWN:
            problems.append(_describe_unknown(wrong[0], labels, found, *splits.locate(SPLIT, row)))
    if problems:
        raise DataError(problems, total=total)
    return labels.encode(named if several else [names[0] for names in named]).astype(np.int64)


def _explain_other_labels(found: Sequence[str], labels: Labels, path: str, line: int) -> Problem:
    """Explain in one message that no row has a label of the model: they are spelled in another way, or mean others."""
    rows, own = (", ".join(map(format_value, names[:MAX_LABELS_NAMED])) for names in (found, labels.names))
    what = f"the labels of the rows are {rows}, and those of the model {own}"
    named = suggest_label_map(found, labels.names)
    remedy = f"if they mean the same, {named} names them as the model does" if named else "score rows with its labels"
    return Problem(what, remedy, path, line, "label", code="HF541")


def _describe_unknown(name: str, labels: Labels, found: Sequence[str], path: str, line: int) -> Problem:
    if name in labels.names:
        return Problem(
            "a row has several labels, and the model gives one", "keep one of them", path, line, "label", code="HF321"
        )
    named = suggest_label_map(found, labels.names)
    otherwise = f"its labels are {', '.join(labels.names[:MAX_LABELS_NAMED])}"
    otherwise += f"; {named} names them as it does" if named else ""
    remedy = suggest(name, labels.names, otherwise, show=format_value)
    return Problem(f"the model has no label {format_value(name)}", remedy, path, line, "label", code="HF541")
