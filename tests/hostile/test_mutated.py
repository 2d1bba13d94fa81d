"""Mutated model folders, run files, rows, templates and cards, through the commands that read them.

Whatever stands in a file, a command ends with one of its exit codes: no traceback, at most 10 s and 1 GiB, and nothing
changed but what it writes. `make attack` draws 2,000 of each of the five kinds, and as many of checkpoints
and of a run's records in the files beside; the suite a few, the same in every run.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from chat_models import parrot, talking_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import BLOCKS, SNIPPETS, json_files, json_lines, safetensors_files, text_files, yaml_files
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parents[2]
SECONDS, BYTES = 10.0, 2**30
ENDS = (0, 2, 5)
TEMPLATES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "hf_finetune/chat/templates").glob("*.jinja"))]
ROWS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "data_templates").glob("*.*"))}
CONVERSATIONS = [ROWS[name] for name in ("messages.jsonl", "sharegpt.jsonl", "alpaca.jsonl", "prompt_completion.jsonl")]
RUN_FILES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes/configs").glob("*.yaml"))]
TOKENIZE = """\
recipe: {recipe}
model: {{path: model}}
data: {{train: {rows}}}
train: {{use_cpu: true, eval_strategy: 'no', save_strategy: 'no', max_steps: 1}}
output_dir: out
"""
CARD = """\
---
license: mit
language: [en]
tags: [hf-finetune]
base_model: some/base
model-index:
  - name: parrot
    results: []
---
# A parrot

It says what it has heard: see [the report](report.html).
"""

transformers_logging.disable_progress_bar()


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> Callable[..., settings]:
    """`draw(4)`: the settings of one of the four tests of a kind, which share its examples."""
    of_each_kind = request.config.getoption("--attacks")
    suite = {} if of_each_kind else {"max_examples": 8}

    def share(tests: int = 1) -> settings:
        attack = {"max_examples": of_each_kind // tests, "derandomize": False, "database": None}
        return settings(**(suite or attack), suppress_health_check=list(HealthCheck), print_blob=True)

    return share


class Victim:
    """The process of victim.py, begun again where it was ended."""

    def __init__(self, whole: Path) -> None:
        self.whole = whole
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, folder: Path, *argv: str) -> dict[str, Any]:
        """Run a command in `folder`; `{"code": None}` where it took too long, or took the process down."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("victim.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self.whole,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            )
            for warm_up in (
                ["generate", "model", "Hi", "--max-new-tokens", "1"],
                ["push", "model", "me/x", "--dry-run"],
            ):
                assert self._ask({"folder": str(self.whole), "argv": warm_up}, 120)["code"] == 0
            self._ask({"limit": BYTES}, 10)
        answer = self._ask({"folder": str(folder), "argv": argv}, SECONDS)
        if answer["code"] is None:
            self.end()
        return answer

    def _ask(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return {"code": None, "said": f"over {seconds:.0f} s"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"code": None, "said": f"died with {self.process.wait()}"}

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def victim(whole: Path) -> Iterator[Victim]:
    victim = Victim(whole)
    yield victim
    victim.end()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything right: a model that chats, a card, rows, a run file."""
    folder = tmp_path_factory.mktemp("hostile")
    tokenizer = talking_tokenizer()
    parrot(tokenizer, {"a": "b"}).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "model/README.md").write_text(CARD)
    (folder / "data_templates").mkdir()
    for name, text in ROWS.items():
        (folder / "data_templates" / name).write_text(text)
    return folder


def attack(
    victim: Victim, whole: Path, file: str, content: bytes, *argv: str, also: dict[str, str] | None = None
) -> None:
    """Put `content` into `file` of a copy of the folder, run the command there, and look at how it ended."""
    folder = whole.parent / f"{whole.name}-attacked"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    for name, text in (also or {}).items():
        (folder / name).write_text(text)
    (folder / file).write_bytes(content)
    before = hash_files(folder)
    answer = victim.run(folder, *argv)
    assert answer["code"] in ENDS, f"{answer['code']}: {answer['said']}"
    assert "Traceback (most recent call last)" not in answer["said"], answer["said"]
    assert "\x1b" not in answer["said"], answer["said"]
    assert {name: digest for name, digest in hash_files(folder).items() if not name.startswith("out")} == before


def hash_files(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("recipe", ["sft", "classification", "continued_pretraining"])
def test_rows(victim, whole, draw, recipe):
    texts = {
        "sft": CONVERSATIONS,
        "classification": [ROWS["labelled.jsonl"], ROWS["multilabel.jsonl"], ROWS["labelled_pairs.jsonl"]],
        "continued_pretraining": [ROWS["text.jsonl"]],
    }[recipe]
    run_file = {"run.yaml": TOKENIZE.format(recipe=recipe, rows="rows.jsonl")}

    @draw(4)
    @given(json_lines(texts))
    def check(content: bytes) -> None:
        attack(victim, whole, "rows.jsonl", content, "tokenize", "run.yaml", also=run_file)

    check()


def test_tables(victim, whole, draw):
    @draw(4)
    @given(
        text_files([ROWS["questions.csv"], ROWS["tickets.csv"]], (*SNIPPETS, ",", ";", '"', '""', "\r\n", "sep=;\n"))
    )
    def check(content: bytes) -> None:
        attack(victim, whole, "rows.csv", content, "rows", "rows.csv", "out.jsonl")

    check()


def test_run_files(victim, whole, draw):
    @draw()
    @given(yaml_files(RUN_FILES))
    def check(content: bytes) -> None:
        attack(victim, whole, "run.yaml", content, "check", "run.yaml")

    check()


def test_templates(victim, whole, draw):
    run_file = {"run.yaml": TOKENIZE.format(recipe="sft", rows="data_templates/messages.jsonl")}

    @draw()
    @given(text_files(TEMPLATES, (*BLOCKS, *SNIPPETS)), st.booleans())
    def check(content: bytes, trains: bool) -> None:
        argv = ("tokenize", "run.yaml") if trains else ("generate", "model", "a", "--max-new-tokens", "1")
        attack(victim, whole, "model/chat_template.jinja", content, *argv, also=run_file)

    check()


def test_cards(victim, whole, draw):
    @draw()
    @given(
        st.one_of(
            text_files([CARD]), yaml_files([CARD.split("---")[1]]).map(lambda head: b"---\n" + head + b"---\n# x\n")
        )
    )
    def check(content: bytes) -> None:
        attack(victim, whole, "model/README.md", content, "push", "model", "me/x", "--dry-run")

    check()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_model_folders(victim, whole, draw, name):
    text = (whole / "model" / name).read_text(encoding="utf-8")

    @draw(5)
    @given(json_files([text]))
    def check(content: bytes) -> None:
        attack(victim, whole, f"model/{name}", content, "generate", "model", "a", "--max-new-tokens", "1")

    check()


def test_weights(victim, whole, draw):
    @draw(5)
    @given(safetensors_files((whole / "model/model.safetensors").read_bytes()))
    def check(content: bytes) -> None:
        attack(victim, whole, "model/model.safetensors", content, "generate", "model", "a", "--max-new-tokens", "1")

    check()
