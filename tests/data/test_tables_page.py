"""docs/data-formats.md on tables and columns: its commands are typed, and show what the page shows."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:csv|json) ([\w.]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
CONSOLES = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).write_text(content, encoding="utf-8")
    return tmp_path


def read_console(block: str) -> Iterator[tuple[list[str], str]]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield shlex.split(command), shown


def type_command(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120
    )
    return done.stdout


def test_the_page_shows_every_option_and_each_way_in():
    typed = " ".join(" ".join(command) for block in CONSOLES for command, _ in read_console(block))
    assert len(CONSOLES) >= 4
    for each in ("--columns", "--numbers", "--on-bad-line skip", *FILES):
        assert each in typed
    assert "`--overwrite`" in PAGE
    assert "`--json`" in PAGE


@pytest.mark.parametrize("block", CONSOLES, ids=lambda block: block.split("\n")[0])
def test_what_the_page_shows_is_what_a_command_writes(folder, preloaded, block):
    for command, shown in read_console(block):
        assert type_command(command, preloaded) == shown, command


def test_the_run_file_on_the_page_reads_the_rows_that_the_command_writes(folder, preloaded, caplog):
    caplog.set_level("INFO", "hf_finetune")
    sections = [yaml.safe_load(block)["data"] for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)]
    (given,) = [section for section in sections if "columns" in section]
    direct = load_splits(DataSection(**given), "conversation", seed=0)
    (said,) = [line for line in re.findall(r"`([^`]+ -> [^`]+)`", PAGE) if line.startswith(given["train"])]
    assert caplog.messages.count(said) == 1
    columns = [f"{field}={column}" for field, column in given["columns"].items()]
    type_command(["hf-finetune", "rows", given["train"], "rows.jsonl", "--columns", *columns], preloaded)
    converted = load_splits(DataSection(train="rows.jsonl"), "conversation", seed=0)
    assert len(direct.rows["train"]) > 1
    assert direct.rows["train"][:] == converted.rows["train"][:]
