"""How long processes wait for each other: two of them over gloo, of which one is made slow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from models.scratch_models import tiny_model
from training.muon_ranks import start_ranks
from training.trainers.sft_runs import trainer_of, uneven_rows

from hf_finetune.training.callbacks.waiting import WaitClock, describe_slow

STEPS, SECONDS = 5, 0.3
PLANTED = {"rows": (STEPS - 1) * SECONDS, "forward": STEPS * SECONDS}  # the first rows are before the first point


def train(folder: Path, slow: int, where: str) -> tuple[dict[str, Any], str | None]:
    """A run whose process `slow` takes longer for each step: for its rows, or in its forward pass."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    rank = torch.distributed.get_rank()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    torch.manual_seed(0)
    sizes = {"max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    model = tiny_model()
    model.register_buffer("angles", torch.ones(4), persistent=False)  # as models with rotary positions have
    trainer = trainer_of(model, folder / str(rank), uneven_rows(32), **sizes)
    if slow == rank and where == "rows":
        trainer.get_batch_samples = make_slow(trainer.get_batch_samples, SECONDS)
    elif slow == rank:
        trainer.compute_loss = make_slow(trainer.compute_loss, SECONDS / 2)  # of each of two micro-batches
    trainer.train()
    return trainer.waits.describe()["waited_s"], describe_slow(trainer.waits.kept_others.tolist(), STEPS * SECONDS)


def make_slow(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return function(*args, **kwargs)

    return slow


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with start_ranks(2, tmp_path_factory.mktemp("two")) as ranks:
        yield ranks


@pytest.mark.parametrize(("slow", "where"), [(1, "rows"), (0, "forward")])
def test_the_other_has_waited_for_the_process_that_was_made_slow(two, tmp_path, slow, where):
    (found, said), others = two.get(train, tmp_path, slow, where)
    assert others == (found, said)
    assert found["by_process"][1 - slow] == found["max"] == pytest.approx(PLANTED[where], rel=0.2)
    assert found["min"] < 0.2 * PLANTED[where]
    assert said is not None
    assert said.startswith(f"process {slow} was slower: the others waited ")


def clock_of(*own: list[float]) -> WaitClock:
    """The clock of the first of some processes that have noted these seconds."""
    everywhere = torch.tensor(own)
    clock = WaitClock(SimpleNamespace(num_processes=len(own), device=torch.device("cpu"), gather=lambda _: everywhere))
    clock._own = own[0]
    return clock


def test_what_each_has_waited_is_what_the_slowest_took_longer_at_each_point():
    clock = clock_of([1.0, 5.0], [3.0, 4.0], [2.0, 5.0])
    clock.settle()
    assert clock.waited.tolist() == [2.0, 1.0, 1.0]
    assert clock.kept_others.tolist() == [0.0, 1.0, 0.0]  # two were the last ones at the second point


def test_a_resumed_run_goes_on_counting_unless_it_has_other_processes():
    state = (before := clock_of([1.0], [3.0])).save_state()
    assert state == {"waited": [2.0, 0.0], "kept_others": [0.0, 2.0], "seconds": 0.0}
    same, more = clock_of([1.0], [1.5]), clock_of([1.0], [1.5], [1.5])
    for clock in (same, more):
        clock.restore_state(state)
        clock.settle()
    assert same.waited.tolist() == [2.5, 0.0]
    assert more.waited.tolist() == [0.5, 0.0, 0.0]
    assert before.describe() == {"waited_s": {"min": 0.0, "max": 2.0, "by_process": [2.0, 0.0]}}


def test_no_process_is_named_where_now_one_and_now_another_was_the_last():
    assert describe_slow([40.0, 21.0], 100.0) is None
    assert describe_slow([9.0, 0.0], 100.0) is None
    assert describe_slow([0.0], 100.0) is None
    line = "process 2 was slower: the others waited 12 % of the time for it"
    assert describe_slow([1.0, 4.0, 12.0], 100.0) == line
