"""Training beside a process that keeps a core busy: our threads, and those of OpenMP that spin.

    python benchmarks/busy_core.py --rounds 5
    python benchmarks/busy_core.py --rounds 5 --idle

Each round runs the README's first training both ways, in turns, and prints tokens per second of its steps and the time
from the command to the report. `--idle` keeps no core busy: ours then spin for a moment, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = ("-m", "hf_finetune.cli", "train", "recipes/configs/continued_pretraining.yaml", "--on", "cpu")
# GNU's OpenMP spins so often where nothing is said (libgomp/env.c); by saying so we are kept from setting our own.
WAYS = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "ours": {}}


def train(way: str, folder: Path) -> tuple[float, float, float]:
    """Tokens per second of the steps, seconds from the command to the report, and the loss."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    began = time.perf_counter()
    command = [sys.executable, *COMMAND, f"output_dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, env=plain | WAYS[way], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    trained = json.loads((folder / "report.json").read_text())["train"]
    return trained["tokens_per_s"], time.perf_counter() - began, trained["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", action="store_true", help="keep no core busy")
    arguments = parser.parse_args()
    measured: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    busy = None if arguments.idle else subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with tempfile.TemporaryDirectory() as temporary:
            for number in range(arguments.rounds):
                for way in WAYS:
                    measured[way].append(train(way, Path(temporary, f"{way}-{number}")))
                    rate, seconds, loss = measured[way][-1]
                    print(f"{way:>9} {rate:9,.0f} tokens/s  {seconds:5.1f} s  loss {loss:.4f}", flush=True)
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()
    rates = {way: statistics.median(each[0] for each in found) for way, found in measured.items()}
    seconds = statistics.median(each[1] for each in measured["ours"])
    ratio = rates["ours"] / rates["spinning"]
    print(f"ours / spinning, tokens per second: {ratio:.2f} (median of {arguments.rounds})")
    print(f"from the command to the report: {seconds:.1f} s")


if __name__ == "__main__":
    main()
