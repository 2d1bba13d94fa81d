"""One of two processes fails, is killed or stops: both are gone soon, one line says why, and the run goes on."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
from runs import Runs, compare, get_launch, read_last_step

RECIPE = "sft"
TIMEOUT = 8
SETTINGS = ("train.per_device_train_batch_size=2", "train.load_best_model_at_end=false", f"train.ddp_timeout={TIMEOUT}")
SECONDS_TO_END = 30.0
SECONDS_OF_TORCHRUN, SECONDS_MORE = 30.0, 15.0
"""torchrun waits so long for a process that it has asked to end, and kills it then."""
STEPS, FEW = (1, 4, 7), (4,)
HURTS = {
    "killed": {"signal": signal.SIGKILL},
    "failing": {"error": "RuntimeError"},
    "without memory": {"error": "MemoryError"},
}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", HURTS)
def test_all_ranks_are_gone_soon_after_one_and_the_run_goes_on(runs, name, rank, every):
    if not every and (name, rank) != ("killed", 1):
        pytest.skip("one of the long trials: --faults")
    for step in STEPS if every else FEW:
        took, said = hurt_one(runs, {"in": "forward", "step": step, "rank": rank, **HURTS[name]})
        print(f"\n{name}, rank {rank}, step {step}: {took:.1f} s, {said.count('Traceback')} tracebacks")
        assert took < SECONDS_TO_END


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stands_still_is_noticed_and_killed_by_the_launcher(environment_of_a_user, tmp_path, rank, every):
    if not every:
        pytest.skip("one of the long trials: --faults")
    # Not preloaded: torchrun's own child has to be the process that stands still.
    stopped = {"in": "forward", "step": 4, "rank": rank, "signal": signal.SIGSTOP}
    took, _ = hurt_one(Runs(environment_of_a_user, tmp_path), stopped)
    print(f"\nstopped, rank {rank}: {took:.1f} s, of which {TIMEOUT} until it is noticed")
    assert took < TIMEOUT + SECONDS_OF_TORCHRUN + SECONDS_MORE


def hurt_one(runs: Runs, hurt: dict[str, object]) -> tuple[float, str]:
    """Seconds until both ranks were gone, and what was said; the run then goes on to the uninterrupted one's end."""
    whole = runs.whole(RECIPE, *SETTINGS, launch=get_launch())
    folder, step = runs.new_folder(), hurt["step"]
    attempt = runs.start(RECIPE, folder, *SETTINGS, hurt=hurt, launch=get_launch())
    pids = [attempt.find_pid(each) for each in ("0", "1")]
    attempt.wait_until_struck()
    began = time.monotonic()
    failed = attempt.end()
    while any(map(is_running, pids)) and time.monotonic() < began + SECONDS_TO_END:
        time.sleep(0.05)  # the launcher's own child may be gone a moment before what it stands for
    took = time.monotonic() - began
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == [], failed.said
    assert failed.code != 0
    assert read_last_step(folder) in (step - step % 2, max(0, step - step % 2 - 2)), failed.said
    resumed = runs.run(RECIPE, folder, *SETTINGS, launch=get_launch())
    differences = compare(folder, [failed, resumed], whole)
    assert not differences, differences
    return took, failed.said


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
