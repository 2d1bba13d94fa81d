"""What a run left behind is read as far as it got, whoever made it; what is torn is named."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace

import pytest
from reporting.logs import write_state

from hf_finetune.errors import ConfigError, DataError, FinetuneError
from hf_finetune.metric_info import format_interval, format_metric
from hf_finetune.reporting.card import render_card
from hf_finetune.reporting.card.procedure import describe_training
from hf_finetune.reporting.diagnosis import diagnose
from hf_finetune.reporting.page import render_page
from hf_finetune.reporting.run_folder import RunReport, open_manifest, write_run_folder
from hf_finetune.reporting.run_record import get_curve, get_selection_metric, read_run

HISTORY = [
    {"step": 10, "loss": 3.0, "learning_rate": 1e-3, "grad_norm": 0.5, "epoch": 0.1},
    {"step": 20, "eval_loss": 2.5, "eval_runtime": 2.0, "eval_samples_per_second": 8.0},
    {"step": 20, "loss": 2.6},
    {"step": 40, "loss": 2.0},
    {"step": 40, "eval_loss": 2.7},
    {"step": 40, "train_runtime": 3.0, "train_loss": 2.5},
]

RUN_FILE = "recipe: sft\ntrain: {max_steps: 40}\n"


def finished(folder, history=HISTORY, asked=None, **train):
    folder.mkdir(exist_ok=True)
    open_manifest(str(folder), {"data": {"files": []}, "launch": "accelerate launch x"}, RUN_FILE, resume=None)
    facts = {"steps": 40, "loss": 2.5, "runtime_s": 3.0, "tokens_per_s": 10.0, "best_checkpoint": None, **train}
    report = RunReport(
        recipe="sft",
        run_id="x",
        status="done",
        settings={"train": {"max_steps": 40, **(asked or {})}},
        data={"train": {"rows": 1, "tokens": 2}},
        parameters={"total": 2, "trainable": 2},
        train={**facts, "history": history},
        evaluation={},
    )
    write_run_folder(str(folder), report)
    return folder


def test_a_finished_run_is_read_from_its_report(tmp_path):
    run = read_run(finished(tmp_path / "mine", best_checkpoint="checkpoint-20"))
    assert (run.name, run.status, run.step, run.max_steps) == ("mine", "done", 40, 40)
    assert (run.best_step, run.best_checkpoint) == (20, "checkpoint-20")
    assert run.settings == {"train": {"max_steps": 40}}
    assert run.manifest["launch"] == "accelerate launch x"
    assert get_curve(run, "loss") == [(10, 3.0), (20, 2.6), (40, 2.0)]
    assert get_curve(run, "eval_loss") == [(20, 2.5), (40, 2.7)]
    assert len(run.history) == 5, "the summary at the end of a log is no entry of a curve"


def test_without_a_kept_checkpoint_the_best_step_is_that_of_the_lowest_validation_loss(tmp_path):
    run = read_run(finished(tmp_path / "run"))
    assert (run.best_step, run.best_checkpoint) == (20, None)
    assert read_run(finished(tmp_path / "none", HISTORY[:1])).best_step is None


@pytest.mark.parametrize(("metric", "step"), [("eval_mae", 30), ("r2", 20), ("loss", 10), (None, 10)])
def test_without_a_kept_checkpoint_the_best_step_is_that_of_the_runs_own_metric(tmp_path, metric, step):
    losses, errors, shares = (1.0, 2.0, 3.0), (9.0, 7.0, 5.0), (0.1, 0.4, 0.2)
    history = [
        {"step": at, "eval_loss": loss, "eval_mae": error, "eval_r2": share}
        for at, loss, error, share in zip((10, 20, 30), losses, errors, shares, strict=True)
    ]
    run = read_run(finished(tmp_path / "run", history, asked={"metric_for_best_model": metric}))
    assert (run.best_step, run.best_checkpoint) == (step, None)


def test_the_weights_are_those_of_the_best_checkpoint_only_where_that_was_loaded(tmp_path):
    kept = {"load_best_model_at_end": True, "metric_for_best_model": "eval_mae"}
    given = {"best_checkpoint": "checkpoint-20", "best_metric": 7.25}
    loaded = read_run(finished(tmp_path / "loaded", asked=kept, **given))
    assert get_selection_metric(loaded) == "mae"
    said = "the weights are those of checkpoint-20, whose mean absolute error on validation was the lowest, 7.25."
    assert describe_training(loaded).endswith(said)
    higher = read_run(finished(tmp_path / "higher", asked={**kept, "metric_for_best_model": "r2"}, **given))
    assert "whose R² on validation was the highest" in describe_training(higher)
    last = read_run(finished(tmp_path / "last", asked={"metric_for_best_model": "eval_mae"}, **given))
    assert get_selection_metric(last) is None
    assert "weights" not in describe_training(last)
    assert get_selection_metric(read_run(finished(tmp_path / "none", asked=kept))) is None
    assert get_selection_metric(replace(loaded, status="stopped")) is None


def test_a_metric_that_is_null_is_one_that_is_not_defined_as_the_text_of_older_reports_was(tmp_path):
    for number, value in enumerate((None, "nan")):
        folder = finished(tmp_path / str(number))
        report = json.loads((folder / "report.json").read_text())
        report["evaluation"] = {"test": {"roc_auc": value, "intervals": {"roc_auc": [None, None]}}}
        (folder / "report.json").write_text(json.dumps(report))
        scores = read_run(folder).report["evaluation"]["test"]
        assert format_metric("roc_auc", scores["roc_auc"]) == "not defined"
        assert format_interval("roc_auc", scores["intervals"]["roc_auc"]) == ""


def test_figures_that_are_not_finite_come_back_as_numbers(tmp_path):
    run = read_run(finished(tmp_path / "run", [{"step": 1, "loss": math.nan}, {"step": 2, "loss": -math.inf}]))
    written = json.loads((tmp_path / "run" / "report.json").read_text(), parse_constant=pytest.fail)
    assert [entry["loss"] for entry in written["train"]["history"]] == [None, None]
    assert all(math.isnan(entry["loss"]) for entry in run.history)
    state = read_run(write_state(tmp_path / "state", [{"step": 1, "loss": math.nan}]))
    assert math.isnan(state.history[0]["loss"])


def test_a_crashed_run_is_read_from_its_newest_state_as_far_as_it_got(tmp_path):
    open_manifest(str(tmp_path), {"data": {"files": []}, "launch": "x"}, "recipe: sft\n", resume=None)
    write_state(tmp_path / "checkpoint-9", HISTORY[:1], step=9)
    best = "C:\\runs\\mine\\checkpoint-9"
    write_state(tmp_path / "checkpoint-20", HISTORY[:3], step=20, best_model_checkpoint=best)
    (tmp_path / "checkpoint-30").mkdir()  # killed while it was written
    (tmp_path / "checkpoint-20" / "config.json").write_text('{"vocab_size": 61}')
    run = read_run(str(tmp_path))
    assert (run.status, run.step, run.max_steps) == ("stopped", 20, 100)
    assert (run.best_step, run.best_checkpoint) == (9, "checkpoint-9")
    assert (run.settings, run.report, run.model) == ({"recipe": "sft"}, {}, {"vocab_size": 61})
    assert len(run.history) == 3


def test_a_run_that_crashed_before_its_first_checkpoint_has_no_history(tmp_path):
    open_manifest(str(tmp_path), {"data": {"files": []}, "launch": "x"}, "recipe: sft\n", resume=None)
    run = read_run(tmp_path)
    assert (run.status, run.step, run.history, run.max_steps) == ("stopped", 0, [], None)


@pytest.mark.parametrize("named", ["", "checkpoint-40", "checkpoint-40/trainer_state.json"])
def test_a_foreign_trainers_folder_checkpoint_or_state_is_read(tmp_path, named):
    write_state(tmp_path / "checkpoint-40", HISTORY)
    run = read_run(tmp_path / named)
    assert (run.status, run.step, run.best_step) == ("foreign", 40, 20)
    assert str(tmp_path.parent) not in run.name


def test_of_two_states_the_one_with_more_steps_is_read(tmp_path):
    write_state(tmp_path, HISTORY, step=40)
    write_state(tmp_path / "checkpoint-20", HISTORY[:1], step=20)
    assert read_run(tmp_path).step == 40
    write_state(tmp_path / "checkpoint-60", HISTORY[:1], step=60)
    assert read_run(tmp_path).step == 60


def test_what_is_no_number_is_left_out_of_the_history(tmp_path):
    entry = {"step": 1, "loss": 2.0, "note": "warm", "eval_ok": True, "eval_labels": [1], "eval_f1": 0.5}
    history = read_run(write_state(tmp_path, [entry])).history
    assert history == [{"step": 1, "loss": 2.0, "eval_f1": 0.5}]
    assert isinstance(history[0]["step"], int)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"global_step": 4, "log_hist', "is torn, or no JSON"),
        ("[" * 100_000, "is torn, or no JSON"),
        ("[]", "does not hold an object"),
        ('{"log_history": []}', "is no state of a Trainer"),
        ('{"global_step": 4, "log_history": {}}', "log_history is no list of log entries"),
        ('{"global_step": 4, "log_history": [1]}', "log_history is no list of log entries"),
        ('{"global_step": 4, "log_history": [{"step": 1, "loss": 1}, {"loss": 1}]}', "entry 2 of log_history"),
        ('{"global_step": 4, "log_history": [{"step": true, "loss": 1}]}', "entry 1 of log_history has no step"),
    ],
)
def test_a_torn_or_strange_state_is_named_with_what_to_do(tmp_path, text, what):
    write_state(tmp_path / "checkpoint-2", HISTORY[:1], step=2)
    write_state(tmp_path / "checkpoint-4", [])
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text(text)
    with pytest.raises(DataError, match=what) as refused:
        read_run(tmp_path)
    assert "checkpoint-4/trainer_state.json" in str(refused.value)
    assert "remove it" in str(refused.value)


@pytest.mark.parametrize("name", ["report.json", "run.yaml"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, make_unreadable, name):
    make_unreadable(finished(tmp_path / "run") / name)
    with pytest.raises(
        DataError, match=rf"run/{name}: cannot be read \(Input/output error\); check its permissions \[HF002\]$"
    ):
        read_run(tmp_path / "run")


def test_bytes_that_are_no_text_are_refused_not_raised(tmp_path):
    (tmp_path / "trainer_state.json").write_bytes(b'{"global_step": 4, "log_history": "\xff"}')
    with pytest.raises(DataError, match="is torn, or no JSON"):
        read_run(tmp_path)


def test_every_part_of_a_report_that_is_of_another_kind_is_named(tmp_path):
    report = json.loads((finished(tmp_path / "run") / "report.json").read_text())
    (tmp_path / "run" / "report.json").write_text(json.dumps(report | {"train": [], "samples": {}}))
    with pytest.raises(DataError) as refused:
        read_run(tmp_path / "run")
    assert "train is no object" in str(refused.value)
    assert "samples is no list" in str(refused.value)


@pytest.mark.parametrize("text", ["a: [", "- a", "\x00"])
def test_a_torn_run_file_is_refused(tmp_path, text):
    write_state(tmp_path, HISTORY)
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(DataError, match=r"run\.yaml"):
        read_run(tmp_path)


def test_a_run_file_cannot_make_python_objects(tmp_path):
    write_state(tmp_path, HISTORY)
    (tmp_path / "run.yaml").write_text("train: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(DataError):
        read_run(tmp_path)


def test_a_folder_without_a_run_and_a_path_that_is_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds nothing of a run"):
        read_run(tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        read_run(tmp_path / "missing")


def test_the_verdict_on_a_run_that_left_no_state_is_that_it_did_not_finish(tmp_path):
    open_manifest(str(tmp_path), {"data": {"files": []}, "launch": "x"}, RUN_FILE, resume=None)
    assert diagnose(read_run(tmp_path)).verdict.startswith("The run did not finish, and neither a log nor a")


def test_beside_a_log_a_torn_state_is_named_and_passed_over(tmp_path, caplog):
    write_state(tmp_path / "checkpoint-2", HISTORY[:1], step=2)
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text('{"global_step": 2, "log')
    (tmp_path / "log.jsonl").write_text('{"log": 1, "max_steps": 9}\n{"step": 4, "loss": 1.5}\n')
    run = read_run(tmp_path)
    assert (run.step, run.max_steps, run.history) == (4, 9, [{"step": 4, "loss": 1.5}])
    assert "checkpoint-2/trainer_state.json: is torn, or no JSON: it is passed over" in caplog.text


def list_places(value, place=()):
    yield place
    held = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, item in held:
        yield from list_places(item, (*place, name))


def put(value, place, new):
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = put(value[place[0]], place[1:], new)
    return copy


REPORT = {
    "recipe": "classification", "run_id": "0", "status": "done", "parameters": {"total": 10, "trainable": 10},
    "settings": {"card": {"license": "mit", "datasets": ["a/b"]}, "train": {"warmup_steps": 2, "max_steps": 4}},
    "data": {"train": {"rows": 4, "tokens": 9, "dropped": 0}}, "samples": [{"step": 4, "prompt": "a"}],
    "train": {
        "steps": 4, "epochs": 1.0, "runtime_s": 2.0, "tokens_per_s": 3.0, "seen": {"tokens": 9, "trained_tokens": 9},
        "energy": {"watt_hours": 1.0}, "history": [{"step": 4, "loss": 1.0}],
    },
    "evaluation": {
        "validation": {
            "loss": 1.0, "baselines": {"majority": {"accuracy": 0.5}}, "per_class": {"a": {"f1": 0.5, "support": 2}}
        }
    },
    "distributed": {"device": "cpu", "processes": 1}, "environment": {
        "devices": [{"kind": "cpu", "name": "x", "memory_gib": 1.0}]
    },
}  # fmt: skip
MANIFEST = {
    "data": {
        "files": [{"path": "a.jsonl", "role": "train", "rows": 4, "bytes": 9}],
        "splits": {"train": {"rows": 4, "distinct": 4}}, "overlap": {"validation": {"rows": 1}},
    },
    "versions": {"torch": "2"},
}  # fmt: skip


@pytest.mark.parametrize("name", ["report.json", "manifest.json"])
def test_a_record_that_somebody_else_wrote_is_shown_or_refused_by_its_key(name, tmp_path):
    records = {"report.json": REPORT, "manifest.json": MANIFEST}
    for other, record in records.items():
        (tmp_path / other).write_text(json.dumps(record))
    refused = 0
    for place in list_places(records[name]):
        for value in ("x", None, True, 10**400, -1, [1], {"a": 1}, float("inf"), float("nan")):
            (tmp_path / name).write_text(json.dumps(put(records[name], place, value)))
            with suppress(FinetuneError):
                refused += 1
                run = read_run(tmp_path)
                refused -= 1
                render_page(run, diagnose(run))
                render_card(run)
    assert refused > 50
    (tmp_path / name).write_text(json.dumps(put(records[name], ("data",), [])))
    with pytest.raises(DataError, match=rf"{name}: data is no object"):
        read_run(tmp_path)
