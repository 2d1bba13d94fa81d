"""Check that documents packed into one row do not attend to each other (cross-contamination)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from hf_finetune.data.tokenization.collators import RowCollator, pop_row_index
from hf_finetune.errors import ModelError, Problem

# Relative to the largest logit. Between two packed rows that differ in their first document only, the logits of the
# second are bit-identical: shapes are equal, and masked tokens weigh exactly 0. LLM.int8() rounds a batch as one.
TOLERANCE = 1e-5
TOLERANCE_IN_8_BITS = 5e-2
# Against the document in a row of its own, shapes differ, and so does rounding.
TOLERANCE_ALONE = 1e-4
TOLERANCE_ALONE_IN_LOW_PRECISION = 5e-2
LONGEST_DOCUMENT = 32


def needs_flat(model: PreTrainedModel) -> bool:
    """Whether packed documents must come as one flat row, (1, tokens): flash attention separates no others."""
    return "flash" in (model.config._attn_implementation or "")


@torch.no_grad()
def check_packing(model: PreTrainedModel, rows: Dataset) -> None:
    """Compare a document's logits behind one packed neighbor, behind another, and alone.

    Does nothing where rows are not packed. Raises `ModelError` where the logits differ by more than rounding.
    """
    # The wrong mask is silent: the loss falls, on tokens that see another document
    # (https://github.com/huggingface/trl/issues/1230). Can go when transformers raises for such a mask.
    if "seq_lengths" not in rows.column_names:
        return
    if needs_flat(model):
        model.to(PartialState().device)  # as the Trainer will: flash attention has no CPU kernel
    length = max(2, min(LONGEST_DOCUMENT, len(rows[0]["input_ids"]) // 2))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.get_text_config().vocab_size, (3, length), generator=generator).tolist()
    packed = [{"input_ids": first + tokens[2], "seq_lengths": [length, length]} for first in tokens[:2]]
    was_training = model.training
    model.eval()
    together = _compute_logits(model, packed).view(2, 2 * length, -1)[:, length:]  # (2, length, vocab)
    alone = _compute_logits(model, [{"input_ids": tokens[2]}]).view(length, -1)  # (length, vocab)
    model.train(was_training)
    quantized = "quantization_config" in model.config.to_dict()
    rounded = quantized or model.dtype != torch.float32 or needs_flat(model)
    _refuse_difference(together[0] - together[1], alone, TOLERANCE_IN_8_BITS if quantized else TOLERANCE)
    _refuse_difference(together - alone, alone, TOLERANCE_ALONE_IN_LOW_PRECISION if rounded else TOLERANCE_ALONE)


def _refuse_difference(difference: Tensor, logits: Tensor, tolerance: float) -> None:
    """Raise `ModelError` where a difference, (..., length, vocab), exceeds the tolerance times the largest logit."""
    share = (difference.abs().max() / logits.abs().max()).item()
    if not share <= tolerance:
        what = "this model's attention cannot keep packed documents apart"
        figures = f"the logits of one change by {share:.1e} of the largest with what stands before it"
        raise ModelError(Problem(f"{what}: {figures}", "set train.packing: false", key="train.packing"))


def _compute_logits(model: PreTrainedModel, rows: list[dict[str, list[int]]]) -> Tensor:
    """-> float32 (rows, seq, vocab), or (1, rows * seq, vocab) for attention that needs one flat row."""
    collate = RowCollator(pad_token_id=0, flatten=needs_flat(model))
    batch, _ = pop_row_index(collate([{**row, "labels": row["input_ids"]} for row in rows]))
    del batch["labels"]
    moved = {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    # Flash attention accepts no float32, the dtype of weights in mixed-precision training.
    rounds = needs_flat(model) and model.dtype == torch.float32
    with torch.autocast(model.device.type, torch.bfloat16) if rounds else nullcontext():
        logits: Tensor = model(**moved, use_cache=False).logits.float()
    return logits
