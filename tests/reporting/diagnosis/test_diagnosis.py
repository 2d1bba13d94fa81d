"""The diagnosis names what a run was made to do, leaves healthy runs alone, and does not depend on how one logs."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reporting.logs import LAWS, log_of, record, write_state
from reporting.real_runs import real_run
from training.callbacks.watched_runs import rows, trainer_in

from hf_finetune.reporting.diagnosis import diagnose
from hf_finetune.reporting.diagnosis.curves import read_train_curve
from hf_finetune.reporting.files import format_json
from hf_finetune.reporting.resuming import describe_going_on
from hf_finetune.reporting.run_record import NON_FINITE_ERROR, read_run

REAL = {
    "healthy": "healthy",
    "overfit": "overfitting",
    "underfit": "underfitting",
    "diverge": "divergence",
    "plateau": "plateau",
    "low_rate": "learning_rate_too_low",
}


def said(run):
    """Kinds of the findings that matter, the worst first."""
    return [each.kind for each in diagnose(run).findings if each.level != "note"]


def finding(run, kind):
    (found,) = [each for each in diagnose(run).findings if each.kind == kind]
    return found


@pytest.mark.parametrize("kind", REAL)
def test_a_real_run_is_named_from_its_state_alone(kind, tmp_path):
    run = read_run(real_run(kind, tmp_path, seed=11))
    assert run.status == "foreign"
    assert said(run)[0] == REAL[kind]
    if kind == "healthy":
        assert said(run) == ["healthy"]


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_a_curve_of_a_known_law_is_named(kind, noise):
    noise /= 10 if kind == "learning_rate_too_low" else 1
    assert said(record(log_of(kind, noise=noise)))[0] == kind


@settings(max_examples=40)
@given(
    kind=st.sampled_from(sorted(LAWS)),
    every=st.sampled_from([1, 2, 4, 5, 8, 10]),
    times=st.sampled_from([1, 3, 25]),
    scale=st.sampled_from([1 / math.log(2), 1.0, 0.1]),
    seed=st.integers(0, 1_000),
)
def test_neither_the_logging_interval_nor_the_length_of_a_step_nor_the_unit_of_the_loss_decides(
    kind, every, times, scale, seed
):
    history = log_of(kind, every=every, noise=0.002, seed=seed)
    for entry in history:
        entry["step"] *= times
        entry |= {name: entry[name] * scale for name in ("loss", "eval_loss") if name in entry}
    assert said(record(history))[0] == kind


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 0.3), last=st.sampled_from(["cosine", "linear"]))
def test_noise_of_batches_makes_no_alarm_on_a_healthy_run(seed, noise, last):
    history = log_of("healthy", noise=noise, seed=seed)
    if last == "linear":
        for entry in history:
            entry["learning_rate"] = 3e-4 * (1 - entry["step"] / 400)
    assert not [each for each in diagnose(record(history)).findings if each.level in ("problem", "warning")]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), level=st.floats(0.1, 50.0))
def test_any_log_gets_a_verdict(seed, level):
    draw = random.Random(seed)
    names = ("loss", "eval_loss", "grad_norm", "learning_rate", "tokens_per_s", "eval_runtime", "epoch")
    values = [0.0, math.nan, math.inf, -math.inf, level, 1e30, -level]
    history = [
        {"step": draw.randrange(50), **{name: draw.choice(values) for name in draw.sample(names, 3)}}
        for _ in range(draw.randrange(30))
    ]
    found = diagnose(record(history))
    assert found.verdict
    assert found.findings
    assert found.as_dict()["findings"][0]["title"] == found.findings[0].title


def test_overfitting_names_the_step_of_the_lowest_validation_loss_and_what_to_set():
    run = record(log_of("overfitting", noise=0.0), status="done", settings={"train": {}})
    lowest = min((entry["eval_loss"], entry["step"]) for entry in run.history if "eval_loss" in entry)
    found = finding(run, "overfitting")
    assert found.step == lowest[1]
    assert found.level == "problem"
    assert f"{lowest[0]:.4g}" in found.evidence
    assert f"train.max_steps={found.step}" in found.remedy
    assert "train.load_best_model_at_end=true" in found.remedy
    assert diagnose(run).verdict.startswith(f"Overfitting from step {found.step} on. Train no longer")


def test_a_run_that_kept_its_best_checkpoint_is_warned_and_told_that_it_has_it():
    kept = {"settings": {"train": {"load_best_model_at_end": True}}, "best_checkpoint": "checkpoint-80"}
    found = finding(record(log_of("overfitting"), **kept), "overfitting")
    assert found.level == "warning"
    assert "The saved model is that of checkpoint-80. " in found.remedy
    kept["settings"]["train"]["metric_for_best_model"] = "eval_f1_macro"
    found = finding(record(log_of("overfitting"), **kept), "overfitting")
    assert "checkpoint-80, the best by f1_macro, which need not be the best by its loss. " in found.remedy


def test_a_healthy_run_whose_best_checkpoint_was_not_its_last_says_which_one_was_saved():
    kept = {"settings": {"train": {"load_best_model_at_end": True, "metric_for_best_model": "mae"}}}
    healthy = record(log_of("healthy"), **kept, best_checkpoint="checkpoint-80", best_step=80)
    assert diagnose(healthy).verdict.endswith("The saved model is that of checkpoint-80, the best by mae.")
    ended = replace(healthy, best_checkpoint=f"checkpoint-{healthy.step}", best_step=healthy.step)
    assert "saved model" not in diagnose(ended).verdict


def test_validation_that_rises_while_training_rises_too_is_not_called_overfitting():
    assert "overfitting" not in said(record(log_of("divergence")))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_divergence_from_its_first_step_on(loss):
    history = [{"step": step, "loss": loss if step >= 30 else 3.0} for step in range(10, 60, 10)]
    found = finding(record(history), "divergence")
    assert (found.step, found.level) == (30, "problem")
    assert "The last before was 3, at step 20" in found.evidence


def test_the_filter_that_logs_nan_as_zero_is_seen_through():
    history = [{"step": step, "loss": 0.0, "grad_norm": math.nan} for step in (10, 20)]
    assert finding(record(history), "divergence").step == 10
    solved = [{"step": step, "loss": 0.0, "grad_norm": 0.1} for step in (10, 20)]
    assert "divergence" not in said(record(solved))


def test_fp16_is_named_where_it_was_on():
    history = [{"step": 10, "loss": math.nan}]
    assert "bf16=true" in finding(record(history, settings={"train": {"fp16": True}}), "divergence").cause


def test_validation_alone_without_a_number_is_not_laid_to_the_learning_rate():
    found = finding(record([*log_of("healthy"), {"step": 400, "eval_loss": math.nan}]), "divergence")
    assert "validation rows" in found.cause
    assert "learning_rate" not in found.remedy


def test_a_model_that_gets_no_gradient_after_an_explosion_is_lost():
    history = [{"step": 10, "loss": 900.0, "grad_norm": 40.0}]
    history += [{"step": step, "loss": 4.85, "grad_norm": 0.0} for step in range(20, 100, 10)]
    assert finding(record(history), "divergence").step == 20


def test_labels_without_meaning_are_learned_by_nobody():
    draw = random.Random(0)
    history = [{"step": step, "loss": 0.7 + draw.gauss(0, 0.01), "learning_rate": 1e-3} for step in range(5, 400, 5)]
    assert finding(record(history), "plateau").title == "Nothing was learned"
    # A head that settles: it falls a little, in jumps, which a rate that is too low does not make.
    history += [{"step": step, "eval_loss": 0.71 - step / 4e4 + draw.gauss(0, 0.005)} for step in range(20, 401, 20)]
    assert finding(record(history), "plateau").title == "Nothing was learned"


def test_steps_after_the_learning_rate_has_run_down_are_no_plateau():
    history = log_of("healthy")
    for entry in history:
        progress = 2 * entry["step"] / 400
        level = 2 + 2 * math.exp(-3 * min(1.0, progress))
        entry |= {"loss": level, "learning_rate": 1e-3 * max(0.0, 1 - progress)} if "loss" in entry else {}
        entry |= {"eval_loss": level} if "eval_loss" in entry else {}
    assert said(record(history)) == ["healthy"]
    for entry in history:
        entry |= {"learning_rate": 1e-3} if "loss" in entry else {}
    assert said(record(history)) == ["plateau"]


def test_a_mean_over_steps_counts_as_of_their_middle():
    curve = read_train_curve(
        record([{"step": step, "loss": 1.0, "learning_rate": 1e-3} for step in range(10, 101, 10)])
    )
    assert curve.spent == pytest.approx([0.05 + number / 10 for number in range(10)])


def test_a_loss_that_exploded_is_divergence_even_where_it_came_back():
    history = log_of("healthy", noise=0.0)
    for entry in history:
        entry |= {"loss": 40.0} if "loss" in entry and 30 <= entry["step"] < 60 else {}
    assert finding(record(history), "divergence").step == 30


def test_a_learning_rate_of_zero_is_said_to_be_zero():
    history = [{"step": step, "loss": 3.0 + step % 3 / 100, "learning_rate": 0.0} for step in range(5, 100, 5)]
    assert finding(record(history), "learning_rate_too_low").title == "The learning rate is 0"


def test_a_run_that_was_stopped_on_its_way_is_not_called_underfitted():
    half = record(log_of("underfitting"), max_steps=800, status="stopped")
    assert "underfitting" not in said(half)
    assert diagnose(half).verdict.startswith("The run stopped at step 400 of 800.")


def test_a_rate_that_is_too_low_is_raised_tenfold_from_the_one_in_the_log():
    found = finding(record(log_of("learning_rate_too_low", noise=0.001)), "learning_rate_too_low")
    assert "learning_rate=0.003" in found.remedy


def test_gradients_above_the_limit_throughout_are_noted_and_far_above_it_warned_of():
    def clipped(norm, **train):
        history = log_of("healthy")
        for entry in history:
            entry |= {"grad_norm": norm} if "grad_norm" in entry else {}
        return diagnose(record(history, settings={"train": train}, status="done")).findings

    assert [(each.kind, each.level) for each in clipped(2.0)[:1]] == [("clipping_every_step", "note")]
    assert [(each.kind, each.level) for each in clipped(30.0)[:1]] == [("clipping_every_step", "warning")]
    assert "train.max_grad_norm=60" in clipped(30.0)[0].remedy
    for quiet in (clipped(0.9), clipped(2.0, max_grad_norm=5.0), clipped(2.0, max_grad_norm=0)):
        assert [each.kind for each in quiet] == ["healthy"]


def test_of_a_run_that_exploded_no_higher_limit_is_advised_and_no_command_goes_on(tmp_path):
    history = [{"step": step, "loss": 6.2 if step < 5 else 9e4, "grad_norm": 900.0} for step in range(1, 60)]
    exploded = record(history, status="stopped", folder=tmp_path, ended=NON_FINITE_ERROR)
    assert said(exploded)[0] == "divergence"
    assert "clipping_every_step" not in said(exploded)
    (tmp_path / "run.yaml").write_text("recipe: sft\n")
    assert describe_going_on(exploded) == ""
    killed = record(history, status="stopped", folder=tmp_path, settings={"output_dir": "elsewhere"})
    assert describe_going_on(killed).endswith(f"hf-finetune train {tmp_path}/run.yaml output_dir={tmp_path}")


def test_the_first_loss_is_compared_with_that_of_guessing():
    model = {"architectures": ["ScratchGPTForCausalLM"], "vocab_size": 1_000}  # ln: 6.9
    scratch = {"model": {"scratch": {"preset": "nano"}}}
    above = [{"step": 1, "loss": 9.0}, *log_of("healthy")[1:]]
    assert "far above" in finding(record(above, model=model), "loss_at_start").title
    below = [{"step": 1, "loss": 2.0}, *log_of("healthy")[1:]]
    assert "far below" in finding(record(below, model=model, settings=scratch), "loss_at_start").title
    usual = [{"step": 1, "loss": 6.95}, *log_of("healthy")[1:]]
    assert "loss_at_start" not in said(record(usual, model=model, settings=scratch))
    assert "loss_at_start" not in said(record(below, model=model)), "a model that was trained before may know this"
    classifier = {"architectures": ["BertForSequenceClassification"], "vocab_size": 2}
    assert "loss_at_start" not in said(record(above, model=classifier))


def test_a_run_that_became_slower_is_told_from_which_step():
    history = [entry for entry in log_of("healthy") if "loss" in entry]
    for entry in history:
        entry["tokens_per_s"] = 1_000.0 if entry["step"] <= 300 else 400.0
    found = finding(record(history), "throughput_drop")
    assert found.level == "note"
    assert found.step == 305
    assert "40%" in found.evidence


def test_few_validation_rows_are_found_by_the_speed_that_any_trainer_logs():
    def with_rows(rows, **evaluation):
        history = log_of("healthy")
        for entry in history:
            entry |= {"eval_runtime": 2.0, "eval_samples_per_second": rows / 2} if "eval_loss" in entry else {}
        return record(history, report={"evaluation": {"validation": evaluation}})

    assert said(with_rows(8)) == ["noisy_validation"]
    assert said(with_rows(200)) == ["healthy"]
    counted = {"data": {"splits": {"validation": {"rows": 6}}}}
    running = finding(replace(with_rows(24), manifest=counted, report={}), "noisy_validation")
    assert running.evidence.startswith("It has 6 rows. ")  # in 24 windows
    narrow = {"accuracy": 0.9, "intervals": {"accuracy": [0.88, 0.92]}}
    assert said(with_rows(8, **narrow)) == ["healthy"], "the interval knows better than the count"
    wide = {"accuracy": 0.8, "intervals": {"accuracy": [0.7, 0.88]}}
    assert "accuracy 0.8 may as well be 0.7 or 0.88" in finding(with_rows(200, **wide), "noisy_validation").evidence


def test_copies_among_the_training_rows_are_blamed_where_the_run_overfitted():
    rows = ["00000000000000aa"] * 3 + [f"{number:016x}" for number in range(97)]
    manifest = {"data": {"splits": {"train": {"row_hashes": "".join(rows)}}}}
    found = finding(record(log_of("overfitting"), manifest=manifest), "duplicates_behind_memorization")
    assert "2 of 100 training rows are copies of others" in found.evidence
    assert said(record(log_of("healthy"), manifest=manifest)) == ["healthy"]


def test_text_that_is_continued_word_for_word_is_memorized_whatever_the_curves_say():
    verbatim = {"rows": 50, "continued": 10, "share": 0.2, "interval": [0.11, 0.33], "places": []}
    canaries = [{"copies": 1, "extracted": 0.0}, {"copies": 100, "extracted": 0.9}]
    report = {"evaluation": {"test": {"memorization": {"verbatim": verbatim, "canaries": canaries}}}}
    found = finding(record(log_of("healthy"), report=report), "duplicates_behind_memorization")
    assert "10 of 50 rows" in found.evidence
    assert "90% of the canaries planted 100 times" in found.evidence
    verbatim["interval"], canaries[1]["extracted"] = [0.0, 0.1], 0.1
    assert said(record(log_of("healthy"), report=report)) == ["healthy"]


def test_validation_rows_that_were_trained_on_are_warned_of():
    manifest = {"data": {"overlap": {"validation": {"copies": 9, "shares_13_words": 0}}}}
    run = record(log_of("healthy"), manifest=manifest, report={"data": {"validation": {"rows": 100}}})
    assert "9 of 100" in finding(run, "validation_leak").evidence


@pytest.mark.parametrize("history", [[], [{"step": 500, "loss": 3.0}], log_of("healthy", steps=8, every=1)])
def test_what_is_too_short_is_said_to_be_too_short(history):
    assert [each.kind for each in diagnose(record(history)).findings] == ["too_short_to_say"]


def test_a_healthy_run_without_validation_is_told_what_could_not_be_seen():
    history = [entry for entry in log_of("healthy") if "loss" in entry]
    assert "no validation" in diagnose(record(history)).verdict


def test_validation_that_was_scored_only_at_the_end_is_not_said_to_be_missing():
    history = [entry for entry in log_of("healthy") if "loss" in entry]
    at_the_end = record(history, report={"evaluation": {"validation": {"loss": 2.2}}})
    once = record([*history, {"step": 400, "eval_loss": 2.2}])
    for run in (at_the_end, once):
        assert "no validation" not in diagnose(run).verdict
        assert "Validation was scored only once, so that overfitting could not be seen." in diagnose(run).verdict


def test_the_losses_of_a_sentence_are_those_of_the_log():
    losses = [5.0, 4.0, 3.5, 3.0, 2.8, 2.231, 2.2, 2.91]
    run = record([{"step": 5 * number, "loss": loss} for number, loss in enumerate(losses, start=1)], step=40)
    assert "from 5 to 2.91" in finding(run, "healthy").evidence
    long = log_of("healthy", steps=20_000, every=10)  # of which the diagnosis averages neighbors
    ends = [[entry["loss"] for entry in long if "loss" in entry][end] for end in (0, -1)]
    assert f"from {ends[0]:.4g} to {ends[1]:.4g}" in finding(record(long), "healthy").evidence


def test_a_run_of_two_steps_was_trained_and_is_not_said_to_have_no_log():
    run = record([], step=2, status="done", report={"train": {"steps": 2, "loss": 3.25}})
    found = finding_of_any_level(run, "too_short_to_say")
    assert found.title == "Nothing was logged on the way"
    assert found.evidence.endswith("over 2 steps. The mean training loss of all steps was 3.25.")
    assert finding_of_any_level(record([]), "too_short_to_say").title == "There is no training log"


def finding_of_any_level(run, kind):
    return next(each for each in diagnose(run).findings if each.kind == kind)


def compared(outcome, verdict):
    return {"evaluation": {"validation": {"loss": 2.0, "comparison": {"outcome": outcome, "verdict": verdict}}}}


def test_the_model_is_judged_before_its_log():
    better = diagnose(record(log_of("healthy"), report=compared("better", "Better than its base: loss 3 -> 2")))
    assert better.model == "Better than its base: loss 3 -> 2 (validation)."
    assert better.verdict.startswith(f"{better.model} The run looks healthy.")
    assert [each.kind for each in better.findings] == ["model_better", "healthy"]
    worse = diagnose(record(log_of("healthy"), report=compared("worse", "Worse than its base: loss 2 -> 3")))
    assert worse.verdict.startswith("Worse than its base")
    assert worse.findings[0].kind == "model_worse"
    both = compared("none", "No real difference from its base")
    both["evaluation"]["test"] = compared("better", "Better than its base")["evaluation"]["validation"]
    assert diagnose(record(log_of("healthy"), report=both)).model == "Better than its base (test)."


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (0.92, "Worse than a baseline: accuracy 64.0% (56.0% to 72.0%), tfidf logistic regression 92.0% (test)."),
        (0.7, "Behind a baseline, but by no more than chance gives: accuracy 64.0% (56.0% to 72.0%), tfidf logistic "),
        (0.6, "No better than a baseline, as far as these rows show: accuracy 64.0% (56.0% to 72.0%), tfidf "),
        (0.5, "Better than its baselines: accuracy 64.0% (56.0% to 72.0%), tfidf logistic regression 50.0% (test)."),
    ],
)
def test_a_classifier_is_judged_by_the_best_of_its_baselines(words, said):
    baselines = {"majority": {"accuracy": 0.17}, "tfidf_logistic_regression": {"accuracy": words}}
    scores = {"accuracy": 0.64, "intervals": {"accuracy": [0.56, 0.72]}, "baselines": baselines}
    assert diagnose(record(log_of("healthy"), report={"evaluation": {"test": scores}})).verdict.startswith(said)


def test_findings_stand_with_the_worst_first():
    history = log_of("overfitting")
    for entry in history:
        entry |= {"grad_norm": 3.0} if "grad_norm" in entry else {}
    levels = [each.level for each in diagnose(record(history)).findings]
    assert levels == sorted(levels, key=["problem", "warning", "note", "good"].index)
    assert len(levels) == 2


def test_a_long_log_is_judged_as_a_short_one():
    history = log_of("overfitting", steps=20_000, every=1)
    assert said(record(history))[0] == "overfitting"


def scored(**parts):
    run = record([])
    return replace(run, report={"recipe": "score", "evaluation": {"test": {"rows": 20, **parts}}})


def figures(**differences):
    return {name: {"difference": value, "real": value != 0} for name, value in differences.items()}


def test_a_run_that_only_scored_is_judged_by_what_it_compared():
    alone = diagnose(scored())
    assert alone.verdict == "On 20 rows, without another model beside it."
    better = {"base": "runs/base", "figures": figures(loss=-0.3, chrf=2.0, exact_match=0)}
    forgot = {"rows": 6, "data": "old.jsonl", "figures": figures(loss=0.2, answer_tokens=3.0)}
    both = diagnose(scored(comparison=better, forgetting=forgot))
    assert both.verdict == (
        "On 20 rows it is, beside runs/base, better in loss, chrF. On 6 rows of old.jsonl it is worse in loss."
    )
    assert [each.kind for each in both.findings] == ["forgot", "scored"]
    worse = diagnose(scored(comparison={"base": "runs/base", "figures": figures(loss=0.3)}))
    assert worse.findings[0].title == "The model is worse than runs/base"
    same = diagnose(scored(comparison={"base": "runs/base", "figures": figures(loss=0)}))
    assert "no different, as far as these rows show" in same.verdict


def parted(train, validation, *, steps_an_epoch=40, epochs=15, evaluated=True):
    """A log of training losses by the share of the run that has passed, and of an evaluation after each epoch."""
    last = steps_an_epoch * epochs
    history = []
    for step in range(10, last + 1, 10):
        entry = {"step": step, "epoch": step / steps_an_epoch, "learning_rate": 1e-3 * (1 - step / (last + 1))}
        history.append(entry | {"loss": train(step / last)})
        if evaluated and step % steps_an_epoch == 0:
            history.append({"step": step, "eval_loss": validation(step / last)})
    return history


def test_a_training_loss_that_falls_alone_is_overfitting_though_validation_never_rises():
    history = parted(lambda x: 1.2 + 5.51 * math.exp(-4 * x) * (1 - x), lambda x: 4.153 + 0.015 * x)
    found = finding(record(history), "overfitting")
    assert (found.level, found.step) == ("warning", 40)
    assert found.title == "Overfitting: from step 40 on only the training loss fell"
    assert (
        "stood at about 4.154, and ended at 4.168, while the training loss went from about 5.486 to" in found.evidence
    )
    assert "Each row was seen 15 times." in found.evidence


def test_rows_that_were_seen_once_are_not_called_memorized():
    """In the first epoch the training loss is of new rows, as that of validation is: below it, they are easier."""
    apart = parted(lambda x: 1.2 + 5.51 * math.exp(-4 * x) * (1 - x), lambda x: 4.153 + 0.015 * x)
    for epochs, named in ((1, False), (2, True)):
        history = [entry | {"epoch": epochs * entry["step"] / 600} for entry in apart]
        assert ("overfitting" in said(record(history))) == named
    risen = [entry | {"epoch": entry["step"] / 400} for entry in log_of("overfitting")]
    assert finding(record(risen), "overfitting").cause.endswith("or copies of each other: none was seen twice.")


def test_a_gap_that_widens_while_validation_still_falls_is_left_alone():
    history = parted(lambda x: 1 + 3 * math.exp(-3 * x), lambda x: 2 + 2 * math.exp(-1.5 * x), epochs=3)
    assert said(record(history)) == ["healthy"]
    solved = parted(lambda x: 0.005 + 4 * math.exp(-30 * x), lambda x: 0.03 + 4 * math.exp(-30 * x))
    assert "overfitting" not in said(record(solved))


def test_a_training_loss_that_falls_on_is_overfitting_though_validation_creeps_down_with_it():
    """Since half of the rate was spent training fell by about 0.19, and validation by a tenth of that, or by half."""
    for late, named in ((lambda x: 0.12 * math.exp(-6 * x), True), (lambda x: 0.2 * math.exp(-2 * x), False)):
        history = parted(lambda x: 2.3 + 0.45 * math.exp(-2 * x), lambda x, late=late: 2.76 + late(x))
        run = record(history)
        assert ("overfitting" in said(run)) == named
        if named:
            found = finding(run, "overfitting")
            assert (found.level, found.step) == ("warning", 200)
            assert found.title == "Overfitting: from step 200 on hardly more than the training loss fell"
            assert "Each row was seen 15 times." in found.evidence


def test_training_that_stands_still_with_validation_is_not_overfitting_for_a_gap_that_was_always_there():
    history = parted(lambda x: 2.0 + 0.01 * math.exp(-2 * x), lambda x: 2.76)
    assert "overfitting" not in said(record(history))


def test_a_plateau_reached_in_a_third_of_the_run_is_seen_through_noise_besides_what_is_left_to_fall():
    """Points of the plateau lie above its last ones by noise and by what is left: by one of both were too few."""
    named = 0
    for seed in range(60):
        draw, history = random.Random(seed), []
        for step in range(10, 121, 10):
            rate = 1e-3 * (1 + math.cos(math.pi * step / 121)) / 2
            loss = 3.13 + 1.4 * math.exp(-14 * (step - 5) / 120) + draw.gauss(0, 0.01)
            history.append({"step": step, "loss": loss, "learning_rate": rate})
        named += "plateau" in said(record(history))
    assert named >= 45


def cosine_log(train, validation, *, steps=160, every=10, evaluations=4):
    """A log under a cosine schedule: losses by the share of the rate that was spent."""
    history = []
    for step in range(every, steps + 1, every):
        x = step / (steps + 1)
        spent = x + math.sin(math.pi * x) / math.pi
        entry = {"step": step, "learning_rate": 1e-5 * (1 + math.cos(math.pi * x)) / 2}
        history.append(entry | {"loss": train(spent)})
        if step % (steps // evaluations) == 0:
            history.append({"step": step, "eval_loss": validation(spent)})
    return history


def test_a_rate_that_is_too_low_is_seen_by_the_training_loss_where_evaluations_are_few():
    """Both fall in a line of the rate that was spent; of four evaluations the line is not seen."""
    history = cosine_log(lambda spent: 4.852 - 0.013 * spent, lambda spent: 4.852 - 0.013 * spent)
    assert said(record(history))[0] == "learning_rate_too_low"


def test_nothing_was_learned_is_not_said_where_each_of_three_evaluations_was_lower():
    draw = random.Random(1)
    losses = [2.76 + draw.gauss(0, 0.03) for _ in range(15)]
    for validation, named in (((2.868, 2.821, 2.807), False), ((2.868, 2.807, 2.872), True)):
        training, scores = iter(losses), iter(validation)
        history = cosine_log(lambda _, it=training: next(it), lambda _, it=scores: next(it), steps=150, evaluations=3)
        assert ("plateau" in said(record(history))) == named


def test_a_rise_between_the_only_two_evaluations_is_overfitting():
    history = [entry for entry in log_of("healthy") if "loss" in entry]
    history += [{"step": 200, "eval_loss": 2.5}, {"step": 400, "eval_loss": 2.63}]
    assert said(record(history)) == ["overfitting"]


def test_training_rows_known_by_heart_are_seen_where_validation_was_scored_once():
    history = parted(lambda x: 4.5 * math.exp(-5 * x), lambda x: 0, evaluated=False)
    scored = {"evaluation": {"validation": {"loss": 4.9}}}
    assert said(record(history, report=scored)) == ["memorized"]
    assert said(record([*history, {"step": 600, "eval_loss": 4.9}])) == ["memorized"]
    solved = {"evaluation": {"validation": {"loss": 0.2}}}
    assert said(record(history, report=solved)) == ["healthy"]
    half = parted(lambda x: 1.5 + 3 * math.exp(-5 * x), lambda x: 0, evaluated=False)
    assert said(record([*half, {"step": 600, "eval_loss": 4.9}])) == ["overfitting"]


def test_a_rate_that_rose_to_the_end_is_a_warm_up_longer_than_the_run():
    history = log_of("healthy")
    for entry in history:
        entry |= {"learning_rate": 1e-6 * entry["step"]} if "loss" in entry else {}
    found = finding(record(history), "warmup_not_over")
    assert found.title == "The warm-up was longer than the run"
    assert "4.0e-04 at step 400" in found.evidence
    stopped = finding(record(history, max_steps=4_000, status="stopped"), "warmup_not_over")
    assert stopped.title == "The run stopped inside its warm-up"
    assert not [
        each
        for each in diagnose(record(history, max_steps=4_000, status="running")).findings
        if each.kind == "warmup_not_over"
    ]


def test_a_run_that_was_stopped_for_its_values_is_not_told_to_go_on(tmp_path):
    history = [{"step": step, "loss": 6.0, "learning_rate": 1e29 * step} for step in range(1, 6)]
    run = record(history, max_steps=60, status="stopped", ended="NonFiniteError", folder=tmp_path)
    assert "The run was stopped for a loss that exploded, or gradients that overflow" in diagnose(run).verdict
    (tmp_path / "nonfinite.json").touch()
    told = diagnose(run)
    assert told.verdict.startswith(
        "The run stopped at step 5 of 60, ended by a value that is not finite. "
        "The run was stopped for a value that is not finite. Start again with train.learning_rate=5.0e+28, "
    )
    assert "warmup_not_over" not in [each.kind for each in told.findings]


@pytest.mark.parametrize(("ended", "shown"), [("Terminated", "SIGTERM"), ("KeyboardInterrupt", "Ctrl-C")])
def test_what_ended_a_run_is_said_in_words(ended, shown):
    verdict = diagnose(record(log_of("healthy"), max_steps=900, status="stopped", ended=ended)).verdict
    assert f"The run stopped at step 400 of 900, ended by {shown}." in verdict


def test_an_evaluation_that_is_still_to_come_is_not_missed():
    history = [entry for entry in log_of("healthy") if "loss" in entry]
    for strategy, missed in (("steps", False), ("no", True)):
        run = record(history, max_steps=900, status="running", settings={"train": {"eval_strategy": strategy}})
        assert ("There was no validation" in finding(run, "healthy").evidence) == missed


@pytest.mark.parametrize(("warmup", "kinds"), [(800, ["warmup_not_over"]), (0.05, ["healthy"]), (40, ["healthy"])])
def test_the_settings_say_how_long_the_warm_up_is_where_the_log_cannot(warmup, kinds):
    settings = {"train": {"warmup_steps": warmup, "lr_scheduler_type": "cosine"}}
    assert said(record(log_of("healthy"), settings=settings, max_steps=400, status="done")) == kinds


def test_a_loss_that_rose_by_a_twentieth_from_its_start_is_not_healthy():
    history = [{"step": step, "loss": 3 + 0.15 * step / 200, "learning_rate": 1e-4} for step in range(10, 210, 10)]
    assert said(record(history)) == ["divergence"]
    draw = random.Random(0)
    level = [{"step": step, "loss": 3 + draw.gauss(0, 0.05), "learning_rate": 1e-4} for step in range(10, 210, 10)]
    assert "divergence" not in said(record(level))


def test_losses_below_0_are_remarked():
    history = log_of("healthy")
    for entry in history:
        entry |= {name: entry[name] - 3 for name in ("loss", "eval_loss") if name in entry}
    found = finding(record(history), "negative_loss")
    below = sum(entry.get(name, 0) < 0 for entry in history for name in ("loss", "eval_loss"))
    assert found.evidence.startswith(f"At {below} of 100 points of the log, -")


def test_a_handful_of_training_rows_is_said_unless_the_model_is_better_for_them():
    few = {"data": {"train": {"rows": 8}}}
    assert said(record(log_of("healthy"), report=few)) == ["few_rows"]
    assert said(record(log_of("healthy"), train_rows=8)) == ["few_rows"]
    assert said(record(log_of("healthy"), report=few | compared("better", "Better than its base: x"))) == [
        "model_better",
        "healthy",
    ]
    packed = few | {"recipe": "continued_pretraining"}
    assert said(record(log_of("healthy"), report=packed)) == ["healthy"], "one document may be long"


def test_the_rows_of_an_epoch_are_read_from_the_summary_of_a_log(tmp_path):
    summary = {"step": 40, "epoch": 4.0, "train_runtime": 2.0, "train_samples_per_second": 80.0}
    assert read_run(write_state(tmp_path, [{"step": 40, "loss": 2.0}, summary])).train_rows == 40


@pytest.mark.parametrize("ends", [{"num_train_epochs": 3}, {"max_steps": 6}])
def test_rows_are_not_said_to_be_more_than_the_most_that_a_trainer_counts(tmp_path, ends):
    trainer = trainer_in(tmp_path, logging_steps=1, eval_strategy="no", **{"max_steps": -1} | ends)
    trainer.train_dataset = rows(5)  # in batches of 4: an epoch has two steps, of 8 rows by the log under max_steps
    trainer.train()
    trainer.save_state()
    run = read_run(tmp_path)
    assert run.train_rows is not None
    assert 5 <= run.train_rows <= 8
    assert finding(run, "few_rows").title == f"There are at most {run.train_rows} rows to train on"


def test_a_loss_that_is_not_finite_is_told_alike_from_a_log_and_from_the_report_of_the_run(tmp_path):
    history = [{"step": step, "loss": loss} for step, loss in ((1, 2.0), (2, math.inf), (3, math.nan), (4, 2.5))]
    state = read_run(write_state(tmp_path / "state", history))
    (tmp_path / "run").mkdir()
    report = {"recipe": "sft", "train": {"steps": 4, "history": history}}
    (tmp_path / "run" / "report.json").write_text(format_json(report))
    for run in (state, read_run(tmp_path / "run")):
        found = finding(run, "divergence")
        assert found.evidence == "2 of 4 logged losses are no finite number. The last before was 2, at step 1."


def test_what_a_run_has_done_is_not_advised():
    remedy = finding_of_any_level(record(log_of("healthy", steps=8, every=1)), "too_short_to_say").remedy
    assert remedy == "Train longer."
    seldom = finding_of_any_level(record([{"step": 500, "loss": 3.0}]), "too_short_to_say").remedy
    assert seldom == "Log more often (logging_steps=25), evaluate on a validation split on the way, or train longer."


def test_a_model_behind_its_baselines_is_told_so_first_whatever_its_log():
    baselines = {"mean": {"mae": 112.9, "r2": 0.0}, "tfidf_ridge": {"mae": 72.8, "r2": 0.6}}
    scores = {"mae": 295.8, "r2": -5.14, "intervals": {"mae": [250.0, 340.0]}, "baselines": baselines}
    for kind, then in (("healthy", "healthy"), ("divergence", "divergence")):
        found = diagnose(record(log_of(kind), report={"evaluation": {"validation": scores}}))
        assert found.verdict.startswith(
            "Worse than a baseline: mean absolute error 295.8 (250 to 340), tfidf ridge 72.8 ("
        )
        assert [(each.kind, each.level) for each in found.findings][:2] == [
            ("model_worse", "problem"),
            (then, "good" if then == "healthy" else "problem"),
        ]


def test_the_paired_test_with_a_baseline_decides_and_says_what_the_rows_can_show():
    tested = {"accuracy": {"real": True, "detectable": 0.061, "difference": -0.06}}
    baselines = {"tfidf_logistic_regression": {"accuracy": 0.7, "comparison": tested}}
    scores = {"accuracy": 0.64, "intervals": {"accuracy": [0.56, 0.72]}, "baselines": baselines}
    run = record(log_of("healthy"), report={"evaluation": {"test": scores}})
    assert diagnose(run).model == (
        "Worse than a baseline: accuracy 64.0% (56.0% to 72.0%), tfidf logistic regression 70.0%; "
        "these rows reliably show 6.1 points (test)."
    )
