"""Data collators: examples of different lengths -> the tensors of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hf_finetune.data.tokenization.text import IGNORE_INDEX

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowCollator:
    """Collate the columns `input_ids`, `labels` and, for packed rows, `seq_lengths`; other columns are dropped.

    Plain rows become int64 (batch, longest) with an `attention_mask`. Packed rows get `position_ids` (batch, longest)
    that restart at each example and at the padding, and no mask: transformers tells packed examples apart by these.
    The first label of a row is -100: nothing predicts it. Unlike TRL's `DataCollatorForLanguageModeling`
    (`padding_free`), flattened rows keep a `row_index`, so that metrics can be computed by row.
    """

    pad_token_id: int
    flatten: bool = False
    """Concatenate all rows to one, (1, total), with the bounds of its examples: flash attention looks for these in a
    single row only. `row_index` (1, total) holds the row of each token."""
    pad_to_multiple_of: int = 1

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate `rows`, whose `input_ids` and `labels` are (tokens,) and `seq_lengths` (examples,)."""
        if self.flatten:
            return self._flatten(rows)
        width = self._round_up(max(len(row["input_ids"]) for row in rows))
        labels = _pad_rows([row["labels"] for row in rows], width, IGNORE_INDEX)
        labels[:, 0] = IGNORE_INDEX
        batch = {"input_ids": _pad_rows([row["input_ids"] for row in rows], width, self.pad_token_id), "labels": labels}
        if "seq_lengths" in rows[0]:
            # No attention_mask here: with one, transformers 5.23 does not look for restarts in position_ids, and packed
            # examples would attend to each other (https://github.com/huggingface/trl/issues/1230).
            # seq_lengths [3, 2] padded to 6: positions 0 1 2 0 1 0, of which the last is padding.
            positions = [_build_positions([*row["seq_lengths"], width - len(row["input_ids"])]) for row in rows]
            batch["position_ids"] = np.stack(positions)
        else:
            batch["attention_mask"] = _pad_rows([[1] * len(row["input_ids"]) for row in rows], width, 0)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _round_up(self, length: int) -> int:
        return -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def _flatten(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate `rows` to one, (1, total); `cu_seq_lens_*`: (examples + 1,) int32, `seq_idx`: (1, total) int32."""
        ids = [token for row in rows for token in row["input_ids"]]
        lengths = [length for row in rows for length in row.get("seq_lengths", [len(row["input_ids"])])]
        width = self._round_up(len(ids))
        lengths += [width - len(ids)] if width > len(ids) else []
        positions = _build_positions(lengths)
        labels = _pad_rows([[label for row in rows for label in row["labels"]]], width, IGNORE_INDEX)
        labels[0, positions == 0] = IGNORE_INDEX
        row_index = np.repeat(np.arange(len(rows)), [len(row["input_ids"]) for row in rows])
        bounds = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
        documents = torch.from_numpy(np.repeat(np.arange(len(lengths), dtype=np.int32), lengths))
        return {
            "input_ids": torch.from_numpy(_pad_rows([ids], width, self.pad_token_id)),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(positions)[None],
            "row_index": torch.from_numpy(_pad_rows([row_index], width, len(rows) - 1)),
            # Without these, kernels look for the restarts in position_ids, which makes the CPU wait for the GPU.
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
            "seq_idx": documents[None],
        }


@dataclass(frozen=True)
class TextCollator:
    """Collate the columns `input_ids`, `token_type_ids` and `labels` (the last two if rows have them) for a classifier.

    int64 (batch, longest), or (batch, `width`) if `width` is set, with `attention_mask`; padding comes last. Labels are
    stacked: (batch,) class numbers or targets, or (batch, labels) for multi-label rows.
    """

    pad_token_id: int
    width: int | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        lengths = np.array([len(row["input_ids"]) for row in rows])  # (batch,)
        width = self.width or int(lengths.max())
        mask = np.arange(width) < lengths[:, None]  # (batch, width)
        batch = {"input_ids": _fill_column(rows, "input_ids", mask, self.pad_token_id)}
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = _fill_column(rows, "token_type_ids", mask, 0)
        batch["attention_mask"] = mask.astype(np.int64)
        tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
        if "labels" in rows[0]:
            labels = np.array([row["labels"] for row in rows])
            # Apple's GPUs have no float64, and a batch goes there as it is.
            tensors["labels"] = torch.from_numpy(labels.astype(np.float32) if labels.dtype.kind == "f" else labels)
        return tensors


def _fill_column(rows: Sequence[dict[str, Any]], column: str, mask: npt.NDArray[np.bool_], fill: int) -> IntArray:
    """Fill the true places of `mask` (batch, width) with a column of the rows, the others with `fill`."""
    values = np.full(mask.shape, fill, np.int64)
    values[mask] = np.concatenate([row[column] for row in rows])
    return values


def pop_row_index(batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
    """Split a batch into what a model takes and the number of the row that each position belongs to: (batch, seq)."""
    model_inputs = dict(batch)
    row_index = model_inputs.pop("row_index", None)
    if row_index is None:
        size, width = batch["input_ids"].shape
        row_index = torch.arange(size, device=batch["input_ids"].device)[:, None].expand(size, width)
    return model_inputs, row_index


def take_row(batch: dict[str, Any], row: int, rows: int) -> dict[str, Any]:
    """Take row `row` of a collated batch of `rows`, for a model that is given it alone: (1, width)."""
    if "row_index" in batch:
        here = batch["row_index"][0] == row
        taken = {name: values[:, here] for name, values in batch.items() if _has_length(values, 1)}
        taken["row_index"] = torch.zeros_like(taken["row_index"])
    else:
        taken = {name: values[row : row + 1] for name, values in batch.items() if _has_length(values, rows)}
    if "cu_seq_lens_q" not in batch:
        return taken
    return _with_bounds(taken)


def take_examples(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Take a row of `take_row` apart where positions begin anew, (1, tokens) each: packed examples, then padding."""
    if "position_ids" not in row:
        return [row]
    width = row["position_ids"].shape[1]
    starts = (row["position_ids"][0] == 0).nonzero().flatten().tolist()
    bounds = zip(starts, [*starts[1:], width], strict=True)
    taken = [
        {name: values[:, start:end] for name, values in row.items() if isinstance(values, Tensor) and values.ndim > 1}
        for start, end in bounds
    ]
    return [_with_bounds(each) for each in taken] if "cu_seq_lens_q" in row else taken


def _with_bounds(taken: dict[str, Any]) -> dict[str, Any]:
    """A batch of one row with the bounds of what it is packed of, by its positions."""
    for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
        taken.pop(name, None)
    starts = taken["position_ids"].flatten() == 0
    ends = torch.cat([starts.nonzero().flatten(), torch.tensor([len(starts)], device=starts.device)]).int()
    longest = int(ends.diff().max())
    bounds = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return taken | bounds | ({"seq_idx": (starts.cumsum(0) - 1).int()[None]} if "seq_idx" in taken else {})


def _has_length(values: Any, length: int) -> bool:
    return isinstance(values, Tensor) and values.ndim > 0 and len(values) == length


def _pad_rows(rows: Sequence[Sequence[int] | IntArray], width: int, fill: int) -> IntArray:
    """Pad lists of integers at the right: (rows, width)."""
    padded = np.full((len(rows), width), fill, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def _build_positions(lengths: Sequence[int]) -> IntArray:
    """Count 0, 1, 2, ... anew for each of the lengths: (sum of lengths,)."""
    return np.concatenate([np.arange(length) for length in lengths])
