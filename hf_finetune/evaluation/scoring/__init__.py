"""Everything that is measured of a saved model on rows of ours: the `evaluation` part of a report.

Every kind of score is a `Statistic`, which gives its interval, the comparison with the base, and the figures of slices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_finetune.config.sections import Run
from hf_finetune.data.raw_rows import raw_rows
from hf_finetune.data.splits import Splits
from hf_finetune.evaluation.scoring.classifiers import score_classifier
from hf_finetune.evaluation.scoring.language_models import score_language_model
from hf_finetune.evaluation.scoring.rows import SPLIT, rows_to_score
from hf_finetune.evaluation.scoring.scored import Scored, model_path
from hf_finetune.evaluation.slices import field_values, slice_figures
from hf_finetune.models.subjects import predicts_numbers, reads_labels


def greedy(run: Run) -> Run:
    """`run` with answers that are not drawn, unless its file says how they are."""
    if "temperature" in run.eval.model_fields_set:
        return run
    return run.model_copy(update={"eval": run.eval.model_copy(update={"temperature": 0.0})})


def load_scored_rows(run: Run) -> Splits:
    """The rows of `data.test`, of the kind that the model in `model.path` reads.

    Raises `DataError` as `load_splits` does.
    """
    assert run.data.test is not None  # or `load_run` would have refused it
    path = model_path(run)
    data = run.data.model_copy(update={"task": "regression"}) if predicts_numbers(path) else run.data
    return rows_to_score(run.data.test, data, "labelled" if reads_labels(path) else None)


def slice_values(run: Run, splits: Splits) -> dict[str, list[str | None]]:
    """For each field of `eval.by` its value in each row."""
    if not run.eval.by:
        return {}
    rows = list(raw_rows(splits, SPLIT, run.data.max_line_bytes, "eval.by"))
    return {field: field_values(rows, field, splits.files[0].path) for field in run.eval.by}


def score(run: Run, splits: Splits) -> Scored:
    """Measure the model of `run` on the rows, and all else that `eval` asks for; every process calls it.

    Raises `DataError` where the rows have no field of `eval.by`, and `ConfigError` and `ModelError` where something is
    asked for that a model of this kind cannot be asked.
    """
    values = slice_values(run, splits)  # a field that is not there is said before a model is loaded
    of_kind = score_classifier if reads_labels(model_path(run)) else score_language_model
    scored = of_kind(run, splits)
    more: dict[str, Any] = {"data": _source(splits)}
    if values:
        more["slices"] = {field: slice_figures(scored.statistic, each) for field, each in values.items()}
    return replace(scored, evaluation={"rows": len(splits.rows[SPLIT]), **scored.evaluation, **more})


def _source(splits: Splits) -> dict[str, str]:
    """The files of the rows, and the hash of what is in them: of the file where it is one, else of the rows."""
    rows = splits.facts()["splits"][SPLIT]["sha256"]
    sha256 = splits.files[0].sha256 if len(splits.files) == 1 else rows
    return {"path": ", ".join(file.path for file in splits.files), "sha256": sha256}
