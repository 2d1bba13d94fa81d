"""Rows per second and peak memory of what a run does with its files before training, at any number of rows.

    python benchmarks/data_scale.py --rows 100000 1000000 --tokens

Conversations of about 500 bytes are drawn from a pool of 100,000 by a seeded shuffle and written as JSONL into a
temporary folder, 2 % of them become the validation split. Each size is read twice by a new process: cold, and warm from
the cache that the first one filled; with `--tokens` they are tokenized and packed as well. Memory is that of all
processes together, each page counted once (PSS, with the pages of mapped files, which the system can take back).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

POOL = 100_000
WORDS_EACH = 70
SHARE = 0.02
SETTLED = 4.0
"""Seconds after which the sha256 of a file is kept: one that has just been written may be written again."""
STAGES = {
    "read_role": "reading and checks",
    "assign_rows": "splitting",
    "load_choice": "choice of rows (splitting, overlap, repeated rows and their file)",
    "drop_train_duplicates": "overlap",
    "count_repeated_rows": "repeated rows",
}


def make_pool(count: int) -> list[str]:
    """Make conversations, each a JSON line without its end: random words, of which a few are frequent."""
    rng = random.Random(1)
    words = [f"{rng.choice('bcdfglmnprst')}{rng.choice('aeiou')}{number:x}" for number in range(20_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    drawn = rng.choices(words, weights, k=count * WORDS_EACH)
    pool = []
    for number in range(count):
        said = drawn[number * WORDS_EACH : (number + 1) * WORDS_EACH]
        turns = [("user", said[:20]), ("assistant", said[20:])]
        pool.append(json.dumps({"messages": [{"role": role, "content": " ".join(text)} for role, text in turns]})[:-1])
    return pool


def write_rows(path: Path, rows: int) -> None:
    """Write `rows` conversations: each pass over the pool in another order, and with the number of the row in it."""
    pool, rng, written = make_pool(min(POOL, rows)), random.Random(2), 0
    with path.open("w", encoding="utf-8") as file:
        while written < rows:
            rng.shuffle(pool)
            for line in pool[: rows - written]:
                # `... lu12f"}]` -> `... lu12f n77"}]`: no row is a copy of another.
                file.write(f'{line[:-3]} n{written}"}}]}}\n')
                written += 1


class Sampler(threading.Thread):
    """The peak memory of this process and those below it, in bytes, five times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        me = psutil.Process()
        while True:
            self.peak = max(self.peak, sum(map(self._read, (me, *me.children(recursive=True)))))
            time.sleep(0.2)

    @staticmethod
    def _read(process: psutil.Process) -> int:
        try:
            # Forked processes share most of their pages, which RSS would count for each.
            return int(process.memory_full_info().pss)
        except psutil.Error:
            return 0


def tokenize(splits: Any, path: Path) -> None:
    """Tokenize the rows under ChatML, and pack them into blocks of 512 tokens."""
    from hf_finetune.chat.template import load_chat_template
    from hf_finetune.config.sections import DataSection
    from hf_finetune.data.tokenization.conversations import pack_examples, tokenize_conversations
    from hf_finetune.models.tokenizer_training import train_tokenizer

    with path.open() as lines:
        tokenizer = train_tokenizer("bpe", (line for line, _ in zip(lines, range(1_000), strict=False)), 4_000)
    data = DataSection(train=str(path), chat_template="chatml", too_long="cut")
    examples = tokenize_conversations(splits, tokenizer, load_chat_template(data, tokenizer), data, 512)
    pack_examples(*examples, 512, packing=True)


def measure(path: Path, folder: Path, *, tokens: bool) -> dict[str, Any]:
    """Read the rows as a run does, in this process: seconds of each stage, and the peaks."""
    from hf_finetune.config.sections import DataSection
    from hf_finetune.data.splitting import splits as stages
    from hf_finetune.data.splitting.seen_rows import keep_row_prints

    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **settings: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **settings)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin

        return call

    for function, name in STAGES.items():
        setattr(stages, function, timed(name, getattr(stages, function)))
    sampler = Sampler()
    sampler.start()
    begin = time.perf_counter()
    splits = stages.load_splits(DataSection(train=str(path), validation_fraction=SHARE), "conversation", seed=0)
    timed("manifest", splits.summarize)()
    timed("row prints", keep_row_prints)(folder, splits, resume=False)
    if tokens:
        timed("tokenizing and packing", tokenize)(splits, path)
    seconds["all"] = time.perf_counter() - begin
    return {"seconds": seconds, "peak": sampler.peak}


def run_child(path: Path, folder: Path, *, tokens: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(path), str(folder), *(["--tokens"] if tokens else [])]
    environment = os.environ | {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--tokens", action="store_true", help="tokenize and pack them as well")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(*options.child, tokens=options.tokens)))
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "rows.jsonl"
            write_rows(path, rows)
            time.sleep(SETTLED)
            print(f"{rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB")
            for state in ("cold", "warm"):
                found = run_child(path, Path(name), tokens=options.tokens)
                took = found["seconds"].items()
                stages = [f"{stage} {seconds:.1f} s ({rows / seconds:,.0f} rows/s)" for stage, seconds in took]
                print(f"  {state}: peak {found['peak'] / 1e6:,.0f} MB", *stages, sep="\n    ", flush=True)


if __name__ == "__main__":
    main()
