"""The metric by which a checkpoint is the best: which names a run file may give, and the direction that each gets."""

from __future__ import annotations

import pytest
from config.run_files import VALID, VALID_CLASSIFICATION, VALID_LORA, VALID_SFT

from hf_finetune.config.checks.metric import OTHER_NAMES, best_model_settings
from hf_finetune.metric_info import EVAL_LABEL_METRICS, EVAL_REGRESSION_METRICS, EVAL_TOKEN_METRICS, METRICS
from hf_finetune.training.arguments import build_training_arguments

SPLIT = "data.validation=validation.jsonl"
EACH = "train={eval_strategy: steps, save_strategy: steps, load_best_model_at_end: true}"
PLATEAU = "train.lr_scheduler_type=reduce_lr_on_plateau"
RUNS = {
    "continued_pretraining": (VALID, (), EVAL_TOKEN_METRICS),
    "sft": (VALID_SFT, (), EVAL_TOKEN_METRICS),
    "lora": (VALID_LORA, (), EVAL_TOKEN_METRICS),
    "classes": (VALID_CLASSIFICATION, (), EVAL_LABEL_METRICS),
    "classes, said so": (VALID_CLASSIFICATION, ("data.task=classification",), EVAL_LABEL_METRICS),
    "numbers": (VALID_CLASSIFICATION, ("data.task=regression",), EVAL_REGRESSION_METRICS),
}
# Of what is computed at evaluations, an error or a surprise; all others are shares, scores and correlations.
LOWER = {"loss", "perplexity", "bits_per_byte", "mae"}


@pytest.mark.parametrize("prefix", ["", "eval_"])
@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("name", METRICS)
def test_each_metric_of_the_table_gets_its_direction_or_is_refused(load, problems, kind, name, prefix):
    text, settings, computed = RUNS[kind]
    given = (*settings, SPLIT, EACH, f"train.metric_for_best_model={prefix}{name}")
    if name in computed:
        found = best_model_settings(load(text, *given).train)
        assert found == {"metric_for_best_model": name, "greater_is_better": name not in LOWER}
    else:
        (problem,) = problems(text, *given)
        assert problem.key == "train.metric_for_best_model"
        assert ", ".join(computed) in problem.remedy
        wanted = "neither" if name in ("answer_tokens", "refusal_rate") else "is not computed at the evaluations"
        assert wanted in problem.what


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("classes", "log_loss", "loss"),
        ("classes", "f1", "f1_macro"),
        ("classes", "acuracy", "accuracy"),
        ("classes", "eval_MCC", "matthews_correlation"),
        ("numbers", "mse", "loss"),
        ("numbers", "mean_absolute_error", "mae"),
        ("sft", "mean_token_accuracy", "token_accuracy"),
        ("lora", "accuracy", "token_accuracy"),
        ("continued_pretraining", "bits_per_bite", "bits_per_byte"),
        ("sft", "runtime", None),
        ("sft", "eval_samples_per_second", None),
        ("sft", "", None),
    ],
)
def test_a_name_that_is_not_computed_is_refused_with_what_was_probably_meant(only_problem, kind, name, meant):
    text, settings, _ = RUNS[kind]
    problem = only_problem(text, *settings, SPLIT, EACH, f"train.metric_for_best_model='{name}'")
    assert problem.remedy.startswith(f"did you mean {meant}? They compute" if meant else "choose one of loss")


def test_what_is_suggested_for_another_name_is_computed_somewhere():
    assert {meant for names in OTHER_NAMES.values() for meant in names} <= {
        *EVAL_TOKEN_METRICS,
        *EVAL_LABEL_METRICS,
        *EVAL_REGRESSION_METRICS,
    }


@pytest.mark.parametrize(
    ("overrides", "key", "what", "remedy"),
    [
        (["train.metric_for_best_model=perplexity", "train.greater_is_better=true"], "greater_is_better",
         "is true, and lower is better of perplexity", "write false"),
        (["train.metric_for_best_model=token_accuracy", "train.greater_is_better=false"], "greater_is_better",
         "is false, and higher is better of token_accuracy", "write true"),
        ([EACH, "train.greater_is_better=true"], "greater_is_better", "lower is better of loss", "write false"),
        ([PLATEAU, "train.greater_is_better=true"], "greater_is_better", "lower is better of loss", "write false"),
        (["train.greater_is_better=true"], "greater_is_better", "has no effect", "leave it out"),
        ([PLATEAU, "train.metric_for_best_model=token_accuracy", "train.lr_scheduler_kwargs={mode: min}"],
         "lr_scheduler_kwargs.mode", "is 'min', and higher is better of token_accuracy", "write max"),
        ([PLATEAU, "train.lr_scheduler_kwargs='{\"mode\": \"max\"}'"],
         "lr_scheduler_kwargs.mode", "is 'max', and lower is better of loss", "write min"),
        (["train.prediction_loss_only=true", "train.metric_for_best_model=perplexity"], "metric_for_best_model",
         "of sft under train.prediction_loss_only", "choose one of loss"),
    ],
)  # fmt: skip
def test_a_direction_that_is_not_the_metrics_own_is_refused_with_the_right_one(
    only_problem, overrides, key, what, remedy
):
    problem = only_problem(VALID_SFT, SPLIT, "train.eval_strategy=steps", *overrides)
    assert problem.key == f"train.{key}"
    assert what in problem.what
    assert problem.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        (["train.metric_for_best_model=token_accuracy", "train.greater_is_better=true"], "max"),
        (["train.metric_for_best_model=token_accuracy", "train.lr_scheduler_kwargs={mode: max, patience: 3}"], "max"),
        (["train.metric_for_best_model=perplexity", "train.greater_is_better=false"], "min"),
        ([], "min"),
    ],
)
def test_a_schedule_and_the_stack_look_the_same_way(load, overrides, mode):
    args = build_training_arguments(load(VALID, SPLIT, "train.eval_strategy=steps", PLATEAU, *overrides))
    assert args.lr_scheduler_kwargs["mode"] == mode
    assert args.lr_scheduler_kwargs.get("patience", 3) == 3
    assert args.greater_is_better == (mode == "max")


def test_a_run_that_looks_for_no_best_is_told_none(load):
    assert best_model_settings(load(VALID).train) == {}
