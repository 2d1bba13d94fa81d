"""The end of a run in a few lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The figures that are said, in this order, and how each is written; report.json has all.
FORMATS = {
    "loss": "{:.4f}",
    "perplexity": "{:.2f}",
    "token_accuracy": "{:.1%}",
    "bits_per_byte": "{:.3f}",
    "accuracy": "{:.1%}",
    "f1_macro": "{:.3f}",
    "matthews_correlation": "{:.3f}",
    "roc_auc": "{:.3f}",
    "expected_calibration_error": "{:.3f}",
    "mae": "{:.4g}",
    "r2": "{:.3f}",
    "pearson": "{:.3f}",
}
# With its interval, and for the baselines beside the model.
HEADLINES = ("accuracy", "f1_macro", "matthews_correlation", "mae", "r2")


def summary(report: Mapping[str, Any], folder: str) -> str:
    """Several lines for a person; every figure is one of `report`, which is what report.json holds."""
    train, parameters = report["train"], report["parameters"]
    work = f"{train['steps']:,} steps in {train['runtime_s']:.0f} s ({train['tokens_per_s']:,.0f} tokens/s)"
    tokens = report["data"]["train"]["tokens"]
    lines = [f"trained {parameters['trainable']:,} parameters on {tokens:,} tokens: {work}"]
    for split, metrics in report["evaluation"].items():
        lines.append(f"{split}: " + "  ".join(_figure(name, metrics) for name in FORMATS if name in metrics))
        lines += _beside(split, metrics)
    kind = "adapter" if (Path(folder) / "adapter_config.json").exists() else "model"
    lines.append(f"{folder}: {kind}, tokenizer, report.json, run.yaml, manifest.json")
    return "\n".join(lines)


def _figure(name: str, metrics: Mapping[str, Any]) -> str:
    said = f"{name.replace('_', ' ')} {FORMATS[name].format(metrics[name])}"
    if name in HEADLINES and name in metrics.get("intervals", {}):
        low, high = (FORMATS[name].format(end) for end in metrics["intervals"][name])
        said += f" ({low} to {high})"
    return said


def _beside(split: str, metrics: Mapping[str, Any]) -> list[str]:
    """What the simplest models reach on the same rows."""
    return [
        f"{split}, {name.replace('_', ' ')}: "
        + "  ".join(_figure(headline, figures) for headline in HEADLINES if headline in figures)
        for name, figures in metrics.get("baselines", {}).items()
    ]
