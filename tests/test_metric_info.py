"""The one table of metrics against scikit-learn's scorers and, where it has none, against the papers' convention."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from sklearn.metrics import get_scorer_names

from hf_finetune.metric_info import METRICS, choose_verb, format_metrics, format_share, say_count

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


def test_a_classifiers_loss_has_one_name_and_the_loss_after_scaling_another(scored_classifier, capsys):
    """The same two figures in the table of `score`, on the page, on the card and for the Hub, each once."""
    from hf_finetune.cli.commands.score import _print_metrics
    from hf_finetune.metric_info import SAME_FIGURES, select_metrics

    figures, shown = scored_classifier
    assert figures["loss"] == pytest.approx(figures["log_loss_before_scaling"], rel=1e-9)
    assert figures["loss"] != pytest.approx(figures["log_loss"], rel=1e-3)
    assert [name for name in select_metrics(figures) if "los" in name] == ["loss", "log_loss"]
    _print_metrics(figures | {"rows": 40})
    table = capsys.readouterr().out
    for text in (table, *shown):
        assert text.count(f"{figures['log_loss_before_scaling']:.4f}") == 1
        assert text.count(f"{figures['log_loss']:.4f}") == 1
        assert "log loss" not in text
        assert "loss after scaling" in text
    assert {METRICS[name].title == METRICS[same].title for name, same in SAME_FIGURES.items()} == {True}


@pytest.fixture
def scored_classifier():
    """Figures of logits that are too sure of themselves, under a temperature, and what page and card make of them."""
    import numpy as np

    from hf_finetune.evaluation.classification.metrics import ClassifierOutputs, score_outputs
    from hf_finetune.label_set import Labels
    from hf_finetune.models.decision import Decision
    from hf_finetune.reporting.card.results import _build_split_table
    from hf_finetune.reporting.page.scores import _build_metric_table

    random = np.random.default_rng(0)
    outputs = ClassifierOutputs(random.normal(size=(40, 2)) * 4, random.integers(0, 2, 40))
    names = ("a", "b")
    figures = score_outputs(outputs, Labels(names, "single", names), Decision(names, "single", 3.0))
    run = SimpleNamespace(report={}, manifest={"data": {"files": [{"role": "test", "path": "x"}]}})
    table = _build_split_table(run, "test", figures)
    return figures, (str(_build_metric_table("test", figures)), str(table.rows))


@pytest.mark.parametrize(
    ("share", "said"),
    [(770 / 22_713_986, "0.0034%"), (0.05, "5.00%"), (0.0005, "0.050%"), (1.0, "100.00%"), (0, "0.00%")],
)
def test_a_share_that_is_small_is_not_said_to_be_nothing(share, said):
    assert format_share(share) == said


def test_a_figure_of_a_loss_that_exploded_has_no_hundreds_of_digits():
    logged = {"eval_loss": 671.3, "eval_perplexity": 3.5e291, "tokens_seen": 3e12}
    assert format_metrics(logged) == [
        "validation loss 671.3000", "perplexity 3.5e+291", "3,000,000,000,000 tokens seen",
    ]  # fmt: skip
    assert format_metrics({"eval_perplexity": float("inf")}) == ["perplexity inf"]


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(0, "row", "0 rows"), (1, "shard", "1 shard"), (1_200, "step", "1,200 steps"), (2, "loss", "2 losses")],
)
def test_one_is_no_plural(number, noun, said):
    assert say_count(number, noun) == said
    assert choose_verb(number, "is", "are") == ("is" if number == 1 else "are")
