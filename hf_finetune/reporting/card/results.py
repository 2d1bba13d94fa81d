"""The metrics of a run as tables, sentences and the Hub's `model-index`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hf_finetune.metric_info import FIGURES, HUB_METRICS, shown, shown_interval
from hf_finetune.reporting.card.facts import ModelFacts
from hf_finetune.reporting.run_record import RunRecord

# Columns of the table of labels.
CLASS_FIGURES = ("precision", "recall", "f1")
LABELS_SHOWN = 50
GAPS_SHOWN = 3


@dataclass(frozen=True)
class Table:
    """Cells as text; the first row is the header."""

    title: str
    rows: list[list[str]]
    notes: list[str]


def figure_tables(run: RunRecord) -> list[Table]:
    """A table of metrics per split, with intervals and the columns of base and baselines, where computed."""
    return [_split_table(run, split, scores) for split, scores in _splits(run)]


def has_intervals(run: RunRecord) -> bool:
    return any("intervals" in scores for _, scores in _splits(run))


def class_tables(run: RunRecord) -> list[Table]:
    """A table of precision, recall and F1 per label for each split of a classifier; at most 50 labels."""
    tables = []
    for split, scores in _splits(run):
        names = [name for name in CLASS_FIGURES if any(name in each for each in _mapping(scores, "per_class").values())]
        rows = [
            [label, *(_written(of_label.get(name), "{:.3f}") for name in names), _count(of_label.get("support"))]
            for label, of_label in _mapping(scores, "per_class").items()
        ]
        if rows:
            head = ["Label", *(name.capitalize() for name in names), "Rows"]
            more = len(rows) - LABELS_SHOWN
            notes = [f"{more:,} more labels are in report.json"] if more > 0 else []
            tables.append(Table(split, [head, *rows[:LABELS_SHOWN]], notes))
    return tables


def sentences(run: RunRecord, part: str) -> list[str]:
    """The recorded sentences of `comparison`, `forgetting` or `memorization` (`part`), by split."""
    return [f"{split}: {line}" for split, scores in _splits(run) for line in _words(_mapping(scores, part))]


def bias_sentences(run: RunRecord) -> list[str]:
    """The recorded sentences on the largest gaps between slices and on counterfactual word swaps."""
    found = []
    for split, scores in _splits(run):
        for field, slices in _mapping(scores, "slices").items():
            gaps = slices.get("gaps", [])[:GAPS_SHOWN]
            found += [f"{split}, by {field}: {line}" for gap in gaps for line in _words(gap)]
            if not gaps:
                found.append(f"{split}, by {field}: no two values have rows enough to be compared")
        for name, swap in _mapping(scores, "swaps").items():
            found += [f"{split}, words of the list {name} swapped: {line}" for line in _words(swap)]
    return found


def canary_table(run: RunRecord) -> Table | None:
    """Exposure of the canaries by how often each was planted; None where none were."""
    rows = [
        [
            _count(group.get("copies")),
            _count(group.get("canaries")),
            _written(group.get("exposure"), "{:.1f}"),
            _written(group.get("most_possible"), "{:.1f}"),
            _written(group.get("extracted"), "{:.0%}"),
        ]
        for _, scores in _splits(run)
        for group in _mapping(scores, "memorization").get("canaries", [])
    ]
    head = ["Copies", "Canaries", "Exposure (bits)", "Most possible", "Given away"]
    return Table("Canaries", [head, *rows], []) if rows else None


def model_index(run: RunRecord, facts: ModelFacts, name: str) -> list[dict[str, Any]]:
    """The Hub's `model-index`: every finite metric of every split, with the data it was measured on."""
    # Finite ones only: YAML writes NaN as `.nan`, and no leaderboard can rank a metric that is not defined.
    results = []
    for split, scores in _splits(run):
        metrics = [
            {"type": HUB_METRICS.get(key, key), "value": scores[key], "name": figure.title}
            for key, figure in FIGURES.items()
            if _is_finite(scores.get(key))
        ]
        if metrics:
            dataset = {"name": data_name(run, split), "type": _dataset_type(run), "split": split}
            if revision := data_sha256(run, split):
                dataset["revision"] = revision
            results.append({"task": {"type": facts.task}, "dataset": dataset, "metrics": metrics})
    return [{"name": name, "results": results}] if results else []


def data_name(run: RunRecord, split: str) -> str:
    """The data files of a split; the training files if the split was taken from them."""
    scored = _mapping(_mapping(run.report.get("evaluation", {}), split), "data").get("path")
    if isinstance(scored, str):
        return scored
    files = _mapping(run.manifest, "data").get("files", [])
    own = [file for file in files if file.get("role") == split] or [file for file in files if file["role"] == "train"]
    return ", ".join(str(file["path"]) for file in own) or "not known"


def data_sha256(run: RunRecord, split: str) -> str | None:
    """The recorded sha256 of a split: of its rows, or of the scored file; None where there is none."""
    scored = _mapping(_mapping(run.report.get("evaluation", {}), split), "data").get("sha256")
    found = scored or _mapping(_mapping(_mapping(run.manifest, "data"), "splits"), split).get("sha256")
    return found if isinstance(found, str) else None


def _split_table(run: RunRecord, split: str, scores: dict[str, Any]) -> Table:
    compared, intervals = _mapping(scores, "comparison"), _mapping(scores, "intervals")
    beside = {name.replace("_", " "): figures for name, figures in _mapping(scores, "baselines").items()}
    if compared:
        bases = {name: pair.get("base") for name, pair in _mapping(compared, "figures").items()}
        beside = {f"base ({compared.get('base', 'model')})": bases} | beside
    head = ["Figure", "This model", *(["95 % interval"] if intervals else []), *beside]
    rows = [head]
    for key, figure in FIGURES.items():
        if key in scores:
            ends = [shown_interval(key, intervals.get(key))] if intervals else []
            others = (shown(key, figures.get(key)) for figures in beside.values())
            rows.append([figure.title, shown(key, scores[key]), *ends, *others])
    counted = scores.get("rows") or _mapping(_mapping(run.report, "data"), split).get("rows")
    answered = _mapping(scores, "decoding").get("rows")
    few = f" ({_count(answered)} of them answered)" if answered and answered != counted else ""
    notes = [f"{_count(counted)} rows{few} of {data_name(run, split)}" if counted else data_name(run, split)]
    return Table(split, rows, notes)


def _splits(run: RunRecord) -> list[tuple[str, dict[str, Any]]]:
    """(name, scores) of each split, test first: no checkpoint or threshold was selected on it."""
    found = [(str(name), scores) for name, scores in run.report.get("evaluation", {}).items() if scores]
    return sorted(found, key=lambda each: each[0] != "test")


def _mapping(holder: Any, key: str) -> dict[str, Any]:
    value = holder.get(key) if isinstance(holder, dict) else None
    return value if isinstance(value, dict) else {}


def _words(part: dict[str, Any]) -> list[str]:
    words = part.get("words", [])
    return [words] if isinstance(words, str) else [str(line) for line in words]


def _dataset_type(run: RunRecord) -> str:
    """`dataset.type`, which the Hub requires: card.datasets if it names one, else the loader `json`."""
    named = _mapping(run.settings, "card").get("datasets") or []
    return str(named[0]) if len(named) == 1 else "json"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _written(value: Any, how: str) -> str:
    if isinstance(value, str):  # "nan" and "inf", as report.json has them
        return value
    return how.format(value) if _is_finite(value) else ""


def _count(value: Any) -> str:
    return f"{value:,.0f}" if _is_finite(value) else ""
