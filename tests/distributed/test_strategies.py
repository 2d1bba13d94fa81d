"""Runs under every strategy on two processes: losses and weights of one process, less memory, exact resuming."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from distributed.matrix import (
    TOLERANCE,
    compare,
    compare_weights,
    launch,
    list_strategies,
    make_arguments,
    make_references,
    plan_cells,
    read_report,
    read_weights,
)

CELLS = ["continued_pretraining-uneven-accumulated", "sft-uneven-accumulated-converted",
         "lora-uneven-accumulated-pissa", "classification-uneven-accumulated-decided"]  # fmt: skip
STRATEGIES = [name for name in list_strategies() if name != "one"]
SPLIT = [name for name in STRATEGIES if name not in ("ddp", "zero2")]
# Each begins a run, of three steps, and the other goes on with it to the sixth.
RESUMED = [(begins, goes_on) for begins, goes_on in [("fsdp2", "fsdp2"), ("zero3", "zero3"), ("zero2", "zero3"),
           ("zero3", "fsdp2"), ("one", "fsdp2")] if {begins, goes_on} <= {"one", *STRATEGIES}]  # fmt: skip
MOVED = "sft-uneven-plain"
ROUNDED = {"model.save_dtype": "bfloat16"}
POISONED = "sft-uneven-plain-poisoned"
ENGINES = [name for name in STRATEGIES if name.startswith("zero")]  # which take the step themselves


def steps(folder, strategy, name, count, **more):
    """A run of so many steps at one learning rate, in a folder of that name."""
    more |= {"output_dir": folder / name, "train.lr_scheduler_type": "constant", "train.max_steps": count}
    return [strategy, "sft", make_arguments(MOVED, folder, strategy, **more)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strategies")
    make_references([*CELLS, *([POISONED] if ENGINES else [])], folder)
    alone = [steps(folder, "one", "whole-one", 6)]
    alone += [steps(folder, "one", f"{one}-{other}", 3) for one, other in RESUMED if one == "one"]
    launch(alone, folder, 1)
    together = plan_cells(STRATEGIES, CELLS, folder) + plan_cells(ENGINES, [POISONED], folder)
    together += [steps(folder, name, f"whole-{name}", 6, **ROUNDED) for name in SPLIT]
    for begins, goes_on in RESUMED:
        together += [] if begins == "one" else [steps(folder, begins, f"{begins}-{goes_on}", 3)]
        together.append(steps(folder, goes_on, f"{begins}-{goes_on}", 6))
    launch(together, folder, 2)
    for name in SPLIT:
        shutil.copytree(folder / f"whole-{name}", folder / f"rounded-{name}")
    launch([steps(folder, "one", f"whole-{SPLIT[0]}", 7)], folder, 1)  # goes on alone with what two have trained
    return folder


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_losses_and_weights_are_those_of_one_process(folder, strategy, cell):
    losses, weights = compare(folder / strategy / cell, folder / "one" / cell)
    assert max(losses, weights) <= TOLERANCE


@pytest.mark.parametrize("strategy", ENGINES)
def test_a_step_whose_gradients_are_not_finite_is_left_out_as_by_one_process(folder, strategy):
    losses, weights = compare(folder / strategy / POISONED, folder / "one" / POISONED)
    assert max(losses, weights) <= TOLERANCE
    assert read_report(folder / strategy / POISONED)["train"]["skipped_steps"] == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_report_names_what_really_ran_and_what_a_process_held(folder, strategy):
    alone, found = (read_report(folder / name / CELLS[1])["distributed"] for name in ("one", strategy))
    assert found["strategy"] == {"ddp": "DDP", "fsdp2": "FSDP2", "zero2": "ZERO2", "zero3": "ZERO3"}[strategy]
    assert (alone["strategy"], found["processes"]) == ("NO", 2)
    held = [sum(each["bytes_per_process"][part] for part in ("parameters", "optimizer")) for each in (alone, found)]
    assert held[0] == pytest.approx(12 * read_report(folder / "one" / CELLS[1])["parameters"]["total"], rel=0.01)
    if strategy in ("fsdp2", "zero3"):
        assert held[1] <= 0.55 * held[0]


@pytest.mark.parametrize(("begins", "goes_on"), RESUMED)
def test_a_run_goes_on_under_any_strategy(folder, begins, goes_on):
    found = compare_weights(folder / f"{begins}-{goes_on}", folder / "whole-one")
    assert found <= TOLERANCE


@pytest.mark.parametrize("strategy", SPLIT)
def test_under_the_same_strategy_it_goes_on_bit_for_bit(folder, strategy):
    whole = read_weights(folder / f"whole-{strategy}" / "checkpoint-6")
    resumed = read_weights(folder / f"{strategy}-{strategy}" / "checkpoint-6")
    assert all(each.equal(resumed[name]) for name, each in whole.items())


def test_one_process_goes_on_with_what_two_have_trained(folder):
    assert read_report(folder / f"whole-{SPLIT[0]}")["train"]["steps"] == 7


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_fitted_to_validation_is_that_of_one_process(folder, strategy):
    alone, found = (json.loads((folder / name / CELLS[3] / "decision.json").read_text()) for name in ("one", strategy))
    assert found.pop("thresholds") == pytest.approx(alone.pop("thresholds"), rel=TOLERANCE)
    assert found.pop("temperature") == pytest.approx(alone.pop("temperature"), rel=TOLERANCE)
    assert found == alone
    assert found["offsets_in_weights"]


@pytest.mark.parametrize("strategy", SPLIT)
def test_weights_are_rounded_to_what_they_are_saved_in(folder, strategy):
    trained, saved = (read_weights(folder / f"rounded-{strategy}" / each) for each in ("checkpoint-6", "."))
    assert {each.dtype for each in saved.values()} == {torch.bfloat16}
    assert all(each.equal(trained[name].bfloat16()) for name, each in saved.items())


@pytest.mark.parametrize("strategy", SPLIT)
def test_what_is_saved_is_an_ordinary_folder(folder, strategy):
    for cell in CELLS:
        names = [
            {path.name for path in (folder / each / cell).iterdir() if path.is_file()} for each in ("one", strategy)
        ]
        assert names[0] == names[1]
        configs = [(folder / each / cell / "config.json") for each in ("one", strategy)]
        assert not configs[0].exists() or configs[0].read_text() == configs[1].read_text()
