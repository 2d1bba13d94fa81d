"""Examples of different lengths -> the tensors of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hf_finetune.data.packing import IGNORE_INDEX

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowCollator:
    """Make a batch of rows: `input_ids`, `labels` and, where rows have them, `seq_lengths`; other columns are left out.

    Plain rows become (batch, longest) with an `attention_mask`. Packed rows (`seq_lengths`) have `position_ids` that
    restart at each document and at the padding, and no mask: that is what tells documents apart in transformers.
    The first label of a row is -100: nothing predicts it.
    """

    pad_token_id: int
    flatten: bool = False
    """All rows behind each other in one, (1, total), with the boundaries of documents: for flash attention, which looks
    for them in one row only. `row_index` (1, total) says which row a token is of."""
    pad_to_multiple_of: int = 1

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if self.flatten:
            return self._flat(rows)
        width = self._width(max(len(row["input_ids"]) for row in rows))
        labels = _padded([row["labels"] for row in rows], width, IGNORE_INDEX)
        labels[:, 0] = IGNORE_INDEX
        batch = {"input_ids": _padded([row["input_ids"] for row in rows], width, self.pad_token_id), "labels": labels}
        if "seq_lengths" in rows[0]:
            positions = [_positions([*row["seq_lengths"], width - len(row["input_ids"])]) for row in rows]
            batch["position_ids"] = np.stack(positions)
        else:
            batch["attention_mask"] = _padded([[1] * len(row["input_ids"]) for row in rows], width, 0)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _width(self, length: int) -> int:
        return -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def _flat(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = [token for row in rows for token in row["input_ids"]]
        lengths = [length for row in rows for length in row.get("seq_lengths", [len(row["input_ids"])])]
        width = self._width(len(ids))
        lengths += [width - len(ids)] if width > len(ids) else []
        positions = _positions(lengths)
        labels = _padded([[label for row in rows for label in row["labels"]]], width, IGNORE_INDEX)
        labels[0, positions == 0] = IGNORE_INDEX
        row_index = np.repeat(np.arange(len(rows)), [len(row["input_ids"]) for row in rows])
        bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        documents = torch.from_numpy(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths))
        return {
            "input_ids": torch.from_numpy(_padded([ids], width, self.pad_token_id)),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(positions)[None],
            "row_index": torch.from_numpy(_padded([row_index], width, len(rows) - 1)),
            # What the kernels read instead of looking for the restarts of position_ids, which would wait for the GPU.
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
            "seq_idx": documents[None],
        }


@dataclass(frozen=True)
class TextCollator:
    """Make a batch of texts: `input_ids`, `attention_mask`, and `token_type_ids` and `labels` where the rows have them.

    Shape (batch, longest), or (batch, `width`) where that is given; padding comes after the text. Labels are stacked as
    they are: a class number for each row, or a number for each label.
    """

    pad_token_id: int
    width: int | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        lengths = np.array([len(row["input_ids"]) for row in rows])
        width = self.width or int(lengths.max())
        mask = np.arange(width) < lengths[:, None]  # (batch, width)
        batch = {"input_ids": _filled(rows, "input_ids", mask, self.pad_token_id)}
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = _filled(rows, "token_type_ids", mask, 0)
        batch["attention_mask"] = mask.astype(np.int64)
        tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
        if "labels" in rows[0]:
            tensors["labels"] = torch.tensor(np.array([row["labels"] for row in rows]))
        return tensors


def _filled(rows: Sequence[dict[str, Any]], column: str, mask: npt.NDArray[np.bool_], fill: int) -> IntArray:
    values = np.full(mask.shape, fill, np.int64)
    values[mask] = np.concatenate([row[column] for row in rows])
    return values


def without_row_index(batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """The batch as a model takes it, and which of the collated rows each position is of: (batch, seq)."""
    model_inputs = dict(batch)
    row_index = model_inputs.pop("row_index", None)
    if row_index is None:
        size, width = batch["input_ids"].shape
        row_index = torch.arange(size, device=batch["input_ids"].device)[:, None].expand(size, width)
    return model_inputs, row_index


def _padded(rows: Sequence[Sequence[int] | IntArray], width: int, fill: int) -> IntArray:
    padded = np.full((len(rows), width), fill, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def _positions(lengths: Sequence[int]) -> IntArray:
    """0, 1, 2, ... for each of the lengths."""
    return np.concatenate([np.arange(length) for length in lengths])
