"""Every message of the project that a user can cause is provoked by a test: `message_sites.json` says by which.

That a test still provokes what the table names it for is checked where it runs: see `message_recorder.py`.
"""

from __future__ import annotations

import ast

import pytest
from message_recorder import check_length, load_table, too_long
from message_sites import ROOT, find_message_sites

from hf_finetune.codes import CODES
from hf_finetune.errors import Problem

AGAIN = "pytest tests --record-messages=FOLDER, then python tests/message_recorder.py FOLDER, and provoke what is new"


def test_the_table_has_every_message_site_and_no_other():
    assert set(load_table()) == {site.name for site in find_message_sites()}, AGAIN


def test_every_site_is_provoked():
    assert [name for name, test in load_table().items() if test is None] == [], AGAIN


def test_every_message_has_a_code_that_can_be_explained():
    without = [site.name for site in find_message_sites() if site.code is None]
    assert without == [], 'say of which kind it is: code="HF601", of a line of the log extra={"code": "HF601"}'
    given = [site.code.value for site in find_message_sites() if isinstance(site.code, ast.Constant)]
    assert sorted(set(given) - set(CODES)) == []


def test_every_code_stands_in_the_code_of_the_project():
    used = {
        node.value
        for path in (ROOT / "hf_finetune").rglob("*.py")
        if path.parent.name != "codes"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(set(CODES) - used) == []


def test_every_test_that_the_table_names_is_there(request):
    named = set(filter(None, load_table().values()))
    for path in {test.partition("::")[0] for test in named}:
        functions = {
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))) if hasattr(node, "name")
        }
        assert {test.partition("::")[2].partition("[")[0] for test in named if test.startswith(path)} <= functions
    collected = {item.nodeid for item in request.session.items}
    if not request.config.option.keyword and len(collected) > 3_000:  # of the whole suite each parameter is known, too
        assert named <= collected


@pytest.mark.parametrize(
    ("message", "shown"), [("x" * 499, []), ("x" * 501, ["x" * 501]), ("\n" * 4, []), ("\n" * 5, ["\n" * 5])]
)
def test_a_message_of_six_lines_is_noticed(message, shown):
    check_length(message)
    assert too_long == shown
    too_long.clear()


def test_a_problem_is_one_line_whatever_its_path_holds():
    assert "\n" not in str(Problem("is\nno\nfile", "name\nanother", path="a\nb"))
