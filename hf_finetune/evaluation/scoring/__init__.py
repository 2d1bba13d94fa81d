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
precision.py            16 bits and attention, as its run has evaluated it
run_settings.py         how the run of a saved model made tokens of its rows
distributed.py          rows shared among processes
lm_eval_harness.py      benchmarks of lm-evaluation-harness
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from accelerate import PartialState

from hf_finetune.chat.template import TRUST_KEY
from hf_finetune.config.reading.document import format_value
from hf_finetune.config.sections import DataSection, Run
from hf_finetune.data.reading.formats import Kind
from hf_finetune.data.reading.sources import TEXT_FORMATS
from hf_finetune.data.splitting.one_split import SPLIT, load_rows
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import ConfigError, DataError, Problem
from hf_finetune.evaluation.probes.seen_rows import SeenRowCounter, log_seen_rows, read_training_records
from hf_finetune.evaluation.scoring.classifiers import score_classifier
from hf_finetune.evaluation.scoring.language_models import score_language_model
from hf_finetune.evaluation.scoring.result import ScoreResult, get_model_path
from hf_finetune.evaluation.statistics.slices import compute_slice_metrics, get_field_values, read_raw_rows
from hf_finetune.label_set import LABEL_MAP
from hf_finetune.models.files.locate import read_run_file, read_trained_labels
from hf_finetune.models.saved import is_regression_model, is_sequence_classifier
from hf_finetune.privacy import redact

logger = logging.getLogger(__name__)


def with_greedy_decoding(run: Run) -> Run:
    """Return `run` with greedy decoding (temperature 0), unless its file sets a temperature."""
    if "temperature" in run.eval.model_fields_set:
        return run
    return run.model_copy(update={"eval": run.eval.model_copy(update={"temperature": 0.0})})


def load_scored_rows(run: Run) -> Splits:
    """Load the rows of `data.test` in the form that the model in `model.path` takes: labeled text, or text to model.

    Rows are grouped by `data.group_by`, else by that of the model's own run, where the rows have its field; labels
    are named by `data.labels`, else by that of its run. Raises `DataError` as `load_splits` does, and `ConfigError` for
    `data.labels` of a model that gives none, and a trusted template of one that renders none.
    """
    assert run.data.test is not None  # `load_run` refuses a run without it
    path = get_model_path(run)
    kind: Kind | None = "labelled" if is_sequence_classifier(path) else None
    if kind == "labelled" and run.data.trust_chat_template is not None:
        what = "is the hash of a chat template, and a classifier reads texts without one"
        raise ConfigError(Problem(what, "leave it out", key=TRUST_KEY, code="HF323"))
    splits = _load_grouped(run, path, _name_labels(run.data, path, kind), kind)
    if run.data.labels and splits.unused_labels:
        unused = ", ".join(map(format_value, splits.unused_labels))
        logger.warning("no row has the label %s, which %s names", unused, LABEL_MAP, extra={"code": "HF305"})
    return splits


def _name_labels(data: DataSection, path: str, kind: Kind | None) -> DataSection:
    """Return `data` with the task of the model, and with `data.labels` of its run where it has none of its own."""
    number = kind == "labelled" and is_regression_model(path)
    if data.labels and (kind is None or number):
        what = "names labels, and the model predicts numbers" if number else "names labels, and the model gives none"
        raise ConfigError(Problem(what, "leave it out", key=LABEL_MAP, code="HF323"))
    if number:
        return data.model_copy(update={"task": "regression"})
    if kind is None or data.labels:
        return data
    return data.model_copy(update={"labels": read_trained_labels(path)})


def _load_grouped(run: Run, path: str, data: DataSection, kind: Kind | None) -> Splits:
    assert data.test is not None
    trained_by = None if data.group_by or data.format in TEXT_FORMATS else find_grouping(path)
    if trained_by is not None:
        try:
            grouped = load_rows(data.test, data.model_copy(update={"group_by": trained_by}), kind, run.eval.by)
        except DataError as refused:
            if any(problem.key != "data.group_by" for problem in refused.problems):
                raise
            logger.info("rows without the field %s, by which those of its run were grouped: each counts", trained_by)
        else:
            logger.info("intervals and tests take rows of one %s together, as the model's run has it", trained_by)
            return grouped
    return load_rows(data.test, data, kind, run.eval.by)


def find_grouping(path: str) -> str | None:
    """Find `data.group_by` of the run in a model's folder; None where it has none, or the folder is of no run."""
    data = read_run_file(path).get("data")
    named = data.get("group_by") if isinstance(data, dict) else None
    return named if isinstance(named, str) else None


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
    more: dict[str, Any] = {"data": _describe_source(splits), **_look_for_seen_rows(run, splits)}
    if values:
        more["slices"] = {
            field: compute_slice_metrics(scored.statistic, each, groups=splits.groups.get(SPLIT))
            for field, each in values.items()
        }
    return replace(scored, evaluation={"rows": len(splits.rows[SPLIT]), **scored.evaluation, **more})


def _look_for_seen_rows(run: Run, splits: Splits) -> dict[str, Any]:
    """Return `seen_rows` of the report: rows that the model was trained on; {} where no run is known to have."""
    counter = SeenRowCounter(read_training_records(get_model_path(run)))
    counter.add(splits.rows[SPLIT], lambda row: splits.locate(SPLIT, row), splits.hashes[SPLIT])
    found = counter.summarize()
    if PartialState().is_main_process:
        log_seen_rows(found)
    return {"seen_rows": found} if found else {}


def _describe_source(splits: Splits) -> dict[str, str]:
    """Return names of the files and a SHA-256: of the file if there is one, else of the rows of all files."""
    rows = splits.summarize()["splits"][SPLIT]["sha256"]
    sha256 = splits.files[0].sha256 if len(splits.files) == 1 else rows
    return {"path": ", ".join(redact([file.path for file in splits.files])), "sha256": sha256}
