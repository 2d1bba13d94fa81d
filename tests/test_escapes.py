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

from hf_finetune.cli.commands.score import _print_metrics
from hf_finetune.cli.row_files import open_output
from hf_finetune.cli.terminal import print_json, say
from hf_finetune.environment import escape_logged_lines
from hf_finetune.environment.escaped_lines import EscapingFormatter
from hf_finetune.evaluation.generation.display import format_logged
from hf_finetune.evaluation.generation.prompts import Sample
from hf_finetune.privacy import OF_LINES, escape_control_characters, escape_for_terminal, escape_json
from hf_finetune.reporting.summary import format_summary

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
    with open_output(None) as rows:
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


# A name or text of others that would clear the line, turn it round, and write one of its own.
NAME = "\x1b[31m\x9bx\u202e\r\u2028\nverdict: fine"
LOG = {"step": 1, "loss": 2.0, "learning_rate": 1e-4, NAME: 1.0}
CALLS = (
    *(("init", "{}"), ("train", "{}"), ("doctor", "--{}"), ("report", "{}"), ("watch", "--once", "{}")),
    *(("rows", "{}", "out.jsonl"), ("rows", "{}.csv", "out{}.jsonl"), ("rows", "bad{}.jsonl", "out.jsonl")),
    *(("corpus", "canaries", "canaries{}.jsonl", "--count", "1"), ("corpus", "{}", "x.jsonl")),
    *(("model", "{}", "x"), ("model", "{}.gguf", "x"), ("predict", "{}", "a.jsonl"), ("merge", "run{}", "{}")),
    *(("report", "run{}"), ("diagnose", "run{}"), ("watch", "--once", "run{}"), ("report", "run{}", "torn{}")),
    *(("score", "run{}", "{}.csv"), ("push", "run{}", "{}"), ("push", "run{}", "a/b", "--dry-run")),
)


def fill_folder(folder: Path) -> None:
    """Files and run folders whose names, keys, labels and words are of others."""
    (folder / f"{NAME}.csv").write_text("text,label\na,b\n")
    row = json.dumps({"text": "a", NAME: 1, "label": NAME}) + "\n" + json.dumps({"text": 5, "label": "b"})
    (folder / f"bad{NAME}.jsonl").write_text(row)
    (folder / "a.jsonl").write_text(json.dumps({"question": "a", "answer": "b"}) + "\n")
    for name in ("run", "torn"):
        run = folder / f"{name}{NAME}"
        run.mkdir()
        (run / "log.jsonl").write_text("".join(json.dumps(LOG | {"step": step}) + "\n" for step in range(1, 30)))
        (run / "config.json").write_text(json.dumps({"model_type": NAME, "architectures": [NAME]}))
    report = {"recipe": NAME, "run_id": NAME, "status": "done", "settings": {"model": {"path": NAME}}, "data": {}}
    sentence = {"words": [NAME], "verdict": NAME, "base": NAME}
    report |= {"evaluation": {NAME: {"loss": 1.0, "comparison": sentence}, "test": {"loss": 1.0, "fitted": sentence}}}
    report |= {
        "parameters": {},
        "train": {"steps": 29, "loss": 1.0},
        "samples": [{"prompt": NAME, "continuation": NAME}],
    }
    (folder / f"run{NAME}" / "report.json").write_text(json.dumps(report))


def test_names_and_texts_of_others_are_one_line_wherever_a_command_repeats_them(tmp_path):
    fill_folder(tmp_path)
    calls = [[word.replace("{}", NAME) for word in words] for words in CALLS]
    program = (
        "import sys\nfrom hf_finetune.cli import main\n"
        f"for words in {calls!r}:\n    sys.argv = ['hf-finetune', *words]\n    print(f'# {{words[0]}}', flush=True)\n"
        "    try: main()\n    except SystemExit: pass\n    sys.stderr.flush()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    said = done.stdout.decode().split("\n")
    assert not any(OBEYED.search(line) or "\u2028" in line for line in said)
    assert [line for line in said if line.startswith("verdict: fine")] == []  # those of a sample are set in
    assert sum("\\x1b[31m\\x9bx\\u202e\\r" in line for line in said) >= len(calls) - 3
    assert "Traceback (most recent call last):" not in said


def test_metrics_of_labels_and_fields_of_others_are_one_line_each(capsys):
    words = {"words": [NAME], "verdict": NAME, "base": NAME, "data": NAME, "rows": 1, "places": [NAME]}
    found = {"rows": 3, "loss": 1.0, "seen_rows": words, "comparison": words, "forgetting": words}
    found |= {"swaps": {NAME: words}, "memorization": words, "harness": {NAME: {NAME: 1.0}}}
    _print_metrics(found | {"slices": {NAME: {"values": [NAME], "gaps": [words]}}})
    said = capsys.readouterr().out
    assert said.count("\\nverdict: fine") >= 10
    assert not any(line.lstrip().startswith("verdict") for line in said.split("\n"))


def test_a_text_that_a_message_of_ours_quotes_is_on_its_line_and_a_summary_keeps_its_own():
    formatter = EscapingFormatter(None)

    def format_record(name: str, message: str, *quoted: object, **more: object) -> str:
        record = logging.LogRecord(name, logging.INFO, "", 1, message, quoted, None)
        vars(record).update(more)
        return formatter.format(record)

    shown = format_record("hf_finetune.data", "%s: %d rows of %s\n", Path(NAME), 3, NAME)
    assert shown.count("\n") == 1
    assert shown.count("\\nverdict: fine") == 2
    assert format_record("hf_finetune.reporting", "%s", "a\nb", **OF_LINES) == "a\nb"
    assert format_record("transformers", "%s", "a\nb") == "a\n    b"  # no line of a library looks like one of ours
    train = {"train": {}, "evaluation": {"test": {"loss": 1.0, "fitted": {"words": [NAME]}}}}
    assert not any(line.startswith("verdict") for line in format_summary(train, NAME).split("\n"))


def test_what_joins_letters_and_pictures_stays_in_a_line():
    said = "family \U0001f469\u200d\U0001f467, \u0645\u06cc\u200c\u0634\u0648\u062f"
    assert escape_control_characters(said) == said
    assert escape_control_characters("a\u202eb\u200bc\x1b\n") == r"a\u202eb\u200bc\x1b\n"
