"""Peak memory and speed of reading a corpus as a stream, part by part, at two sizes of it.

    python benchmarks/stream_scale.py --megabytes 100 1000

Documents of random words are written as JSONL into shards of 50 MB in a temporary folder. A new process reads each
corpus once as a run with `data.stream` does, looks at every token of each part, and trains nothing. Memory is the peak
of that process (RSS, the pages of mapped files among it); the ratio is that of the last size to the first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

SHARD_BYTES = 50_000_000
BLOCK, ROWS_PER_STEP = 1_024, 8
VOCABULARY = 4_096


def write_shards(folder: Path, size: int) -> None:
    """Write shards of `size` bytes in all."""
    rng, written = random.Random(1), 0
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgkjqxz", k=rng.randint(2, 9))) for _ in range(20_000)]
    for number in range(-(-size // SHARD_BYTES)):
        with (folder / f"shard-{number:04}.jsonl").open("w", encoding="utf-8") as shard:
            full = min(size, (number + 1) * SHARD_BYTES)
            while written < full:
                line = json.dumps({"text": " ".join(rng.choices(words, k=rng.randint(50, 600)))}) + "\n"
                written += shard.write(line)


def read_stream(folder: Path) -> None:
    """Read the shards of a folder once, and print what it took as JSON."""
    from hf_finetune.config.sections import DataSection
    from hf_finetune.data import load_splits, pack_splits
    from hf_finetune.models.tokenizer_training import train_tokenizer

    with next(folder.glob("*.jsonl")).open(encoding="utf-8") as shard:
        tokenizer = train_tokenizer("bpe", [json.loads(next(shard))["text"] for _ in range(300)], VOCABULARY)
    data = DataSection(train=f"{folder}/*.jsonl", stream=True)
    args = SimpleNamespace(train_batch_size=ROWS_PER_STEP, world_size=1, gradient_accumulation_steps=1, seed=1)
    args.data_seed, args.max_steps, args.resume_from_checkpoint = None, 10**6, None
    run = SimpleNamespace(data=data, output_dir=str(folder), train={})
    began = time.perf_counter()
    splits = load_splits(data, "document", 1, trained=(run, args))
    rows = pack_splits({}, tokenizer, BLOCK, isolate=False, stream=splits.stream)[0]["train"]
    tokens = part = 0
    while True:
        tokens += sum(len(ids) for some in rows.with_format("numpy").iter(200) for ids in some["input_ids"])
        part += 1
        if rows.feed.passes >= 1:
            break
        rows.feed.select(part)
        rows.show()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"mib": peak, "tokens": tokens, "parts": part, "s": time.perf_counter() - began}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1_000])
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read is not None:
        read_stream(given.read)
        return
    peaks = []
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
            write_shards(Path(folder), megabytes * 1_000_000)
            command = [sys.executable, __file__, "--read", folder]
            env = {**os.environ, "HF_DATASETS_CACHE": cache, "HF_HUB_OFFLINE": "1"}
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        peaks.append(found["mib"])
        speed = found["tokens"] / found["s"]
        print(f"{megabytes:,} MB: {found['mib']:,.0f} MiB, {found['parts']} parts, {speed:,.0f} tokens/s")
    print(f"ratio of memory: {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
