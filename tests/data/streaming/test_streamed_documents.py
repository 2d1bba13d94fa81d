"""A stream of documents in parts: the blocks of the plain packer, in the same order, wherever a part ends."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
import zstandard
from data.streaming.opened_streams import BLOCK, SEED, open_documents
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_finetune.config.sections import DataSection
from hf_finetune.data.streaming import feed, plan, stream
from hf_finetune.data.streaming.position import Position
from hf_finetune.data.streaming.shards import order_shards
from hf_finetune.data.tokenization.documents import group_into_blocks
from hf_finetune.errors import ConfigError, DataError
from hf_finetune.folders.record_kinds import SEEN
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.training.trainers import parts


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("char", iter(["abcdefghijklmnopqrstuvwxyz \n"]), None)


def make_texts(seed: int, count: int) -> list[str]:
    random.seed(seed)
    words = ["".join(random.choices("abcdefgh", k=random.randint(1, 9))) for _ in range(40)]
    return [" ".join(random.choices(words, k=random.randint(1, 12))) for _ in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> None:
    content = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    path.write_bytes(zstandard.compress(content) if path.suffix == ".zst" else content)


def write_paragraphs(path: Path, texts: list[str]) -> None:
    path.write_text("\n\n".join(text.replace(" ", "\n", 3) for text in texts) + "\n")


@pytest.mark.parametrize("kind", ["plain", "gz", "zst", "paragraphs", "isolated"])
def test_the_parts_together_are_the_blocks_of_all_documents_in_the_order_of_the_pass(
    kind, tmp_path, tokenizer, monkeypatch
):
    monkeypatch.setattr(stream, "CHUNK_BYTES", (300, 300))  # some rows: most parts end inside of a chunk
    monkeypatch.setattr("hf_finetune.data.reading.lines.CHUNK_BYTES", 200)
    ending = {"gz": ".jsonl.gz", "zst": ".jsonl.zst", "paragraphs": ".txt"}.get(kind, ".jsonl")
    texts = [make_texts(number, 30) for number in range(3)]
    for number, some in enumerate(texts):
        write = write_paragraphs if kind == "paragraphs" else write_jsonl
        write(tmp_path / f"s{number}{ending}", some)
    if kind == "paragraphs":
        texts = [[text.replace(" ", "\n", 3) for text in some] for some in texts]
    row_format = "paragraphs" if kind == "paragraphs" else "auto"
    data = DataSection(train=f"{tmp_path}/s*{ending}", stream=True, stream_part=3, format=row_format)
    isolate = kind == "isolated"
    _, rows = open_documents(data, tmp_path, tokenizer, isolate=isolate)
    ordered = [text for shard in order_shards(3, SEED, 0) for text in texts[shard]]
    expected, _ = group_into_blocks(Dataset.from_dict({"text": ordered}), tokenizer, BLOCK, isolate=isolate)

    found: list[dict] = []
    number = 0
    while len(found) < len(expected) - 1:  # of the last, which is short, the next pass makes a whole one
        rows.feed.select(number)
        rows.show()
        assert len(rows) == 12
        found += [drop_rows(each) for each in rows]
        number += 1
    assert found[: len(expected) - 1] == [drop_rows(each) for each in expected][:-1]
    assert len(list(tmp_path.glob("*"))) == 3, "nothing is written beside the shards"


def drop_rows(block: dict) -> dict:
    return {name: values for name, values in block.items() if name != "rows"}


def test_a_part_follows_from_its_position_alone(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(stream, "CHUNK_BYTES", (300, 300))
    for number in range(3):
        write_jsonl(tmp_path / f"s{number}.jsonl", make_texts(number, 30))
    data = DataSection(train=f"{tmp_path}/*.jsonl", stream=True, stream_part=3)
    _, rows = open_documents(data, tmp_path, tokenizer)
    made = []
    for number in range(30):  # over several passes
        part = rows.feed.select(number)
        made.append((json.loads(json.dumps(part.start.as_dict())), part.sha256))
    assert rows.feed.passes > 1
    for start, sha256 in made[::7]:
        again = rows.feed._build(Position.from_dict(start), lambda: False)
        assert again.sha256 == sha256
        again.remove()


def test_what_a_checkpoint_says_of_a_stream_is_looked_at_before_it_is_used(tmp_path, tokenizer):
    write_jsonl(tmp_path / "s.jsonl", make_texts(1, 30))
    _, rows = open_documents(DataSection(train=f"{tmp_path}/*.jsonl", stream=True, stream_part=3), tmp_path, tokenizer)
    saved = json.loads(json.dumps(rows.feed.save()))
    assert plan.read_saved(write_state(tmp_path, saved))[1].part == 0
    tokens = {"ids": [1], "starts": [0], "rows": [0]}
    broken = [
        *({}, saved | {"part": -1}, saved | {"examples": 0}, saved | {"chunk_bytes": 2**70}, saved | {"more": 1}),
        *(saved | {"start": saved["start"] | {"byte": "0"}}, saved | {"next": saved["next"] | {"carried": None}}),
        *(saved | {"next": saved["next"] | {"carried": tokens | each}} for each in ({"rows": []}, {"starts": [1]})),
    ]
    for each in broken:
        with pytest.raises(ConfigError, match="does not say where a stream stands; go on with the settings"):
            plan.read_saved(write_state(tmp_path, each))


def write_state(folder: Path, saved: dict) -> Path:
    seen = dict.fromkeys(("rows", "tokens", "trained_tokens"), 1)
    state = {"global_step": 3, "max_steps": 9, "epoch": 1.0, "log_history": []}
    state["stateful_callbacks"] = {plan.STREAM_KEY: saved, SEEN: seen}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_a_stream_of_blank_documents_ends(tmp_path, tokenizer):
    write_jsonl(tmp_path / "s.jsonl", [" "] * 20)
    with pytest.raises(DataError, match="no row of a whole pass gives an example"):
        open_documents(DataSection(train=f"{tmp_path}/*.jsonl", stream=True, stream_part=3), tmp_path, tokenizer)


def test_where_another_process_cannot_read_the_next_part_this_one_ends_too(tmp_path, tokenizer, monkeypatch):
    write_jsonl(tmp_path / "s.jsonl", make_texts(1, 30))
    _, rows = open_documents(DataSection(train=f"{tmp_path}/*.jsonl", stream=True, stream_part=3), tmp_path, tokenizer)
    monkeypatch.setattr(parts, "gather_object", lambda here: [*here, True])
    assert "process 1 cannot read the next part of the stream" in str(parts.select_part(rows, DataLoader(rows), 1))
    with pytest.raises(RuntimeError, match="a copy"):
        parts.select_part(rows, DataLoader(rows.select([0])), 2)


def test_a_part_that_the_trainer_has_waited_for_is_said(tmp_path, tokenizer, monkeypatch, caplog):
    write_jsonl(tmp_path / "s.jsonl", make_texts(1, 30))
    _, rows = open_documents(DataSection(train=f"{tmp_path}/*.jsonl", stream=True, stream_part=3), tmp_path, tokenizer)
    for number, seconds in enumerate((60.0, 0.0), 1):
        monkeypatch.setattr(feed, "SECONDS_UNSAID", seconds)
        rows.feed.begin()
        with caplog.at_level("INFO"):
            rows.feed.select(number)
    rows.feed.close(finished=True)
    said = [line for line in caplog.messages if "was waited for" in line]
    assert [line.partition(" was waited for, for 0 s")[0] for line in said] == ["part 3"]


def test_the_id_of_a_row_says_its_shard_and_its_line(tmp_path, tokenizer):
    for number in range(3):
        write_jsonl(tmp_path / f"s{number}.jsonl", [f"{'abc'[number]}{'h' * line}" for line in range(1, 20)])
    data = DataSection(train=f"{tmp_path}/*.jsonl", stream=True, stream_part=3)
    splits, rows = open_documents(data, tmp_path, tokenizer)
    places = [splits.locate("train", row) for row in dict.fromkeys(row for block in rows for row in block["rows"])]
    texts = tokenizer.decode([token for block in rows for token in block["input_ids"][1:]]).split(tokenizer.eos_token)
    shard = order_shards(3, SEED, 0)[0]
    assert places[0] == (f"{tmp_path}/s{shard}.jsonl", 1)
    found = [text.removeprefix(tokenizer.bos_token) for text in texts[1:5]]
    assert found == ["abc"[shard] + "h" * line for _, line in places[1:5]]
