"""Run folders with everything in them that a report may show, made on the spot."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

RECIPE = "recipes/sft.py recipes/configs/sft.yaml"
COMPARED = {
    "loss": {
        "base": 2.31,
        "tuned": 1.98,
        "difference": -0.33,
        "interval": [-0.37, -0.29],
        "p_value": 0.0001,
        "real": True,
    },
    "exact_match": {
        "base": 0.5,
        "tuned": 0.52,
        "difference": 0.02,
        "interval": [-0.1, 0.14],
        "p_value": 0.71,
        "real": False,
    },
}


def history(steps: int, every: int = 10, *, evaluate: int = 50, broken_from: int | None = None) -> list[dict[str, Any]]:
    """A log as the Trainer writes it: a loss that falls with some noise, and a validation that turns at two thirds."""
    entries: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        part = step / steps
        loss = 1.2 + 3 * math.exp(-5 * part) + 0.08 * math.sin(step * 1.7)
        lost = broken_from is not None and step >= broken_from
        entries.append(
            {
                "step": step,
                "epoch": 3 * part,
                "loss": "nan" if lost else loss,
                "grad_norm": "nan" if lost else 0.5 + 0.3 * abs(math.sin(step)),
                "learning_rate": 5e-4 * (1 - part),
                "tokens_per_s": 5000 + 300 * math.sin(step / 9),
                "memory_mib": 900 + 50 * part,
            }
        )
        if step % evaluate == 0 and not lost:
            best = 1.4 + 2.4 * math.exp(-4 * part) + 1.5 * max(0.0, part - 2 / 3) ** 2
            entries.append(
                {"step": step, "eval_loss": best, "eval_token_accuracy": 0.2 + 0.3 * part, "eval_runtime": 1.0}
            )
    return entries


def scores() -> dict[str, Any]:
    """Of a language model that was compared, cut into slices, swapped and asked for what it knows by heart."""
    slices = {
        language: {
            "rows": rows,
            "loss": loss,
            "exact_match": match,
            "intervals": {"exact_match": [match - 0.08, match + 0.07]},
        }
        for language, rows, loss, match in (("en", 240, 1.7, 0.61), ("de", 120, 2.2, 0.44), ("tr", 40, 2.9, 0.3))
    }
    gap = {
        "figure": "exact_match",
        "highest": "en",
        "lowest": "tr",
        "difference": 0.31,
        "interval": [0.12, 0.48],
        "real": True,
    }
    said = "exact match is 61.0% for en and 30.0% for tr: a real difference (12.0% to 48.0%)"
    return {
        "rows": 400,
        "loss": 1.98,
        "perplexity": 7.24,
        "bits_per_byte": 0.84,
        "token_accuracy": 0.58,
        "exact_match": 0.52,
        "token_f1": 0.66,
        "bleu": 31.4,
        "rougeL": 0.55,
        "stop_rate": 0.97,
        "intervals": {
            "loss": [1.9, 2.06],
            "exact_match": [0.47, 0.57],
            "token_f1": [0.62, 0.7],
            "stop_rate": [0.95, 0.98],
        },
        "comparison": {
            "base": "tiny-base",
            "figures": COMPARED,
            "words": ["loss: 2.31 -> 1.98, better by 0.33 (0.29 to 0.37): a real difference"],
        },
        "forgetting": {
            "rows": 80,
            "data": "before.jsonl",
            "figures": {"loss": COMPARED["loss"]},
            "words": ["on rows it was not trained for it is not worse: it did not forget"],
        },
        "slices": {"meta.language": {"values": {**slices, "fr": {"rows": 4}}, "gaps": [gap | {"words": said}]}},
        "swaps": {
            "gender": {
                "rows": 61,
                "changed": 0.082,
                "figures": {"loss": {"difference": 0.013, "interval": [-0.01, 0.04]}},
                "words": ["with words of gender swapped the loss is the same as far as 61 rows can show"],
            }
        },
        "memorization": {
            "canaries": [
                {"copies": copies, "canaries": 10, "exposure": bits, "most_possible": 9.97, "extracted": out}
                for copies, bits, out in ((1, 1.6, 0.0), (10, 4.2, 0.1), (100, 9.97, 0.9))
            ],
            "verbatim": {
                "rows": 500,
                "prefix_tokens": 32,
                "continued": 3,
                "share": 0.006,
                "interval": [0.002, 0.017],
                "places": ["train.jsonl:17"],
            },
            "words": ["what was planted 100 times can be read out of the model"],
        },
        "data": {"path": "test.jsonl", "sha256": "ab" * 32},
        "model": {"name": "tiny-tuned"},
    }


def classifier_scores() -> dict[str, Any]:
    names = ["billing", "praise", "shipping"]
    counts = [[40, 2, 3], [1, 30, 0], [6, 0, 18]]
    return {
        "loss": 0.41,
        "accuracy": 0.88,
        "f1_macro": 0.861,
        "matthews_correlation": 0.812,
        "expected_calibration_error": 0.043,
        "roc_auc": float("nan"),
        "intervals": {"accuracy": [0.81, 0.93], "f1_macro": [0.79, 0.92]},
        "per_class": {
            name: {"precision": 0.9, "recall": 0.8, "f1": 0.847, "support": 33 + i} for i, name in enumerate(names)
        },
        "confusion_matrix": {"labels": names, "counts": counts},
        "reliability": [
            {"confidence": c, "accuracy": a, "rows": r}
            for c, a, r in ((0.45, 0.5, 8), (0.7, 0.66, 20), (0.95, 0.93, 72))
        ],
        "baselines": {"majority": {"accuracy": 0.45, "f1_macro": 0.2}, "tfidf_logistic_regression": {"accuracy": 0.82}},
    }


def report(**changed: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "recipe": "sft",
        "run_id": "0123456789ab",
        "status": "done",
        "settings": {
            "recipe": "sft",
            "model": {"path": "models/tiny", "revision": None},
            "data": {"train": ["train.jsonl", "/home/somebody/secret place/more.jsonl", "/home/somebody/more.jsonl"]},
            "train": {"learning_rate": 5e-4, "max_steps": 300, "per_device_train_batch_size": 8},
            "output_dir": "runs/made",
        },
        "data": {
            "train": {"rows": 900, "dropped": 3, "tokens": 120_000, "trained_tokens": 80_000, "spelled": {}},
            "validation": {"rows": 100, "dropped": 0, "tokens": 13_000, "trained_tokens": 9_000},
        },
        "parameters": {
            "total": 1_000_000,
            "trainable": 50_000,
            "embeddings": 200_000,
            "attention": 300_000,
            "feed_forward": 500_000,
        },
        "train": {
            "steps": 300,
            "epochs": 3.0,
            "loss": 1.6,
            "runtime_s": 754.2,
            "tokens_per_s": 5012.0,
            "optimizer": "AdamW",
            "best_checkpoint": "checkpoint-200",
            "energy": {"watt_hours": 3.21, "source": "RAPL"},
            "history": history(300),
        },
        "evaluation": {"validation": {"loss": 1.6, "perplexity": 4.95, "token_accuracy": 0.49}, "test": scores()},
        "samples": [
            {
                "step": 0,
                "prompt": "Where is my parcel?",
                "continuation": "a a a a a a a",
                "tokens": 7,
                "finished": False,
            },
            {
                "step": 200,
                "prompt": "Where is my parcel?",
                "continuation": "It left the depot.",
                "tokens": 6,
                "finished": False,
            },
            {
                "step": 300,
                "prompt": "Where is my parcel?",
                "continuation": "It is on its way.\nAnything else?",
                "tokens": 9,
                "finished": True,
            },
        ],
        "distributed": {"strategy": "NO", "processes": 1, "device": "cpu"},
        "environment": {
            "python": "3.11.7",
            "system": "Linux x86_64",
            "devices": [{"name": "A CPU"}],
            "versions": {"torch": "2.13.0"},
        },
    }
    return {**values, **changed}


def manifest(**changed: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "data": {
            "format": "messages",
            "files": [
                {
                    "role": "train",
                    "path": "train.jsonl",
                    "rows": 900,
                    "rejected": 2,
                    "bytes": 81_000,
                    "sha256": "cd" * 32,
                },
            ],
            "overlap": {"validation": {"copies": 0, "shares_13_words": 4}},
            "splits": {"train": {"rows": 900, "sha256": "12" * 32}, "validation": {"rows": 100, "sha256": "34" * 32}},
        },
        "versions": {"hf-finetune": "0.1.0", "torch": "2.13.0"},
        "seed": 42,
        "launch": f"accelerate launch {RECIPE} data.train=/home/somebody/more.jsonl train.max_steps=300",
        "files": {"model.safetensors": "ef" * 32, "tokenizer.json": "01" * 32},
    }
    return {**values, **changed}


def run_folder(folder: Path, report: dict[str, Any] | None, manifest: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, given in (("report.json", report), ("manifest.json", manifest)):
        if given is not None:
            (folder / name).write_text(json.dumps(given).replace("NaN", '"nan"'))
    return folder


def classifier(**changed: Any) -> dict[str, Any]:
    mistake = {"split": "validation", "path": "train.jsonl", "line": 17, "label": "praise", "predicted": "billing"}
    return report(
        recipe="classification",
        evaluation={"validation": classifier_scores(), "test": classifier_scores()},
        samples=[{**mistake, "probability": 0.98, "probability_of_label": 0.01}],
        **changed,
    )


def stopped(folder: Path, steps: int = 120, broken_from: int | None = 100) -> Path:
    """A run of ours that was killed: a manifest, and the state of its last checkpoint."""
    run_folder(folder, None, manifest())
    (folder / "run.yaml").write_text(
        "recipe: sft\ntrain: {max_steps: 300, learning_rate: 0.0005}\noutput_dir: runs/x\n"
    )
    return foreign(folder, steps, broken_from)


def foreign(folder: Path, steps: int = 200, broken_from: int | None = None) -> Path:
    """What any Trainer leaves behind."""
    checkpoint = folder / f"checkpoint-{steps}"
    checkpoint.mkdir(parents=True)
    log = [
        {k: float(v) if v == "nan" else v for k, v in entry.items()}
        for entry in history(steps, broken_from=broken_from)
    ]
    state = {"global_step": steps, "max_steps": 300, "log_history": log, "best_model_checkpoint": None}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return folder
