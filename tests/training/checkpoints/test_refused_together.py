"""What the first of two processes is refused for, as it saves or reads alone, ends both: over gloo."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from models.scratch_models import tiny_model
from training.muon_ranks import start_ranks
from training.trainers.sft_runs import trainer_of, uneven_rows

from hf_finetune.errors import CannotWriteError, ModelError, Problem, _end_refused
from hf_finetune.training.sharding.gather import on_one

FULL = SimpleNamespace(total=1, used=1, free=0)


def refuse(*_: Any) -> None:
    raise CannotWriteError(Problem("no space", "make room"))


# What is put in the place of what, on the first process.
REFUSALS: dict[str, tuple[Any, str, Any]] = {
    "room": (shutil, "disk_usage", lambda _: FULL),
    "save": ("hf_finetune.training.checkpoints.writer.write_checkpoint", "", refuse),
    "restored": ("hf_finetune.training.checkpoints.saver.find_other", "", lambda *_: "a.weight"),
    "shape": ("hf_finetune.training.checkpoints.saver.copy_weights", "", refuse),
    "in place": ("hf_finetune.training.saving.replace_model", "", refuse),
}


def run(folder: Path, refusal: str | None, steps: int, resume: str | None = None) -> tuple[str, str] | None:
    """Train in `folder`, which both processes share, from a checkpoint of it; what this process was refused for."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    rank = torch.distributed.get_rank()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torch.manual_seed(0)
    settings = {"max_steps": steps, "save_strategy": "steps", "save_steps": 1, "per_device_train_batch_size": 1}
    trainer = trainer_of(tiny_model(), folder, uneven_rows(), **settings)
    place, name, other = REFUSALS[refusal] if refusal else (None, "", None)
    patched = patch.object(place, name, other) if name else patch(place, other) if refusal else patch.dict({})
    try:
        if rank == 0:
            with patched:
                train(trainer, resume)
        else:
            train(trainer, resume)
    except (CannotWriteError, ModelError) as refused:
        return type(refused).__name__, str(refused)
    return None


def train(trainer: Any, resume: str | None) -> None:
    trainer.train(resume)
    trainer.save_verified()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with start_ranks(2, tmp_path_factory.mktemp("two")) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def folder(two, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert two.get(run, folder, None, 1) == [None, None]
    return folder


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("room", "the run needs"),
        ("save", "no space"),
        ("restored", "a.weight is not what checkpoint-1 holds"),
        ("shape", "no space"),
        ("in place", "no space"),
    ],
)
def test_both_end_with_what_the_first_was_refused_for(two, folder, refusal, said):
    first, second = two.get(run, folder, refusal, 2, str(folder / "checkpoint-1"))
    assert first == second
    assert said in first[1]


def write(text: str) -> str:
    if text:
        raise OSError(28, text)
    return "written"


def do_alone(text: str) -> str | None:
    return on_one(torch.distributed.get_rank() == 0, lambda: write(text))


def test_what_one_does_alone_is_given_to_it_and_what_it_is_refused_for_to_all(two):
    assert two.get(do_alone, "") == ["written", None]
    answers = two.ask(do_alone, "full")
    assert [(type(each), each.errno) for each in answers] == [(OSError, 28)] * 2


def end_behind_the_first(text: str) -> str:
    """What is written by a process that is refused; the second one is when the first has said it."""
    second = torch.distributed.get_rank() == 1
    if second:
        torch.distributed.barrier()
    os.environ |= {"RANK": str(int(second)), "LOCAL_RANK": str(int(second))}
    with (
        patch("time.sleep"),
        patch("hf_finetune.errors.let_signals_end"),
        patch("sys.stderr", io.StringIO()) as said,
        pytest.raises(SystemExit, match="2"),
    ):
        _end_refused(ModelError(Problem(f"{text} {int(second) if text == 'each' else ''}", "mend it")))
    if not second:
        torch.distributed.barrier()
    return said.getvalue()


def test_what_the_first_has_said_is_not_said_again_by_one_that_is_still_there(two):
    first, second = two.get(end_behind_the_first, "both")
    assert "both" in first
    assert second == ""
    assert ["each" in said for said in two.get(end_behind_the_first, "each")] == [True, True]
