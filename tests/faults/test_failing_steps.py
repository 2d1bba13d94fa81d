"""What fails in the middle of a step or of a save leaves the checkpoint before it, and the run goes on from there."""

from __future__ import annotations

import signal

import pytest
from runs import compare, read_last_step

WHERE = ("forward", "backward", "optimizer", "save")
STEPS, FEW = (1, 2, 4, 6, 7), (4,)
RECIPE = "continued_pretraining"


@pytest.mark.parametrize("error", ["MemoryError", "RuntimeError"])
@pytest.mark.parametrize("where", WHERE)
def test_an_error_leaves_the_last_checkpoint_from_which_the_run_goes_on(runs, where, error, every):
    whole = runs.whole(RECIPE)
    for step in STEPS if every else FEW:
        folder = runs.new_folder()
        failed = runs.start(RECIPE, folder, hurt={"in": where, "step": step, "error": error}).end()
        if error == "MemoryError":
            assert failed.code == 7, failed.said
            assert "train.per_device_train_batch_size" in failed.said
        else:
            assert failed.code == 1, failed.said
            assert failed.said.count("RuntimeError: made by a test") == 1
        assert read_last_step(folder) == (step - 1 if where == "save" else step), failed.said
        differences = compare(folder, [failed, runs.run(RECIPE, folder)], whole)
        assert not differences, f"{where} at step {step}: {differences}"


def test_a_run_that_the_system_kills_for_its_memory_goes_on(runs):
    whole, folder = runs.whole(RECIPE), runs.new_folder()
    killed = runs.start(RECIPE, folder, hurt={"in": "forward", "step": 6, "signal": signal.SIGKILL}).end()
    assert killed.code == 128 + signal.SIGKILL
    assert read_last_step(folder) in (5, 6)  # that of step 6 was being written
    assert not compare(folder, [killed, runs.run(RECIPE, folder)], whole)
