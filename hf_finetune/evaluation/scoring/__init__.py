"""Score a saved model on the rows of a file: everything in the `evaluation` part of the report.

Every set of metrics is also a `Statistic`, a function of row weights: it gives the intervals, the comparison with the
base, and the metrics of slices.

language_models.py      loss, answers, and what else `eval` asks for
classifiers.py          the same for classifiers
result.py               what both return
rows.py                 rows of `data.test` as tokens and prompts
log_likelihood.py       the log-likelihood of each row
class_predictions.py    logits of each row
counterfactual_rows.py  rows with words swapped
memorization.py         canaries and continued rows
distributed.py          rows shared among processes
lm_eval_harness.py      benchmarks of lm-evaluation-harness
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_finetune.config.sections import Run
from hf_finetune.data.splitting.one_split import SPLIT, load_rows
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.evaluation.scoring.classifiers import score_classifier
from hf_finetune.evaluation.scoring.language_models import score_language_model
from hf_finetune.evaluation.scoring.result import ScoreResult, get_model_path
from hf_finetune.evaluation.statistics.slices import compute_slice_metrics, get_field_values, read_raw_rows
from hf_finetune.models.saved import is_regression_model, is_sequence_classifier
from hf_finetune.privacy import redact


def with_greedy_decoding(run: Run) -> Run:
    """Return `run` with greedy decoding (temperature 0), unless its file sets a temperature."""
    if "temperature" in run.eval.model_fields_set:
        return run
    return run.model_copy(update={"eval": run.eval.model_copy(update={"temperature": 0.0})})


def load_scored_rows(run: Run) -> Splits:
    """Load the rows of `data.test` in the form that the model in `model.path` takes: labeled text, or text to model.

    Raises `DataError` as `load_splits` does.
    """
    assert run.data.test is not None  # `load_run` refuses a run without it
    path = get_model_path(run)
    data = run.data.model_copy(update={"task": "regression"}) if is_regression_model(path) else run.data
    return load_rows(run.data.test, data, "labelled" if is_sequence_classifier(path) else None, run.eval.by)


def read_slice_values(run: Run, splits: Splits) -> dict[str, list[str | None]]:
    """Read the value of each row for each field of `eval.by`. Raises `DataError` as `get_field_values` does."""
    if not run.eval.by:
        return {}
    rows = list(read_raw_rows(splits, SPLIT, run.data.max_line_bytes, "eval.by"))
    return {field: get_field_values(rows, field, splits.files[0].path) for field in run.eval.by}


def score_model(run: Run, splits: Splits) -> ScoreResult:
    """Score the model of `run` on the rows, with all that `eval` asks for; every process calls it.

    Raises `DataError` if the rows lack a field of `eval.by`, and `ConfigError` or `ModelError` if `eval` asks for
    something that this kind of model does not have.
    """
    values = read_slice_values(run, splits)  # before the model is loaded: a missing field is an error at once
    score_kind = score_classifier if is_sequence_classifier(get_model_path(run)) else score_language_model
    scored = score_kind(run, splits)
    more: dict[str, Any] = {"data": _describe_source(splits)}
    if values:
        more["slices"] = {field: compute_slice_metrics(scored.statistic, each) for field, each in values.items()}
    return replace(scored, evaluation={"rows": len(splits.rows[SPLIT]), **scored.evaluation, **more})


def _describe_source(splits: Splits) -> dict[str, str]:
    """Return names of the files and a SHA-256: of the file if there is one, else of the rows of all files."""
    rows = splits.summarize()["splits"][SPLIT]["sha256"]
    sha256 = splits.files[0].sha256 if len(splits.files) == 1 else rows
    return {"path": ", ".join(redact([file.path for file in splits.files])), "sha256": sha256}
