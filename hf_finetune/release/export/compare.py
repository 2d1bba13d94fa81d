"""The same rows asked of a run and of what was exported of it: figures, and whether they are near enough."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_finetune.environment import ProgressLines
from hf_finetune.errors import ModelError, Problem
from hf_finetune.label_set import Labels
from hf_finetune.release.comparison_rows import ComparisonRow
from hf_finetune.release.export.runtimes import ClassifierRuntime, LanguageRuntime, Runtime
from hf_finetune.release.export.targets import Tolerance
from hf_finetune.release.measurement import (
    Measurement,
    compute_relative_difference,
    find_largest_difference,
    find_scale,
    measure,
)

logger = logging.getLogger(__name__)

ANSWER_TOKENS = 32
LONGEST_PROMPT = 256
# Of logits in float32, as a share of the largest: other kernels sum in another order.
ROUNDING = 1e-4
FEW_TOKENS = 1_000
"""By fewer a mean loss is not judged well."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a runtime says to the rows."""

    measured: Measurement
    answers: list[list[int]]
    """Of a language model: tokens after the prompt of each row."""
    margins: list[list[float]]
    """Beside each of these, how far the likeliest token's logit is above the next one's; of the run alone."""
    decisions: list[Any]
    """Of a classifier, for each row: an index, or 0 and 1 for each label."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How far the export is from the run."""

    rows: int
    compared: int
    """Tokens whose logits were compared; of a classifier texts."""
    max_logit_difference: float
    logit_scale: float
    """The largest logit of the run, at least 1."""
    loss_before: float
    loss_after: float
    relative_loss_difference: float
    equal_answers: int | None = None
    """Of `rows`: greedy answers, of a classifier decisions, that are the same."""
    ties: int = 0
    """Answers that differ where the run has two tokens as near as rounding."""
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    """Of a classifier, on rows that have labels."""

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def ask(runtime: Runtime, rows: Sequence[ComparisonRow], labels: Labels | None, *, margins: bool = False) -> Said:
    """Ask a runtime all rows: their losses and logits, and answers or decisions."""
    if labels is not None:
        return _ask_classifier(runtime, rows, labels)  # type: ignore[arg-type]
    return _ask_language_model(runtime, rows, margins=margins)  # type: ignore[arg-type]


def _ask_classifier(runtime: ClassifierRuntime, rows: Sequence[ComparisonRow], labels: Labels) -> Said:
    decisions: list[Any] = []

    def compute(row: ComparisonRow) -> Tensor:
        logits, decided = runtime.classify({name: ids.numpy() for name, ids in row.inputs.items()})
        decisions.append(decided.tolist())
        return torch.from_numpy(logits).float()

    return Said(measure(compute, rows, labels), [], [], decisions)


def _ask_language_model(runtime: LanguageRuntime, rows: Sequence[ComparisonRow], *, margins: bool) -> Said:
    measured = measure(partial(_compute_row, runtime), rows, None)
    answers, progress = [], ProgressLines("prompts answered", len(rows))
    for row in rows:
        answers.append(runtime.continue_greedily(find_prompt(row), ANSWER_TOKENS))
        progress.log_if_due(len(answers))
    pairs = zip(rows, answers, strict=True)
    found = [_find_margins(runtime, find_prompt(row), answer) for row, answer in pairs] if margins else []
    return Said(measured, answers, found, [])


def _compute_row(runtime: LanguageRuntime, row: ComparisonRow) -> Tensor:
    return torch.from_numpy(np.array(runtime.compute_logits(row.inputs["input_ids"][0].tolist()))).float()


def find_prompt(row: ComparisonRow) -> list[int]:
    """Find the ids of a row that are answered: those before its first trained token, or half of a document.

    It has at most 256 tokens, and leaves half of the row's length or 32 tokens for the answer.
    """
    # A conversation: labels [-100, -100, -100, 7, 2] -> its first 3 ids; a document of 10 tokens: its first 5.
    ids = row.inputs["input_ids"][0].tolist()
    trained = (row.labels[0] >= 0).nonzero().flatten().tolist()
    first = trained[0] if trained and trained[0] > 0 else len(ids) // 2
    return ids[: max(1, first)][-LONGEST_PROMPT:]


def _find_margins(runtime: LanguageRuntime, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """How far each token of a greedy answer was above the next likely one, in logits."""
    logits = runtime.compute_logits([*prompt, *answer])[len(prompt) - 1 : -1]  # (answer, vocab)
    best = np.partition(logits, -2, axis=-1)[:, -2:]
    return [float(value) for value in best[:, 1] - best[:, 0]]


def compare(run: Said, export: Said, rows: Sequence[ComparisonRow], labels: Labels | None) -> Figures:
    """Compare what both said to `rows`."""
    before, after = run.measured, export.measured
    answers = (run.answers, export.answers) if labels is None else (run.decisions, export.decisions)
    same = [one == other for one, other in zip(*answers, strict=True)]
    scale, largest = find_scale(before), find_largest_difference(before, after)
    judged = labels is not None and labels.kind != "number" and not any(row.drawn for row in rows)
    return Figures(
        rows=len(rows),
        compared=sum(1 if logits.ndim == 1 else len(logits) for logits in before.logits),
        max_logit_difference=largest,
        logit_scale=scale,
        loss_before=before.loss,
        loss_after=after.loss,
        relative_loss_difference=compute_relative_difference(before.loss, after.loss),
        equal_answers=None if labels is not None and labels.kind == "number" else sum(same),
        ties=0 if labels is not None else _count_ties(run, export, 2 * ROUNDING * scale),
        accuracy_before=_compute_accuracy(run, rows) if judged else None,
        accuracy_after=_compute_accuracy(export, rows) if judged else None,
    )


def _count_ties(run: Said, export: Said, near: float) -> int:
    """Count the answers that differ first where two tokens of the run are within `near` of each other."""
    count = 0
    for one, other, margins in zip(run.answers, export.answers, run.margins, strict=True):
        if one != other:
            place = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
            count += place is not None and margins[place] <= near
    return count


def _compute_accuracy(said: Said, rows: Sequence[ComparisonRow]) -> float:
    """The share of rows whose decision is their label; of several labels, all of them."""
    right = [decided == row.labels[0].tolist() for decided, row in zip(said.decisions, rows, strict=True)]
    return float(sum(right) / max(1, len(right)))


def check_near(figures: Figures, tolerance: Tolerance, output: str) -> None:
    """Raise `ModelError` where the export is further from the run than `tolerance` allows."""
    if tolerance.measure == "logits":
        # A NaN is far, too.
        far = not figures.max_logit_difference <= tolerance.most * figures.logit_scale
        allowed = f"{tolerance.most:g} of the largest logit"
    else:
        far = not figures.relative_loss_difference <= tolerance.most
        allowed = f"{tolerance.most:.2%} of the mean loss"
    if far:
        what = f"the export differs: {format_figures(figures)}; at most {allowed} was allowed"
        remedy = "nothing was kept; "
        if tolerance.measure == "loss" and figures.compared < FEW_TOKENS:
            remedy += "so few tokens say little: ask more rows (--rows, --data), or "
        remedy += "allow more with --tolerance"
        raise ModelError(Problem(what, remedy, path=output, code="HF971"))
    differing = 0 if figures.equal_answers is None else figures.rows - figures.equal_answers - figures.ties
    if tolerance.measure == "logits" and differing:
        what = f"the export answers otherwise, though its logits are the same: {format_figures(figures)}"
        remedy = "nothing was kept; this is a bug of hf-finetune or of the runtime: please report it"
        raise ModelError(Problem(what, remedy, path=output, code="HF971"))


def warn_of_other_answers(figures: Figures, output: str) -> None:
    """Say so where an export of fewer bits, whose loss is near enough, answers most rows otherwise."""
    if figures.equal_answers is not None and 2 * (figures.equal_answers + figures.ties) < figures.rows:
        what = "%s answers %d of %d rows as the run does, token by token: its loss alone was held to a tolerance"
        logger.warning(what, output, figures.equal_answers, figures.rows, extra={"code": "HF976"})


def format_figures(figures: Figures) -> str:
    """Say the figures in one line."""
    line = (
        f"largest logit difference {figures.max_logit_difference:.1e} on {figures.compared:,} places of "
        f"{figures.rows} rows, mean loss {figures.loss_before:.4f} before, {figures.loss_after:.4f} after "
        f"({figures.relative_loss_difference:.3%} apart)"
    )
    return line if figures.equal_answers is None else f"{line}, {figures.equal_answers} of {figures.rows} answers equal"
