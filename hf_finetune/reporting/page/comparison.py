"""Runs side by side: metrics, overlaid curves, and the settings, data and versions that differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_finetune.metric_info import HEADLINES, figure, figures_of, number, shown, shown_interval
from hf_finetune.privacy import redact
from hf_finetune.reporting.charts.svg import Chart, Series, line_chart
from hf_finetune.reporting.diagnosis import Diagnosis
from hf_finetune.reporting.page import duration, render
from hf_finetune.reporting.page.blocks import (
    MOST_IN_A_CELL,
    Block,
    Cell,
    Section,
    Titled,
    flat,
    mapping,
    objects,
    shortened,
    some,
    table,
    words,
)
from hf_finetune.reporting.page.curves import SHARES
from hf_finetune.reporting.page.record import HASH_SHOWN
from hf_finetune.reporting.page.scores import last_evaluation, splits_of
from hf_finetune.reporting.run_record import RunRecord, curve

# Names of a run: they always differ and explain nothing.
NAMES = ("output_dir", "train.run_name", "train.output_dir", "hub.repo_id")
GROUPS = ("versions.", "distributed.", "train.", "data.", "model.")
OVERLAID = (("loss", "Training loss"), ("eval_loss", "Validation loss"), ("learning_rate", "Learning rate"))
SPLITS = ("test", "validation")
# Means over tokens, which a coarser tokenizer makes worse for the same model of the text:
# 2 tokens at 3.0 nats and 4 at 1.5 are the same 6.0 nats. Not compared across tokenizers.
PER_TOKEN = ("loss", "perplexity", "token_accuracy")
NOTHING = "–"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


# Costs of a run: path in report.json, and how to format it.
COSTS: dict[str, tuple[tuple[str, ...], Callable[[float], str]]] = {
    "time": (("train", "runtime_s"), duration),
    "tokens per second": (("train", "tokens_per_s"), _whole),
    "parameters trained": (("parameters", "trainable"), _whole),
    "parameters": (("parameters", "total"), _whole),
    "training tokens": (("data", "train", "tokens"), _whole),
}


def comparison(runs: Sequence[RunRecord], diagnoses: Sequence[Diagnosis]) -> str:
    """The HTML page that compares `runs`, with `diagnoses[i]` that of `runs[i]`."""
    names = run_names(runs)
    verdicts = [
        [
            name,
            {"done": "finished", "stopped": "not finished", "foreign": "another Trainer's"}[run.status],
            each.verdict,
        ]
        for name, run, each in zip(names, runs, diagnoses, strict=True)
    ]
    sections = (
        Section("verdict", "Verdict", (*words(best_in_words(runs)), *words(cautions(runs), tone="warning"))),
        Section("figures", "Figures", tuple(_figures(runs))),
        Section("curves", "Curves", tuple(_overlaid(runs))),
        Section("differences", "What differed", tuple(_differences(runs))),
        Section("runs", "Each run", tuple(table("Runs", ("run", "", "verdict"), verdicts, texts=True))),
    )
    return render(" · ".join(names), f"{len(runs)} runs compared", [], sections)


def run_names(runs: Sequence[RunRecord]) -> list[str]:
    """Unique names of the runs: the shortest ends of their paths that differ, numbered where the paths are equal.

    Folders above the working folder are not named: runs outside it are numbered.
    """
    # a/sft, b/sft -> ["a/sft", "b/sft"]; a/sft, b/lora -> ["sft", "lora"]; a/sft twice -> ["sft (1)", "sft (2)"]
    parts = [Path(redact(run.folder.resolve())).parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{run.name} ({index})" for index, run in enumerate(runs, start=1)]


def scored(run: RunRecord, split: str) -> dict[str, Any]:
    """The scores of a split; for validation of a run without report.json the last evaluation of its log."""
    found = mapping(mapping(run.report.get("evaluation")).get(split))
    return found if found or run.report or split != "validation" else last_evaluation(run)[1]


def best_in_words(runs: Sequence[RunRecord]) -> list[str]:
    """One sentence: which run is best by the first headline metric that all have, and whether intervals overlap.

    Test before validation; a split whose rows differ between the runs decides nothing.
    """
    names = run_names(runs)
    other_tokens = _tokenizers_differ(runs)
    for split in (each for each in _splits(runs) if not _rows_differ(runs, each)):
        for name in HEADLINES:
            better = "neither" if other_tokens and name in PER_TOKEN else figure(name).better
            values = [number(scored(run, split).get(name)) for run in runs]
            finite = [value for value in values if value is not None and math.isfinite(value)]
            if better == "neither" or len(finite) < len(runs):
                continue
            order = sorted(range(len(runs)), key=lambda i: finite[i], reverse=better == "higher")
            return [_ahead(name, split, [names[i] for i in order], [scored(runs[i], split) for i in order])]
    return ["These runs have no figure by which they could be compared."]


def _ahead(name: str, split: str, names: list[str], found: list[dict[str, Any]]) -> str:
    """Compare the best two; `names` and their scores `found` are sorted, best first."""
    values = [shown(name, each.get(name)) for each in found[:2]]
    intervals = [shown_interval(name, mapping(each.get("intervals")).get(name)) for each in found[:2]]
    said = [f"{value} ({interval})" if interval else value for value, interval in zip(values, intervals, strict=True)]
    title = figure(name).title
    if values[0] == values[1]:
        return f"{names[0]} and {names[1]} have the same {title} on {split}: {said[0]}."
    first = f"{names[0]} has the best {title} on {split}: {said[0]}; next is {names[1]} with {said[1]}."
    if not all(intervals):
        return f"{first} No intervals were computed, so the difference may be chance."
    (low, high), (other_low, other_high) = (mapping(each["intervals"])[name] for each in found[:2])
    apart = low > other_high or high < other_low
    return f"{first} Their intervals {'do not overlap' if apart else 'overlap: the difference may be chance'}."


def cautions(runs: Sequence[RunRecord]) -> list[str]:
    """Why metrics of these runs may not be comparable: different rows, or different tokenizers."""
    said = [
        f"The {split} rows of these runs differ, so their figures on {split} answer different questions."
        for split in SPLITS
        if _rows_differ(runs, split)
    ]
    if _tokenizers_differ(runs):
        said.append("Their tokenizers differ: of what is counted by the token only bits per byte can be compared.")
    return said


def _rows_differ(runs: Sequence[RunRecord], split: str) -> bool:
    given = [mapping(mapping(mapping(run.manifest.get("data")).get("splits")).get(split)) for run in runs]
    return len({str(each["sha256"]) for each in given if "sha256" in each}) > 1


def _tokenizers_differ(runs: Sequence[RunRecord]) -> bool:
    given = [mapping(run.manifest.get("files")) for run in runs]
    return len({str(each["tokenizer.json"]) for each in given if "tokenizer.json" in each}) > 1


def _figures(runs: Sequence[RunRecord]) -> list[Block]:
    """A table per split with a row per metric and a column per run; then the costs."""
    blocks: list[Block] = []
    names = run_names(runs)
    for split in _splits(runs):
        found = [scored(run, split) for run in runs]
        figures = list(dict.fromkeys(name for each in found for name in figures_of(each)))
        rows: list[list[Cell]] = [
            [Titled(figure(name).title, _direction(name)), *(_with_interval(name, each) for each in found)]
            for name in figures
        ]
        blocks += table(f"{split}, with 95% intervals where they were computed", ["figure", *names], rows)
    return [*blocks, *_costs(runs)]


def _splits(runs: Sequence[RunRecord]) -> list[str]:
    """The splits of any run, and validation, which a run without report.json has in its log."""
    found = [split for run in runs for split in mapping(run.report.get("evaluation"))]
    return splits_of(dict.fromkeys([*found, "validation"]))


def _direction(name: str) -> str:
    return {"higher": "higher is better", "lower": "lower is better", "neither": ""}[figure(name).better]


def _with_interval(name: str, found: dict[str, Any]) -> Cell:
    interval = shown_interval(name, mapping(found.get("intervals")).get(name))
    return Titled(shown(name, found.get(name)), interval)


def _costs(runs: Sequence[RunRecord]) -> list[Block]:
    """Steps, time, speed, parameters and tokens of each run."""
    rows = [[title, *(_cost(run, keys, written) for run in runs)] for title, (keys, written) in COSTS.items()]
    steps = ["steps", *(f"{run.step:,}" for run in runs)]
    return table("What it took", ["", *run_names(runs)], [steps, *(row for row in rows if set(row[1:]) != {NOTHING})])


def _cost(run: RunRecord, keys: Sequence[str], written: Callable[[float], str]) -> str:
    found: Any = run.report
    for key in keys:
        found = mapping(found).get(key)
    value = number(found)
    return NOTHING if value is None or not math.isfinite(value) else written(value)


def _overlaid(runs: Sequence[RunRecord]) -> list[Block]:
    titles = {
        f"eval_{name.removeprefix('eval_')}": f"Validation {figure(name.removeprefix('eval_')).title}"
        for name in SHARES
    }
    return some(*(_chart(runs, name, title) for name, title in (*OVERLAID, *titles.items())))


def _chart(runs: Sequence[RunRecord], name: str, title: str) -> Chart | None:
    series = [
        Series(run_name, curve(run, name), style, dots=name.startswith("eval_"), noisy=name == "loss")
        for style, (run_name, run) in enumerate(zip(run_names(runs), runs, strict=True))
    ]
    return line_chart(title, series, from_zero=name == "learning_rate")


def _differences(runs: Sequence[RunRecord]) -> list[Block]:
    found = differences(runs)
    if not found:
        return words(["No setting, data file, model or version differed: what differs is chance."])
    rows = [[key, *(shortened(value, MOST_IN_A_CELL) for value in values)] for key, values in found.items()]
    return table(
        "Settings, data and versions that are not the same in all runs", ["", *run_names(runs)], rows, texts=True
    )


def differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """What differs between the runs: dotted key -> a value per run, a dash where it has none."""
    facts = [_facts(run) for run in runs]
    # An unfinished or foreign run lacks whole groups (versions, distributed): unknown is not different.
    unknown = tuple(group for group in GROUPS if not all(any(key.startswith(group) for key in each) for each in facts))
    keys = [key for key in dict.fromkeys(key for each in facts for key in each) if not key.startswith(unknown)]
    values = {key: [each.get(key, NOTHING) for each in facts] for key in keys if key not in NAMES}
    return {key: given for key, given in values.items() if len(set(given)) > 1}


def _facts(run: RunRecord) -> dict[str, str]:
    """Settings, data hashes, seed, versions and processes of a run by dotted key."""
    files = objects(mapping(run.manifest.get("data")).get("files"))
    facts = {
        "recipe": run.report.get("recipe"),
        **flat(run.settings),
        **{
            f"sha256 of {file.get('role')} file {index}": str(file.get("sha256"))[:HASH_SHOWN]
            for index, file in enumerate(files, start=1)
        },
        "seed": run.manifest.get("seed"),
        **{f"versions.{name}": value for name, value in mapping(run.manifest.get("versions")).items()},
        **{f"distributed.{name}": value for name, value in mapping(run.report.get("distributed")).items()},
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
