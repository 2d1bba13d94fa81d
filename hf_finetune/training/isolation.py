"""Proof that documents packed into one row do not see each other."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from hf_finetune.data.batches import RowCollator, without_row_index
from hf_finetune.errors import ModelError, Problem

# Of the largest logit. A document's logits stay the same to the last bit when another one stands before it: the shapes
# are the same, and what is masked counts exactly nothing. LLM.int8() rounds all tokens of a batch together.
TOLERANCE = 1e-5
TOLERANCE_IN_8_BITS = 5e-2
# Against the document alone shapes differ, and so does the rounding.
TOLERANCE_ALONE = 1e-4
TOLERANCE_ALONE_IN_LOW_PRECISION = 5e-2
LONGEST_DOCUMENT = 32


def reads_one_row(model: PreTrainedModel) -> bool:
    """Whether this model's attention tells documents apart in a batch of one row only, which flash attention does."""
    return "flash" in (model.config._attn_implementation or "")


@torch.no_grad()
def check_isolation(model: PreTrainedModel, rows: Dataset) -> None:
    """Compare a document's logits in packed rows, behind two others, with each other and with those of it alone.

    Nothing is done where rows are not packed. Raises `ModelError` where logits differ by more than rounding.
    """
    if "seq_lengths" not in rows.column_names:
        return
    if reads_one_row(model):
        model.to(PartialState().device)  # where the Trainer will put it: flash attention has no kernel for a CPU
    length = max(2, min(LONGEST_DOCUMENT, len(rows[0]["input_ids"]) // 2))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.get_text_config().vocab_size, (3, length), generator=generator).tolist()
    packed = [{"input_ids": first + tokens[2], "seq_lengths": [length, length]} for first in tokens[:2]]
    was_training = model.training
    model.eval()
    together = _logits(model, packed).view(2, 2 * length, -1)[:, length:]
    alone = _logits(model, [{"input_ids": tokens[2]}]).view(length, -1)
    model.train(was_training)
    quantized = "quantization_config" in model.config.to_dict()
    rounded = quantized or model.dtype != torch.float32 or reads_one_row(model)
    _refuse_difference(together[0] - together[1], alone, TOLERANCE_IN_8_BITS if quantized else TOLERANCE)
    _refuse_difference(together - alone, alone, TOLERANCE_ALONE_IN_LOW_PRECISION if rounded else TOLERANCE_ALONE)


def _refuse_difference(difference: Tensor, logits: Tensor, tolerance: float) -> None:
    share = (difference.abs().max() / logits.abs().max()).item()
    if not share <= tolerance:
        what = "this model's attention cannot keep packed documents apart"
        figures = f"the logits of one change by {share:.1e} of the largest with what stands before it"
        raise ModelError(Problem(f"{what}: {figures}", "set train.packing: false", key="train.packing"))


def _logits(model: PreTrainedModel, rows: list[dict[str, list[int]]]) -> Tensor:
    collate = RowCollator(pad_token_id=0, flatten=reads_one_row(model))
    batch, _ = without_row_index(collate([{**row, "labels": row["input_ids"]} for row in rows]))
    del batch["labels"]
    moved = {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    # Flash attention takes no float32, which weights are kept in when they are trained in mixed precision.
    rounds = reads_one_row(model) and model.dtype == torch.float32
    with torch.autocast(model.device.type, torch.bfloat16) if rounds else nullcontext():
        logits: Tensor = model(**moved, use_cache=False).logits.float()
    return logits
