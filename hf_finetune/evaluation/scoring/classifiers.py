"""Score a saved classifier: its metrics, the comparison with another classifier, and the effect of swapped words."""

from __future__ import annotations

import logging
from typing import Any

from hf_finetune.config.sections import Run
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.evaluation.prediction.predict import Classifier, PredictionOptions, open_classifier
from hf_finetune.evaluation.probes.counterfactuals import measure_swap_effect
from hf_finetune.evaluation.scoring.class_predictions import (
    ClassPredictions,
    evaluate_classifier,
    get_classifier_labels,
)
from hf_finetune.evaluation.scoring.counterfactual_rows import swap_rows
from hf_finetune.evaluation.scoring.precision import Precision, find_precision
from hf_finetune.evaluation.scoring.result import ScoreResult, count_by_component, get_model_path
from hf_finetune.evaluation.statistics.paired_test import Wording, compare_models
from hf_finetune.models.saved import is_sequence_classifier

logger = logging.getLogger(__name__)

# Settings of `eval` that only language models have.
NOT_OF_CLASSIFIERS = ("forget", "canaries", "verbatim_prefix", "generate_rows", "harness")


def score_classifier(run: Run, splits: Splits) -> ScoreResult:
    """Predict every row, and again with words swapped; `eval.base` names another classifier to compare with.

    Raises `ConfigError` for settings of language models, and `ModelError` if the other classifier has other labels.
    """
    _check_settings(run)
    classifier = open_classifier(get_model_path(run), PredictionOptions())
    precision = find_precision(get_model_path(run))
    tuned = evaluate_classifier(classifier, splits, precision)
    scores: dict[str, Any] = dict(tuned.compute_metrics())
    swapped = {name: _measure_swap(classifier, splits, tuned, name, precision) for name in run.eval.swaps}
    effects = {name: found for name, found in swapped.items() if found}
    if effects:
        scores["swaps"] = effects
    labels, parameters = get_classifier_labels(classifier), count_by_component(classifier.model)
    del classifier  # memory may hold one model and not two
    if isinstance(run.eval.base, str):
        other = open_classifier(run.eval.base, PredictionOptions())
        others = get_classifier_labels(other)
        if (others.names, others.kind) != (labels.names, labels.kind):
            one, two = (f"{', '.join(each.names)} ({each.kind})" for each in (others, labels))
            what = f"its labels are {one}; those of the model {two}"
            raise ModelError(Problem(what, "name a classifier of the same labels", run.eval.base, code="HF322"))
        base = evaluate_classifier(other, splits, find_precision(run.eval.base))
        both = base.make_statistic(beside=tuned)
        sides, rows = (base.make_statistic(), tuned.make_statistic()), len(tuned.outputs.logits)
        groups = tuned.outputs.groups
        compared = compare_models(*sides, both, rows, groups=groups, wording=Wording("the other model"))
        scores["comparison"] = {"base": run.eval.base, **compared}
    return ScoreResult(scores, tuned.make_statistic(), tuned.facts, parameters)


def _check_settings(run: Run) -> None:
    given = [name for name in NOT_OF_CLASSIFIERS if getattr(run.eval, name) not in (None, [])]
    problems = [
        Problem("is asked of language models", "leave it out", key=f"eval.{name}", code="HF323") for name in given
    ]
    if run.eval.base is True or (isinstance(run.eval.base, str) and not is_sequence_classifier(run.eval.base)):
        what = "what a classifier was tuned from knows no labels"
        problems.append(Problem(what, "name another classifier to compare with", key="eval.base", code="HF323"))
    if problems:
        raise ConfigError(problems)


def _measure_swap(
    classifier: Classifier, splits: Splits, tuned: ClassPredictions, name: str, precision: Precision
) -> dict[str, Any]:
    """Measure the effect of swapping the words of the list `name`; {} if no row has any."""
    rows, changed = swap_rows(splits, name)
    if changed is None:
        logger.warning("no row has a word of the list %s: nothing was swapped", name, extra={"code": "HF324"})
        return {}
    before, after = tuned.select_rows(rows), evaluate_classifier(classifier, changed, precision)
    both = before.make_statistic(beside=after)
    predictions = before.list_predictions(), after.list_predictions()
    sides = before.make_statistic(), after.make_statistic()
    return measure_swap_effect(*sides, both, len(rows), predictions, groups=before.outputs.groups)
