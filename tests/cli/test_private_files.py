"""What holds texts of rows is its owner's alone, whatever the umask and whatever was there before."""

from __future__ import annotations

import ast
import errno
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_finetune.cli import main
from hf_finetune.cli.row_files import open_output
from hf_finetune.errors import CannotWriteError, machine_errors
from hf_finetune.reporting import open_manifest
from hf_finetune.reporting.card import write_card
from hf_finetune.reporting.page import write_page

PACKAGE = Path(__file__).resolve().parents[2] / "hf_finetune"
SECRET = "the text of a row"
ROWS = json.dumps({"text": SECRET, "label": "a"}) + "\n"
# What is written without `private` holds no text of a row: hashes, settings, sizes, weights and what tells of them.
FOR_ALL = {
    "reporting/run_folder.py": 4,  # manifest.json twice, run.yaml twice
    "reporting/card/__init__.py": 1,
    "training/saving.py": 1,
    "folders/checkpoints.py": 1,
    "environment/project_files.py": 1,
    "row_prints.py": 1,  # a part of an archive that is private
    "training/callbacks/log_file.py": 1,  # appended to a private file
    "training/callbacks/trackers.py": 1,  # figures and settings, as TensorBoard has them
    "models/decision.py": 1,
    "models/files/adapter.py": 2,
    "models/ready_made/wheels.py": 1,
    "models/ready_made/card.py": 1,
    "models/ready_made/folder.py": 1,
    "config/validation/generate.py": 2,
    "cli/terminal.py": 1,  # /dev/null
    "cli/commands/preflight/check.py": 1,  # SARIF: codes and places, no text of rows
    "preflight/plan/make.py": 1,  # the run file
    "release/export/source.py": 1,  # config.json
    "release/export/exporting.py": 1,  # export.json: figures, hashes
    "release/export/gguf/writing.py": 1,  # one byte more of a file that the package gguf made
    "release/export/ollama/exporting.py": 1,  # the Modelfile
    "api.py": 1,  # below a folder of mkdtemp, which is its owner's
}


@pytest.fixture
def open_to_all() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["hf-finetune", *words])
    with pytest.raises(SystemExit, match="0"):
        main()


def make_run(folder: Path) -> None:
    folder.mkdir()
    sample = {"prompt": SECRET, "continuation": SECRET, "step": 1}
    report = {"recipe": "sft", "run_id": "1", "status": "done", "settings": {}, "data": {}, "samples": [sample]}
    report |= {"parameters": {}, "train": {}, "evaluation": {"test": {"loss": 1.0}}}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')


WRITING = (
    (("rows", "rows.csv", "out.jsonl"), "out.jsonl"),
    (("rows", "rows.csv", "out.jsonl.gz"), "out.jsonl.gz"),
    (("rows", "rows.csv", "old.jsonl", "--overwrite"), "old.jsonl"),
    (("corpus", "canaries", "canaries.jsonl", "--count", "1"), "canaries.jsonl"),
    (("corpus", "canaries", "old.jsonl", "--count", "1", "--overwrite"), "old.jsonl"),
    (("report", "run"), "run/report.html"),
    (("report", "run", "--output", "page.html"), "page.html"),
    (("report", "run", "other"), "comparison.html"),
)


def test_every_command_that_writes_rows_writes_them_for_their_owner_alone(tmp_path, monkeypatch, open_to_all):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text(f"text,label\n{SECRET},a\n")
    (tmp_path / "old.jsonl").write_text(ROWS)
    make_run(tmp_path / "run")
    make_run(tmp_path / "other")
    for words, name in WRITING:
        for _ in range(2 if name.endswith(".html") else 1):  # a page that is there is written over
            if (tmp_path / name).exists():
                (tmp_path / name).chmod(0o644)
            run(monkeypatch, *words)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, words
    with open_output("predicted.jsonl") as rows:
        rows.write(ROWS.encode())
    assert stat.S_IMODE((tmp_path / "predicted.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_every_command_that_writes_is_one_message_where_that_is_not_allowed(tmp_path, monkeypatch, capsys, number):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text(f"text,label\n{SECRET},a\n")
    make_run(tmp_path / "run")
    make_run(tmp_path / "other")

    def refuse(source: object, target: object) -> None:
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "replace", refuse)
    for words in [words for words, _ in WRITING if "--overwrite" not in words]:
        monkeypatch.setattr(sys, "argv", ["hf-finetune", *words])
        with pytest.raises(SystemExit, match="5"):
            main()
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert os.strerror(number) in said[0]
    for write in (write_page, write_card):
        with pytest.raises(CannotWriteError, match=os.strerror(number)):
            write(tmp_path / "run")
    with pytest.raises(CannotWriteError, match=os.strerror(number)), machine_errors():
        open_manifest("run", {"data": {"files": []}, "versions": {}}, "", resume=None)


def find_open_writes(path: Path) -> int:
    """How many calls of a module write a file as the umask has it."""
    count = 0
    for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        modes = {each.value for each in call.args if isinstance(each, ast.Constant)} & {"w", "wb", "x", "xb", "a", "ab"}
        private = any(each.arg in ("private", "opener") for each in call.keywords)
        writes = name in ("write_atomically", "open_atomically", "write_text", "write_bytes")
        count += (writes or (name == "open" and bool(modes))) and not private
    return count


def test_what_is_written_for_all_to_read_is_known_by_name():
    found = {path.relative_to(PACKAGE).as_posix(): find_open_writes(path) for path in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in found.items() if count} == FOR_ALL
