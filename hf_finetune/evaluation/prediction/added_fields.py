"""The logits of a classifier -> the JSON fields that a row gets."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from hf_finetune.models.decision import Array, Decision

ADDED = ("label", "score", "scores")


def format_added_fields(
    logits: Array, decision: Decision | None, prefix: str, top_k: int | None, *, compact: bool = False
) -> list[str]:
    """Format the JSON fields that each row gets from the saved model's logits, (rows, labels).

    They are `label`, `score` (the probability of the label) and `scores` (of all labels, or of the `top_k` likeliest).
    For multi-label the first two are lists. For a regression, which has no decision, there is only `label`, the number.
    `compact`: without blanks, as rows of a table are written.
    """
    comma, colon = (",", ":") if compact else (", ", ": ")
    label, score, scores = (json.dumps(prefix + name, ensure_ascii=False) for name in ADDED)
    if decision is None:
        values = [[_format_number(value) for value in row] for row in logits.tolist()]
        return [f"{label}{colon}{row[0] if len(row) == 1 else f'[{comma.join(row)}]'}" for row in values]
    probabilities = decision.compute_saved_probabilities(logits)
    names = [json.dumps(name, ensure_ascii=False) for name in decision.labels]
    shown = _select_labels(probabilities, top_k)
    fields = []
    for row, choice, places in zip(probabilities.tolist(), decision.choose(probabilities).tolist(), shown, strict=True):
        numbers = [_format_number(value) for value in row]
        chosen = [place for place, given in enumerate(choice) if given] if decision.kind == "multi" else choice
        what, sure = (_format_chosen(each, chosen, comma) for each in (names, numbers))
        every = comma.join(f"{names[place]}{colon}{numbers[place]}" for place in places)
        fields.append(comma.join([f"{label}{colon}{what}", f"{score}{colon}{sure}", f"{scores}{colon}{{{every}}}"]))
    return fields


def _select_labels(probabilities: Array, top_k: int | None) -> list[list[int]]:
    """Return the labels in `scores` of each row, likeliest first under `top_k`: (rows, labels) -> rows x labels."""
    rows, labels = probabilities.shape
    if top_k is None:
        return [list(range(labels))] * rows
    order: list[list[int]] = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k].tolist()
    return order


def _format_chosen(written: Sequence[str], chosen: int | list[int], comma: str) -> str:
    return written[chosen] if isinstance(chosen, int) else f"[{comma.join(written[place] for place in chosen)}]"


def _format_number(value: float) -> str:
    """Format six digits, about the precision of float32; always as a float, so that a column has one type."""
    return repr(float(f"{value:.6g}"))
