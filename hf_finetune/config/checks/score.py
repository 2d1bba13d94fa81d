"""Conflicts of settings in a run of `score`, and settings of `score` in other recipes."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.reading.document import RunDocument, refuse_given
from hf_finetune.config.sections import RecipeName, Source

EVAL_SETTINGS = (
    *("by", "forget", "swaps", "canaries", "verbatim_prefix", "harness"),
    *("batch_size", "generate_rows"),
)
# How a model is created or loaded for training, which is decided already for a saved model.
MODEL_SETTINGS = (
    *("scratch", "revision", "adapter", "tokenizer", "dtype", "attn_implementation"),
    *("load_in_4bit", "load_in_8bit"),
)
DATA_SETTINGS = ("validation", "validation_fraction", "test_fraction", "stratify_by")
LENGTH_SETTINGS = ("too_long", "max_dropped")

_SAVED = "is no setting of score, which loads a model as it was saved"
_NO_SPLIT = "is no setting of score, which splits nothing: all rows of data.test are scored"


def check_score(document: RunDocument, run: Any, recipe: RecipeName) -> None:
    """Check that `score` has rows to score and a saved model, and that every other recipe has rows to train on."""
    if recipe != "score":
        refuse_given(document, "eval", run.eval, EVAL_SETTINGS, "belongs to the recipe score")
        _check_base(document, run, recipe)
        if run.data.train is None and not document.is_refused("data.train", "data"):
            document.refuse(
                ("data", "train"), "is missing", "give a file, folder, glob or Hub data set id", code="HF605"
            )
        return
    refuse_given(document, "model", run.model, MODEL_SETTINGS, _SAVED)
    refuse_given(document, "data", run.data, DATA_SETTINGS, _NO_SPLIT)
    refuse_given(document, "data", run.data, LENGTH_SETTINGS, "is no setting of score, which cuts what is too long")
    for section in ("train", "hub"):
        if document.values.get(section):
            document.refuse(
                (section,), "is no section of score, which trains and pushes nothing", "leave it out", code="HF608"
            )
    for key, sources in ((("data", "test"), run.data.test), (("eval", "forget"), run.eval.forget)):
        listed = sources if isinstance(sources, list) else [sources]
        if any(isinstance(source, Source) and source.weight != 1 for source in listed):
            document.refuse(
                key, "has a weight, which is for training rows", "leave it out: each row is scored once", code="HF608"
            )
    if run.data.test is None and not document.is_refused("data.test", "data"):
        document.refuse(("data", "test"), "is missing", "give the rows to score", code="HF605")
    if run.eval.verbatim_prefix is not None and run.data.train is None and not document.is_refused("data.train"):
        what = "needs the rows that the model was trained on, and there is no data.train"
        document.refuse(("eval", "verbatim_prefix"), what, "add data.train", code="HF609")
    if run.data.train is not None and run.eval.verbatim_prefix is None:
        what = "is read only to measure memorization, and eval.verbatim_prefix is not set"
        document.refuse(("data", "train"), what, "set eval.verbatim_prefix, such as 32, or leave it out", code="HF607")
    if run.eval.forget is not None and not run.eval.base and not document.is_refused("eval.base"):
        what = "needs the model as it was before, to compare with"
        document.refuse(("eval", "forget"), what, "add eval.base: true", code="HF609")


def _check_base(document: RunDocument, run: Any, recipe: RecipeName) -> None:
    """Check `eval.base` of a run that trains: what it tunes is its base, and `false` leaves it unscored."""
    base, data = run.eval.base, run.data
    if recipe == "classification":
        refuse_given(document, "eval", run.eval, ("base",), "belongs to the recipes that tune a language model")
    elif isinstance(base, str):
        what = "names another model, and a run that trains is compared with the one that it tunes"
        document.refuse(
            ("eval", "base"), what, "leave it out, and compare with `hf-finetune score --base-path`", code="HF608"
        )
    elif base and run.model.scratch is not None:
        document.refuse(
            ("eval", "base"), "is asked of random weights, which have no base", "leave it out", code="HF631"
        )
    elif base and not any((data.validation, data.validation_fraction, data.test, data.test_fraction)):
        what = "needs rows on which both are scored, and there is neither validation nor test"
        document.refuse(("eval", "base"), what, "set data.validation_fraction, such as 0.1", code="HF661")
