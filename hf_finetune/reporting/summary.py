"""Summarize a finished run in a few lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_finetune.metric_info import format_interval, format_metric, get_metric_info
from hf_finetune.privacy import escape_control_characters
from hf_finetune.reporting.verdict import judge_model

# Metrics in the summary, in this order; report.json has all.
SUMMARY_METRICS = (
    *("loss", "perplexity", "token_accuracy", "bits_per_byte", "exact_match", "token_f1", "chrf"),
    *("accuracy", "f1_macro", "matthews_correlation", "roc_auc", "expected_calibration_error"),
    *("mae", "r2", "pearson"),
)
# Shown with their interval, and for the baselines as well.
INTERVAL_METRICS = ("accuracy", "f1_macro", "matthews_correlation", "mae", "r2")


def format_summary(report: Mapping[str, Any], folder: str) -> str:
    """The summary of `report` (the content of report.json) as text of several lines."""
    train, judged_model = report["train"], judge_model(report)
    lines = [judged_model.sentence] if judged_model else []
    if train:
        work = f"{train['steps']:,} steps"
        if "seen" in train:
            work += f", {train['seen']['tokens']:,} tokens seen, {train['seen']['trained_tokens']:,} of them trained,"
        work += f" in {train['runtime_s']:.0f} s with evaluations ({train['tokens_per_s']:,.0f} tokens/s in the steps)"
        lines.append(f"trained {report['parameters']['trainable']:,} parameters: {work}")
    for split, metrics in report["evaluation"].items():
        lines.append(
            f"{split}: "
            + "  ".join(_format_with_interval(name, metrics) for name in SUMMARY_METRICS if name in metrics)
        )
        lines += [f"{split}: {sentence}" for sentence in metrics.get("fitted", {}).get("words", [])]
        lines += _format_baselines(split, metrics)
        # Of a run that trained the first line says it; report.html has every figure.
        for judged in ("forgetting",) if train else ("comparison", "forgetting"):
            lines += [f"{split}: {sentence}" for sentence in metrics.get(judged, {}).get("words", [])]
    lines.append(f"{folder}: {_list_saved_files(Path(folder))}report.html, report.json, run.yaml, manifest.json")
    # Of what a sentence repeats, as a label, no line break makes a line of its own.
    return "\n".join(map(escape_control_characters, lines))


def _list_saved_files(folder: Path) -> str:
    """Names what was saved besides the report, with a comma at the end."""
    if (folder / "adapter_config.json").exists():
        return "adapter, tokenizer, README.md, "
    return "model, tokenizer, README.md, " if (folder / "config.json").exists() else ""


def _format_with_interval(name: str, metrics: Mapping[str, Any]) -> str:
    said = f"{get_metric_info(name).title} {format_metric(name, metrics[name])}"
    interval = format_interval(name, metrics.get("intervals", {}).get(name)) if name in INTERVAL_METRICS else ""
    return f"{said} ({interval})" if interval else said


def _format_baselines(split: str, metrics: Mapping[str, Any]) -> list[str]:
    """A line for each baseline scored on the same rows."""
    return [
        f"{split}, {name.replace('_', ' ')}: "
        + "  ".join(_format_with_interval(headline, figures) for headline in INTERVAL_METRICS if headline in figures)
        for name, figures in metrics.get("baselines", {}).items()
    ]
