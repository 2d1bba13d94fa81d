"""A thousand steps with a save each: nothing that a run holds of its machine grows."""

from __future__ import annotations

import json

import pytest

STEPS, SETTLED = 1000, 200
SETTINGS = (
    f"train.max_steps={STEPS}", "train.eval_strategy=no", "train.logging_steps=100", "eval.prompts=[]",
    "train.dataloader_num_workers=1",
)  # fmt: skip


def test_a_thousand_saves_hold_no_more_files_memory_threads_or_disk_than_two_hundred(runs, every):
    if not every:
        pytest.skip("one of the long trials: --faults")
    attempt = runs.start("continued_pretraining", runs.new_folder(), *SETTINGS, measure=50)
    ended = attempt.end(seconds=900)
    assert ended.code == 0, ended.said
    rows = [json.loads(line) for line in (attempt.record / "held").read_text().splitlines()]
    print("\nstep, open files, memory, threads, bytes on the disk:", *rows[::4], sep="\n")
    _, *first = next(row for row in rows if row[0] == SETTLED)
    _, *last = rows[-1]
    assert last[0] <= first[0], "open files"
    assert last[1] <= first[1] * 1.02, "memory"
    assert last[2] <= first[2], "threads"
    assert last[3] <= first[3] * 1.01, "disk"
