"""`make gpu` is ready for the day a card is there: what it starts is there, and without one it says so."""

from __future__ import annotations

import runpy
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = Namespace(nanogpt=Path("nano"), text=Path("text"), peak_tflops=989.0, model="model", rows=Path("rows"))


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"), run_name="gpu")


def test_every_part_is_a_script_that_knows_its_options(script):
    for command in script["list_commands"](OPTIONS).values():
        path = next((Path(word) for word in command if word.endswith(".py")), None)
        if path is None:  # the tests
            continue
        text = path.read_text(encoding="utf-8")
        for option in (word for word in command if word.startswith("--")):
            assert f'"{option}"' in text or f'"{option[2:]}"' in text, f"{path.name} {option}"


def test_a_part_that_takes_too_long_is_ended_and_said(script):
    part = script["run_part"]([sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"], 1.0)
    assert part.exit_code is None
    assert part.said == ["begun"]
    assert part.seconds < 30


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_it_is_said(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path / "gpu.json")])
    assert script["main"]() == 2
    assert "no CUDA device" in capsys.readouterr().err
