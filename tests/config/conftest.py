"""A working folder with inputs that are there, and short ways to load a run file in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from config.run_files import VALID

import hf_finetune.config.checks as checks
from hf_finetune.config import load_run
from hf_finetune.config.sections import Run
from hf_finetune.environment.hardware import Hardware
from hf_finetune.errors import ConfigError, Problem


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the test: two data files, one model folder, and a machine without an accelerator."""
    for name in ("train.jsonl", "validation.jsonl"):
        (tmp_path / name).write_text('{"text": "one"}\n', encoding="utf-8")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(checks, "detect_hardware", lambda: Hardware("cpu"))
    return tmp_path


@pytest.fixture
def load(workspace: Path) -> Callable[..., Run]:
    def load(text: str = VALID, *overrides: str) -> Run:
        (workspace / "run.yaml").write_text(text, encoding="utf-8")
        recipe = re.match(r"recipe: (sft|lora|classification)\n", text)
        return load_run(["run.yaml", *overrides], recipe[1] if recipe else "continued_pretraining")

    return load


@pytest.fixture
def problems(load: Callable[..., Run]) -> Callable[..., list[Problem]]:
    """The problems of a run file and its overrides; none where it loads."""

    def problems(text: str = VALID, *overrides: str) -> list[Problem]:
        try:
            load(text, *overrides)
        except ConfigError as error:
            return list(error.problems)
        return []

    return problems


@pytest.fixture
def only_problem(problems: Callable[..., list[Problem]]) -> Callable[..., Problem]:
    def only_problem(text: str = VALID, *overrides: str) -> Problem:
        found = problems(text, *overrides)
        assert len(found) == 1, [str(problem) for problem in found]
        return found[0]

    return only_problem
