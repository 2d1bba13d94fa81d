"""The worst mistakes of a classifier or a regression: wrong labels are among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_finetune.config.sections import EvalSection
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.evaluation.classification.baselines import join_text_pairs
from hf_finetune.evaluation.classification.metrics import ClassifierOutputs, make_default_decision
from hf_finetune.label_set import Labels
from hf_finetune.models.decision import Decision
from hf_finetune.privacy import escape_control_characters

logger = logging.getLogger(__name__)

MAX_MISTAKES = 20


@dataclass(frozen=True, slots=True)
class Mistake:
    """A row whose prediction is not its label."""

    row: int
    label: str | float
    """For multi-label the one whose probability is lowest, as "NAME" or "not NAME"."""
    predicted: str | float
    probability_of_label: float | None
    """None for a regression, as the next."""
    probability_of_predicted: float | None


def find_worst_mistakes(
    outputs: ClassifierOutputs, labels: Labels, decision: Decision | None, most: int = MAX_MISTAKES
) -> list[Mistake]:
    """Find the likeliest label errors: rows whose label has the lowest probability, or the largest errors, first.

    Rows (rows, labels) of `outputs`; by default `make_default_decision` decides.
    """
    if labels.kind == "number":
        return _find_largest_errors(outputs, most)
    decision = decision or make_default_decision(labels)
    probabilities = decision.compute_probabilities(outputs.logits)
    chosen, rows = decision.choose(probabilities), np.arange(len(probabilities))
    if labels.kind == "multi":
        return _find_wrong_answers(outputs, labels, probabilities, chosen, most)
    of_label, of_chosen = (probabilities[rows, each] for each in (outputs.references, chosen))  # (rows,) each
    wrong = np.flatnonzero(chosen != outputs.references)
    return [
        Mistake(
            int(row),
            labels.names[outputs.references[row]],
            labels.names[chosen[row]],
            float(of_label[row]),
            float(of_chosen[row]),
        )
        for row in wrong[np.argsort(of_label[wrong], kind="stable")][:most]
    ]


def _find_wrong_answers(
    outputs: ClassifierOutputs, labels: Labels, probabilities: Any, chosen: Any, most: int
) -> list[Mistake]:
    """Find for each row its worst label: `probabilities` and `chosen` (rows, labels)."""
    # Probabilities [0.9, 0.2] of references [0, 1]: the truth of both has 0.1 and 0.2, the first is worse.
    of_truth = np.where(outputs.references > 0, probabilities, 1 - probabilities)
    of_truth = np.where(chosen != outputs.references, of_truth, np.inf)  # correct ones are no mistakes
    worst = of_truth.argmin(axis=1)  # (rows,)
    lowest = of_truth.min(axis=1)
    mistakes = []
    for row in np.argsort(lowest, kind="stable")[:most]:
        if np.isinf(lowest[row]):
            break
        name = labels.names[worst[row]]
        answers = (f"not {name}", name)
        reference = int(outputs.references[row, worst[row]])
        probability = float(lowest[row])
        mistakes.append(Mistake(int(row), answers[reference], answers[1 - reference], probability, 1 - probability))
    return mistakes


def _find_largest_errors(outputs: ClassifierOutputs, most: int) -> list[Mistake]:
    """Find the rows with the largest absolute errors."""
    predicted = outputs.logits[:, 0]
    errors = np.abs(predicted - outputs.references)
    rows = np.argsort(-errors, kind="stable")[:most]
    return [
        Mistake(int(row), float(outputs.references[row]), float(predicted[row]), None, None)
        for row in rows
        if errors[row] > 0
    ]


def locate_mistakes(
    mistakes: Sequence[Mistake], splits: Splits, split: str, texts: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Describe the mistakes for the report, by file and line; with texts only if `texts` of the split are given."""
    found = []
    for mistake in mistakes:
        path, line = splits.locate(split, mistake.row)
        found.append(
            {
                "split": split,
                "path": path,
                "line": line,
                "label": mistake.label,
                "predicted": mistake.predicted,
                **_format_probabilities(mistake),
                **({} if texts is None else {"text": texts[mistake.row]}),
            }
        )
    return found


def _format_probabilities(mistake: Mistake) -> dict[str, float | None]:
    if mistake.probability_of_label is None:
        return {}
    return {
        "probability": mistake.probability_of_predicted,
        "probability_of_label": mistake.probability_of_label,
    }


def log_mistakes(found: Sequence[dict[str, Any]]) -> None:
    """Log one line each, sorted by the first number: `path:line: labelled ham (0.02), predicted spam (0.98)`."""
    if found:
        logger.info("worst mistakes on %s, likely label errors first (the model's probabilities):", found[0]["split"])
    for each in found:
        place = f"{each['path']}:{each['line']}"
        if "probability" in each:
            message = f"labelled {each['label']} ({each['probability_of_label']:.2f}), "
            message += f"predicted {each['predicted']} ({each['probability']:.2f})"
        else:
            message = f"labelled {each['label']:g}, predicted {each['predicted']:.4g}"
        message = f"{message}: {each['text']}" if "text" in each else message
        logger.info("%s: %s", place, escape_control_characters(message))


def show_mistakes(
    outputs: Mapping[str, ClassifierOutputs],
    labels: Labels,
    decision: Decision | None,
    splits: Splits,
    settings: EvalSection,
) -> list[dict[str, Any]]:
    """Log the worst mistakes on each split of `outputs`, and return them for the report.

    Texts are shown only with `eval.show_data`.
    """
    shown = []
    for split, each in outputs.items():
        texts = join_text_pairs(splits.rows[split]) if settings.show_data else None
        found = locate_mistakes(find_worst_mistakes(each, labels, decision), splits, split, texts)
        log_mistakes(found)
        shown += found
    return shown
