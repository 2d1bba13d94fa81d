"""Check that documents packed into one row do not attend to each other (cross-contamination)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from hf_finetune.data.tokenization.collators import RowCollator, pop_row_index
from hf_finetune.data.tokenization.documents import BlockCollator
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.verification import round_for_flash, uses_flash
from hf_finetune.training.sharding.gather import on_one

# Relative to the largest logit. Between two packed rows that differ in their first document only, the logits of the
# second are bit-identical: shapes are equal, and masked tokens weigh exactly 0. LLM.int8() rounds a batch as one.
TOLERANCE = 1e-5
TOLERANCE_IN_8_BITS = 5e-2
# Against the document in a row of its own, shapes differ, and so does rounding.
TOLERANCE_ALONE = 1e-4
TOLERANCE_ALONE_IN_LOW_PRECISION = 5e-2
LONGEST_DOCUMENT = 32

needs_flat = uses_flash
"""Whether packed documents must come as one flat row, (1, tokens), or with their bounds: flash attention separates no
others."""


def check_packing(model: PreTrainedModel, rows: Dataset) -> None:
    """Compare a document's logits behind one packed neighbor, behind another, and alone; every rank calls it.

    Does nothing where rows are not packed, nor documents isolated. Raises `ModelError` where the logits differ by more
    than rounding.
    """
    # Under FSDP2 the others may have no weights yet.
    on_one(PartialState().is_main_process, lambda: _check(model, rows))


@torch.no_grad()
def _check(model: PreTrainedModel, rows: Dataset) -> None:
    # The wrong mask is silent: the loss falls, on tokens that see another document
    # (https://github.com/huggingface/trl/issues/1230). Can go when transformers raises for such a mask.
    blocks = "position_ids" in rows.column_names  # `data.isolate_documents`
    if not blocks and "seq_lengths" not in rows.column_names:
        return
    if needs_flat(model):
        model.to(PartialState().device)  # as the Trainer will: flash attention has no CPU kernel
    collate = _collate_blocks if blocks else _collate_rows
    length = max(2, min(LONGEST_DOCUMENT, len(rows[0]["input_ids"]) // 2))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.get_text_config().vocab_size, (3, length), generator=generator).tolist()
    was_training = model.training
    model.eval()
    packed = collate(model, [[first, tokens[2]] for first in tokens[:2]])
    together = _compute_logits(model, packed).view(2, 2 * length, -1)[:, length:]  # (2, length, vocab)
    alone = _compute_logits(model, collate(model, [[tokens[2]]])).view(length, -1)  # (length, vocab)
    model.train(was_training)
    quantized = "quantization_config" in model.config.to_dict()
    rounded = quantized or model.dtype != torch.float32 or needs_flat(model)
    limits = (
        TOLERANCE_IN_8_BITS if quantized else TOLERANCE,
        (TOLERANCE_ALONE_IN_LOW_PRECISION if rounded else TOLERANCE_ALONE),
    )
    for difference, limit in zip((together[0] - together[1], together - alone), limits, strict=True):
        # A fresh GPT from scratch, whose output begins at zero, has nothing that could differ.
        share = (difference.abs().max() / alone.abs().max().clamp(min=torch.finfo(torch.float32).tiny)).item()
        if not share <= limit:
            raise ModelError(_make_problem(share, "data.isolate_documents" if blocks else "train.packing"))


def _make_problem(share: float, key: str) -> Problem:
    what = "this model's attention cannot keep packed documents apart"
    figures = f"the logits of one change by {share:.1e} of the largest with what stands before it"
    return Problem(f"{what}: {figures}", f"set {key}: false", key=key, code="HF929")


def _collate_rows(model: PreTrainedModel, packed: Sequence[Sequence[list[int]]]) -> dict[str, Any]:
    """Documents, (tokens,) each, packed to rows as for sft and lora: (rows, seq), or (1, rows * seq) if flat."""
    rows = [{"input_ids": _join(documents), "seq_lengths": list(map(len, documents))} for documents in packed]
    collate = RowCollator(pad_token_id=0, flatten=needs_flat(model))
    batch, _ = pop_row_index(collate([{**row, "labels": row["input_ids"]} for row in rows]))
    return batch


def _collate_blocks(model: PreTrainedModel, packed: Sequence[Sequence[list[int]]]) -> dict[str, Any]:
    """Documents, (tokens,) each, packed to blocks as for continued pretraining: (rows, seq)."""
    blocks = [
        {
            "input_ids": _join(documents),
            "labels": _join(documents),
            "position_ids": [position for document in documents for position in range(len(document))],
        }
        for documents in packed
    ]
    return BlockCollator(bounds=needs_flat(model))(blocks)


def _join(documents: Sequence[list[int]]) -> list[int]:
    return [token for document in documents for token in document]


def _compute_logits(model: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """-> float32 (rows, seq, vocab), or (1, rows * seq, vocab) for a flat row."""
    moved = {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    del moved["labels"]
    with round_for_flash(model):
        logits: Tensor = model(**moved, use_cache=False).logits.float()
    return logits
