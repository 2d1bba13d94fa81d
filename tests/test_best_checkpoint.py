"""The checkpoint that a run keeps, and when it stops, against the oracle of its own log, for metrics of both ways."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from models.scratch_models import tiny_model

from hf_finetune.metric_info import EVAL_LABEL_METRICS, EVAL_REGRESSION_METRICS, EVAL_TOKEN_METRICS
from hf_finetune.models.tokenizer_training import train_tokenizer

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2")
EACH = ("train.eval_strategy=steps", "train.eval_steps=2", "train.save_strategy=steps", "train.save_steps=2")
KEEP = (*EACH, "train.load_best_model_at_end=true", "train.logging_steps=2", "train.bf16=false")
QUIET = ("eval.prompts=[]", "eval.max_new_tokens=2")
WHOLE = ("data.stratify_by=null", "data.test_fraction=null", "data.test=null")


def evaluations(report: dict, metric: str) -> dict[int, float]:
    """The values of `metric` in the log, by step."""
    history = report["train"]["history"]
    return {entry["step"]: entry[f"eval_{metric}"] for entry in history if f"eval_{metric}" in entry}


def check_kept(report: dict, metric: str, best: float) -> None:
    """Checkpoint, best metric and the scores of the saved weights are all of the step where the log has `best`."""
    values = evaluations(report, metric)
    assert len(set(values.values())) > 1
    (step,) = [step for step, value in values.items() if value == best]
    assert report["train"]["best_checkpoint"] == f"checkpoint-{step}"
    assert report["train"]["best_metric"] == best
    assert report["evaluation"]["validation"][metric] == pytest.approx(best, rel=1e-4)


@pytest.fixture
def numbers(tmp_path: Path) -> tuple[str, ...]:
    """Rows whose number is how often a letter stands in them, far from what a new head says at first."""
    for name, start, count in (("train", 0, 32), ("validation", 40, 9)):
        rows = [
            {"text": "ab "[: 1 + n % 3] * (1 + n % 7) + f" {n:03d}", "label": 40.0 + n % 7}
            for n in range(start, start + count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = (f"data.train={tmp_path}/train.jsonl", f"data.validation={tmp_path}/validation.jsonl")
    return (*files, *WHOLE, "data.validation_fraction=null", "data.task=regression", "train.bf16=false")


def test_a_regression_keeps_the_checkpoint_of_the_lowest_absolute_error(run_recipe, tmp_path, numbers):
    report = run_recipe(
        *("classification", *KEEP, *numbers, *SMALL, "train.metric_for_best_model=mae", "train.max_steps=10"),
        *("train.learning_rate=0.02", "train.lr_scheduler_type=constant"),
    )
    values = evaluations(report, "mae")
    assert max(values.values()) > 1.01 * min(values.values())
    check_kept(report, "mae", min(values.values()))
    card = (tmp_path / "run" / "README.md").read_text()
    said = f"the weights are those of {report['train']['best_checkpoint']}, whose mean absolute error on validation was"
    assert f"{said} the lowest, {min(values.values()):.4g}" in card


def test_a_chat_model_keeps_the_checkpoint_of_the_lowest_perplexity(run_recipe, tmp_path):
    rows = [json.loads(line) for line in (ROOT / "data_templates/user_assistant.jsonl").read_text("utf-8").splitlines()]
    tokenizer = train_tokenizer("bpe", [text for row in rows for text in row.values()], 300)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    for part in (tokenizer, tiny_model(vocab_size=len(tokenizer), max_position_embeddings=256, **special)):
        part.save_pretrained(tmp_path / "base")
    report = run_recipe(
        *("sft", f"model.path={tmp_path / 'base'}", *KEEP, *QUIET, "train.max_steps=8", "train.learning_rate=0.01"),
        *("train.metric_for_best_model=eval_perplexity", "train.lr_scheduler_type=constant", "train.warmup_steps=0"),
    )
    values = evaluations(report, "perplexity")
    assert max(values.values()) > 1.1 * min(values.values())
    check_kept(report, "perplexity", min(values.values()))


def test_a_run_whose_bits_per_byte_fall_is_not_stopped_and_keeps_the_lowest(run_recipe):
    report = run_recipe(
        *("char_model", *SMALL, *KEEP, *QUIET, "train.metric_for_best_model=bits_per_byte", "train.max_steps=12"),
        *("train.early_stopping_patience=1", "train.learning_rate=0.003", "train.warmup_steps=0"),
    )
    values = [*evaluations(report, "bits_per_byte").values()]
    assert values == sorted(values, reverse=True)
    assert report["train"]["steps"] == 12
    check_kept(report, "bits_per_byte", min(values))


def test_a_run_keeps_the_checkpoint_of_the_highest_token_accuracy(run_recipe):
    report = run_recipe(
        *("char_model", *SMALL, *KEEP, *QUIET, "train.metric_for_best_model=token_accuracy", "train.max_steps=12"),
        *("train.learning_rate=0.003", "train.warmup_steps=0", "train.greater_is_better=true"),
    )
    best = max(evaluations(report, "token_accuracy").values())
    assert report["train"]["best_metric"] == best
    assert report["evaluation"]["validation"]["token_accuracy"] == pytest.approx(best)


def test_the_best_is_one_of_the_steps_that_were_saved(run_recipe):
    report = run_recipe(
        *("char_model", *SMALL, *KEEP, *QUIET, "train.max_steps=12", "train.save_steps=6", "train.learning_rate=0.5"),
        *("train.lr_scheduler_type=constant", "train.warmup_steps=0", "train.optim=adamw_torch"),
    )
    values = evaluations(report, "loss")
    assert min(values, key=values.__getitem__) % 6 != 0, values
    check_kept(report, "loss", min(values[6], values[12]))


def test_a_schedule_by_a_metric_lowers_the_rate_only_where_the_metric_got_no_better(run_recipe):
    report = run_recipe(
        *("char_model", *SMALL, *KEEP, *QUIET, "train.metric_for_best_model=token_accuracy", "train.max_steps=12"),
        *("train.lr_scheduler_type=reduce_lr_on_plateau", "train.lr_scheduler_kwargs={patience: 0, threshold: 0}"),
        *("train.learning_rate=0.02", "train.warmup_steps=0", "train.logging_steps=1"),
    )
    rates = {entry["step"]: entry["learning_rate"] for entry in report["train"]["history"] if "learning_rate" in entry}
    best, rate = -math.inf, 0.02
    better = 0
    for step, value in evaluations(report, "token_accuracy").items():
        better += value > best
        rate *= 1 if value > best else 0.1
        best = max(best, value)
        assert step == 12 or rates[step + 1] == pytest.approx(rate)
    assert better > 2


def test_a_run_in_which_no_evaluation_gives_a_number_says_that_the_last_weights_are_kept(
    run_recipe, tmp_path, numbers, capfd
):
    rows = [{"text": f"c {n}", "label": 41.5} for n in range(4)]
    (tmp_path / "alike.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run_recipe(
        *("classification", *KEEP, *numbers, *SMALL, "train.metric_for_best_model=pearson", "train.max_steps=2"),
        f"data.validation={tmp_path}/alike.jsonl",
    )
    assert (report["train"]["best_checkpoint"], report["train"]["best_metric"]) == (None, None)
    assert "no checkpoint had a number for pearson" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("config", "settings", "computed"),
    [
        ("char_model", (), EVAL_TOKEN_METRICS),
        ("classification", (), EVAL_LABEL_METRICS),
        ("multilabel", (), EVAL_LABEL_METRICS),
        ("classification", ("numbers",), EVAL_REGRESSION_METRICS),
    ],
    ids=["tokens", "one label", "several labels", "numbers"],
)
def test_what_the_checks_take_for_computed_is_what_the_evaluations_of_a_run_compute(
    run_recipe, numbers, config, settings, computed
):
    rows = numbers if settings else ()
    report = run_recipe(
        *(config, *rows, "train.metric_for_best_model=loss", "train.load_best_model_at_end=false", "train.max_steps=1"),
        *("train.eval_strategy=steps", "train.eval_steps=1", "train.save_strategy=no", *SMALL),
        *(("eval.prompts=[]",) if config == "char_model" else ()),
    )
    (entry,) = [entry for entry in report["train"]["history"] if "eval_loss" in entry]
    found = {name.removeprefix("eval_") for name in entry if name.startswith("eval_")}
    assert found - {"runtime", "samples_per_second", "steps_per_second"} == set(computed)


def test_an_unknown_metric_ends_with_one_message_and_exit_code_2_before_torch_is_loaded(tmp_path):
    code = (
        "import sys, hf_finetune.config as config\n"
        "from hf_finetune.errors import user_errors\n"
        "sys.modules['torch'] = None\n"
        "with user_errors(): config.load_run(sys.argv[1:], recipe='classification')\n"
    )
    given = (
        "recipes/configs/classification.yaml",
        f"output_dir={tmp_path / 'run'}",
        "train.metric_for_best_model=log_loss",
    )
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "train.metric_for_best_model: 'log_loss' is not computed at the evaluations of classification" in done.stderr
    assert "did you mean loss?" in done.stderr
    assert "Traceback" not in done.stderr
