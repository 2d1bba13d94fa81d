"""Packing of tokenized rows into blocks: our best-fit decreasing against TRL's `pack_dataset(strategy="bfd")`.

    python benchmarks/packing_vs_trl.py [--rows 20000 200000] [--max-length 2048] [--rounds 5]
    python benchmarks/packing_vs_trl.py --jsonl instructions.jsonl --max-length 512

Rows have the lengths of conversations, log-normal around 250 tokens; with `--jsonl` they are rows of `instruction`,
`input` and `output` under a tokenizer trained on them. Both read one memory-mapped file and write another, and nothing
is taken from a cache. TRL packs each 1,000 rows by themselves unless it is told to take all of them at once: both ways
are measured. They take turns, each in a process of its own, and what counts is that one's processor time, and the
memory by which its peak rises, mapped pages among it. TRL would cut longer rows, so there are none.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, Features, List, Value
from instructions import make_base, read_conversations, rendered
from trl import pack_dataset

from hf_finetune.config.sections import ModelSection
from hf_finetune.data.tokenization.packing import pack_bfd
from hf_finetune.models.tokenizers import load_tokenizer

FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})
VOCABULARY = 32_000
MEDIAN_LENGTH, SPREAD = 250, 0.8  # of a log-normal distribution


@dataclass(frozen=True)
class Packed:
    seconds: float
    mebibytes: float
    blocks: int
    fill: float
    lengths: list[int]
    """Of the rows, sorted: the same as before if none is lost, cut or taken twice."""


def draw_rows(rows: int, max_length: int) -> list[Any]:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(MEDIAN_LENGTH), SPREAD, rows), 8, max_length).astype(int)
    return [rng.integers(0, VOCABULARY, length, np.int32) for length in lengths]


def tokenize_rows(jsonl: Path, folder: Path, max_length: int) -> list[Any]:
    rows = read_conversations(jsonl)[0]
    tokenizer = load_tokenizer(ModelSection(path=str(make_base(folder / "base", rows, hidden=64, layers=1))))
    return [ids.numpy()[:max_length] for ids, _ in rendered(rows, tokenizer)]


def write_rows(folder: Path, rows: int, jsonl: Path | None, max_length: int) -> list[int]:
    """Save rows whose labels are their ids; returns their lengths, sorted."""
    ids = tokenize_rows(jsonl, folder, max_length) if jsonl else draw_rows(rows, max_length)
    Dataset.from_dict({"input_ids": ids, "labels": ids}, features=FEATURES).save_to_disk(folder / "rows")
    return sorted(len(row) for row in ids)


def pack_ours(rows: Dataset, max_length: int) -> Dataset:
    return pack_bfd(rows, max_length)[0]


def pack_by_trl(rows: Dataset, max_length: int) -> Dataset:
    return pack_dataset(rows, max_length, "bfd", {"load_from_cache_file": False})


def pack_by_trl_at_once(rows: Dataset, max_length: int) -> Dataset:
    return pack_dataset(rows, max_length, "bfd", {"load_from_cache_file": False, "batch_size": None})


SYSTEMS: dict[str, Callable[[Dataset, int], Dataset]] = {
    "ours": pack_ours,
    "trl": pack_by_trl,
    "trl, all rows at once": pack_by_trl_at_once,
}


def measure(system: str, folder: str, max_length: int) -> Packed:
    rows = datasets.load_from_disk(folder)
    with tempfile.TemporaryDirectory() as cache:
        datasets.config.HF_DATASETS_CACHE = cache
        before, start = getrusage(RUSAGE_SELF).ru_maxrss, time.process_time()
        packed = SYSTEMS[system](rows, max_length)
        seconds, rise = time.process_time() - start, getrusage(RUSAGE_SELF).ru_maxrss - before
        lengths = [length for block in packed["seq_lengths"] for length in block]
    fill = sum(lengths) / (len(packed) * max_length)
    return Packed(seconds, rise / 1024, len(packed), fill, sorted(lengths))


def run_alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a process of its own, whose peak of memory starts at what this one has."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def compare(folder: str, lengths: list[int], max_length: int, rounds: int) -> None:
    taken: dict[str, list[Packed]] = {system: [] for system in SYSTEMS}
    for _ in range(rounds):
        for system, results in taken.items():
            results.append(run_alone(measure, system, folder, max_length))
    print(f"{len(lengths):,} rows of {sum(lengths):,} tokens into blocks of {max_length:,}")
    median: dict[str, Any] = {}
    for system, results in taken.items():
        median[system] = statistics.median(result.seconds for result in results)
        memory = statistics.median(result.mebibytes for result in results)
        one, lost = results[0], "" if results[0].lengths == lengths else ", ROWS LOST OR CUT"
        other = "" if len({(result.blocks, result.fill) for result in results}) == 1 else ", NOT THE SAME EACH TIME"
        figures = f"{median[system]:7.2f} s {memory:7.0f} MiB {one.blocks:8,} blocks {one.fill:8.2%} full"
        print(f"  {system:22} {figures}{lost}{other}")
    ratios = [median["ours"] / median[system] for system in ("trl", "trl, all rows at once")]
    print(f"ours / trl: {ratios[0]:.3f}, all rows at once {ratios[1]:.3f} (processor time, medians of {rounds})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--jsonl", type=Path, help="rows of instruction, input and output instead")
    parser.add_argument("--max-length", type=int, default=2_048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as temporary:
        for number in options.rows[:1] if options.jsonl else options.rows:
            folder = Path(temporary) / str(number)
            lengths = run_alone(write_rows, folder, number, options.jsonl, options.max_length)
            compare(str(folder / "rows"), lengths, options.max_length, options.rounds)


if __name__ == "__main__":
    main()
