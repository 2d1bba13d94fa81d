"""One of two processes fails, is killed or stops: both are gone soon, one line says why, and the run goes on."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
from runs import compare, get_launch, read_last_step

RECIPE = "sft"
SETTINGS = ("train.per_device_train_batch_size=2", "train.load_best_model_at_end=false", "train.ddp_timeout=8")
SECONDS_TO_END = 30.0
STEPS, FEW = (1, 4, 7), (4,)
HURTS = {
    "killed": {"signal": signal.SIGKILL},
    "stopped": {"signal": signal.SIGSTOP},
    "failing": {"error": "RuntimeError"},
    "without memory": {"error": "MemoryError"},
}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", HURTS)
def test_all_ranks_are_gone_soon_after_one_and_the_run_goes_on(runs, name, rank, every):
    if not every and (name, rank) != ("killed", 1):
        pytest.skip("one of the long trials: --faults")
    whole = runs.whole(RECIPE, *SETTINGS, launch=get_launch())
    for step in STEPS if every else FEW:
        folder = runs.new_folder()
        hurt = {"in": "forward", "step": step, "rank": rank, **HURTS[name]}
        attempt = runs.start(RECIPE, folder, *SETTINGS, hurt=hurt, launch=get_launch())
        pids = [attempt.find_pid(each) for each in ("0", "1")]
        attempt.wait_until_struck()
        began = time.monotonic()
        failed = attempt.end()
        left = [pid for pid in pids if is_running(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == [], failed.said
        assert failed.code != 0
        took = time.monotonic() - began
        print(f"\n{name}, rank {rank}, step {step}: {took:.1f} s, {failed.said.count('Traceback')} tracebacks")
        assert took < SECONDS_TO_END
        assert read_last_step(folder) in (step - step % 2, max(0, step - step % 2 - 2)), failed.said
        resumed = runs.run(RECIPE, folder, *SETTINGS, launch=get_launch())
        assert not compare(folder, [failed, resumed], whole)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
