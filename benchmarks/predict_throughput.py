"""`hf-finetune predict` against the bare forward pass: the same model, the same batches, one run.

    python benchmarks/predict_throughput.py [--model FOLDER] [--rows FILE.jsonl] [--rounds 5] [--million]

The bare side has all its batches as tensors before the clock starts, and does nothing but call the model and take the
logits. Ours reads JSONL, checks it, tokenizes, sorts, batches, calls the model, writes every row and puts it into the
order of the file. They take turns; medians of the wall times are compared. Without a model, one of the shape of
all-MiniLM-L6-v2 (22 M parameters) with random weights and short texts of random words is measured.

`--million` streams a million short rows through a small model as well, and prints the memory of the process after a
tenth of them and at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

from hf_finetune.evaluation.prediction.predict import (
    Classifier,
    PredictionOptions,
    encode_windows,
    iterate_batches,
    open_classifier,
    predict_file,
)
from hf_finetune.evaluation.prediction.rows import read_windows
from hf_finetune.models.tokenizer_training import train_tokenizer

WORDS = [f"word{number}" for number in range(2_000)]
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1_536}
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TOKENS = 30_522  # of MiniLM's vocabulary
MILLION = 1_000_000


def make_model(folder: Path, shape: dict[str, int], vocab_size: int) -> str:
    tokenizer = train_tokenizer("bpe", WORDS, 2_000)
    torch.manual_seed(0)
    config = BertConfig(**shape, vocab_size=max(vocab_size, len(tokenizer)), pad_token_id=tokenizer.pad_token_id)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_rows(path: Path, number: int) -> str:
    rng = random.Random(0)
    block = [{"id": row, "text": " ".join(rng.choices(WORDS, k=rng.randint(3, 20)))} for row in range(10_000)]
    lines = "".join(f"{json.dumps(row)}\n" for row in block[: min(number, len(block))])
    with path.open("w", encoding="utf-8") as file:
        for _ in range(max(1, number // len(block))):
            file.write(lines)
    return str(path)


@torch.inference_mode()
def bare_seconds(classifier: Classifier, batches: list[dict[str, torch.Tensor]]) -> float:
    started = time.perf_counter()
    for inputs in batches:
        classifier.model(**inputs).logits.cpu()
    return time.perf_counter() - started


def compare(model: str, rows: str, output: Path, rounds: int) -> None:
    options = PredictionOptions()
    classifier = open_classifier(model, options)
    windows = encode_windows(classifier, read_windows(Path(rows), rows, "predicted_"))
    batches = [inputs for _, encoded in windows for _, inputs in iterate_batches(classifier, encoded)]
    bare_seconds(classifier, batches[:20])
    ours, bare = [], []
    for _ in range(rounds):
        with output.open("wb") as file:
            facts = predict_file(model, rows, file, PredictionOptions(prefix="predicted_"))
        ours.append(facts.seconds)
        bare.append(bare_seconds(classifier, batches))
    mine, theirs = statistics.median(ours), statistics.median(bare)
    print(f"{theirs / mine:.2f} of a bare forward pass, {len(batches):,} batches of {facts.rows:,} rows")
    print(f"predict {facts.rows / mine:,.0f} rows a second, bare {facts.rows / theirs:,.0f}")


class MemoryMeter(io.RawIOBase):
    """Counts rows, keeps none, and notes the memory of the process."""

    def __init__(self) -> None:
        self.notes: list[tuple[int, float]] = [(0, 0.0)]

    def writelines(self, lines: Iterable[bytes]) -> None:  # type: ignore[override]
        rows = self.notes[-1][0] + sum(1 for _ in lines)
        self.notes.append((rows, psutil.Process().memory_info().rss / 1e6))


def stream_a_million(folder: Path) -> None:
    model, meter = make_model(folder / "small", SMALL, 0), MemoryMeter()
    facts = predict_file(model, write_rows(folder / "million.jsonl", MILLION), meter, PredictionOptions())  # type: ignore[arg-type]
    early = max(memory for rows, memory in meter.notes if rows <= MILLION // 10)
    most = max(memory for _, memory in meter.notes)
    print(f"{facts.rows:,} rows: at most {early:,.0f} MB in the first tenth, {most:,.0f} MB at all")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--million", action="store_true")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or make_model(folder / "minilm", MINILM, TOKENS)
        rows = arguments.rows or write_rows(folder / "rows.jsonl", 5_000)
        compare(model, rows, folder / "out.jsonl", arguments.rounds)
        if arguments.million:
            stream_a_million(folder)


if __name__ == "__main__":
    main()
