"""Runs side by side: metrics, overlaid curves, and the settings, data and versions that differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any
from urllib.parse import quote

from hf_finetune.metric_info import (
    HEADLINE_METRICS,
    format_interval,
    format_metric,
    format_size,
    get_metric_info,
    parse_number,
    select_metrics,
)
from hf_finetune.privacy import redact
from hf_finetune.reporting.charts.svg import Chart, Series, make_line_chart
from hf_finetune.reporting.diagnosis import Diagnosis
from hf_finetune.reporting.page import PAGE, format_duration, render
from hf_finetune.reporting.page.blocks import (
    MAX_CELL_CHARACTERS,
    Block,
    Cell,
    Exchange,
    LinkCell,
    NotedCell,
    Samples,
    Section,
    drop_none,
    flatten_settings,
    get_mapping,
    get_objects,
    make_paragraphs,
    make_table,
    shorten,
)
from hf_finetune.reporting.page.curves import SHARE_METRICS
from hf_finetune.reporting.page.record import HASH_CHARACTERS, MAX_PROMPTS
from hf_finetune.reporting.page.scores import get_last_evaluation
from hf_finetune.reporting.page.shared_rows import describe_shared_rows
from hf_finetune.reporting.run_record import RunRecord, get_curve
from hf_finetune.reporting.verdict import sort_splits

# Names of a run: they always differ and explain nothing.
RUN_NAME_KEYS = ("output_dir", "train.run_name", "train.output_dir", "hub.repo_id")
KEY_GROUPS = ("versions.", "distributed.", "train.", "data.", "model.")
OVERLAID_CURVES = (("loss", "Training loss"), ("eval_loss", "Validation loss"), ("learning_rate", "Learning rate"))
COMPARED_SPLITS = ("test", "validation")
# Means over tokens, which a coarser tokenizer makes worse for the same model of the text:
# 2 tokens at 3.0 nats and 4 at 1.5 are the same 6.0 nats. Not compared across tokenizers.
PER_TOKEN_METRICS = ("loss", "perplexity", "token_accuracy")
DASH = "–"
POWER = 0.8
"""Probability with which a difference that can be shown is."""


def _format_count(value: float) -> str:
    return f"{value:,.0f}"


# Costs of a run: path in report.json, and how to format it.
COSTS: dict[str, tuple[tuple[str, ...], Callable[[float], str]]] = {
    "time": (("train", "runtime_s"), format_duration),
    "tokens per second": (("train", "tokens_per_s"), _format_count),
    "parameters trained": (("parameters", "trainable"), _format_count),
    "parameters": (("parameters", "total"), _format_count),
    "training tokens": (("data", "train", "tokens"), _format_count),
}


STATES = {"done": "finished", "running": "running", "stopped": "not finished", "foreign": "another Trainer's"}


def render_comparison(runs: Sequence[RunRecord], diagnoses: Sequence[Diagnosis], *, folder: Path | None = None) -> str:
    """The HTML page that compares `runs`, with `diagnoses[i]` that of `runs[i]`; `folder` is where it will lie."""
    names = make_run_names(runs)
    verdicts: list[list[Cell]] = [
        [
            LinkCell(name, _link_report(run, folder)),
            STATES[run.status],
            each.verdict,
        ]
        for name, run, each in zip(names, runs, diagnoses, strict=True)
    ]
    sections = (
        Section(
            "verdict",
            "Verdict",
            (
                *make_paragraphs(describe_best(runs)),
                *make_paragraphs(find_cautions(runs), tone="warning"),
                *make_paragraphs(compare_shared_rows(runs), tone="second"),
            ),
        ),
        Section("figures", "Figures", tuple(_build_metric_tables(runs))),
        Section("curves", "Curves", tuple(_build_charts(runs))),
        Section("samples", "Samples", tuple(_build_samples(runs, names))),
        Section("differences", "What differed", tuple(_build_difference_table(runs))),
        Section("runs", "Each run", tuple(make_table("Runs", ("run", "state", "verdict"), verdicts, texts=True))),
    )
    return render(" · ".join(names), f"{len(runs)} runs compared", [], sections)


def _link_report(run: RunRecord, folder: Path | None) -> str:
    """The path of a run's own page from `folder`; "" where it has none, or lies elsewhere than below."""
    # Not through "..": the folders above would be named on a page that is passed on.
    page = run.folder.resolve() / PAGE
    if folder is None or not page.is_file() or not page.is_relative_to(folder.resolve()):
        return ""
    return quote(page.relative_to(folder.resolve()).as_posix())


def _build_samples(runs: Sequence[RunRecord], names: Sequence[str]) -> list[Block]:
    """What each run answered last to the prompts that several of them were given."""
    answers: dict[str, dict[str, str]] = {}
    for name, run in zip(names, runs, strict=True):
        for each in get_objects(run.report.get("samples")):
            if isinstance(each.get("prompt"), str) and isinstance(each.get("continuation"), str):
                answers.setdefault(each["prompt"], {})[name] = shorten(each["continuation"])  # the last one stays
    shared = [Exchange(shorten(prompt), tuple(of.items())) for prompt, of in answers.items() if len(of) > 1]
    return [Samples(tuple(shared[:MAX_PROMPTS]))] if shared else []


def make_run_names(runs: Sequence[RunRecord]) -> list[str]:
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


def get_scores(run: RunRecord, split: str) -> dict[str, Any]:
    """The scores of a split; for validation of a run without report.json the last evaluation of its log."""
    found = get_mapping(get_mapping(run.report.get("evaluation")).get(split))
    return found if found or run.report or split != "validation" else get_last_evaluation(run)[1]


def describe_best(runs: Sequence[RunRecord]) -> list[str]:
    """One sentence: which run is best by the first headline metric that all have, and whether intervals overlap.

    Test before validation; a split whose rows differ between the runs decides nothing.
    """
    names = make_run_names(runs)
    other_tokens = _have_different_tokenizers(runs)
    for split in (each for each in _list_splits(runs) if not _have_different_rows(runs, each)):
        for name in HEADLINE_METRICS:
            better = "neither" if other_tokens and name in PER_TOKEN_METRICS else get_metric_info(name).better
            values = [parse_number(get_scores(run, split).get(name)) for run in runs]
            finite = [value for value in values if value is not None and math.isfinite(value)]
            if better == "neither" or len(finite) < len(runs):
                continue
            order = sorted(range(len(runs)), key=lambda i: finite[i], reverse=better == "higher")
            return [
                _describe_leader(name, split, [names[i] for i in order], [get_scores(runs[i], split) for i in order])
            ]
    return [f"These runs have no figure by which they could be compared: {_explain_no_figure(runs)}."]


def _explain_no_figure(runs: Sequence[RunRecord]) -> str:
    scored = [any(get_scores(run, split) for split in COMPARED_SPLITS) for run in runs]
    lacking = [name for name, has in zip(make_run_names(runs), scored, strict=True) if not has]
    if lacking:
        return f"{', '.join(lacking)} scored neither test nor validation rows"
    different = [split for split in _list_splits(runs) if _have_different_rows(runs, split)]
    if different:
        return f"they are scored on other {' and '.join(different)} rows"
    return "no figure is in all of them"


def _describe_leader(name: str, split: str, names: list[str], found: list[dict[str, Any]]) -> str:
    """Compare the best two; `names` and their scores `found` are sorted, best first."""
    values = [format_metric(name, each.get(name)) for each in found[:2]]
    intervals = [format_interval(name, get_mapping(each.get("intervals")).get(name)) for each in found[:2]]
    said = [f"{value} ({interval})" if interval else value for value, interval in zip(values, intervals, strict=True)]
    title = get_metric_info(name).title
    if values[0] == values[1]:
        return f"{names[0]} and {names[1]} have the same {title} on {split}: {said[0]}."
    first = f"{names[0]} has the best {title} on {split}: {said[0]}; next is {names[1]} with {said[1]}."
    if not all(intervals):
        without = " and ".join(each for each, interval in zip(names, intervals, strict=False) if not interval)
        return f"{first} Without an interval of {without} the difference may be chance."
    (low, high), (other_low, other_high) = (get_mapping(each["intervals"])[name] for each in found[:2])
    apart = low > other_high or high < other_low
    how = "do not overlap" if apart else "overlap: the difference may be chance"
    least = find_least_apart(high - low, other_high - other_low)
    return f"{first} Their intervals {how}; such intervals reliably show {format_size(name, least)} or more."


def find_least_apart(width: float, other: float) -> float:
    """Find the difference of two figures whose 95 % intervals of these widths do not overlap in 80 % of cases."""
    # Widths 0.08 and 0.06: standard errors 0.0204 and 0.0153. The halves add up to 0.07, and 0.84 times the error of
    # the difference, 0.0255, makes it so in four of five cases: 0.0915.
    error = math.hypot(width, other) / (2 * NormalDist().inv_cdf(0.975))
    return (width + other) / 2 + NormalDist().inv_cdf(POWER) * error


def find_cautions(runs: Sequence[RunRecord]) -> list[str]:
    """Why metrics of these runs may not be comparable: different rows, or different tokenizers."""
    said = [
        f"The {split} rows of these runs differ, so their figures on {split} answer different questions."
        for split in COMPARED_SPLITS
        if _have_different_rows(runs, split)
    ]
    if _have_different_tokenizers(runs):
        said.append("Their tokenizers differ: of what is counted by the token only bits per byte can be compared.")
    return said


def compare_shared_rows(runs: Sequence[RunRecord]) -> list[str]:
    """A sentence for each split whose rows differ: the losses on those that all share, if their tokens are the same."""
    if _have_different_tokenizers(runs):
        return []
    differ = [split for split in COMPARED_SPLITS if _have_different_rows(runs, split)]
    return [said for split in differ for said in describe_shared_rows(runs, make_run_names(runs), split)]


def _have_different_rows(runs: Sequence[RunRecord], split: str) -> bool:
    given = [get_mapping(get_mapping(get_mapping(run.manifest.get("data")).get("splits")).get(split)) for run in runs]
    return len({str(each["sha256"]) for each in given if "sha256" in each}) > 1


def _have_different_tokenizers(runs: Sequence[RunRecord]) -> bool:
    given = [get_mapping(run.manifest.get("files")) for run in runs]
    return len({str(each["tokenizer.json"]) for each in given if "tokenizer.json" in each}) > 1


def _build_metric_tables(runs: Sequence[RunRecord]) -> list[Block]:
    """A table per split with a row per metric and a column per run; then the costs."""
    blocks: list[Block] = []
    names = make_run_names(runs)
    for split in _list_splits(runs):
        found = [get_scores(run, split) for run in runs]
        figures = list(dict.fromkeys(name for each in found for name in select_metrics(each)))
        rows: list[list[Cell]] = [
            [
                NotedCell(get_metric_info(name).title, _describe_direction(name)),
                *(_make_metric_cell(name, each) for each in found),
            ]
            for name in figures
        ]
        blocks += make_table(f"{split}, with 95% intervals where they were computed", ["figure", *names], rows)
    return [*blocks, *_build_cost_table(runs)]


def _list_splits(runs: Sequence[RunRecord]) -> list[str]:
    """The splits of any run, and validation, which a run without report.json has in its log."""
    found = [split for run in runs for split in get_mapping(run.report.get("evaluation"))]
    return sort_splits(dict.fromkeys([*found, "validation"]))


def _describe_direction(name: str) -> str:
    return {"higher": "higher is better", "lower": "lower is better", "neither": ""}[get_metric_info(name).better]


def _make_metric_cell(name: str, found: dict[str, Any]) -> Cell:
    interval = format_interval(name, get_mapping(found.get("intervals")).get(name))
    return NotedCell(format_metric(name, found.get(name)), interval)


def _build_cost_table(runs: Sequence[RunRecord]) -> list[Block]:
    """Steps, time, speed, parameters and tokens of each run."""
    rows = [[title, *(_format_cost(run, keys, written) for run in runs)] for title, (keys, written) in COSTS.items()]
    steps = ["steps", *(f"{run.step:,}" for run in runs)]
    return make_table(
        "What it took", ["", *make_run_names(runs)], [steps, *(row for row in rows if set(row[1:]) != {DASH})]
    )


def _format_cost(run: RunRecord, keys: Sequence[str], written: Callable[[float], str]) -> str:
    found: Any = run.report
    for key in keys:
        found = get_mapping(found).get(key)
    value = parse_number(found)
    return DASH if value is None or not math.isfinite(value) else written(value)


def _build_charts(runs: Sequence[RunRecord]) -> list[Block]:
    titles = {
        f"eval_{name.removeprefix('eval_')}": f"Validation {get_metric_info(name.removeprefix('eval_')).title}"
        for name in SHARE_METRICS
    }
    return drop_none(*(_build_chart(runs, name, title) for name, title in (*OVERLAID_CURVES, *titles.items())))


def _build_chart(runs: Sequence[RunRecord], name: str, title: str) -> Chart | None:
    series = [
        Series(run_name, get_curve(run, name), style, dots=name.startswith("eval_"), noisy=name == "loss")
        for style, (run_name, run) in enumerate(zip(make_run_names(runs), runs, strict=True))
    ]
    return make_line_chart(title, series, from_zero=name == "learning_rate")


def _build_difference_table(runs: Sequence[RunRecord]) -> list[Block]:
    found = find_differences(runs)
    if not found:
        return make_paragraphs(["No setting, data file, model or version differed: what differs is chance."])
    rows = [[key, *(shorten(value, MAX_CELL_CHARACTERS) for value in values)] for key, values in found.items()]
    return make_table(
        "Settings, data and versions that are not the same in all runs", ["", *make_run_names(runs)], rows, texts=True
    )


def find_differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """What differs between the runs: dotted key -> a value per run, a dash where it has none."""
    facts = [_flatten_run(run) for run in runs]
    # An unfinished or foreign run lacks whole groups (versions, distributed): unknown is not different.
    unknown = tuple(
        group for group in KEY_GROUPS if not all(any(key.startswith(group) for key in each) for each in facts)
    )
    keys = [key for key in dict.fromkeys(key for each in facts for key in each) if not key.startswith(unknown)]
    values = {key: [each.get(key, DASH) for each in facts] for key in keys if key not in RUN_NAME_KEYS}
    return {key: given for key, given in values.items() if len(set(given)) > 1}


def _flatten_run(run: RunRecord) -> dict[str, str]:
    """Settings, data hashes, seed, versions and processes of a run by dotted key."""
    files = get_objects(get_mapping(run.manifest.get("data")).get("files"))
    facts = {
        "recipe": run.report.get("recipe"),
        **flatten_settings(run.settings),
        **{
            f"sha256 of {file.get('role')} file {index}": str(file.get("sha256"))[:HASH_CHARACTERS]
            for index, file in enumerate(files, start=1)
        },
        "seed": run.manifest.get("seed"),
        **{f"versions.{name}": value for name, value in get_mapping(run.manifest.get("versions")).items()},
        **{
            f"distributed.{name}": value
            for name, value in get_mapping(run.report.get("distributed")).items()
            if name not in ("waited_s", "restarts")  # what has happened to a run, and never the same
        },
    }
    return {key: str(value) for key, value in facts.items() if value is not None}
