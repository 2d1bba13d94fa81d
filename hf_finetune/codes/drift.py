"""HF38x, of HF3xx (labels and evaluation): rows that are evaluated, or used, and are not like the training rows."""

from __future__ import annotations

from hf_finetune.codes.code import Code

DRIFT: dict[str, Code] = {
    "HF381": Code(
        "a classifier tells these rows from training rows",
        "warning",
        "A score on rows of another kind is not one on rows such as were trained, and the other way round.",
        "draw both from one source (data.validation_fraction), or say of a score which rows it is on",
    ),
}
