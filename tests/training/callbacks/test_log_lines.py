from __future__ import annotations

import logging

import pytest
import torch
from accelerate import Accelerator
from transformers import TrainerControl, TrainerState

from hf_finetune.training.callbacks import log_lines as callbacks
from hf_finetune.training.callbacks.energy import EnergyCounter
from hf_finetune.training.callbacks.log_lines import LogLines, get_peak_memory_mib
from hf_finetune.training.seen import Seen, SeenCounter


@pytest.fixture
def clock(monkeypatch):
    """A perf_counter that stands still until it is moved."""
    now = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    return now


def make_lines() -> LogLines:
    return LogLines(SeenCounter(Accelerator(cpu=True)))


def state_at(step: int) -> TrainerState:
    return TrainerState(global_step=step, max_steps=100, is_world_process_zero=True, log_history=[{}])


def test_throughput_counts_the_steps_and_leaves_out_evaluating_and_saving(clock):
    lines = make_lines()
    control = TrainerControl()
    lines.on_train_begin(None, state_at(0), control)
    for step in (1, 2):
        clock[0] += 2.0
        lines.seen.add(Seen(tokens=500))
        lines.on_step_end(None, state_at(step), control)
    clock[0] += 100.0
    lines.on_evaluate(None, state_at(2), control)
    clock[0] += 3.0
    lines.on_save(None, state_at(2), control)
    clock[0] += 1.0
    lines.seen.add(Seen(tokens=200))  # the last step of an epoch, of fewer rows
    lines.on_step_end(None, state_at(3), control)
    lines.seen.sum_up()
    assert lines.training_seconds == 5.0
    assert lines.tokens_per_second == (2 * 500 + 200) / 5.0


def test_a_line_has_the_figures_of_its_step_and_the_rate_since_the_last_line(clock, caplog):
    lines = make_lines()
    control = TrainerControl()
    lines.on_train_begin(None, state_at(0), control)
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        for step, seconds in ((1, 1.0), (2, 0.5)):
            clock[0] += seconds
            lines.seen.add(Seen(tokens=500))
            state = state_at(step)
            lines.on_step_end(None, state, control)
            lines.on_log(None, state, control, logs={"loss": 1.25, "learning_rate": 0.01})
            assert state.log_history[-1]["tokens_per_s"] == 500 / seconds
            assert state.log_history[-1]["memory_mib"] > 50  # of a process that has torch in it
    assert "step   2/100  loss 1.2500  lr 1.00e-02  1,000 tokens seen  1,000 tokens/s" in caplog.text


def test_other_processes_are_quiet(clock, caplog):
    lines = make_lines()
    state = state_at(1)
    state.is_world_process_zero = False
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        lines.on_log(None, state, TrainerControl(), logs={"loss": 1.0})
    assert caplog.text == ""


def test_what_was_measured_reaches_the_callbacks_that_come_after(clock):
    logs = {"loss": 1.25}
    make_lines().on_log(None, state_at(1), TrainerControl(), logs=logs)
    assert logs.keys() == {"loss", "tokens_per_s", "tokens_seen", "memory_mib"}
    evaluated = {"eval_loss": 1.25}
    make_lines().on_log(None, state_at(1), TrainerControl(), logs=evaluated)
    assert evaluated.keys() == {"eval_loss"}


def test_peak_memory_holds_what_the_process_took_and_never_falls():
    before = get_peak_memory_mib()
    taken = torch.ones(64, 2**20, dtype=torch.uint8)
    during = get_peak_memory_mib()
    del taken
    assert before <= during <= get_peak_memory_mib()


def test_energy_is_read_from_begin_to_end_and_now_and_then(clock, monkeypatch):
    joules = iter([0.0, 100.0, 400.0])
    monkeypatch.setattr(callbacks, "find_energy_counters", lambda: [EnergyCounter("test", lambda: next(joules))])
    lines = make_lines()
    lines.on_train_begin(None, state_at(0), TrainerControl())
    clock[0] += 61.0
    lines.on_step_end(None, state_at(1), TrainerControl())
    lines.on_step_end(None, state_at(2), TrainerControl())
    lines.on_train_end(None, state_at(2), TrainerControl())
    assert lines.energy.joules == 400.0
