"""The list of models in a terminal of the usual width."""

from __future__ import annotations

from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.models import PACKAGES


def test_the_names_that_are_typed_are_whole_in_a_terminal_of_the_usual_width():
    lines = CliRunner().invoke(app, ["model", "--list"], catch_exceptions=False).stdout.splitlines()
    assert max(map(len, lines[: 3 * len(PACKAGES)])) <= 80
    for name, package in PACKAGES.items():
        assert [name, package.title] in [line.split(maxsplit=1) for line in lines]
        assert any(package.license in line and f"{package.wheel.bytes / 1e6:.0f} MB" in line for line in lines)
