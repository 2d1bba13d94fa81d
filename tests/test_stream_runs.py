"""Runs that stream: stopped anywhere, they end with the weights, the losses and the counts of one that was not."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from models.scratch_models import save_chat_base

from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.row_prints import read_row_prints

SMALL = (
    "model.scratch.hidden_size=16", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2",
    "train.max_steps=12", "train.logging_steps=1", "train.eval_strategy=no", "train.save_strategy=steps",
    "train.save_steps=2", "train.per_device_train_batch_size=4", "data.stream=true", "data.stream_part=4",
    "eval.prompts=[]",
)  # fmt: skip


def make_text(chance: random.Random) -> str:
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(1, 9))) for _ in range(12)]
    return " ".join(words)


@pytest.fixture
def shards(tmp_path) -> Path:
    chance, folder = random.Random(5), tmp_path / "shards"
    folder.mkdir()
    for number in range(4):
        rows = [{"text": make_text(chance)} for _ in range(40)]
        (folder / f"s{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "val.jsonl").write_text("".join(json.dumps({"text": make_text(chance)}) + "\n" for _ in range(6)))
    train_tokenizer("char", iter(["abcdefgh "]), None).save_pretrained(tmp_path / "tokenizer")
    return folder


@pytest.fixture
def documents(shards, tmp_path) -> tuple[str, ...]:
    return (
        *("char_model", *SMALL, f"data.train={shards}/*.jsonl", f"data.validation={tmp_path}/val.jsonl"),
        *("data.validation_fraction=null", "data.format=text", "data.block_size=16"),
        f"model.tokenizer={tmp_path}/tokenizer",
    )


def losses(report: dict) -> list[float]:
    return [entry["loss"] for entry in report["train"]["history"] if "loss" in entry]


def cut_back(whole: Path, folder: Path, step: int) -> None:
    """Make of a finished run one that was killed behind the checkpoint of a step."""
    shutil.copytree(whole, folder)
    for path in folder.glob("checkpoint-*"):
        if int(path.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(path)
    for name in ("report.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)


def check_resumed(run_recipe, settings: tuple[str, ...], tmp_path: Path, steps: tuple[int, ...]) -> dict:
    whole = run_recipe(*settings)
    for step in steps:
        folder = tmp_path / f"cut{step}"
        cut_back(tmp_path / "run", folder, step)
        resumed = run_recipe(*settings, f"output_dir={folder}")
        weights = [path.read_bytes() for path in sorted(folder.glob("*model.safetensors"))]
        assert weights == [path.read_bytes() for path in sorted((tmp_path / "run").glob("*model.safetensors"))] != []
        assert losses(resumed) == losses(whole)
        assert resumed["data"] == whole["data"]
        assert resumed["train"]["seen"] == whole["train"]["seen"]
    return whole


def test_a_stream_of_documents_goes_on_in_the_middle_of_a_part_and_at_its_end(
    run_recipe, documents, tmp_path, datasets_cache
):
    report = check_resumed(run_recipe, documents, tmp_path, (2, 4, 6))
    counts = report["data"]["train"]
    assert (counts["shards"], counts["parts"]) == (4, 3)
    assert report["train"]["epochs"] == pytest.approx(counts["passes"], abs=1e-3)
    assert not list((datasets_cache / "hf_finetune").glob("part-*")), "trained parts are not kept"
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000

    prints = read_row_prints(tmp_path / "run")
    assert len(prints.parts) == 3
    distinct = {value for part in prints.parts for value in part.tolist()}
    assert len(distinct) >= counts["rows"] - 4, "all rows that were read"
    assert len(read_row_prints(tmp_path / "cut6").parts) == 3, "none twice"


@pytest.fixture
def conversations(tmp_path) -> tuple[str, ...]:
    chance, folder = random.Random(6), tmp_path / "chats"
    folder.mkdir()
    rows = [{"user": make_text(chance), "assistant": make_text(chance)} for _ in range(130)]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows[:120:40], *rows[120:]]))
    for number in range(3):
        some = rows[40 * number : 40 * number + 40]
        (folder / f"s{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    base = save_chat_base(tmp_path / "base", folder / "s0.jsonl")
    settings = [each for each in SMALL if not each.startswith("model.scratch")]
    return (
        *("sft", *settings, f"model.path={base}", f"data.train={folder}/*.jsonl", f"data.validation={tmp_path}/val.jsonl"),
        *("data.validation_fraction=null", "train.num_train_epochs=null", "train.max_length=128", "eval.base=false"),
    )


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_stream_of_conversations_goes_on_as_one_of_documents_does(packing, run_recipe, conversations, tmp_path):
    settings = (*conversations, f"train.packing={packing}", "data.stream_part=2", "train.max_steps=6")
    report = check_resumed(run_recipe, settings, tmp_path, (2, 4) if packing == "false" else (2,))
    counts = report["data"]["train"]
    assert counts["parts"] == 3
    assert counts["held_out"] == 1, "the row of the first shard that validation has too"
