"""How far a loop has come is said every few seconds, and not by one that is faster."""

from __future__ import annotations

import logging
import re
import time

import pytest

from hf_finetune.environment import ProgressLines, progress_lines
from hf_finetune.evaluation.scoring.distributed import distribute_work


def test_a_loop_that_takes_long_says_how_far_it_is_and_not_that_it_has_ended(caplog, monkeypatch):
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO, "hf_finetune")
    found = distribute_work([[1, 2], [3], [4, 5]], lambda batch: [each * 10 for each in batch], "rows read")
    assert found == [10, 20, 30, 40, 50]
    first, second = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"2 of 5 rows read, \S+ a second", first)
    assert re.fullmatch(r"3 of 5 rows read, \S+ a second", second)


@pytest.mark.parametrize("total", [None, 9])
def test_a_fast_loop_says_nothing_and_its_seconds_are_known(caplog, total):
    caplog.set_level(logging.INFO, "hf_finetune")
    progress = ProgressLines("rows read", total)
    seconds = [progress.log_if_due(done) for done in range(1, 9)]
    assert 0 <= seconds[0] <= seconds[-1] < progress_lines.INTERVAL_S
    assert not caplog.records


def test_without_a_total_the_number_alone_is_said(caplog, monkeypatch):
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO, "hf_finetune")
    ProgressLines("rows read").log_if_due(1200)
    assert caplog.records[0].getMessage().startswith("1,200 rows read, ")


def test_one_call_that_takes_long_is_said_to_be_at_it_and_a_fast_one_is_not(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "hf_finetune")
    with progress_lines.say_while("reading it"):
        pass
    assert not caplog.records
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.01)
    with progress_lines.say_while("reading it"):
        deadline = time.monotonic() + 10
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
    assert caplog.records[0].getMessage() == "reading it: 0 s so far"
