"""A run that is killed at random moments and typed again until it is done: its end is that of the uninterrupted run."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter

import pytest
from runs import RECIPES, Runs, compare

KILLS, FEW = 50, 2  # of each recipe
KILLS_OF_A_RUN = 20


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_is_killed_again_and_again_ends_as_the_uninterrupted_run(runs: Runs, recipe, every):
    whole = runs.whole(recipe)
    landed: Counter[str] = Counter()
    seed = 0
    while sum(landed.values()) < (KILLS if every else FEW):
        seed += 1
        landed += kill_until_done(runs, recipe, seed, whole)
    print(f"\n{recipe}: {sum(landed.values())} kills in {seed} runs: {dict(landed.most_common())}")


def kill_until_done(runs: Runs, recipe: str, seed: int, whole) -> Counter[str]:
    """Where the kills of one run landed."""
    draw, folder, attempts = random.Random(f"{recipe} {seed}"), runs.new_folder(), []
    landed: Counter[str] = Counter()
    while not (folder / "report.json").exists():  # which comes last
        attempt = runs.start(recipe, folder)
        attempt.find_pid()
        if len(attempts) < KILLS_OF_A_RUN:
            time.sleep(draw.uniform(0, whole[0].seconds))
            attempt.send(signal.SIGKILL)
        ended = attempt.end()
        attempts.append(ended)
        if ended.code == 128 + signal.SIGKILL:
            if ended.phase == "done":
                continue
            landed[f"{ended.phase}{', saving' if ended.saving else ''}"] += 1
        else:
            assert ended.code == 0, f"seed {seed}: {ended.said}"
    differences = compare(folder, attempts, whole)
    assert not differences, f"seed {seed}, {len(attempts)} attempts:\n{differences}"
    return landed
