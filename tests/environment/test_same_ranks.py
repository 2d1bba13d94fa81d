"""Processes that were started for another run, or on machines without a common folder: two of them, over gloo."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import message_recorder
import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import save_file

from hf_finetune.config import load_run
from hf_finetune.environment import processes
from hf_finetune.environment.processes import check_same, check_shared, find_different
from hf_finetune.errors import ConfigError, DataError, FinetuneError
from hf_finetune.models import check_same_model
from hf_finetune.run import _check_same_data, _check_same_run

VALID = """\
recipe: continued_pretraining
model: {scratch: {preset: nano}, tokenizer: {train: {kind: char}}}
data: {train: rows.jsonl}
train: {max_steps: 5}
output_dir: run
"""
FOLDERS = ("here", "there", "both")


def have_other_settings(rank: int) -> None:
    _check_same_run(load_run(["run.yaml", *["train.learning_rate=0.5"] * rank], "continued_pretraining"))


def have_other_versions(rank: int) -> None:
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("hf_finetune.run.get_installed_versions", lambda: {"torch": f"2.{13 - rank}", "trl": "1"})
        _check_same_run(load_run(["run.yaml"], "continued_pretraining"))


def have_other_rows(rank: int) -> None:
    splits = {"train": {"rows": 3, "sha256": f"{rank}"}, "validation": {"rows": 1, "sha256": "a"}}
    _check_same_data({"format": "text", "splits": splits, "files": rank})


def have_other_weights(rank: int) -> None:
    check_same_model({"model.path": f"model{rank}", "model.tokenizer": "model0", "model.adapter": None})


def have_no_model(rank: int) -> None:
    check_same_model({"model.path": ("model0", "org/of-the-hub")[rank]})


def be_alike(rank: int) -> str:
    _check_same_run(load_run(["run.yaml"], "continued_pretraining"))
    check_same({"a": [1, {"b": None}]}, "other settings", "", ConfigError, "HF725")
    check_same_model({"model.path": "model0", "model.tokenizer": None})
    check_shared(Path("both"))
    return f"{rank} goes on"


def have_folders_of_their_own(rank: int) -> None:
    processes._SECONDS_TO_BE_SEEN = 0.2
    check_shared(Path(FOLDERS[rank]))


def have_no_folder(rank: int) -> None:
    check_shared(Path("gone"))


WORKS = (
    *(have_other_settings, have_other_versions, have_other_rows, have_other_weights, have_no_model, be_alike),
    *(have_folders_of_their_own, have_no_folder),
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each of `WORKS` returns, or raises, on two forks of this process that are in one group."""
    folder = tmp_path_factory.mktemp("ranks")
    for name in FOLDERS:
        (folder / name).mkdir()
    (folder / "rows.jsonl").write_text('{"text": "one"}\n')
    (folder / "run.yaml").write_text(VALID)
    for rank in (0, 1):
        (model := folder / f"model{rank}").mkdir()
        (model / "config.json").write_text('{"model_type": "gpt2"}')
        save_file({"first": torch.ones(2, 3), "last": torch.full((4,), float(rank))}, model / "model.safetensors")
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    started = [context.Process(target=_be_a_rank, args=(rank, folder, queue)) for rank in (0, 1)]
    for each in started:
        each.start()
    found = dict(queue.get(timeout=60) for _ in started)
    for each in started:
        each.join(60)
        assert each.exitcode == 0
    assert [path for name in FOLDERS for path in (folder / name).iterdir()] == []
    return {work.__name__: [found[rank][number] for rank in (0, 1)] for number, work in enumerate(WORKS)}


def _be_a_rank(rank: int, folder: Path, queue: Any) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    os.chdir(folder)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in (numbers | {"GROUP_RANK": rank, "GROUP_WORLD_SIZE": 2}).items()}
    until = timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=until)
    PartialState(cpu=True)
    answers: list[Any] = []
    for work in WORKS:
        message_recorder.provoked.clear()
        try:
            answers.append(work(rank))
        except FinetuneError as refused:
            sites = sorted(message_recorder.provoked)
            answers.append((type(refused).__name__, refused.exit_code, str(refused), sites))
    queue.put((rank, answers))
    dist.barrier()


def said_by_both(answers: dict[str, list[Any]], work: Callable[[int], Any], *, kind: str, exit_code: int = 2) -> str:
    """The message with which both have ended."""
    first, second = answers[work.__name__]
    assert [each[:2] for each in (first, second)] == [(kind, exit_code)] * 2
    message_recorder.provoked.update(first[3])
    return str(first[2])


def test_a_rank_with_other_settings_is_named_and_both_end(answers):
    said = said_by_both(answers, have_other_settings, kind="ConfigError")
    what = "process 1 (machine 1) of 2 has other settings than 1 of them: train.learning_rate; start every machine with"
    assert said.startswith(what)
    assert said.endswith("[HF725]")
    assert "0.5" not in said


def test_a_rank_with_other_versions_is_named(answers):
    said = said_by_both(answers, have_other_versions, kind="ConfigError")
    assert said.startswith("process 1 (machine 1) of 2 has other versions than 1 of them: torch; install the same")


def test_a_rank_with_other_rows_is_named(answers):
    said = said_by_both(answers, have_other_rows, kind="DataError")
    assert said.startswith(
        "process 1 (machine 1) of 2 has read other data than 1 of them: the rows of train; give each"
    )


def test_a_rank_with_other_weights_in_a_folder_of_the_same_name_is_named(answers):
    said = said_by_both(answers, have_other_weights, kind="ModelError")
    what = "process 1 (machine 1) of 2 has other files of a model than 1 of them: the weights of model.path; give each"
    assert said.startswith(what)


def test_a_rank_that_would_take_the_model_from_the_hub_is_named(answers):
    said = said_by_both(answers, have_no_model, kind="ModelError")
    assert "than 1 of them: config.json of model.path, the weights of model.path; give each" in said


def test_ranks_that_are_alike_go_on_and_find_a_folder_that_they_share(answers):
    assert answers["be_alike"] == ["0 goes on", "1 goes on"]


def test_a_folder_that_is_not_shared_is_seen_whatever_the_clocks_say(answers):
    said = said_by_both(answers, have_folders_of_their_own, kind="ConfigError")
    assert said.startswith("output_dir: process 1 of 2 cannot see in here what process 0 writes there; name a folder")


def test_a_folder_that_cannot_be_written_ends_both(answers):
    said = said_by_both(answers, have_no_folder, kind="CannotWriteError", exit_code=5)
    assert said.startswith("gone: cannot be written (No such file or directory)")


def test_of_many_the_few_are_the_others():
    same, other = {"a": "1", "b": "2"}, {"a": "1", "b": "3"}
    assert find_different([same, other, same, same]) == {1: ["b"]}
    assert find_different([other, same, same]) == {0: ["b"]}
    assert find_different([same, {"a": "1"}]) == {1: ["b"]}
    assert find_different([same, {**same, "c": "4"}]) == {1: ["c"]}
    assert find_different([same] * 3) == {}


def test_one_process_is_alike_to_itself(tmp_path):
    check_same({"a": 1}, "other settings", "", DataError, "HF932")
    check_shared(tmp_path / "nowhere")
