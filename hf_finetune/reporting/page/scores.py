"""Scores of each split: intervals, baselines, comparison with the base, slices, word swaps, and memorization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_finetune.metric_info import (
    HEADLINE_METRICS,
    format_interval,
    format_metric,
    get_metric_info,
    list_missing_intervals,
    parse_number,
    select_metrics,
)
from hf_finetune.reporting.page.blocks import (
    Block,
    Cell,
    NotedCell,
    Paragraphs,
    Strip,
    Tile,
    Tiles,
    get_mapping,
    get_objects,
    get_sentences,
    make_paragraphs,
    make_table,
)
from hf_finetune.reporting.run_record import RunRecord
from hf_finetune.reporting.verdict import sort_splits

MAX_TILES = 4
# Sentences on gaps between slices; the table below them has all metrics.
MAX_GAP_SENTENCES = 8


def build_headline(run: RunRecord) -> list[Block]:
    """Tiles of the headline metrics: of test, else of validation, else of the last evaluation."""
    split, found = select_scores(run)
    names = [name for name in HEADLINE_METRICS if parse_number(found.get(name)) is not None][:MAX_TILES]
    if not names:
        return []
    return [Tiles(tuple(_make_tile(split, name, found) for name in names))]


def select_scores(run: RunRecord) -> tuple[str, dict[str, Any]]:
    """(name, scores) of the first split with metrics, else of the last evaluation; ("", {}) if there is none."""
    evaluation = get_mapping(run.report.get("evaluation"))
    for split in sort_splits(evaluation):
        if select_metrics(get_mapping(evaluation[split])):
            return split, get_mapping(evaluation[split])
    return get_last_evaluation(run)


def get_last_evaluation(run: RunRecord) -> tuple[str, dict[str, Any]]:
    """(title, metrics) of the last evaluation in the log, for a run without report.json; ("", {}) if none."""
    # {"step": 80, "eval_loss": 1.2, "eval_runtime": 3.1} -> ("validation at step 80", {"loss": 1.2})
    for entry in reversed(run.history):
        found = {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
        kept = {name: value for name, value in found.items() if not name.endswith(("runtime", "_per_second"))}
        if kept:
            return f"validation at step {entry['step']:,}", kept
    return "", {}


def _make_tile(split: str, name: str, found: Mapping[str, Any]) -> Tile:
    interval = format_interval(name, get_mapping(found.get("intervals")).get(name))
    below = ", ".join(part for part in (split, interval) if part)
    kind = get_metric_info(name)
    return Tile(kind.title, format_metric(name, found[name]), below, kind.meaning)


def build_scores(run: RunRecord) -> list[Block]:
    """All scores by split; the last evaluation of a run without report.json."""
    evaluation = get_mapping(run.report.get("evaluation"))
    if not evaluation:
        split, found = get_last_evaluation(run)
        return _build_metric_table(split, found) if found else []
    return [block for split in sort_splits(evaluation) for block in _build_split(split, get_mapping(evaluation[split]))]


def _build_split(split: str, found: dict[str, Any]) -> list[Block]:
    return [
        *_build_seen_rows(split, get_mapping(found.get("seen_rows"))),
        *_build_metric_table(split, found),
        *_build_comparison(f"{split}: base beside tuned", get_mapping(found.get("comparison"))),
        *_build_comparison(f"{split}: what it could do before", get_mapping(found.get("forgetting"))),
        *_build_slices(split, get_mapping(found.get("slices"))),
        *_build_swaps(split, get_mapping(found.get("swaps"))),
        *_memorization(get_mapping(found.get("memorization"))),
    ]


def _build_seen_rows(split: str, found: dict[str, Any]) -> list[Block]:
    """Say how many of the rows were trained, and where the first of them are."""
    words, places = found.get("words"), found.get("places")
    if not isinstance(words, list) or not words:
        return []
    where = [f"The first of them: {', '.join(map(str, places))}."] if isinstance(places, list) and places else []
    return [Paragraphs((*(f"{split}: {said}." for said in words), *where), tone="warning")]


def _build_metric_table(split: str, found: dict[str, Any]) -> list[Block]:
    """A table of metrics with intervals, and a column for each baseline."""
    intervals, baselines = get_mapping(found.get("intervals")), get_mapping(found.get("baselines"))
    others = {name: get_mapping(figures) for name, figures in baselines.items()}
    columns = [
        "figure",
        "value",
        *(name.replace("_", " ") for name in others),  # beside the value, so that a phone shows them
        *(["95% interval", ""] if intervals else []),
    ]
    rows = []
    for name, value in select_metrics(found).items():
        interval = intervals.get(name)
        row: list[Cell] = [
            NotedCell(get_metric_info(name).title, get_metric_info(name).meaning),
            format_metric(name, value),
        ]
        row += [format_metric(name, other.get(name)) for other in others.values()]
        row += [format_interval(name, interval), make_strip(name, value, interval)] if intervals else []
        rows.append(row)
    said = [*get_sentences(get_mapping(found.get("fitted")).get("words")), *list_missing_intervals(found)]
    return make_table(_format_caption(split, found), columns, rows, said=said)


def _format_caption(split: str, found: Mapping[str, Any]) -> str:
    rows = parse_number(found.get("rows"))
    data, model = get_mapping(found.get("data")).get("path"), get_mapping(found.get("model")).get("name")
    decoding = get_mapping(found.get("decoding"))
    answered, longer, most = (
        parse_number(decoding.get(name)) for name in ("rows", "longer_references", "max_new_tokens")
    )
    few = f" ({answered:,.0f} of them answered)" if answered and rows and answered < rows else ""
    cut = f", {longer:,.0f} references longer than the {most:,.0f} tokens of an answer" if longer and most else ""
    of = [f"{rows:,.0f} rows{few}" if rows else "", f"of {data}" if data else "", f"by {model}" if model else ""]
    said = " ".join(part for part in of if part) + cut
    return f"{split}: {said}" if said else split


def make_strip(name: str, value: Any, interval: Any) -> Cell:
    """A drawing of value and interval for a metric in [0, 1]; "" for any other, or without an interval."""
    # accuracy 0.93 in [0.91, 0.95] -> Strip(value=93.0, low=91.0, high=95.0)
    found, ends = parse_number(value), interval if isinstance(interval, list | tuple) else []
    places = [parse_number(end) for end in (*ends, value)]
    if not get_metric_info(name).unit_scale or len(ends) != 2 or not all(p is not None and 0 <= p <= 1 for p in places):
        return ""
    low, high, at = (round(100 * place, 1) for place in places if place is not None)
    return Strip(at, low, high) if found is not None else ""


def _build_comparison(caption: str, found: dict[str, Any]) -> list[Block]:
    """Base and tuned model on the same rows: values, difference with interval, p-value and significance."""
    columns = ("figure", "base", "tuned", "difference", "95% interval", "p", "real?", "these rows reliably show")
    rows = []
    for name, each in get_mapping(found.get("figures")).items():
        given = get_mapping(each)
        p_value = parse_number(given.get("p_value"))
        row = [
            get_metric_info(name).title,
            format_metric(name, given.get("base")),
            format_metric(name, given.get("tuned")),
        ]
        row += [format_difference(name, given.get("difference")), format_interval(name, given.get("interval"))]
        real = "yes" if given.get("real") is True else "no"
        rows.append([*row, _format_p_value(p_value), real, format_metric(name, given.get("detectable"))])
    base = f" (base: {found['base']})" if isinstance(found.get("base"), str) else ""
    data = f" ({found['data']})" if isinstance(found.get("data"), str) else ""
    # What the words say of each figure stands in the table; of what was forgotten there is no verdict.
    said = get_sentences([found.get("verdict")]) or get_sentences(found.get("words"))
    return make_table(f"{caption}{base}{data}", columns, rows, said=tuple(said))


def _format_p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_difference(name: str, value: Any) -> str:
    """Format a difference with its sign."""
    found = parse_number(value)
    return format_metric(name, value) if found is None or found <= 0 else f"+{format_metric(name, value)}"


def _build_slices(split: str, found: dict[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for field, each in found.items():
        given = get_mapping(each)
        gaps = [str(gap["words"]) for gap in get_objects(given.get("gaps")) if "words" in gap]
        values = {value: get_mapping(of) for value, of in get_mapping(given.get("values")).items()}
        blocks += _build_slice_table(f"{split} by {field}", values, gaps[:MAX_GAP_SENTENCES])
    return blocks


def _build_slice_table(caption: str, values: dict[str, dict[str, Any]], gaps: list[str]) -> list[Block]:
    """A row for each value of a field; the first metric in [0, 1] is drawn as well."""
    names = list(dict.fromkeys(name for of in values.values() for name in select_metrics(of)))
    drawn = next((name for name in names if any(_make_strip_cell(name, of) for of in values.values())), "")
    columns = [
        "value",
        "rows",
        *(title for name in names for title in [get_metric_info(name).title, *[""] * (name == drawn)]),
    ]
    rows: list[list[Cell]] = []
    for value, of in values.items():
        row: list[Cell] = [value, format_metric("rows", of.get("rows"))]
        for name in names:
            row += [_format_with_interval(name, of), *([_make_strip_cell(name, of)] if name == drawn else [])]
        rows.append(row)
    return make_table(caption, columns, rows, said=gaps)


def _make_strip_cell(name: str, of: Mapping[str, Any]) -> Cell:
    return make_strip(name, of.get(name), get_mapping(of.get("intervals")).get(name))


def _format_with_interval(name: str, found: Mapping[str, Any]) -> str:
    interval = format_interval(name, get_mapping(found.get("intervals")).get(name))
    return f"{format_metric(name, found.get(name))} ({interval})" if interval else format_metric(name, found.get(name))


def _build_swaps(split: str, found: dict[str, Any]) -> list[Block]:
    """How answers and metrics change when words are swapped for their counterparts."""
    blocks: list[Block] = []
    for name, each in found.items():
        given = get_mapping(each)
        rows, changed = parse_number(given.get("rows")), parse_number(given.get("changed"))
        said = f"{split}, words of {name} swapped" + ("" if rows is None else f" in {rows:,.0f} rows")
        said += "" if changed is None else f": the answer changed in {changed:.1%} of them"
        figures = [
            [
                get_metric_info(key).title,
                format_difference(key, of.get("difference")),
                format_interval(key, of.get("interval")),
            ]
            for key, of in ((key, get_mapping(of)) for key, of in get_mapping(given.get("figures")).items())
        ]
        columns = ("figure", "difference", "95% interval")
        blocks += make_table(said, columns, figures, said=get_sentences(given.get("words")))
    return blocks


def _memorization(found: dict[str, Any]) -> list[Block]:
    """Exposure of planted canaries, and training rows that the model continues verbatim."""
    canaries = [
        [
            *(format_metric("rows", of.get(name)) for name in ("copies", "canaries")),
            *(_format_bits(of.get(name)) for name in ("exposure", "most_possible")),
            "–" if parse_number(of.get("extracted")) is None else f"{parse_number(of['extracted']):.0%}",
        ]
        for of in get_objects(found.get("canaries"))
    ]
    columns = ("copies of each", "canaries", "exposure, bits", "most possible, bits", "extracted")
    return [
        *make_table("Planted canaries: what it gives away", columns, canaries, said=get_sentences(found.get("words"))),
        *_build_verbatim(get_mapping(found.get("verbatim"))),
    ]


def _build_verbatim(found: dict[str, Any]) -> list[Block]:
    share = parse_number(found.get("share"))
    if share is None:
        return []
    interval = format_interval("accuracy", found.get("interval"))
    counts = [format_metric("rows", found.get(name)) for name in ("continued", "rows", "prefix_tokens")]
    said = f"{counts[0]} of {counts[1]} training rows ({share:.1%}{f', {interval}' if interval else ''}) are continued "
    places = get_sentences(found.get("places"))
    listed = f" The first of them: {', '.join(places[:10])}." if places else ""
    return make_paragraphs([f"{said}word for word from their first {counts[2]} tokens.{listed}"])


def _format_bits(value: Any) -> str:
    found = parse_number(value)
    return "–" if found is None else f"{found:.1f}"
