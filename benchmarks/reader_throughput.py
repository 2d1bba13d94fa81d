"""How fast JSONL is read and checked on one core, against json.loads line by line in the same run.

    python benchmarks/reader_throughput.py [--megabytes 300] [--rounds 5]

Ours is decoding, the check of the format and of duplicate keys, and the count of every line; json.loads decodes and
checks nothing. The two take turns and the medians of their processor time are compared, so that other programs on the
machine count little. Neither converts to Arrow.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hf_finetune.data.reading.format_detection import choose_format
from hf_finetune.data.reading.reader import LineCounts, read_first_row, read_rows
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings

MAX_LINE_BYTES = 16 * 1024 * 1024
PROSE = """the of and to in is that for it as with on be at by this from or an are which one all were their there been
has will would each about how up out them then many some so her like him into time look two more write go see "no" way
number could people my than first water call who oil its now find long down day did get come made may not"""
WORDS = PROSE.split(" ")
OTHER_WORDS = ["naïve", "Straße", "über", "東京", "データ"]
SHARE_OF_OTHER_TEXTS = 0.2  # texts with characters beyond ASCII


def prose(rng: random.Random, words: int) -> str:
    other = OTHER_WORDS if rng.random() < SHARE_OF_OTHER_TEXTS else []
    return " ".join(rng.choices(WORDS + other, k=words))


def text_rows(rng: random.Random) -> Iterator[dict[str, object]]:
    while True:
        yield {"text": prose(rng, rng.randint(20, 300))}


def message_rows(rng: random.Random) -> Iterator[dict[str, object]]:
    while True:
        turns = [("user", 30), ("assistant", 120)] * rng.randint(1, 3)
        yield {"messages": [{"role": role, "content": prose(rng, words)} for role, words in turns]}


def write_rows(path: Path, rows: Iterator[dict[str, object]], size: int) -> None:
    """Write about `size` bytes: a few megabytes of distinct rows, again and again."""
    block = b""
    while len(block) < min(size, 8_000_000):
        block += json.dumps(next(rows), ensure_ascii=False).encode() + b"\n"
    with path.open("wb") as file:
        for _ in range(max(1, size // len(block))):
            file.write(block)


def read_ours(path: Path) -> int:
    found = read_first_row(path, path.name, RowSettings(MAX_LINE_BYTES))
    assert found is not None
    decoder = RowDecoder(choose_format("auto", found[0], None, path.name, found[1]), (), found[0])
    tally = LineCounts()
    for _ in read_rows(path, path.name, decoder, RowSettings(MAX_LINE_BYTES), tally):
        pass
    assert tally.accepted == tally.lines
    return tally.accepted


def read_with_json(path: Path) -> int:
    with path.open("rb") as file:
        return sum(isinstance(json.loads(line), dict) for line in file)


def seconds(read: Callable[[Path], int], path: Path) -> float:
    start = time.process_time()
    read(path)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    speeds: dict[str, list[float]] = {"ours": [], "json.loads": []}
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("text", text_rows), ("messages", message_rows)):
            path = Path(folder) / f"{name}.jsonl"
            write_rows(path, rows(random.Random(0)), arguments.megabytes * 500_000)
            assert read_ours(path) == read_with_json(path)
            taken = [(seconds(read_ours, path), seconds(read_with_json, path)) for _ in range(arguments.rounds)]
            for system, times in zip(speeds, zip(*taken, strict=True), strict=True):
                speeds[system].append(path.stat().st_size / 1e6 / statistics.median(times))
                print(f"{name:10} {system:12} {speeds[system][-1]:7.0f} MB/s")
    ours, theirs = (statistics.harmonic_mean(each) for each in speeds.values())
    print(f"{ours / theirs:.2f} times json.loads ({ours:.0f} MB/s against {theirs:.0f} MB/s)")


if __name__ == "__main__":
    main()
