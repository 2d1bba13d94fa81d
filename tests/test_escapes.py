"""Nothing that a terminal would obey is in any line that is shown or logged, whoever wrote it."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from hf_finetune.cli.commands.predict import _open_output
from hf_finetune.cli.terminal import print_json, say
from hf_finetune.environment import escape_logged_lines
from hf_finetune.evaluation.generation.display import format_logged
from hf_finetune.evaluation.generation.prompts import Sample
from hf_finetune.privacy import escape_control_characters, escape_for_terminal, escape_json

ROOT = Path(__file__).resolve().parent.parent
CASES = [json.loads(line) for line in (ROOT / "tests" / "hostile" / "escapes.jsonl").read_text().splitlines()]
ALL = "".join(case["sign"] for case in CASES)
# By the tables of Unicode: controls but tab and line feed, signs of bidirectional text, and surrogates.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_each_sign_is_shown_as_what_it_is(case):
    assert escape_for_terminal(f"a{case['sign']}b") == f"a{case['shown']}b"
    assert escape_for_terminal(case["shown"]) == case["shown"]
    document = json.dumps({case["sign"]: case["sign"]}, ensure_ascii=False)
    assert json.loads(escape_json(document)) == {case["sign"]: case["sign"]}
    assert not OBEYED.search(escape_json(document))


def test_what_is_shown_logged_or_warned_of_is_escaped(capsys):
    say(ALL)
    print_json({"text": ALL})
    shown = capsys.readouterr().out
    assert not OBEYED.search(shown)
    assert "\\x1b[2J" in shown
    logger, handler = logging.getLogger("datasets"), logging.StreamHandler(sys.stderr)
    before = warnings.formatwarning
    logger.addHandler(handler)
    try:
        escape_logged_lines()
        escape_logged_lines()
        logger.error("of %s", ALL)
        assert not OBEYED.search(warnings.formatwarning(UserWarning(ALL), UserWarning, "x.py", 1))
    finally:
        logger.removeHandler(handler)
        warnings.formatwarning = before
    assert not OBEYED.search(capsys.readouterr().err)
    sample = Sample(ALL, ALL, tokens=1, finished=True, prompt_tokens_cut=0, seed=0)
    assert not OBEYED.search(format_logged(sample, chat=True))


def test_rows_to_a_terminal_say_the_same_without_a_sign_that_it_obeys(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    row = {"text": ALL.replace("\ud800", "").replace("\udcff", "")}
    with _open_output(None) as rows:
        rows.writelines([json.dumps(row, ensure_ascii=False).encode() + b"\n"])
    shown = capsys.readouterr().out
    assert not OBEYED.search(shown)
    assert json.loads(shown) == row


def test_no_command_prints_past_the_one_function():
    for path in (ROOT / "hf_finetune" / "cli").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printed = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
        escaped = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "escape_json"]
        if path.name != "terminal.py":
            assert len(printed) <= len(escaped), path


HOSTILE_ARGUMENTS = (("init", "{}"), ("train", "{}"), ("rows", "{}", "out.jsonl"), ("doctor", "--{}"), ("report", "{}"))


def test_names_that_were_typed_are_escaped_wherever_a_command_repeats_them(tmp_path):
    name = "\x1b[31m\x9bx\u202e"
    calls = [[word.format(name) for word in words] for words in HOSTILE_ARGUMENTS]
    program = (
        "import sys\nfrom hf_finetune.cli import main\n"
        f"for words in {calls!r}:\n    sys.argv = ['hf-finetune', *words]\n"
        "    try: main()\n    except SystemExit: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not OBEYED.search(done.stdout + done.stderr)
    assert (done.stdout + done.stderr).count("\\x1b[31m\\x9bx\\u202e") >= len(calls)


def test_what_joins_letters_and_pictures_stays_in_a_line():
    said = "family \U0001f469\u200d\U0001f467, \u0645\u06cc\u200c\u0634\u0648\u062f"
    assert escape_control_characters(said) == said
    assert escape_control_characters("a\u202eb\u200bc\x1b\n") == r"a\u202eb\u200bc\x1b\n"
