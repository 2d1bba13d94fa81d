"""Counterfactual rows: those of a split that have a word to swap, with the word swapped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_finetune.data.splitting.leakage import RowLocations
from hf_finetune.data.splitting.one_split import SPLIT
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.evaluation.probes.counterfactuals import swap_words

# The columns of text that a model reads; `messages` hold theirs inside.
TEXT_COLUMNS = ("text", "text_pair", "prompt", "completion")


def swap_rows(splits: Splits, name: str) -> tuple[npt.NDArray[np.int64], Splits | None]:
    """Return the indices of the rows that have a word of the list `name`, (selected,), and those rows with it swapped.

    None in place of the rows if there are none.
    """
    rows = splits.rows[SPLIT]
    numbers, changed = [], []
    for number, row in enumerate(rows):
        other = _swap_row(row, name)
        if other != row:
            numbers.append(number)
            changed.append(other)
    if not numbers:
        return np.zeros(0, dtype=np.int64), None
    chosen = np.array(numbers, dtype=np.int64)
    places = splits.places[SPLIT]
    groups = {name: np.unique(each[chosen], return_inverse=True)[1] for name, each in splits.groups.items()}
    return chosen, replace(
        splits,
        groups=groups,
        rows={SPLIT: type(rows).from_list(changed, features=rows.features)},
        hashes={SPLIT: splits.hashes[SPLIT][chosen]},
        places={SPLIT: RowLocations(places.files, places.file[chosen], places.line[chosen])},
    )


def _swap_row(row: dict[str, Any], name: str) -> dict[str, Any]:
    changed = row | {column: _swap_text(row.get(column), name) for column in TEXT_COLUMNS if column in row}
    if "messages" in row:
        turns = [turn | {"content": _swap_text(turn["content"], name)} for turn in row["messages"]]
        changed |= {"messages": turns}
    return changed


def _swap_text(text: str | None, name: str) -> str | None:
    return text if text is None else swap_words(text, name) or text
