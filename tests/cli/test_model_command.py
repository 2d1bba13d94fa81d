"""The list of models in a terminal of the usual width."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.models import PACKAGES


@pytest.mark.parametrize("columns", ["80", "60"])
def test_the_names_that_are_typed_are_whole_in_a_narrow_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    said = CliRunner().invoke(app, ["model", "--list"], catch_exceptions=False).stdout
    table = said.split("Make one with")[0]
    assert "\u2026" not in table
    for name in PACKAGES:
        assert any(line.split()[:1] == [name] for line in table.splitlines())
    assert max(map(len, table.splitlines())) <= int(columns)
