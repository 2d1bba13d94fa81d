"""log.jsonl: all that was logged, as it comes, and the same however often its run was resumed."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from training.callbacks.watched_runs import Fail, trainer_in
from transformers import TrainerCallback

from hf_finetune.errors import NonFiniteError
from hf_finetune.reporting.run_log import read_log

# What no two runs share.
OF_THE_MOMENT = {
    "time", "memory_mib", "tokens_per_s", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second",
    "train_runtime", "train_samples_per_second", "train_steps_per_second",
}  # fmt: skip


class Samples(TrainerCallback):
    """What `SamplePrompts` is to the log; `log` is read after each step, as another process would."""

    def __init__(self, log: Path) -> None:
        self.samples: list[dict[str, Any]] = []
        self.log = log
        self.seen: list[int] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.samples.append({"step": state.global_step, "prompt": "a", "continuation": "\ud800\u2028\nb"})

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append(len(read_log(self.log.parent).history))

    def as_dicts(self) -> list[dict[str, Any]]:
        return self.samples

    def save_state(self) -> list[dict[str, Any]]:
        return self.samples

    def restore_state(self, state: list[dict[str, Any]]) -> None:
        self.samples = list(state)


def lines(folder: Path, left_out: set[str] = frozenset()) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in left_out} for line in read]


def train(folder: Path, *callbacks: TrainerCallback, resume: str | None = None, **settings: Any) -> Any:
    trainer = trainer_in(
        folder, Samples(folder / "log.jsonl"), *callbacks, save_strategy="steps", save_steps=3, **settings
    )
    trainer.train(resume_from_checkpoint=resume and str(folder / resume))
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def test_the_log_has_every_entry_and_sample_as_it_comes(whole):
    folder, trainer = whole
    head, *rest = lines(folder)
    assert (head["log"], head["max_steps"]) == (1, 6)
    logged = [line for line in rest if "sample" not in line]
    assert [{key: line[key] for key in line if key != "time"} for line in logged] == trainer.state.log_history
    samples = [line for line in rest if "sample" in line]
    assert [(each["step"], each["sample"]["continuation"]) for each in samples] == [
        (step, "\ud800\u2028\nb") for step in (3, 6)
    ]
    assert [rest.index(each) for each in samples] == [2, 6]  # behind their evaluation
    times = [line["time"] for line in (head, *rest)]
    assert times == sorted(times)
    source = next(each for each in trainer.callback_handler.callbacks if isinstance(each, Samples))
    assert source.seen == [0, 0, 1, 2, 3, 3]  # while it trained, on_log comes after on_step_end
    if os.name == "posix":
        assert (folder / "log.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("killed", ["after its end", "in a line", "with a line of others", "without a log"])
def test_a_resumed_run_has_the_log_of_one_that_was_never_ended(whole, tmp_path, killed):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    log = folder / "log.jsonl"
    content = log.read_bytes()
    if killed == "in a line":
        log.write_bytes(content[: len(content) // 2])
    elif killed == "with a line of others":
        log.write_bytes(content.replace(b"\n", b"\n\xff{\n", 2))
    elif killed == "without a log":
        log.unlink()
    trainer = train(folder, resume="checkpoint-3")
    source = next(each for each in trainer.callback_handler.callbacks if isinstance(each, Samples))
    assert source.seen[0] == 2  # at its first step there is nothing of the steps to come
    assert lines(folder, OF_THE_MOMENT) == lines(whole[0], OF_THE_MOMENT)
    earlier, now = lines(whole[0])[:4], lines(folder)[:4]
    kept = killed in ("after its end", "in a line")
    assert ([line["time"] for line in now] == [line["time"] for line in earlier]) == kept


def test_a_run_that_was_killed_behind_its_last_step_has_its_lines_in_their_order(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    kept = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    assert b"train_runtime" in kept[-1]
    (folder / "log.jsonl").write_bytes(b"".join(kept[:-1]))
    train(folder, resume="checkpoint-6")
    assert lines(folder, OF_THE_MOMENT) == lines(whole[0], OF_THE_MOMENT)


def test_what_ended_a_training_is_said_and_is_gone_once_it_goes_on(tmp_path):
    class FailLate(Fail):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                super().on_step_end()

    with pytest.raises(NonFiniteError):
        train(tmp_path, FailLate())
    assert lines(tmp_path)[-1].items() >= {"step": 5, "ended": "NonFiniteError"}.items()
    assert "no number" not in (tmp_path / "log.jsonl").read_text()  # a message may quote a row
    train(tmp_path, resume="checkpoint-3")
    assert "ended" not in (tmp_path / "log.jsonl").read_text()


def test_a_log_that_others_have_cut_or_removed_is_mended(tmp_path):
    class Others(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                (tmp_path / "log.jsonl").write_bytes(b'{"log"')
            if state.global_step == 5:
                (tmp_path / "log.jsonl").unlink()

    trainer = trainer_in(tmp_path, Others())
    trainer.train()
    found = [{key: line[key] for key in line if key != "time"} for line in lines(tmp_path)[1:]]
    assert found == trainer.state.log_history


def test_a_full_disk_ends_no_run_and_the_log_is_mended(tmp_path, monkeypatch, caplog):
    opened = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *raised: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[:20])
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_on_full_disk(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = opened(path, mode, *args, **kwargs)
        return Full(file) if mode == "ab" else file

    class Disk(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                monkeypatch.setattr(Path, "open", open_on_full_disk)
                monkeypatch.setattr("hf_finetune.training.callbacks.log_file.write_atomically", refuse)
            if state.global_step == 6:
                assert not (tmp_path / "log.jsonl").read_bytes().endswith(b"\n")  # a torn line
                assert [entry["step"] for entry in read_log(tmp_path).history] == [2]
                monkeypatch.undo()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING, logger="hf_finetune"):
        trainer = trainer_in(tmp_path, Disk())
        trainer.train()
    assert caplog.text.count("log.jsonl cannot be written (No space left on device): the run goes on") == 1
    found = [{key: line[key] for key in line if key != "time"} for line in lines(tmp_path)[1:]]
    assert found == trainer.state.log_history
