"""HF2xx: duplicates and leakage; HF38x: splits that are small, lopsided, or of another kind than the training rows."""

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
    # What is refused, or left out, as the splits of a run are made.
    "HF210": Code(
        "one file, or the same rows, in two splits",
        "error",
        _SEEN,
        "name a file that is not trained on, or have the split drawn with data.validation_fraction",
    ),
    "HF211": Code(
        "groups with rows in two splits",
        "error",
        "Rows of one group, such as all questions of one person, are alike: a score on a group that was trained is too "
        "high.",
        "move all rows of a group into one file",
    ),
    "HF212": Code(
        "rows of a drawn split are left out, as copies of training rows",
        "warning",
        f"{_SEEN} The split is smaller for it.",
        "take repeated rows out of the file, or leave it as it is",
    ),
    "HF213": Code(
        "a split that is left without a row",
        "error",
        "Nothing can be measured on it, which would be noticed at the end of the run.",
        "raise its fraction, add rows, take repeated rows out, or cut text into smaller documents",
    ),
    "HF214": Code(
        "a split with more rows than are trained",
        "warning",
        "As a rule the files of two splits were swapped, and the model learns from the smaller one.",
        "check which file is data.train",
    ),
    "HF215": Code(
        "a weight that cannot be applied",
        "error",
        "A weight says how often the rows of a source are trained: it means nothing for rows that are evaluated, and a "
        "small one can leave a source without a row.",
        "raise the weight, leave it out, or take the source out",
    ),
    "HF216": Code(
        "values to stratify by that a single row has",
        "error",
        "Stratified splits have each value in the same share, and one row cannot be in two of them.",
        "merge rare values, add rows, or stratify by another field",
    ),
    "HF217": Code(
        "fewer groups than splits",
        "error",
        "The rows of a group stay together, so that some split would have none.",
        "group by a field with more values, or ask for fewer splits",
    ),
}

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
