"""SIGTERM and Ctrl-C at random moments: the step is saved, and the resumed run ends as the uninterrupted one."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter

import pytest
from runs import RECIPES, Ended, Runs, compare, read_last_step

TERMS, FEW = 25, 2  # of each recipe
INTERRUPTS = 5
SECONDS_TO_ABORT = 2.0
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_is_stopped_keeps_the_step_that_it_has_reached_and_goes_on_as_if_never_stopped(runs, recipe, every):
    landed: Counter[str] = Counter()
    terms, seed = (TERMS if every else FEW), 0
    while sum(landed.values()) < terms + (INTERRUPTS if every else 0):
        seed += 1
        number = signal.SIGTERM if sum(landed.values()) < terms else signal.SIGINT
        landed += stop_until_done(runs, recipe, number, seed)
    print(f"\n{recipe}: {sum(landed.values())} signals in {seed} runs: {dict(landed.most_common())}")


def stop_until_done(runs: Runs, recipe: str, number: int, seed: int) -> Counter[str]:
    draw, folder, attempts = random.Random(f"{recipe} {number} {seed}"), runs.new_folder(), []
    landed: Counter[str] = Counter()
    whole = runs.whole(recipe)
    while not (folder / "report.json").exists():  # which comes last
        attempt = runs.start(recipe, folder)
        attempt.find_pid()
        time.sleep(draw.uniform(0, whole[0].seconds))
        phase = attempt.read_phase()
        sent = attempt.send(number)
        written = (folder / "report.json").exists()
        ended = attempt.end()
        attempts.append(ended)
        if ended.code == 0 or ended.phase == "done":  # it had come to its end before
            assert not sent or written or phase == "done", f"seed {seed}: {phase}: a signal was lost: {ended.said}"
            break
        landed[f"{signal.Signals(number).name} {phase}"] += 1
        assert ended.code == CODES[number], f"seed {seed}: {phase}: {ended.said}"
        assert "Traceback" not in ended.said, f"seed {seed}: {phase}: {ended.said}"
        check_saved(attempts, read_last_step(folder), f"seed {seed}: {phase}: {ended.said}")
    differences = compare(folder, attempts, whole)
    assert not differences, f"seed {seed}, {len(attempts)} attempts:\n{differences}"
    return landed


def check_saved(attempts: list[Ended], saved: int, where: str) -> None:
    """The last step that any attempt has made is the one that is saved."""
    made = max((step + 1 for ended in attempts for step, _, _ in ended.trace), default=0)
    assert saved == made, f"{where}\nstep {made} was made, and {saved} is saved"


def test_the_second_ctrl_c_aborts_a_long_step_at_once_and_the_run_still_goes_on(runs):
    whole, folder = runs.whole("continued_pretraining"), runs.new_folder()
    attempt = runs.start("continued_pretraining", folder, hurt={"in": "forward", "step": 5, "sleep": 60})
    attempt.wait_until_struck()
    attempt.send(signal.SIGINT)
    time.sleep(0.7)  # what comes within half a second was typed once
    assert attempt.process.poll() is None
    began = time.monotonic()
    attempt.send(signal.SIGINT)
    aborted = attempt.end()
    assert time.monotonic() - began < SECONDS_TO_ABORT
    assert aborted.code == 130, aborted.said
    assert read_last_step(folder) == 5
    assert not compare(folder, [aborted, runs.run("continued_pretraining", folder)], whole)
