"""Spam or not: `recipes/configs/spam.yaml` against a plain training loop, on the same rows; scores over several seeds.

    python benchmarks/spam_vs_plain.py --rows sms-spam.jsonl --encoder all-MiniLM-L6-v2
    python benchmarks/spam_vs_plain.py --rows sms-spam.jsonl --encoder all-MiniLM-L6-v2 --protocol full
    python benchmarks/spam_vs_plain.py --rows sms-spam.jsonl --protocol scratch

Rows are objects of `text` and `label`, ham or spam. balanced: as many ham as spam, a seeded choice; full: all; both are
split 70/10/20, each label's share in every split. Equal messages fall into one split; `--copies` splits as most
published figures do, where copies of a training message may be in the test (of 5,574 messages 403 are copies).
scratch: balanced, and a ScratchGPT from random weights in place of the encoder. The plain loop is what a tutorial has:
AdamW in float32, batches of 16 in random order, each padded to its longest row. Ratio of the training times first, both
of the first seed, in turns; then the test scores of each seed, their mean and deviation.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits

ROOT = Path(__file__).resolve().parent.parent
SPLIT = {"validation_fraction": 0.1, "test_fraction": 0.2, "stratify_by": "label"}
PLAIN_BATCH, PLAIN_RATE = 16, 5e-5
SHOWN = ("accuracy", "matthews_correlation", "expected_calibration_error_before_scaling", "expected_calibration_error")
# Of the protocol `scratch`, in place of model.path.
SCRATCH = {
    "model.path": None,
    "model.scratch": {"preset": "nano", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "model.tokenizer": {"train": {"kind": "bpe", "vocab_size": 1024}},
    "train.learning_rate": 5e-3,  # random weights take far more than pretrained ones
    "train.num_train_epochs": 10,
}


def write_rows(arguments: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Write the rows of a protocol to `folder`; returns the data section that reads and splits them."""
    rows = [json.loads(line) for line in arguments.rows.read_text(encoding="utf-8").splitlines()]
    drawn = random.Random(seed)
    if arguments.protocol != "full":
        spam = [row for row in rows if row["label"] == "spam"]
        rows = drawn.sample([row for row in rows if row["label"] == "ham"], len(spam)) + spam
    if not arguments.copies:
        return {"train": write(folder / "rows.jsonl", rows), **SPLIT}
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for label in ("ham", "spam"):
        some = [row for row in rows if row["label"] == label]
        drawn.shuffle(some)
        train, validation = round(0.7 * len(some)), round(0.8 * len(some))
        for name, part in zip(parts, (some[:train], some[train:validation], some[validation:]), strict=True):
            parts[name] += part
    files = {name: write(folder / f"{name}.jsonl", part) for name, part in parts.items()}
    return {**files, **dict.fromkeys(SPLIT)}


def write(path: Path, rows: list[dict[str, str]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def ours(data: dict[str, Any], folder: Path, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The report of a run of spam.yaml as a user starts it."""
    given = {f"data.{name}": value for name, value in data.items()}
    given |= {"output_dir": str(folder), "train.seed": seed, **settings}
    command = [sys.executable, "-m", "hf_finetune.cli", "train", "recipes/configs/spam.yaml", "--on", "cpu"]
    command += [f"{key}={json.dumps(value)}" for key, value in given.items()]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def plain(data: dict[str, Any], encoder: str, seed: int, epochs: int) -> tuple[float, float]:
    """Seconds of training and accuracy on the test split of a loop as tutorials have it."""
    splits = load_splits(DataSection(**data), "labelled", seed)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PLAIN_RATE)

    def batches(split: str, *, shuffled: bool) -> Any:
        table = splits.rows[split]
        order = torch.randperm(len(table)).tolist() if shuffled else range(len(table))
        for start in range(0, len(table), PLAIN_BATCH):
            part = table.select(list(order[start : start + PLAIN_BATCH]))
            labels = torch.tensor([int(label == "spam") for label in part["label"]])
            yield tokenizer(part["text"][:], truncation=True, padding=True, return_tensors="pt"), labels

    started = time.perf_counter()
    for _ in range(epochs):
        for inputs, labels in batches("train", shuffled=True):
            model(**inputs, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - started
    model.eval()
    with torch.no_grad():
        right = [
            int((model(**inputs).logits.argmax(dim=-1) == labels).sum())
            for inputs, labels in batches("test", shuffled=False)
        ]
    return seconds, sum(right) / len(splits.rows["test"])


def compare(arguments: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> None:
    """Training times of both sides in turns, for the epochs of spam.yaml."""
    data = write_rows(arguments, folder / "compared", 0)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for number in range(arguments.rounds):
        report = ours(data, folder / f"round{number}", 0, settings)
        seconds, accuracy = plain(data, arguments.encoder, 0, round(report["train"]["epochs"]))
        times["ours"].append(report["train"]["runtime_s"])
        times["plain"].append(seconds)
    medians = {side: statistics.median(values) for side, values in times.items()}
    print(f"ours / plain: {medians['ours'] / medians['plain']:.3f} of the time in training")
    ours_right = report["evaluation"]["test"]["accuracy"]
    print(f"{medians['ours']:.1f} s and {medians['plain']:.1f} s; test accuracy {ours_right:.4f} and {accuracy:.4f}")


def score(arguments: argparse.Namespace, folder: Path, settings: dict[str, Any]) -> None:
    figures: dict[str, list[float]] = {name: [] for name in SHOWN}
    for seed in range(arguments.seeds):
        data = write_rows(arguments, folder / f"rows{seed}", seed)
        report = ours(data, folder / f"seed{seed}", seed, settings)
        test = report["evaluation"]["test"]
        shutil.rmtree(folder / f"seed{seed}")
        for name in SHOWN:
            figures[name].append(test[name])
        words = test["baselines"]["tfidf_logistic_regression"]["accuracy"]
        shown = "  ".join(f"{name} {test[name]:.4f}" for name in SHOWN)
        print(f"seed {seed}: {shown}  tf-idf {words:.4f}  {report['train']['runtime_s']:.0f} s", flush=True)
    for name, values in figures.items():
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: mean {statistics.mean(values):.4f}, standard deviation {deviation:.4f} of {len(values)} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="JSONL of text and label, ham or spam")
    parser.add_argument("--encoder", help="folder or Hub id of all-MiniLM-L6-v2")
    parser.add_argument("--protocol", choices=["balanced", "full", "scratch"], default="balanced")
    parser.add_argument("--copies", action="store_true", help="copies of a training message may be in the test")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=0, help="how often the training times are compared")
    parser.add_argument("settings", nargs="*", help="section.key=value for spam.yaml")
    arguments = parser.parse_args()
    settings: dict[str, Any] = SCRATCH if arguments.protocol == "scratch" else {"model.path": arguments.encoder}
    settings |= {key: json.loads(value) for key, value in (each.split("=", 1) for each in arguments.settings)}
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.rounds:
            compare(arguments, Path(temporary), settings)
        if arguments.seeds:
            score(arguments, Path(temporary), settings)


if __name__ == "__main__":
    main()
