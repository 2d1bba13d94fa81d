"""Do two checkouts train, score and predict the same, bit for bit? For changes that must not change a run.

    python tests/same_runs.py ../other-checkout        # exit code 1, and each difference on a line, if not

One tiny seeded run of each recipe is made in both checkouts by this interpreter on the CPU: their figures (report.json
without times and machine), the sha256 of every weight file, a classifier's predictions and a model's greedy text are
compared. Nothing is held against recorded numbers, which would be those of one processor.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# What no two runs share: when, how fast, how much memory, on which machine, in which folder.
OF_THE_MOMENT = {
    "run_id", "environment", "output_dir", "launch", "runtime_s", "tokens_per_s", "energy", "memory_mib",
    "eval_runtime", "eval_samples_per_second", "eval_steps_per_second",
}  # fmt: skip

ON_CPU = ("train.use_cpu=true", "train.bf16=false", "train.save_strategy=no", "train.load_best_model_at_end=false")
RUNS: dict[str, tuple[str, ...]] = {
    "continued_pretraining": ("train.max_steps=6", "train.eval_steps=3", "eval.max_new_tokens=8", *ON_CPU),
    "sft": ("model.path={out}/continued_pretraining", "train.num_train_epochs=2", "eval.max_new_tokens=8", *ON_CPU),
    "lora": ("model.path={out}/continued_pretraining", "train.num_train_epochs=2", *ON_CPU),
    "classification": ("train.num_train_epochs=3", *ON_CPU),
    "score": ("model.path={out}/lora", "eval.max_new_tokens=8"),
}
GENERATE = ("How do I boil an egg?", "--temperature", "0", "--max-new-tokens", "16")


def record(checkout: Path) -> dict[str, Any]:
    """Make the runs in `checkout` and return what they left: `{run: {place: value}}`, places as dotted keys."""
    with tempfile.TemporaryDirectory() as out:
        results = {}
        for recipe, overrides in RUNS.items():
            argv = [f"recipes/{recipe}.py", f"recipes/configs/{recipe}.yaml", f"output_dir={out}/{recipe}"]
            run(checkout, [*argv, *(each.format(out=out) for each in overrides)])
            results[recipe] = read_run(Path(out, recipe), out)
        rows = Path(out, "rows.jsonl")
        texts = [json.loads(line) for line in (checkout / "data_templates/labelled.jsonl").read_text().splitlines()]
        rows.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in texts))
        predict = ["-m", "hf_finetune.cli", "predict", f"{out}/classification", str(rows)]
        results["predict"] = {"rows": run(checkout, predict)}
        generate = ["-m", "hf_finetune.cli", "generate", f"{out}/sft", *GENERATE]
        results["generate"] = {"text": run(checkout, generate)}
        return results


def run(checkout: Path, argv: list[str]) -> str:
    """Run Python in `checkout` on its own code and return its standard output. Raises where it fails."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *argv], cwd=checkout, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{checkout}: {' '.join(argv)} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def read_run(folder: Path, out: str) -> dict[str, Any]:
    """What of a run folder must be the same: the figures of its report and the sha256 of its weights."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8").replace(out, "OUT"))
    weights = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}
    return dict(flatten(report)) | weights


def flatten(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested JSON with its place, but for what is of the moment."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            if key not in OF_THE_MOMENT:
                yield from flatten(each, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """A line for each place whose values differ, or which one of them lacks."""
    lines = []
    for name in one.keys() | other.keys():
        left, right = one.get(name, {}), other.get(name, {})
        places = sorted(left.keys() | right.keys())
        pairs = [(place, left.get(place, "nothing"), right.get(place, "nothing")) for place in places]
        lines += [f"{name}: {place}: {a!r} != {b!r}" for place, a, b in pairs if a != b]
    return sorted(lines)


if __name__ == "__main__":
    found = differences(record(ROOT), record(Path(sys.argv[1]).resolve()))
    print("\n".join(found) or "the same, bit for bit")
    sys.exit(1 if found else 0)
