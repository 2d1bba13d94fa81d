"""Seconds from typing `hf-finetune train` to the first step on 1,000 rows, against Python that imports the libraries.

    python benchmarks/startup.py [--rounds 7]

Continued pretraining of the smallest ScratchGPT with a tokenizer that was trained before; the peer imports torch and
what a script with a Trainer takes from transformers, and ends. They take turns; medians count. Then where the seconds
of a run go: its stages, by the lines of its log, and the imports that take longest, by `python -X importtime`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEER = "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments"
# What a line of the log begins with, and the stage that has ended by then.
STAGES = {
    r"accelerate launch": "settings read and checked",
    r"loading the libraries": "rows looked at",
    r"data\.format": "torch, transformers, datasets and accelerate imported",
    r"validation: \d": "rows read, split and tokenized",
    r"[\d,]+ parameters": "model made",
    r"step 1/": "first step taken",
}
SETTINGS = (
    "model.path=null", "model.scratch.preset=nano", "model.tokenizer.train.kind=char", "train.max_steps=1",
    "train.logging_steps=1", "train.eval_strategy=no", "train.save_strategy=no", "train.load_best_model_at_end=false",
    "train.metric_for_best_model=null", "train.early_stopping_patience=null", "eval.prompts=[]",
)  # fmt: skip


def write_rows(path: Path) -> None:
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghij", k=dice.randint(2, 8))) for _ in range(2_000)]
    rows = (json.dumps({"text": " ".join(dice.choices(words, k=60))}) for _ in range(1_000))
    path.write_text("".join(row + "\n" for row in rows))


def run(folder: Path, number: int) -> dict[str, float]:
    """Seconds at which each stage of a run has ended, by its name."""
    command = [
        sys.executable,
        "-m",
        "hf_finetune.cli",
        "train",
        str(ROOT / "recipes/configs/continued_pretraining.yaml"),
    ]
    command += [*SETTINGS, f"data.train={folder / 'rows.jsonl'}", f"output_dir={folder / f'run{number}'}"]
    began, found = time.perf_counter(), dict[str, float]()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert child.stderr is not None
    said = []
    for line in child.stderr:
        said.append(line)
        for beginning, stage in STAGES.items():
            if re.match(beginning, line):
                found.setdefault(stage, time.perf_counter() - began)
    if child.wait():
        raise SystemExit("".join(said))
    return found


def time_peer() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", PEER], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure_imports(code: str) -> dict[str, float]:
    """Seconds of each top-level package's own modules, the longest first."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, cwd=ROOT)
    seconds: dict[str, float] = defaultdict(float)
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \| +(\w+)", done.stderr):
        seconds[name] += int(own) / 1e6
    return dict(sorted(seconds.items(), key=lambda each: -each[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    os.environ |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        write_rows(folder / "rows.jsonl")
        run(folder, 0)
        time_peer()
        turns = [(run(folder, number), time_peer()) for number in range(1, rounds + 1)]
    last = [stages["first step taken"] for stages, _ in turns]
    ratio = statistics.median(each / peer for each, (_, peer) in zip(last, turns, strict=True))
    peer = statistics.median(peer for _, peer in turns)
    print(f"first step after {statistics.median(last):.2f} s, the imports alone {peer:.2f} s: {ratio:.2f} of them")
    before = 0.0
    for stage in turns[0][0]:
        at = statistics.median(stages[stage] for stages, _ in turns)
        print(f"  {at - before:5.2f} s  {stage}")
        before = at
    recipe = "import runpy; runpy.run_path('recipes/continued_pretraining.py')"
    ours = measure_imports(recipe)
    print(f"imports of the recipe, {sum(ours.values()):.2f} s while they are timed:")
    for package, seconds in list(ours.items())[:10]:
        print(f"  {seconds:5.2f} s  {package}")


if __name__ == "__main__":
    main()
