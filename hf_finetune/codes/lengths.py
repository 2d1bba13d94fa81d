"""HF1xx: lengths and tokens."""

from __future__ import annotations

from hf_finetune.codes.code import Code

LENGTHS: dict[str, Code] = {
    "HF101": Code(
        "rows lose their end, or are left out, because they are too long",
        "warning",
        "A model that never sees how an answer ends does not learn to end one; rows that are left out teach nothing.",
        "raise train.max_length as far as the memory allows, or choose what happens with data.too_long",
    ),
}
