"""Rows per second that are rendered, masked and tokenized: templates in the worker against templates in the process.

    python benchmarks/template_worker.py --rows 10000 --rounds 3
    python benchmarks/template_worker.py --rows 10000 --rounds 3 --against ../an-older-checkout

Conversations of one to three exchanges of made-up words, under TRL's Qwen3 template. The peer is the same template,
trusted by its hash, or this benchmark's work in another checkout of the project. They take turns, each in a process of
its own; of each the median counts. Then a worker is started a few times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_rows(path: Path, rows: int) -> None:
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnop", k=dice.randint(2, 9))) for _ in range(5_000)]

    def say(role: str, most: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(dice.choices(words, k=dice.randint(3, most))) + "."}

    with path.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            exchanges = dice.choice([1, 1, 1, 2, 3])
            messages = [turn for _ in range(exchanges) for turn in (say("user", 30), say("assistant", 80))]
            out.write(json.dumps({"messages": messages}) + "\n")


def work(path: Path, *, trusted: bool) -> float:
    """Tokenize the rows of a file: rows per second."""
    import datasets
    from chat.chat_families import FAMILIES, tokenizer_of

    from hf_finetune.chat.template import get_training_template
    from hf_finetune.config.sections import DataSection
    from hf_finetune.data.splitting.splits import load_splits
    from hf_finetune.data.tokenization.conversations import tokenize_conversations

    [family] = [family for family in FAMILIES if family.name == "qwen3"]
    tokenizer, data = tokenizer_of(family), DataSection(train=str(path))
    # With a look at a text: what is written around texts would else be rendered once, for all rows of a shape.
    template = "{%- if messages[0].content[0] %}{%- endif %}" + get_training_template(tokenizer)
    if trusted:
        from hf_finetune.chat.rendering import trust_template

        trust_template(template)
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = folder
        splits = load_splits(data, "conversation", seed=0)
        began = time.perf_counter()
        examples, _ = tokenize_conversations(splits, tokenizer, template, data, 4_096)
        return len(examples["train"]) / (time.perf_counter() - began)


def start_worker() -> float:
    """Seconds from nothing to the first text."""
    from hf_finetune.chat.rendering import end_worker, render_rows

    end_worker()
    began = time.perf_counter()
    render_rows("{{ messages|length }}", {}, [{"messages": [], "tools": None, "asks": [[0, False, []]]}])
    return time.perf_counter() - began


def measure(path: Path, checkout: Path, *, trusted: bool) -> float:
    paths = os.pathsep.join([str(checkout), str(ROOT / "tests")])
    command = [sys.executable, __file__, "--work", str(path), *(["--trusted"] if trusted else [])]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of the project")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trusted", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        print(work(asked.work, trusted=asked.trusted))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        write_rows(path, asked.rows)
        ours, peer = [], []
        for _ in range(asked.rounds):
            ours.append(measure(path, ROOT, trusted=False))
            peer.append(measure(path, (asked.against or ROOT).resolve(), trusted=asked.against is None))
    for name, rates in (("the worker", ours), ("the peer", peer)):
        print(f"{name}: {statistics.median(rates):,.0f} rows/s ({min(rates):,.0f} to {max(rates):,.0f})")
    print(f"ratio: {statistics.median(ours) / statistics.median(peer):.2f}")
    print(f"a worker starts in {statistics.median(start_worker() for _ in range(5)):.2f} s")


if __name__ == "__main__":
    main()
