"""Runs that stream: stopped anywhere, they end with the weights, the losses and the counts of one that was not."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from models.scratch_models import save_chat_base

from hf_finetune.data import cache
from hf_finetune.data.streaming.feed import PartFeed
from hf_finetune.data.streaming.shards import order_shards
from hf_finetune.errors import CannotWriteError, ConfigError, DataError
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
        rows = [{"text": make_text(chance)} for _ in range(6)]
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
    run_recipe, documents, shards, tmp_path, datasets_cache
):
    cache = datasets_cache / "hf_finetune"
    before = set(cache.glob("part-*"))  # of other tests
    for path in (*shards.glob("*.jsonl"), tmp_path / "val.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(["[1]\n", *lines[:2], "[2]\n", "[3]\n", *lines[2:], '{"text": 5}\n']))
    report = check_resumed(run_recipe, (*documents, "data.on_bad_line=skip"), tmp_path, (2, 4, 6))
    check_left_out(report, tmp_path, shards)
    counts = report["data"]["train"]
    assert (counts["shards"], counts["parts"]) == (4, 3)
    assert report["train"]["epochs"] == pytest.approx(counts["passes"], abs=1e-3)
    assert set(cache.glob("part-*")) == before, "trained parts are not kept"
    card = (tmp_path / "run" / "README.md").read_text()
    assert (
        f"train was a stream of 4 shards, of which {counts['rows']} rows, {counts['tokens']:,} tokens were read" in card
    )
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000

    prints = read_row_prints(tmp_path / "run")
    assert len(prints.parts) == 3
    distinct = {value for part in prints.parts for value in part.tolist()}
    assert len(distinct) >= counts["rows"] - 4, "all rows that were read"
    assert len(read_row_prints(tmp_path / "cut6").parts) == 3, "none twice"


def check_left_out(report: dict, tmp_path: Path, shards: Path) -> None:
    """The lines that are no rows are named once, in the order in which they were read, whether a run was resumed."""
    whole = (tmp_path / "run" / "rejected_lines.jsonl").read_text()
    for step in (2, 4, 6):
        assert (tmp_path / f"cut{step}" / "rejected_lines.jsonl").read_text() == whole
    named = [(Path(each["file"]).name, each["line"]) for each in map(json.loads, whole.splitlines())]
    of_pass = [(f"s{turn}.jsonl", line) for turn in order_shards(4, 42, 0) for line in (1, 4, 5, 10)]
    count = report["data"]["train"]["rejected"]
    assert named == [("val.jsonl", line) for line in (1, 4, 5, 10)] + of_pass[:count]
    assert count > 4


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
        *("sft", *settings, f"model.path={base}"),
        *(f"data.train={folder}/*.jsonl", f"data.validation={tmp_path}/val.jsonl"),
        *("data.validation_fraction=null", "train.num_train_epochs=null", "train.max_length=128", "eval.base=false"),
    )


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_stream_of_conversations_goes_on_as_one_of_documents_does(packing, run_recipe, conversations, tmp_path):
    settings = (*conversations, f"train.packing={packing}", "data.stream_part=2", "train.max_steps=6")
    report = check_resumed(run_recipe, settings, tmp_path, (2, 4) if packing == "false" else (2,))
    counts = report["data"]["train"]
    assert counts["parts"] == 3
    assert counts["held_out"] == 1, "the row of the first shard that validation has too"


def find_later_shard(shards: Path, turn: int = 1) -> Path:
    return shards / f"s{order_shards(4, 42, 0)[turn]}.jsonl"


def read_weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_bad_line_ends_the_run_behind_a_checkpoint_and_it_goes_on_once_the_line_is_mended(
    run_recipe, documents, shards, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("hf_finetune.data.streaming.stream.CHUNK_BYTES", (500, 500))
    run_recipe(*documents, f"output_dir={tmp_path}/whole", "train.save_steps=100")
    shard = find_later_shard(shards)
    good = shard.read_text()
    lines = good.splitlines(keepends=True)
    lines[3] = '{"text": 5}\n'
    shard.write_text("".join(lines))
    with pytest.raises(DataError, match=rf"{shard}:4: text: `text` must be string, found int"):
        run_recipe(*documents, "train.save_steps=100")
    assert "is left out" not in capsys.readouterr().err
    saved = [path.name for path in (tmp_path / "run").glob("checkpoint-*")]
    assert len(saved) == 1
    assert int(saved[0].removeprefix("checkpoint-")) % 4 == 0, "at the end of a part"
    shard.write_text(good)
    run_recipe(*documents, "train.save_steps=100")
    assert read_weights(tmp_path / "run") == read_weights(tmp_path / "whole")

    lines[3] = json.dumps({"text": "a" * 2_000}) + "\n"
    shard.write_text("".join(lines))
    with pytest.raises(DataError, match=rf"{shard}:4: the line has 2,012 bytes, more than the limit of 1,000"):
        run_recipe(*documents, "data.max_line_bytes=1000", f"output_dir={tmp_path}/long")
    report = run_recipe(
        *(*documents, "data.max_line_bytes=1000", "data.on_bad_line=skip", f"output_dir={tmp_path}/skipped")
    )
    assert report["data"]["train"]["rejected"] == 1


def test_a_shard_that_vanishes_is_named_and_the_run_goes_on_once_it_is_back(
    run_recipe, documents, shards, tmp_path, monkeypatch
):
    monkeypatch.setattr("hf_finetune.data.streaming.stream.CHUNK_BYTES", (500, 500))
    run_recipe(*documents, f"output_dir={tmp_path}/whole")
    shard = find_later_shard(shards)
    content, begin = shard.read_bytes(), PartFeed.begin

    def lose(feed: PartFeed) -> None:
        shard.unlink(missing_ok=True)
        begin(feed)

    monkeypatch.setattr(PartFeed, "begin", lose)
    with pytest.raises(DataError, match=rf"{shard}: the shard is not there any more; put it back"):
        run_recipe(*documents)
    monkeypatch.setattr(PartFeed, "begin", begin)
    with pytest.raises(DataError, match=rf"{shard.name}: data.train: the shard is not there any more; put it back"):
        run_recipe(*documents)
    shard.write_bytes(content)
    (shards / "new.jsonl").write_bytes(content)
    with pytest.raises(
        DataError, match=r"new\.jsonl: data.train: the shard was not there when the run began; take it away"
    ):
        run_recipe(*documents)
    (shards / "new.jsonl").unlink()
    run_recipe(*documents)
    assert read_weights(tmp_path / "run") == read_weights(tmp_path / "whole")


def test_rows_that_changed_behind_a_checkpoint_are_not_gone_on_with(run_recipe, documents, shards, tmp_path):
    run_recipe(*documents)
    cut_back(tmp_path / "run", tmp_path / "cut", 2)
    first = find_later_shard(shards, 0)
    first.write_text(first.read_text().replace("a", "b", 1))
    with pytest.raises(DataError, match=r"the rows that the checkpoint stands in are others now \(from .*jsonl"):
        run_recipe(*documents, f"output_dir={tmp_path}/cut")
    with pytest.raises(ConfigError, match=r"data\.stream: a step of 8 rows, and the run began with 4"):
        run_recipe(
            *(*documents, f"output_dir={tmp_path}/cut", "train.per_device_train_batch_size=8"), allow_changed=True
        )


def test_a_full_disk_leaves_nothing_half_written_and_the_steps_before_are_kept(
    run_recipe, documents, tmp_path, monkeypatch, datasets_cache
):
    write = cache._write_dataset

    def fill(arrow: Path, *args, **kwargs) -> None:
        if arrow.name.startswith("part-") and (tmp_path / "run" / "manifest.json").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(arrow, *args, **kwargs)

    monkeypatch.setattr(cache, "_write_dataset", fill)
    what = "a part of the stream cannot be written .* No space left on device; make room"
    with pytest.raises(CannotWriteError, match=what):
        run_recipe(*documents)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-4")]
    assert not list((datasets_cache / "hf_finetune").glob(".part-*"))


def test_two_processes_go_on_with_the_parts_of_one(run_recipe, documents, tmp_path, project_root, preloaded):
    one = run_recipe(*documents)
    cut_back(tmp_path / "run", tmp_path / "two", 6)  # in the middle of the second part
    command = ["accelerate", "launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
    command += ["recipes/continued_pretraining.py", "recipes/configs/char_model.yaml", "--allow-changed"]
    command += [each for each in documents[1:] if "batch_size" not in each]
    command += ["train.per_device_train_batch_size=2", f"output_dir={tmp_path}/two", "train.use_cpu=true"]
    done = subprocess.run(command, cwd=project_root, env=preloaded, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "report.json").read_text())
    assert two["distributed"]["processes"] == 2
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert two["data"]["train"] == one["data"]["train"]
    assert two["train"]["seen"] == one["train"]["seen"]
