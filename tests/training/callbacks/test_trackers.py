from __future__ import annotations

import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.training.callbacks.trackers import TensorBoardFile, redact_arguments, redirect_trackers

PROGRAM = Path(__file__).parent / "watched_runs.py"
TRACKERS = ["tensorboard", *(name for name in ("trackio", "wandb", "mlflow") if find_spec(name) is not None)]
MLFLOW = {"MLFLOW_TRACKING_URI", "MLFLOW_RUN_CONTEXT", "MLFLOW_DISABLE_TELEMETRY"}
USER = "somebody-who-trains"
TOKEN = "hf_TESTCANARYTESTCANARYTESTCANARYTEST"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, environment) -> Path:
    """The folder of a run that was told to report to every tracker that is installed, and could reach no network."""
    folder = tmp_path_factory.mktemp("somebody") / "run"
    folder.mkdir()
    command = [sys.executable, str(PROGRAM), "track", str(folder), ",".join(TRACKERS)]
    working = tmp_path_factory.mktemp("working")
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=working)
    assert ran.returncode == 0, ran.stderr
    assert list(working.iterdir()) == []
    assert "* " not in ran.stdout  # as trackio begins its lines
    return folder


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    ours = ("HF_HUB_OFFLINE", "TRACKIO_DIR")
    kept = {key: value for key, value in os.environ.items() if key not in ours and not key.startswith("MLFLOW_")}
    offline = {"WANDB_MODE": "offline"} if "wandb" in TRACKERS else {}
    places = [str(PROGRAM.parents[2]), str(PROGRAM.parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    user = {"LOGNAME": USER, "USER": USER}  # whom Python takes for the user
    return kept | offline | user | {"HF_TOKEN": TOKEN, "PYTHONPATH": os.pathsep.join(places)}


def history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "history.json").read_text())


def test_tensorboard_holds_every_figure_of_the_history_at_its_step(tracked):
    events = EventAccumulator(str(tracked / "tensorboard"))
    events.Reload()
    for name, figure in (("train/loss", "loss"), ("eval/loss", "eval_loss"), ("train/tokens_per_s", "tokens_per_s")):
        logged = [(entry["step"], entry[figure]) for entry in history(tracked) if figure in entry]
        assert logged, figure
        assert [event.step for event in events.Scalars(name)] == [step for step, _ in logged]
        assert [event.value for event in events.Scalars(name)] == pytest.approx([value for _, value in logged])
    assert [event.value > 10 for event in events.Scalars("train/memory_mib")] == [True] * 3
    assert "test/loss" not in events.Tags()["scalars"]  # measured after training: report.json has it


@pytest.mark.skipif("trackio" not in TRACKERS, reason="trackio is not installed")
def test_trackio_holds_them_too_in_the_run_folder(tracked):
    [database] = (tracked / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, metrics from metrics order by id").fetchall()
        [[config]] = connection.execute("select config from configs").fetchall()
    connection.close()
    losses = [figures["train/loss"] for _, row in rows if "train/loss" in (figures := json.loads(row))]
    assert losses == pytest.approx([entry["loss"] for entry in history(tracked) if "loss" in entry])
    assert {name for name, _ in rows} == {"run"}
    assert not any("test" in row.decode() for _, row in rows)
    settings = json.loads(config)
    assert settings["max_steps"] == 6
    assert settings["_Username"] is None


@pytest.mark.skipif("mlflow" not in TRACKERS, reason="mlflow is not installed")
def test_mlflow_holds_them_too_in_the_run_folder(tracked):
    with sqlite3.connect(tracked / "mlflow" / "mlflow.db") as connection:
        losses = connection.execute("select value from metrics where key = 'loss' order by step").fetchall()
        runs = connection.execute("select name, user_id, status from runs").fetchall()
        settings = dict(connection.execute("select key, value from params").fetchall())
        measured = {name for [name] in connection.execute("select distinct key from metrics").fetchall()}
    connection.close()
    assert [loss for [loss] in losses] == pytest.approx(
        [entry["loss"] for entry in history(tracked) if "loss" in entry]
    )
    assert runs == [("run", "not-said", "FINISHED")]
    assert settings["max_steps"] == "6"
    assert "test_loss" not in measured


def test_no_token_no_path_no_user_and_no_host_is_in_what_the_trackers_wrote(tracked):
    files = [path for path in tracked.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for private in (socket.gethostname(), TOKEN, USER):
            assert private not in path.name
            assert private.encode() not in path.read_bytes(), path
        if path.parent.name != "logs":  # wandb's own log of itself, which nothing pushes
            assert str(tracked.parent).encode() not in path.read_bytes(), path


def test_other_processes_write_nothing(tmp_path):
    tracker = TensorBoardFile(tmp_path / "tensorboard")
    state = TrainerState(is_world_process_zero=False)
    for event in (tracker.on_train_begin, tracker.on_log, tracker.on_train_end):
        event(None, state, TrainerControl(), logs={"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_figures_that_are_no_numbers_or_too_large_are_written_as_such(tmp_path):
    tracker, state = TensorBoardFile(tmp_path), TrainerState(is_world_process_zero=True, global_step=1)
    tracker.on_train_begin(None, state, TrainerControl())
    tracker.on_log(None, state, TrainerControl(), logs={"loss": math.nan, "grad_norm": 1e300, "note": "text"})
    tracker.on_train_end(None, state, TrainerControl())
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert math.isnan(events.Scalars("train/loss")[0].value)
    assert events.Scalars("train/grad_norm")[0].value == math.inf
    assert "train/note" not in events.Tags()["scalars"]


def test_what_is_logged_of_the_settings_has_no_path_and_no_token_in_it(tmp_path):
    args = TrainingArguments(
        output_dir=str(tmp_path / "run"), hub_token=TOKEN, use_cpu=True, learning_rate=0.125, logging_steps=7
    )
    shared = redact_arguments(args)
    text = shared.to_json_string()
    assert "/" not in text
    assert TOKEN not in text
    assert (shared.learning_rate, shared.logging_steps, shared.run_name) == (0.125, 7, "run")
    assert (shared.output_dir, shared.hub_token) == ("run", None)
    assert args.output_dir == str(tmp_path / "run")


def test_trackers_are_placed_in_the_run_folder_unless_the_user_has_a_place_for_them(tmp_path, monkeypatch):
    for name in ("TRACKIO_DIR", "WANDB_DIR", "WANDB_MODE", "WANDB_HOST", *MLFLOW):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "online")
    redirect_trackers(str(tmp_path), ["tensorboard"])
    assert "TRACKIO_DIR" not in os.environ
    redirect_trackers(str(tmp_path), ["trackio", "wandb"])
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "trackio")
    assert os.environ["WANDB_DIR"] == str(tmp_path)
    assert os.environ["WANDB_MODE"] == "online"
    assert not MLFLOW & os.environ.keys()
    redirect_trackers(str(tmp_path), ["mlflow"])
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert json.loads(os.environ["MLFLOW_RUN_CONTEXT"])["mlflow.user"] == "not-said"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    redirect_trackers(str(tmp_path), ["mlflow"])
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://mlflow.example"
