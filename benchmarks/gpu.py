"""Every test and benchmark that needs a GPU, in under ten minutes on one card, into one JSON file: `make gpu`.

    python benchmarks/gpu.py gpu.json
    python benchmarks/gpu.py gpu.json --nanogpt ../nanoGPT --text ../tinyshakespeare.txt --peak-tflops 989 \\
        --model Llama-3.1-8B-Instruct --rows instructions.jsonl

The tests marked `gpu` come first, then what the options allow: pretraining at 124 M parameters against nanoGPT, and a
LoRA against `trl sft`, packed. The file is written after each part, so that nothing is lost where the time is up: its
command, exit code, seconds and last lines. The exit code is 1 where a part failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from machine import describe_machine

SECONDS = 570
LINES_KEPT = 40
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    command: list[str]
    exit_code: int | None
    """None where the time was up."""
    seconds: float
    said: list[str]


def list_commands(options: argparse.Namespace) -> dict[str, list[str]]:
    python = sys.executable
    commands = {"tests": [python, "-m", "pytest", "-n0", "-rs", "-m", "gpu", str(HERE.parent / "tests")]}
    matrix = [python, str(HERE.parent / "tests" / "distributed" / "matrix.py"), "--gpu"]
    commands["strategies"] = [*matrix, "--cells", "sft-uneven-accumulated,lora-uneven-plain"]
    commands["batched generation"] = [python, str(HERE / "batched_generation.py"), "--preset", "small", "--rounds", "3"]
    commands["cost of the guards"] = [python, str(HERE / "guard_cost.py")]
    commands["wait for a save"] = [python, str(HERE / "save_wait.py"), "--steps", "0"]
    if options.nanogpt and options.text:
        words = ["--nanogpt", str(options.nanogpt), "--text", str(options.text), "--gpu", "--rounds", "1"]
        peak = ["--peak-tflops", str(options.peak_tflops)] if options.peak_tflops else []
        commands["pretraining, 124 M"] = [python, str(HERE / "throughput.py"), *words, *peak]
    if options.model and options.rows:
        words = ["--model", options.model, "--rows", str(options.rows), "--rounds", "1", "--steps", "30"]
        words += ["--max-length", "2048", "--packing"]
        commands["LoRA"] = [python, str(HERE / "lora_vs_trl.py"), *words]
    return commands


def run_part(command: list[str], seconds: float) -> Part:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        return Part(command, None, time.perf_counter() - began, said.splitlines()[-LINES_KEPT:])
    return Part(command, process.returncode, time.perf_counter() - began, said.splitlines()[-LINES_KEPT:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, help="tinyshakespeare.txt")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU in bf16, dense: 312 A100, 989 H100 and H200")
    parser.add_argument("--model", help="a folder or a Hub id of 1 to 8 billion parameters")
    parser.add_argument("--rows", type=Path, help="JSONL of instruction, input and output")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device that this torch can use: hf-finetune doctor says why", file=sys.stderr)
        return 2
    ends = time.perf_counter() + options.seconds
    parts: dict[str, Part] = {}
    for name, command in list_commands(options).items():
        parts[name] = run_part(command, max(1.0, ends - time.perf_counter()))
        found = {"device": describe_machine(), "torch": torch.__version__}
        found["parts"] = {each: asdict(part) for each, part in parts.items()}
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: exit code {parts[name].exit_code}, {parts[name].seconds:.0f} s", flush=True)
    return int(any(part.exit_code != 0 for part in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
