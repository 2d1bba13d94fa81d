"""HF2xx: duplicates, and rows that are evaluated and trained."""

from __future__ import annotations

from hf_finetune.codes.code import Code

_SEEN = "A score on rows that were trained says how well they were learned by heart, not what the model can do."

DUPLICATES: dict[str, Code] = {
    "HF201": Code(
        "training rows are there already",
        "note",
        "A row that is there twice counts twice, and is sooner learned by heart.",
        "take repeated rows out, unless they are meant to weigh more",
    ),
    "HF202": Code(
        "evaluation rows are copies of training rows", "error", _SEEN, "take them out of one of the two files"
    ),
    "HF203": Code(
        "evaluation rows are nearly the same as training rows",
        "warning",
        _SEEN,
        "take them out of one of the two files, or split by what they have in common with data.group_by",
    ),
    "HF204": Code(
        "evaluation rows share 13 words in a row with training rows",
        "note",
        "A long run of the same words is a quotation, a form letter, or a row that was cut or changed.",
        "look at some of the rows: what was copied belongs on one side",
    ),
    "HF205": Code(
        "rows are in validation and in test",
        "warning",
        "What was chosen by the validation rows is then chosen by some of the test rows, and scores too high there.",
        "take them out of one of the two files",
    ),
    "HF206": Code(
        "training rows share text with a benchmark",
        "warning",
        _SEEN,
        "take these rows out before a score on that benchmark is told to anybody",
    ),
}
