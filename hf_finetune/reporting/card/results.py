"""The metrics of a run as tables, sentences and the Hub's `model-index`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hf_finetune.metric_info import (
    HUB_METRICS,
    METRICS,
    SAME_FIGURES,
    format_interval,
    format_metric,
    list_missing_intervals,
)
from hf_finetune.reporting.card.facts import ModelDescription
from hf_finetune.reporting.files import get_part
from hf_finetune.reporting.run_record import RunRecord

# Columns of the table of labels.
CLASS_METRICS = ("precision", "recall", "f1")
MAX_LABELS = 50
MAX_GAPS = 3
MAX_SAMPLES, SAMPLE_CHARACTERS = 2, 300

# Names of files -> the loader of `datasets` that reads them; JSON and JSONL otherwise.
_LOADERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow", ".txt": "text"}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first row is the header."""

    title: str
    rows: list[list[str]]
    notes: list[str]


def build_metric_tables(run: RunRecord) -> list[Table]:
    """A table of metrics per split, with intervals and the columns of base and baselines, where computed."""
    return [_build_split_table(run, split, scores) for split, scores in _sort_splits(run)]


def build_sample_rows(run: RunRecord) -> list[list[str]]:
    """Two prompts of `eval.prompts` with the first and the last answer, as a table; [] where none were sampled.

    No other prompt: those of the run file were typed to be shown; what else a report holds may be a row of the data.
    """
    typed = get_part(run.settings, "eval").get("prompts")
    rows = []
    for prompt in (typed if isinstance(typed, list) else [])[:MAX_SAMPLES]:
        given = [
            each for each in run.report.get("samples", []) if isinstance(each, dict) and each.get("prompt") == prompt
        ]
        texts = [
            (each.get("step"), each["continuation"]) for each in given if isinstance(each.get("continuation"), str)
        ]
        if texts and isinstance(prompt, str):
            before = texts[0][1] if texts[0][0] == 0 and len(texts) > 1 else ""
            rows.append([_shorten(text) for text in (prompt, before, texts[-1][1])])
    if any(row[1] for row in rows):
        return [["Prompt", "Before training", "After"], *rows]
    return [["Prompt", "Answer"], *([row[0], row[2]] for row in rows)] if rows else []


def _shorten(text: str) -> str:
    return text if len(text) <= SAMPLE_CHARACTERS else f"{text[:SAMPLE_CHARACTERS]} …"


def has_intervals(run: RunRecord) -> bool:
    return any("intervals" in scores for _, scores in _sort_splits(run))


def build_class_tables(run: RunRecord) -> list[Table]:
    """A table of precision, recall and F1 per label for each split of a classifier; at most 50 labels."""
    tables = []
    for split, scores in _sort_splits(run):
        names = [name for name in CLASS_METRICS if any(name in each for each in get_part(scores, "per_class").values())]
        rows = [
            [
                label,
                *(_format_value(of_label.get(name), "{:.3f}") for name in names),
                _format_count(of_label.get("support")),
            ]
            for label, of_label in get_part(scores, "per_class").items()
        ]
        if rows:
            head = ["Label", *(name.capitalize() for name in names), "Rows"]
            more = len(rows) - MAX_LABELS
            notes = [f"{more:,} more labels are in report.json"] if more > 0 else []
            tables.append(Table(split, [head, *rows[:MAX_LABELS]], notes))
    return tables


def list_sentences(run: RunRecord, part: str) -> list[str]:
    """The recorded sentences of `comparison`, `forgetting` or `memorization` (`part`), by split."""
    return [
        f"{split}: {line}" for split, scores in _sort_splits(run) for line in _get_sentences(get_part(scores, part))
    ]


def describe_bias(run: RunRecord) -> list[str]:
    """The recorded sentences on the largest gaps between slices and on counterfactual word swaps."""
    found = []
    for split, scores in _sort_splits(run):
        for field, slices in get_part(scores, "slices").items():
            gaps = slices.get("gaps", [])[:MAX_GAPS]
            found += [f"{split}, by {field}: {line}" for gap in gaps for line in _get_sentences(gap)]
            if not gaps:
                found.append(f"{split}, by {field}: no two values have rows enough to be compared")
        for name, swap in get_part(scores, "swaps").items():
            found += [f"{split}, words of the list {name} swapped: {line}" for line in _get_sentences(swap)]
    return found


def build_canary_table(run: RunRecord) -> Table | None:
    """Exposure of the canaries by how often each was planted; None where none were."""
    rows = [
        [
            _format_count(group.get("copies")),
            _format_count(group.get("canaries")),
            _format_value(group.get("exposure"), "{:.1f}"),
            _format_value(group.get("most_possible"), "{:.1f}"),
            _format_value(group.get("extracted"), "{:.0%}"),
        ]
        for _, scores in _sort_splits(run)
        for group in get_part(scores, "memorization").get("canaries", [])
    ]
    head = ["Copies", "Canaries", "Exposure (bits)", "Most possible", "Given away"]
    return Table("Canaries", [head, *rows], []) if rows else None


def build_model_index(run: RunRecord, facts: ModelDescription, name: str) -> list[dict[str, Any]]:
    """The Hub's `model-index`: every finite metric of every split, with the data it was measured on."""
    # Finite ones only: YAML writes NaN as `.nan`, and no leaderboard can rank a metric that is not defined.
    results = []
    for split, scores in _sort_splits(run):
        metrics = [
            {"type": HUB_METRICS.get(key, key), "value": scores[key], "name": figure.title}
            for key, figure in METRICS.items()
            if _is_finite(scores.get(key)) and SAME_FIGURES.get(key) not in scores
        ]
        if metrics:
            dataset = {"name": format_data_name(run, split), "type": _get_dataset_type(run, split), "split": split}
            if revision := get_data_sha256(run, split):
                dataset["revision"] = revision
            results.append({"task": {"type": facts.task}, "dataset": dataset, "metrics": metrics})
    return [{"name": name, "results": results}] if results else []


def format_data_name(run: RunRecord, split: str) -> str:
    """The data files of a split; the training files if the split was taken from them."""
    scored = get_part(run.report.get("evaluation", {}), split, "data").get("path")
    if isinstance(scored, str):
        return scored
    shards = get_part(run.manifest, "data", "stream").get("shards")
    if split == "train" and isinstance(shards, list):
        return f"{len(shards):,} shards"
    files = get_part(run.manifest, "data").get("files", [])
    own = [file for file in files if file.get("role") == split] or [
        file for file in files if file.get("role") == "train"
    ]
    return ", ".join(str(file["path"]) for file in own if "path" in file) or "not known"


def get_data_sha256(run: RunRecord, split: str) -> str | None:
    """The recorded sha256 of a split: of its rows, or of the scored file; None where there is none."""
    scored = get_part(run.report.get("evaluation", {}), split, "data").get("sha256")
    found = scored or get_part(run.manifest, "data", "splits", split).get("sha256")
    return found if isinstance(found, str) else None


def _build_split_table(run: RunRecord, split: str, scores: dict[str, Any]) -> Table:
    compared, intervals = get_part(scores, "comparison"), get_part(scores, "intervals")
    beside = {name.replace("_", " "): figures for name, figures in get_part(scores, "baselines").items()}
    if compared:
        bases = {name: pair.get("base") for name, pair in get_part(compared, "figures").items()}
        beside = {f"base ({compared.get('base', 'model')})": bases} | beside
    head = ["Figure", "This model", *(["95 % interval"] if intervals else []), *beside]
    rows = [head]
    for key, figure in METRICS.items():
        if key in scores and SAME_FIGURES.get(key) not in scores:
            ends = [format_interval(key, intervals.get(key))] if intervals else []
            others = (format_metric(key, figures.get(key)) for figures in beside.values())
            rows.append([figure.title, format_metric(key, scores[key]), *ends, *others])
    counted = scores.get("rows") or get_part(run.report, "data", split).get("rows")
    answered = get_part(scores, "decoding").get("rows")
    few = f" ({_format_count(answered)} of them answered)" if answered and answered != counted else ""
    longer = get_part(scores, "decoding").get("longer_references")
    notes = [
        f"{_format_count(counted)} rows{few} of {format_data_name(run, split)}"
        if counted
        else format_data_name(run, split)
    ]
    notes += [*_get_sentences(get_part(scores, "fitted")), *list_missing_intervals(scores)]
    if longer and _is_finite(longer):
        most = _format_count(get_part(scores, "decoding").get("max_new_tokens"))
        notes.append(f"{_format_count(longer)} references are longer than an answer of {most} tokens can be")
    return Table(split, rows, notes)


def _sort_splits(run: RunRecord) -> list[tuple[str, dict[str, Any]]]:
    """(name, scores) of each split, test first: no checkpoint or threshold was selected on it."""
    found = [(str(name), scores) for name, scores in run.report.get("evaluation", {}).items() if scores]
    return sorted(found, key=lambda each: each[0] != "test")


def _get_sentences(part: dict[str, Any]) -> list[str]:
    words = part.get("words", [])
    return [words] if isinstance(words, str) else [str(line) for line in words]


def _get_dataset_type(run: RunRecord, split: str) -> str:
    """`dataset.type`, which the Hub requires: card.datasets if it names one, else the loader of `datasets`."""
    named = get_part(run.settings, "card").get("datasets") or []
    if len(named) == 1:
        return str(named[0])
    files = [each for each in get_part(run.manifest, "data").get("files", []) if isinstance(each, dict)]
    own = [each for each in files if each.get("role") == split] or files  # a split may be a part of the training files
    endings = [PurePath(re.sub(r"\.(?:gz|zst)$", "", str(each.get("path")).lower())).suffix for each in own]
    loaders = {_LOADERS.get(ending, "json") for ending in endings}
    return loaders.pop() if len(loaders) == 1 else "json"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _format_value(value: Any, how: str) -> str:
    if isinstance(value, str):  # "nan" and "inf", as report.json has them
        return value
    return how.format(value) if _is_finite(value) else ""


def _format_count(value: Any) -> str:
    return f"{value:,.0f}" if _is_finite(value) else ""
