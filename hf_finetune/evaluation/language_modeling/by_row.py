"""From examples to rows: a long row may be several examples, and what is resampled and compared are rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasets import Dataset

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TextSizes:
    """The length of each row's predicted text: the denominators of metrics that do not depend on the tokenizer."""

    row_bytes: Array
    """(rows,), of its UTF-8 encoding, as the text was written."""
    row_words: Array
    """(rows,), separated by white space."""


def sum_by_row(values: Array, examples: Dataset, rows: int) -> Array:
    """Add up `values` of examples, (examples,) or (examples, columns), by the row that each is of: (rows, ...).

    A row that has no example, as it has no text or was left out, is 0.
    """
    # Examples of the rows [0, 0, 2] with the values [1, 2, 5], of 3 rows: [3, 0, 5].
    total = np.zeros((rows, *np.shape(values)[1:]))
    np.add.at(total, np.asarray(examples.with_format("numpy")["row"][:]), np.asarray(values, dtype=np.float64))
    return total


def measure_texts(examples: Dataset, rows: int) -> TextSizes:
    """Measure the predicted text of each row, by the columns `bytes` and `words` of its examples."""
    columns = examples.with_format("numpy")
    return TextSizes(*(sum_by_row(columns[name][:], examples, rows) for name in ("bytes", "words")))
