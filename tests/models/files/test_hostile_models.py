"""Model folders as an attacker writes them, each a line of tests/hostile/models.jsonl: one message, in bounded time."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bounded_runs import Outcome, run_all_bounded
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base, train

from hf_finetune.config import check_saved_model
from hf_finetune.config.model_files.description import find_faults
from hf_finetune.config.sections import ModelSection
from hf_finetune.models.loading import load_causal_lm, load_config
from hf_finetune.models.saved import load_for_generation
from hf_finetune.models.tokenizers import load_tokenizer
from hf_finetune.release.merge import merge_adapter

ROOT = Path(__file__).resolve().parents[3]
CASES = [json.loads(line) for line in (ROOT / "tests/hostile/models.jsonl").read_text().splitlines()]
OF_ADAPTERS = ("adapter_config.json", "base_model.json", "adapter_model.safetensors")
SECONDS, MEBIBYTES = 10, 1024
DEPTH, HOLE = 200_000, 5_000_000_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    base = saved_base(folder / "base")
    save(train(adapter_on(base)), folder / "adapter")
    return folder


def harm(folder: Path, case: dict[str, Any]) -> None:
    path = folder / case["file"]
    path.parent.mkdir(exist_ok=True)
    if "without" in case:
        (folder / case["without"]).unlink()
    if "set" in case:
        values = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(values | case["set"]))
        return
    path.unlink(missing_ok=True)
    if "header" in case:
        header = json.dumps(case["header"]).encode()
        path.write_bytes(
            struct.pack("<Q", len(header)) + header + bytes(4 * (b"F32" in header and b"[0, 4]" in header))
        )
    else:
        MAKERS[case["make"]](path)


def dig_hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HOLE)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "circle": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
    "depth": lambda path: path.write_text('{"a":' + "[" * DEPTH + "]" * DEPTH + "}"),
    "hole": dig_hole,
    "kernel": lambda path: path.symlink_to("/proc/kmsg"),
}


def generate(folder: Path) -> None:
    check_saved_model(str(folder), "generate")
    load_for_generation(str(folder))


def train_on(folder: Path) -> None:
    section = ModelSection(path=str(folder))
    tokenizer = load_tokenizer(section)
    load_causal_lm(section, load_config(section, tokenizer), 8, bf16=False)


def merge(folder: Path) -> None:
    merge_adapter(str(folder), str(folder.parent / f"{folder.name}-merged"))


def name(case: dict[str, Any]) -> str:
    return f"{case['file']} {str(case.get('set') or case.get('header') or case.get('make'))[:60]}"


@pytest.fixture(scope="module")
def outcomes(whole, tmp_path_factory) -> list[list[Outcome]]:
    """How each case ended, by each of its two entries."""
    folder = tmp_path_factory.mktemp("cases")
    works = [partial(run_case, whole, folder / f"{number}-{entry.__name__}", case, entry)
             for number, case in enumerate(CASES) for entry in list_entries(case)]  # fmt: skip
    ended = run_all_bounded(works, seconds=SECONDS, mebibytes=MEBIBYTES)
    return [ended[number : number + 2] for number in range(0, len(ended), 2)]


def list_entries(case: dict[str, Any]) -> tuple[Callable[[Path], None], ...]:
    return (generate, merge) if case["file"] in OF_ADAPTERS else (generate, train_on)


def run_case(whole: Path, folder: Path, case: dict[str, Any], entry: Callable[[Path], None]) -> None:
    shutil.copytree(whole / ("adapter" if case["file"] in OF_ADAPTERS else "base"), folder)
    harm(folder, case)
    entry(folder)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: name(CASES[number]))
def test_a_hostile_folder_is_one_message_in_bounded_time_and_memory(outcomes, number):
    for ended in outcomes[number]:
        check(ended, CASES[number]["expected"])


def check(ended: Outcome, expected: str | None) -> None:
    ended.note()
    if expected is None:
        assert ended.end == "done", ended
        return
    assert ended.end == "refused", ended
    assert expected in ended.said or "is not an adapter" in ended.said or "cannot be opened" in ended.said
    assert len(ended.said.splitlines()) < 6


def test_an_honest_folder_has_no_faults_and_is_looked_at_in_milliseconds(whole):
    for part in ("base", "adapter"):
        start = time.process_time()
        assert find_faults(whole / part, part) == []
        assert time.process_time() - start < 0.1


def test_all_faults_of_a_folder_are_said_together(whole, tmp_path):
    folder = shutil.copytree(whole / "adapter", tmp_path / "adapter")
    harm(folder, {"file": "adapter_config.json", "set": {"r": -1, "target_modules": "(", "lora_alpha": "x"}})
    harm(folder, {"file": "base_model.json", "set": {"vocab_size": 0}})
    assert [problem.key for problem in find_faults(folder, "f")] == ["r", "lora_alpha", "target_modules", "vocab_size"]


def test_the_tokenizer_of_an_honest_folder_is_the_one_that_was_saved(whole):
    assert load_tokenizer(ModelSection(path=str(whole / "base"))).get_vocab() == TOKENIZER.get_vocab()
