"""Score a saved classifier: its metrics, the comparison with another classifier, and the effect of swapped words."""

from __future__ import annotations

import logging
from typing import Any

from hf_finetune.config.sections import Run
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.evaluation.prediction.predict import Classifier, PredictionOptions, open_classifier
from hf_finetune.evaluation.probes.counterfactuals import swap_effect
from hf_finetune.evaluation.scoring.class_predictions import MeasuredLabels, labels_of_classifier, measure_classifier
from hf_finetune.evaluation.scoring.counterfactual_rows import swapped
from hf_finetune.evaluation.scoring.result import Scored, model_path, parameters_of
from hf_finetune.evaluation.statistics.paired_test import compare
from hf_finetune.models.saved import reads_labels

logger = logging.getLogger(__name__)

# Settings of `eval` that only language models have.
NOT_OF_CLASSIFIERS = ("forget", "canaries", "verbatim_prefix", "generate_rows", "harness")


def score_classifier(run: Run, splits: Splits) -> Scored:
    """Predict every row, and again with words swapped; `eval.base` names another classifier to compare with.

    Raises `ConfigError` for settings of language models, and `ModelError` if the other classifier has other labels.
    """
    _check_settings(run)
    classifier = open_classifier(model_path(run), PredictionOptions())
    tuned = measure_classifier(classifier, splits)
    scores: dict[str, Any] = dict(tuned.compute_metrics())
    effects = {name: found for name in run.eval.swaps if (found := _measure_swap(classifier, splits, tuned, name))}
    if effects:
        scores["swaps"] = effects
    labels, parameters = labels_of_classifier(classifier), parameters_of(classifier.model)
    del classifier  # memory may hold one model and not two
    if isinstance(run.eval.base, str):
        other = open_classifier(run.eval.base, PredictionOptions())
        others = labels_of_classifier(other)
        if (others.names, others.kind) != (labels.names, labels.kind):
            one, two = (f"{', '.join(each.names)} ({each.kind})" for each in (others, labels))
            what = f"its labels are {one}; those of the model {two}"
            raise ModelError(Problem(what, "name a classifier of the same labels", run.eval.base))
        base = measure_classifier(other, splits)
        both = base.make_statistic(beside=tuned)
        compared = compare(base.make_statistic(), tuned.make_statistic(), both, len(tuned.outputs.logits))
        scores["comparison"] = {"base": run.eval.base, **compared}
    return Scored(scores, tuned.make_statistic(), tuned.facts, parameters)


def _check_settings(run: Run) -> None:
    given = [name for name in NOT_OF_CLASSIFIERS if getattr(run.eval, name) not in (None, [])]
    problems = [Problem("is asked of language models", "leave it out", key=f"eval.{name}") for name in given]
    if run.eval.base is True or (isinstance(run.eval.base, str) and not reads_labels(run.eval.base)):
        what = "what a classifier was tuned from knows no labels"
        problems.append(Problem(what, "name another classifier to compare with", key="eval.base"))
    if problems:
        raise ConfigError(problems)


def _measure_swap(classifier: Classifier, splits: Splits, tuned: MeasuredLabels, name: str) -> dict[str, Any]:
    """Measure the effect of swapping the words of the list `name`; {} if no row has any."""
    rows, changed = swapped(splits, name)
    if changed is None:
        logger.warning("no row has a word of the list %s: nothing was swapped", name)
        return {}
    before, after = tuned.select_rows(rows), measure_classifier(classifier, changed)
    both = before.make_statistic(beside=after)
    predictions = before.list_predictions(), after.list_predictions()
    return swap_effect(before.make_statistic(), after.make_statistic(), both, len(rows), predictions)
