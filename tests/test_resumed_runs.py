"""A real run that is typed again: told that it is finished, or gone on with as if it had never ended."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from models.scratch_models import save_chat_base
from transformers.utils import chat_template_utils

import hf_finetune as hf
from hf_finetune.chat import dates
from hf_finetune.errors import ConfigError, ModelError, RunFinished
from hf_finetune.folders.checkpoints import SEAL
from hf_finetune.reporting import read_run
from hf_finetune.training.trainers import resumable

SMALL = (
    "char_model", "model.scratch.hidden_size=32", "model.scratch.num_hidden_layers=1",
    "model.scratch.num_attention_heads=2", "train.max_steps=4", "train.logging_steps=1", "train.eval_strategy=steps",
    "train.eval_steps=2", "train.save_strategy=steps", "train.save_steps=2", "eval.max_new_tokens=4",
)  # fmt: skip
MUST_RESUME = "train.resume_from_checkpoint=true"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_is_left_as_it_is_and_a_killed_one_goes_on_with_its_samples(run_recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match="holds no checkpoint to go on from"):
        run_recipe(*SMALL, MUST_RESUME)
    assert not folder.exists()
    whole = run_recipe(*SMALL)
    before = contents(folder)
    for again in ((), (MUST_RESUME,), (f"train.resume_from_checkpoint={folder}/checkpoint-2",)):
        with pytest.raises(RunFinished, match=r"finished run, 4 steps: its report is .*run/report\.html"):
            run_recipe(*SMALL, *again)
    for again in (("train.resume_from_checkpoint=false",), ("train.learning_rate=0.5",)):
        with pytest.raises(ConfigError, match=r"finished run, 4 steps: its report is .*run/report\.html"):
            run_recipe(*SMALL, *again)
    with pytest.raises(ConfigError, match=r"no such checkpoint: .*checkpoint-3"):
        run_recipe(*SMALL, "train.max_steps=9", f"train.resume_from_checkpoint={folder}/checkpoint-3")
    assert contents(folder) == before

    (folder / "report.json").unlink()  # killed while it evaluated, and before its last checkpoint was whole
    (folder / "checkpoint-4" / "trainer_state.json").unlink()
    capsys.readouterr()
    resumed = run_recipe(*SMALL)
    said = capsys.readouterr().err.splitlines()
    passed = "checkpoint-4 is passed over (trainer_state.json is missing)"
    assert f"goes on from {folder}/checkpoint-2, step 2 of 4; {passed}" in said
    ids = {json.loads((folder / "checkpoint-4" / SEAL).read_text())["run_id"], whole["run_id"], resumed["run_id"]}
    assert ids == {json.loads((folder / "manifest.json").read_text())["run_id"]}
    assert resumed["samples"] == whole["samples"]
    assert {sample["step"] for sample in resumed["samples"]} == {2, 4}
    assert resumed["train"]["steps"] == 4
    assert [entry["loss"] for entry in resumed["train"]["history"] if "loss" in entry] == [
        entry["loss"] for entry in whole["train"]["history"] if "loss" in entry
    ]
    assert "resume_from_checkpoint" not in (folder / "run.yaml").read_text()  # which begins the run anew


def test_a_run_that_was_killed_after_its_last_step_takes_no_step_more(run_recipe, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr(resumable, "GRACE_S", 0.0)  # no launcher is so quick
    run_recipe(*SMALL)
    assert capsys.readouterr().err.count("s to be saved: who ends a run leaves it 0 s as a rule") == 1
    weights = (folder / "model.safetensors").read_bytes()
    for lost in ("report.json", "model.safetensors"):  # the second beside the report of a finished run
        (folder / lost).unlink()
        assert run_recipe(*SMALL)["train"]["steps"] == 4
        assert (folder / "model.safetensors").read_bytes() == weights


def test_records_that_vanish_while_a_run_trains_are_written_again(run_recipe, tmp_path, monkeypatch, capsys):
    folder, save = tmp_path / "run", resumable.ResumableTrainer._save_checkpoint

    def lose(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in ("manifest.json", "run.yaml", "row_prints.npz", "log.jsonl"):
            (folder / name).unlink(missing_ok=True)
        save(self, *args, **kwargs)

    monkeypatch.setattr(resumable.ResumableTrainer, "_save_checkpoint", lose)
    report = run_recipe(*SMALL)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["run_id"] == report["run_id"] == json.loads((folder / "checkpoint-4" / SEAL).read_text())["run_id"]
    assert {"data", "versions", "launch", "files"} <= manifest.keys()
    assert "recipe:" in (folder / "run.yaml").read_text()
    said = capsys.readouterr().err
    assert "manifest.json is torn, or not there any more: it is written again" in said
    assert "run.yaml is not there any more: it is written again" in said


def test_more_steps_may_be_asked_of_a_finished_run(run_recipe):
    run_recipe(*SMALL)
    assert run_recipe(*SMALL, "train.max_steps=5")["train"]["steps"] == 5


def test_from_python_a_finished_run_is_its_result_and_its_command_makes_it_again(project_root, tmp_path, monkeypatch):
    monkeypatch.chdir(project_root)
    run = {
        "recipe": "continued_pretraining",
        "model": {"scratch": {"preset": "nano", "hidden_size": 32}, "tokenizer": {"train": {"kind": "char"}}},
        "data": {"train": "data_templates/text.jsonl", "block_size": 64},
        "train": {"max_steps": 1, "use_cpu": True, "save_strategy": "steps", "save_steps": 1},
        "output_dir": str(tmp_path / "run"),
    }
    first = hf.train(run)
    before = contents(first.folder)
    again = hf.train(run)
    assert again.report == first.report
    assert contents(first.folder) == before
    launch = json.loads((first.folder / "manifest.json").read_text())["launch"]
    script, run_file, output = re.fullmatch(r"accelerate launch (\S+) (\S+) output_dir=(\S+)", launch).groups()
    assert script == "recipes/continued_pretraining.py"
    # Paths are shortened in a manifest: the two that the line names lie in this folder.
    made = hf.train(tmp_path / "run" / Path(run_file).name, output_dir=str(tmp_path / Path(output).name))
    assert made.report["train"]["loss"] == first.report["train"]["loss"]


def test_a_run_goes_on_under_other_settings_only_where_they_can_hold_and_are_allowed(run_recipe, tmp_path, capsys):
    run_recipe(*SMALL)
    folder = tmp_path / "run"
    (folder / "report.json").unlink()
    shutil.rmtree(folder / "checkpoint-4")
    other = ("train.learning_rate=0.5", "data.block_size=32")
    with pytest.raises(ConfigError) as refused:
        run_recipe(*SMALL, *other, "model.scratch.hidden_size=64", "train.logging_steps=2")
    lines = str(refused.value).splitlines()
    allowed = "or allow it with --allow-changed [HF901]"
    assert [line.partition(": ")[0] for line in lines[:3]] == [
        "train.learning_rate", "data.block_size", "model.scratch.hidden_size",
    ]  # fmt: skip
    assert lines[0].startswith("train.learning_rate: 0.02 -> 0.5: changes the schedule, from the next step on; ")
    assert [line.endswith(allowed) for line in lines] == [True, True, False, False]
    run_recipe(*SMALL, "train.learning_rate=0.5", "train.logging_steps=2", allow_changed=True)
    changes = json.loads((folder / "manifest.json").read_text())["changes"]
    assert {
        "from": "checkpoint-2",
        "key": "train.learning_rate",
        "old": 0.02,
        "new": 0.5,
        "kind": "schedule",
    } in changes
    said = capsys.readouterr().err
    assert "train.learning_rate: 0.02 -> 0.5: changes the schedule, from the next step on" in said
    assert "train.logging_steps: 1 -> 2: is safe, and holds from here on" in said
    # Of 4 steps with cosine and one of warm-up the third is taken at 3/4 of the rate, the fourth at 1/4.
    assert "step 4/4  loss" in said
    assert "lr 1.25e-01" in said
    assert "step 3/4" not in said.split("goes on from")[1]


def test_a_checkpoint_that_holds_a_model_of_another_shape_is_one_message(run_recipe, tmp_path):
    run_recipe(*SMALL)
    folder = tmp_path / "copied"
    shutil.copytree(tmp_path / "run" / "checkpoint-4", folder / "checkpoint-4")  # nothing says which settings it had
    with pytest.raises(ModelError, match="checkpoint-4 holds a model of another shape or precision"):
        run_recipe(*SMALL, "train.max_steps=6", "model.scratch.hidden_size=64", f"output_dir={folder}")


def test_a_folder_that_was_moved_goes_on_with_its_best_checkpoint(run_recipe, tmp_path):
    """The path in the state led nowhere: https://github.com/huggingface/transformers/issues/48315."""
    best = ("train.load_best_model_at_end=true", "train.metric_for_best_model=loss", "train.max_steps=6")
    rough = ("train.learning_rate=3.0", "train.lr_scheduler_type=constant", "train.warmup_steps=0", "eval.prompts=[]")
    run = (*SMALL, *best, *rough, "train.optim=adamw_torch")
    whole, folder, moved = run_recipe(*run), tmp_path / "run", tmp_path / "elsewhere"
    assert whole["train"]["best_checkpoint"] == "checkpoint-4"  # not the last
    weights = (folder / "model.safetensors").read_bytes()
    folder.rename(moved)
    for last in (6, 4):  # killed behind its last step, and before it
        for name in ("report.json", "model.safetensors"):
            (moved / name).unlink()
        if last == 4:
            shutil.rmtree(moved / "checkpoint-6")
        assert str(tmp_path) not in (moved / f"checkpoint-{last}" / "trainer_state.json").read_text()
        assert read_run(moved).best_checkpoint == "checkpoint-4"
        assert run_recipe(*run, f"output_dir={moved}")["train"]["best_checkpoint"] == "checkpoint-4"
        assert (moved / "model.safetensors").read_bytes() == weights


def test_a_run_that_goes_on_from_an_earlier_checkpoint_leaves_those_beyond_it(run_recipe, tmp_path, capsys):
    run_recipe(*SMALL)
    (tmp_path / "run" / "report.json").unlink()
    earlier = f"train.resume_from_checkpoint={tmp_path / 'run' / 'checkpoint-2'}"
    run_recipe(*SMALL, "train.learning_rate=0.001", earlier, allow_changed=True)
    assert "checkpoint-4: of steps beyond checkpoint-2, from which the run goes on" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint-4.left" / SEAL).is_file()
    assert (tmp_path / "run" / "checkpoint-4" / SEAL).is_file()


def test_whatever_a_run_writes_aside_lies_below_its_place(run_recipe, tmp_path, monkeypatch):
    """From another disk, as that of $TMPDIR may be, nothing is renamed: lightning#20270."""
    moved: list[Path] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def move(source: Any, target: Any, **where: Any) -> None:
            if Path(target).is_relative_to(tmp_path / "run"):
                moved.append(Path(target))
                if not Path(source).is_relative_to(Path(target).parent):
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            real(source, target, **where)

        monkeypatch.setattr(os, name, move)

    watch("replace")
    watch("rename")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no-such-folder"))
    run_recipe(*SMALL)
    assert {"checkpoint-4", "model.safetensors", "report.json", "README.md"} <= {path.name for path in moved}


@pytest.mark.parametrize(("seconds", "said"), [(14.9, False), (15.1, True)])
def test_a_save_that_takes_more_than_half_of_the_grace_period_is_said_once(seconds, said, caplog):
    writer = SimpleNamespace(took_s=[0.1, seconds, 0.2])
    trainer: Any = SimpleNamespace(checkpoints=SimpleNamespace(writer=writer), _warned=False)
    for _ in range(2):
        resumable.ResumableTrainer._warn_of_slow_saves(trainer)
    assert caplog.text.count("15 s to be saved: who ends a run leaves it 30 s as a rule") == said


DATED = (
    "{{ bos_token }}Today is {{ strftime_now('%d %b %Y') }}.\n"
    "{% for each in messages %}{{ each.role }}: {{ each.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def test_a_run_that_is_resumed_after_midnight_trains_the_tokens_of_the_day_on_which_it_began(
    run_recipe, tmp_path, project_root, monkeypatch
):
    rows = project_root / "data_templates" / "user_assistant.jsonl"
    base = save_chat_base(tmp_path / "base", rows)
    (base / "chat_template.jinja").write_text(DATED)
    steps = ("train.max_steps=4", "train.save_strategy=steps", "train.save_steps=2", "train.logging_steps=1")
    quiet = ("train.eval_strategy=no", "train.load_best_model_at_end=false", "eval.prompts=[]", "train.bf16=false")
    run = ("sft", f"model.path={base}", *steps, *quiet, "data.validation_fraction=null")

    def set_day(day: datetime) -> None:
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return day.replace(tzinfo=tz)

        monkeypatch.setattr(dates, "datetime", Clock)
        monkeypatch.setattr(chat_template_utils, "datetime", Clock)

    def train(name: str, *more: str) -> bytes:
        run_recipe(*run, f"output_dir={tmp_path / name}", *more)
        return (tmp_path / name / "model.safetensors").read_bytes()

    set_day(datetime(2024, 7, 6, 23, 59))
    whole = train("whole")
    assert train("killed") == whole
    (tmp_path / "killed" / "report.json").unlink()
    (tmp_path / "killed" / "checkpoint-4" / "trainer_state.json").unlink()
    set_day(datetime(2024, 7, 7, 0, 1))
    assert train("killed") == whole
    manifest = json.loads((tmp_path / "killed" / "manifest.json").read_text())
    assert (manifest["template_date"], manifest["changes"]) == ("2024-07-06", [])
    assert train("of the next day") != whole
