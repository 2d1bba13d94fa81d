"""docs/reliability.md: every fault has a test that there is, or says why it cannot occur."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("## Faults, one by one")[2].strip().splitlines()
ROWS = [line.strip("|").split(" | ") for line in TABLE if line.startswith("| ") and not line.startswith("| **")][1:]
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
FILES = re.findall(r"^\| `(test_\w+\.py)` \|", PAGE, re.MULTILINE)


def test_every_fault_has_a_test_or_a_reason():
    assert len(ROWS) == 51
    for fault, happens, tests in ROWS:
        assert fault.strip()
        assert "::test_" in tests or "cannot occur" in happens, fault


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_test_that_is_named_is_there(path):
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for file, name in NAMED if file == path} <= there


def test_every_file_of_trials_that_is_named_is_there():
    assert FILES
    assert {*FILES} <= {path.name for path in TESTS.glob("faults/test_*.py")}
