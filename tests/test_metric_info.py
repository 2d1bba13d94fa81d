"""The one table of metrics against scikit-learn's scorers and, where it has none, against the papers' convention."""

from __future__ import annotations

import pytest
from sklearn.metrics import get_scorer_names

from hf_finetune.metric_info import METRICS

# Our names beside those of scikit-learn, which puts neg_ before what is better lower.
SCORERS = {
    **{name: name for name in ("accuracy", "balanced_accuracy", "f1", "f1_macro", "f1_micro", "f1_weighted")},
    **{name: name for name in ("roc_auc", "precision", "precision_macro", "recall", "recall_macro", "r2")},
    "matthews_correlation": "matthews_corrcoef",
    "pr_auc": "average_precision",
    "log_loss": "neg_log_loss",
    "log_loss_before_scaling": "neg_log_loss",
    "mae": "neg_mean_absolute_error",
    "mse": "neg_mean_squared_error",
}
# An error, a surprise, or what a text repeats: less is better. A share or a likeness: more is.
LOWER = {"loss", "perplexity", "word_perplexity", "bits_per_byte", "repetition"}
LOWER |= {"expected_calibration_error", "expected_calibration_error_before_scaling"}
HIGHER = {"token_accuracy", "exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "stop_rate"}
HIGHER |= {"pearson"}
NEITHER = {"answer_tokens", "refusal_rate"}


def independent_direction(name: str) -> str:
    if name in SCORERS:
        assert SCORERS[name] in get_scorer_names()
        return "lower" if SCORERS[name].startswith("neg_") else "higher"
    (found,) = [way for way, names in (("lower", LOWER), ("higher", HIGHER), ("neither", NEITHER)) if name in names]
    return found


@pytest.mark.parametrize("name", sorted({*METRICS, *SCORERS, *LOWER, *HIGHER, *NEITHER}))
def test_a_metric_gets_better_in_the_direction_of_its_convention(name):
    assert METRICS[name].better == independent_direction(name)
