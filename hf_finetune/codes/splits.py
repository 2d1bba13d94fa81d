"""HF38x, of HF3xx (labels and evaluation): splits that are small, lopsided, or not like the training rows."""

from __future__ import annotations

from hf_finetune.codes.code import Code

SPLITS: dict[str, Code] = {
    "HF381": Code(
        "a classifier tells these rows from training rows",
        "warning",
        "A score on rows of another kind is not one on rows such as were trained, and the other way round.",
        "draw both from one source (data.validation_fraction), or say of a score which rows it is on",
    ),
    "HF382": Code(
        "too few rows for a score that tells two models apart",
        "note",
        "The interval of a score grows as rows get fewer: a difference that is smaller than it may be chance.",
        "hold out more rows (data.validation_fraction), or read the interval beside each score",
    ),
    "HF383": Code(
        "labels that few training rows have",
        "warning",
        "A label of which there are a handful of rows is hardly learned, and accuracy does not show it.",
        "add rows of these labels, put them together (data.labels), or set data.balance and read the macro F1",
    ),
    "HF384": Code(
        "labels that no evaluated row has",
        "warning",
        "What the model makes of them is not measured: it may never give one of them, and score as well.",
        "draw the split by label (data.stratify_by: label), or add rows of these labels",
    ),
    "HF385": Code(
        "rows are evaluated in a language that is not trained",
        "warning",
        "A score on another language than was trained says little about the training.",
        "score each language by itself, or add training rows in it",
    ),
}
