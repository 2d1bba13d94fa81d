"""Lines that are left out of a stream: each is named once, whatever is read again, and wherever a run was killed."""

from __future__ import annotations

import json
import random
from itertools import islice, pairwise
from pathlib import Path

import pytest
from data.streaming.opened_streams import SEED, open_documents

from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.json_line import LineError
from hf_finetune.data.reading.reader import LineCounts
from hf_finetune.data.streaming import stream
from hf_finetune.data.streaming.left_out import LeftOutNames, LineTally, iterate_named
from hf_finetune.data.streaming.position import Position
from hf_finetune.data.streaming.shards import order_shards
from hf_finetune.folders import REJECTED_LINES
from hf_finetune.models.tokenizer_training import train_tokenizer

BAD = (b"[1]", b'{"text": 5}', b'{"text": "\xff"}')
COUNT = 4


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("char", iter(["abcdefgh "]), None)


def write_shard(path: Path, chance: random.Random, rows: int) -> list[int]:
    """Write rows, bad lines and blank ones in a mixture; the last lines are bad. Returns the lines that are."""
    kinds = ["row"] * rows + ["bad"] * 12 + ["blank"] * 3
    chance.shuffle(kinds)
    kinds += ["bad"] * 4
    row = '{{"text": "{}"}}'.format
    made = {
        "row": lambda: row("".join(chance.choices("abcdefgh ", k=chance.randint(5, 60)))).encode(),
        "bad": lambda: chance.choice(BAD),
        "blank": lambda: b"",
    }
    path.write_bytes(b"".join(made[kind]() + b"\n" for kind in kinds))
    return [line for line, kind in enumerate(kinds, 1) if kind == "bad"]


@pytest.fixture
def streamed(tmp_path, tokenizer, monkeypatch):
    """The rows of shards with bad lines, of which one has no row; and those lines, in the order of the pass."""
    monkeypatch.setattr(stream, "CHUNK_BYTES", (300, 300))
    monkeypatch.setattr("hf_finetune.data.reading.lines.CHUNK_BYTES", 200)
    chance, folder = random.Random(3), tmp_path / "shards"
    folder.mkdir()
    bad = [write_shard(folder / f"s{number}.jsonl", chance, 0 if number == 1 else 25) for number in range(COUNT)]
    data = DataSection(train=f"{folder}/*.jsonl", stream=True, stream_part=5, on_bad_line="skip", format="text")
    splits, rows = open_documents(data, tmp_path, tokenizer)
    return (
        splits.stream,
        rows,
        [(f"s{turn}.jsonl", line) for turn in order_shards(COUNT, SEED, 0) for line in bad[turn]],
    )


def read_names(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / REJECTED_LINES).read_text().splitlines()
    return [(Path(each["file"]).name, each["line"]) for each in map(json.loads, lines)]


def test_each_line_is_named_once_and_counted_in_each_pass(streamed, tmp_path, caplog):
    source, rows, bad = streamed
    names = LeftOutNames(tmp_path, source.locate)
    number = counted = 0
    while (part := rows.feed.select(number)).end.pass_number < 2:
        names.add(number, part.left_out)
        number, counted = number + 1, counted + part.left_out.count
    assert read_names(tmp_path) == bad
    assert part.start.read["rejected"] == counted > 1.5 * len(bad)
    assert (tmp_path / REJECTED_LINES).stat().st_mode & 0o077 == 0
    said = [line for line in caplog.messages if "left out" in line]
    for shard in range(COUNT):
        of_shard = [line for line in said if f"s{shard}.jsonl:" in line]
        assert [": more lines are" in line for line in of_shard] == [False] * 5 + [True]
    lines = [line.partition(" is left out")[0].rpartition("/")[2] for line in said if " is left out" in line]
    assert lines == [f"{shard}:{line}" for shard, line in bad if line in [each for of, each in bad if of == shard][:5]]


def test_a_chunk_that_is_read_from_its_own_place_counts_the_same_lines(streamed):
    source, _, bad = streamed
    reader = source._read(300)
    chunks = list(islice(reader.iterate(Position()), 60))
    assert sum(chunk.rejected for chunk in chunks if not chunk.end.pass_number) > 0.8 * len(bad)
    for before, chunk in pairwise(chunks):
        assert next(reader.iterate(before.end)).rejected == chunk.rejected


def test_a_part_that_is_made_again_has_the_same_lines(streamed):
    _, rows, _ = streamed
    for number in range(8):
        part = rows.feed.select(number)
        start = Position.from_dict(json.loads(json.dumps(part.start.as_dict())))
        found = list(part.left_out.iterate())
        part.remove()
        again = rows.feed._build(start, lambda: False)
        assert list(again.left_out.iterate()) == found
        assert again.end.read == part.end.read


def test_wherever_a_run_is_killed_the_next_one_ends_with_the_same_file(streamed, tmp_path):
    source, rows, _ = streamed
    path, own = tmp_path / REJECTED_LINES, b'{"file": "val.jsonl", "line": 3, "reason": "not valid JSON"}\n'
    path.write_bytes(own)  # of a file that is no shard
    names, found, ends = LeftOutNames(tmp_path, source.locate), [], [len(own)]
    for number in range(5):
        found.append(rows.feed.select(number).left_out)
        names.add(number, found[-1])
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for number in range(5):  # from which the run goes on: it was killed in that part, or in a later one
        for left in (ends[number], ends[number] + 7, ends[number + 1], len(whole) - 1, len(whole)):
            path.write_bytes(whole[: max(left, ends[number])])
            names = LeftOutNames(tmp_path, source.locate)
            for later in range(number, 5):
                names.add(later, found[later])
            assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])
    assert list(iterate_named(path)) == whole.splitlines(keepends=True)[1:-1], "neither the other file nor a torn line"


def test_lines_without_a_row_between_them_take_no_memory_each():
    tally, kept = LineCounts(), []
    lines = LineTally(lambda *line: kept.append(line))
    tally.keep = lines.add
    lines.enter(tally, 0, 0, 1)
    for line in range(1, 2_000, 2):  # and a blank one behind each
        tally.lines += 1
        tally.reject(line, LineError("bad", "", code="HF010"))
        tally.lines, tally.blank = tally.lines + 1, tally.blank + 1
    assert len(lines._runs) == 1
    tally.lines, tally.accepted = tally.lines + 1, tally.accepted + 1
    tally.lines += 1
    tally.reject(2_002, LineError("bad", "", code="HF010"))
    assert (lines.count_until(2_001), lines.count_until(2_002), len(kept)) == (1_000, 1, 1_001)


def test_a_run_without_bad_lines_has_no_file(tmp_path, tokenizer):
    (tmp_path / "s.jsonl").write_text('{"text": "abc abc abc abc"}\n' * 20)
    splits, rows = open_documents(
        DataSection(train=f"{tmp_path}/s.jsonl", stream=True, stream_part=2), tmp_path, tokenizer
    )
    with_names = LeftOutNames(tmp_path, splits.stream.locate)
    with_names.add(0, rows.feed.part.left_out)
    assert not (tmp_path / REJECTED_LINES).exists()
