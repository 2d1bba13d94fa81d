"""A run that is killed anywhere between its last step and its report goes on without training again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models.scratch_models import save_chat_base

from hf_finetune.folders.lock import release_run_folders
from hf_finetune.training.trainers.base import TrainerMixin

FEW = 4
KILLED, CAME_TO_ITS_END = 9, 42
SMALL = ("train.eval_strategy=no", "train.load_best_model_at_end=false", "train.logging_steps=1", "train.bf16=false",
         "eval.max_new_tokens=2")  # fmt: skip
QUIET = ("eval.prompts=[]", *SMALL)
SCRATCH = ("model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2")
SAVES = ("train.max_steps=3", "train.save_strategy=steps", "train.save_steps=2", "train.save_total_limit=1")
RESUME = "train.resume_from_checkpoint=true"


class Stopped(Exception):
    """The parent has forked all the children that it was to."""


def watch_files(folder: Path, die_at: int | None) -> list[str]:
    """Count what this process changes in `folder` from now on, and end it before change `die_at`."""
    changes: list[str] = []
    inside = str(folder)

    def look(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            return
        path = str(args[0])
        below = event != "open" and args[-1] not in (-1, None) and not os.path.isabs(path)  # of `shutil.rmtree`
        if below or os.path.abspath(path).startswith(inside):
            changes.append(f"{event} {path}")
            if len(changes) - 1 == die_at:
                os._exit(KILLED)

    sys.addaudithook(look)
    return changes


def digest(folder: Path) -> dict[str, str]:
    """sha256 of what is loaded of a model."""
    names = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".jinja", ".json")]
    records = ("report.json", "manifest.json", "trainer_state.json", "row_scores.json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names if path.name not in records}


def read_result(folder: Path) -> tuple[Any, ...]:
    report = json.loads((folder / "report.json").read_text())
    timed = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "runtime_s", "tokens_per_s")
    evaluation = {
        name: {k: v for k, v in each.items() if k not in timed} for name, each in report["evaluation"].items()
    }
    return digest(folder), evaluation, report["train"]["steps"], report["train"]["loss"]


def fork(work: Callable[[], None]) -> int:
    """The exit code of a process that does `work` and what comes after it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            sys.stderr.flush()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def of_the_plan(request) -> None:
    if not request.config.getoption("--faults"):
        pytest.skip("with --faults")


@pytest.fixture
def kill_everywhere(run_recipe, tmp_path, monkeypatch, request) -> Callable[..., list[str]]:
    """Kill a run before each change of its folder after its last step, and go on; returns what the changes were."""

    def kill(*settings: str) -> list[str]:
        folder, kept = tmp_path / "run", tmp_path / "trained"
        parent, save = os.getpid(), TrainerMixin.save_verified
        every = request.config.getoption("--faults")
        made: list[str] = []
        whole: list[Any] = []

        def reset() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(kept, folder)

        def go_on() -> None:
            monkeypatch.setattr(TrainerMixin, "save_verified", save)
            monkeypatch.setattr(TrainerMixin, "training_step", None)
            release_run_folders()
            run_recipe(*settings, RESUME)
            os._exit(CAME_TO_ITS_END)

        def check(place: int) -> None:
            old, now = kept / "report.json", folder / "report.json"
            untouched = old.exists() and now.exists() and old.read_bytes() == now.read_bytes()
            if untouched:
                assert digest(folder) == digest(kept), f"killed before {made[place]}"
            if untouched or not now.exists():
                assert fork(go_on) == CAME_TO_ITS_END, f"killed before {made[place]}"
            assert read_result(folder) == whole[0], f"killed before {made[place]}"
            assert {"report.html", "README.md", "manifest.json"} <= set(os.listdir(folder))
            assert [name for name in os.listdir(folder) if name.endswith(".aside")] == []

        def save_and_die(trainer: TrainerMixin) -> None:
            shutil.copytree(folder, kept)
            places: list[int] = [-1]
            while places:
                place = places.pop()
                child = os.fork()
                if child == 0:
                    changes = watch_files(folder, place if place >= 0 else None)
                    monkeypatch.setattr(TrainerMixin, "changes_of_the_child", changes, raising=False)
                    save(trainer)
                    return
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if place < 0:
                    assert code == CAME_TO_ITS_END
                    made.extend((tmp_path / "changes").read_text().splitlines())
                    whole.append(read_result(folder))
                    places = [*range(0, len(made), 1 if every else len(made) // FEW), len(made) - 1]
                else:
                    assert code == KILLED
                    check(place)
                reset()
            raise Stopped

        monkeypatch.setattr(TrainerMixin, "save_verified", save_and_die)
        try:
            with pytest.raises(Stopped):
                run_recipe(*settings)
        finally:
            if os.getpid() != parent:  # a child that was not killed
                changes = getattr(TrainerMixin, "changes_of_the_child", None)
                if changes is not None and (folder / "report.json").exists():
                    (tmp_path / "changes").write_text("\n".join(changes))
                    os._exit(CAME_TO_ITS_END)
                os._exit(1)
        return made

    return kill


def test_a_model_from_scratch_is_whole_or_gone_on_with(kill_everywhere):
    changes = kill_everywhere("char_model", *SCRATCH, *SAVES, *SMALL)
    assert changes[-2].startswith("os.rename")
    assert "report.json" in changes[-2]


@pytest.mark.usefixtures("of_the_plan")
def test_a_finished_run_that_is_trained_on_is_never_called_finished_with_another_model(
    run_recipe, tmp_path, kill_everywhere
):
    run_recipe("char_model", *SCRATCH, *SAVES, *SMALL, "train.max_steps=2")
    changes = kill_everywhere("char_model", *SCRATCH, *SAVES, *SMALL, RESUME)
    first = next(each for each in changes if ".model.aside" not in each)
    assert first == f"os.remove {tmp_path}/run/report.json"


@pytest.mark.usefixtures("of_the_plan")
def test_a_classifier_with_its_decision_is(kill_everywhere):
    more = ("train.max_steps=3", "train.save_steps=2", "train.save_strategy=steps", "eval.threshold_metric=f1_macro")
    changes = kill_everywhere("classification", *more, *SMALL)
    assert any("decision.json" in each for each in changes)


@pytest.fixture
def chat_base(tmp_path, project_root) -> Path:
    return save_chat_base(tmp_path / "base", project_root / "data_templates" / "user_assistant.jsonl")


@pytest.mark.usefixtures("of_the_plan")
def test_an_adapter_and_the_best_of_its_checkpoints_are(kill_everywhere, chat_base):
    best = (
        "train.eval_strategy=steps",
        "train.eval_steps=1",
        "train.load_best_model_at_end=true",
        "train.save_steps=1",
    )
    more = (*QUIET, *SAVES, *best, "train.learning_rate=0.5")  # so high that the last is not the best
    kill_everywhere("lora", f"model.path={chat_base}", *more)


def test_a_run_that_early_stopping_ends_between_two_saves_has_a_checkpoint_of_its_last_step(run_recipe, tmp_path):
    stops = ("train.eval_strategy=steps", "train.eval_steps=1", "train.early_stopping_patience=1",
             "train.early_stopping_threshold=100", "train.metric_for_best_model=loss",
             "train.save_strategy=steps", "train.save_steps=50", "train.max_steps=100")  # fmt: skip
    whole = run_recipe("char_model", *SCRATCH, *SMALL, *stops)
    assert whole["train"]["steps"] == 2
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    (tmp_path / "run" / "report.json").unlink()
    before = digest(tmp_path / "run")
    assert run_recipe("char_model", *SCRATCH, *SMALL, *stops, RESUME)["train"]["steps"] == 2
    assert digest(tmp_path / "run") == before


def test_a_run_of_whole_epochs_is_gone_on_with_from_its_end(run_recipe, tmp_path):
    epochs = ("train.max_steps=-1", "train.num_train_epochs=1", "train.save_strategy=epoch")
    whole = run_recipe("char_model", *SCRATCH, *SMALL, *epochs)
    (tmp_path / "run" / "report.json").unlink()
    again = run_recipe("char_model", *SCRATCH, *SMALL, *epochs, RESUME)
    assert (again["train"]["steps"], again["train"]["loss"]) == (whole["train"]["steps"], whole["train"]["loss"])
