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
import torch
from bounded_runs import Outcome, run_all_bounded
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base, train

from hf_finetune.config import check_saved_model
from hf_finetune.config.model_files.description import find_faults
from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError, NonFiniteError
from hf_finetune.models.files.panics import hold_back_panics
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
    if "make_beside" in case:
        beside, kind = case["make_beside"]
        (folder / beside).parent.mkdir(exist_ok=True)
        MAKERS[kind](folder / beside)
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


def test_a_panic_of_a_library_is_one_message_and_nothing_beside_it(whole, tmp_path, capfd):
    folder = shutil.copytree(whole / "base", tmp_path / "base")
    broken = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA////"}}
    harm(folder, {"file": "tokenizer.json", "set": broken})
    with pytest.raises(ModelError, match="Cannot parse precompiled_charsmap"):
        load_tokenizer(ModelSection(path=str(folder)))
    assert capfd.readouterr().err == ""


def test_what_is_said_before_a_panic_is_kept(capfd):
    with hold_back_panics():
        os.write(2, b"a warning\n")
        os.write(2, b"\nthread '<unnamed>' (5) panicked at x.rs:1:1:\nforeign \x1b[31m text\n")
    assert capfd.readouterr().err == "a warning\n"


def spoil(folder: Path, name: str, value: float) -> None:
    """Put `value` into the first number of the last of its weights."""
    weights = load_file(folder / name)
    key = max(weights)
    weights[key] = weights[key].clone()
    weights[key].view(-1)[0] = value
    save_file(weights, folder / name, metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_weights_that_are_whole_numbers_are_refused_and_not_converted(whole, tmp_path, prefix):
    """Every F32 of a header read as I32: the model wrote rubbish without a word."""
    folder = shutil.copytree(whole / "base", tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights = {key.replace("model.", prefix, 1): value.view(torch.int32) for key, value in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"base: \S+weight has whole numbers \(I32\)"):
        load_for_generation(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_numbers_that_are_not_finite_answers_nothing(whole, tmp_path, value):
    folder = shutil.copytree(whole / "base", tmp_path / "base")
    spoil(folder, "model.safetensors", value)
    model, _ = load_for_generation(str(folder))
    for _ in range(2):  # in a conversation the next message is refused as the first one was
        with pytest.raises(NonFiniteError, match=r"base: has numbers in model\.norm\.weight that are not finite"):
            model(torch.tensor([[1, 2]]))


def test_a_model_of_which_all_numbers_are_too_large_to_be_squared_answers_nothing(whole, tmp_path):
    """Finite, and so were its logits: a norm divides by infinity, and every token is as likely."""
    folder = shutil.copytree(whole / "base", tmp_path / "base")
    weights = {key: torch.full_like(value, 3e38) for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model, _ = load_for_generation(str(folder))
    with pytest.raises(NonFiniteError, match=r"base: has numbers in \S+ of which the squares are not finite"):
        model(torch.tensor([[1, 2]]))


def test_an_adapter_with_numbers_that_are_not_finite_is_refused(whole, tmp_path):
    folder = shutil.copytree(whole / "adapter", tmp_path / "adapter")
    spoil(folder, "adapter_model.safetensors", float("nan"))
    with pytest.raises(NonFiniteError, match=r"adapter: has numbers in .*lora_B.* that are not finite"):
        load_for_generation(str(folder))


def test_weights_that_hold_a_number_of_eight_bits_are_tried_before_they_are_believed(whole, tmp_path):
    """bitsandbytes fails at the first forward pass, of what it takes for packed."""
    folder = shutil.copytree(whole / "base", tmp_path / "base")
    harm(folder, {"file": "config.json", "set": {"quantization_config": {"load_in_8bit": True}}})
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"x.SCB": torch.zeros(1, dtype=torch.int8)}, folder / "model.safetensors")
    assert find_faults(folder, "f") == []
    with pytest.raises(ModelError, match=r"config\.json: quantization_config: its weights are quantized in a way"):
        load_for_generation(str(folder))


def test_a_model_that_is_stored_in_four_bits_answers(whole, tmp_path):
    folder = shutil.copytree(whole / "base", tmp_path / "base")
    settings = BitsAndBytesConfig(load_in_4bit=True)
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings).save_pretrained(folder)
    model, _ = load_for_generation(str(folder))
    assert model(torch.tensor([[1, 2]])).logits.isfinite().all()
