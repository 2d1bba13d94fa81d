"""Scores of each split: intervals, baselines, comparison with the base, slices, word swaps, and memorization."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_finetune.metric_info import HEADLINES, figure, figures_of, number, shown, shown_interval
from hf_finetune.reporting.page.blocks import (
    Block,
    Cell,
    Strip,
    Tile,
    Tiles,
    Titled,
    get_sentences,
    mapping,
    objects,
    table,
    words,
)
from hf_finetune.reporting.run_record import RunRecord

MOST_TILES = 4
# Sentences on gaps between slices; the table below them has all metrics.
MOST_GAPS = 8
SCORED_FIRST = ("test", "validation")


def headline(run: RunRecord) -> list[Block]:
    """Tiles of the headline metrics: of test, else of validation, else of the last evaluation."""
    split, found = best_scores(run)
    names = [name for name in HEADLINES if number(found.get(name)) is not None][:MOST_TILES]
    if not names:
        return []
    return [Tiles(tuple(_tile(split, name, found) for name in names))]


def best_scores(run: RunRecord) -> tuple[str, dict[str, Any]]:
    """(name, scores) of the first split with metrics, else of the last evaluation; ("", {}) if there is none."""
    evaluation = mapping(run.report.get("evaluation"))
    for split in splits_of(evaluation):
        if figures_of(mapping(evaluation[split])):
            return split, mapping(evaluation[split])
    return last_evaluation(run)


def last_evaluation(run: RunRecord) -> tuple[str, dict[str, Any]]:
    """(title, metrics) of the last evaluation in the log, for a run without report.json; ("", {}) if none."""
    # {"step": 80, "eval_loss": 1.2, "eval_runtime": 3.1} -> ("validation at step 80", {"loss": 1.2})
    for entry in reversed(run.history):
        found = {name.removeprefix("eval_"): value for name, value in entry.items() if name.startswith("eval_")}
        kept = {name: value for name, value in found.items() if not name.endswith(("runtime", "_per_second"))}
        if kept:
            return f"validation at step {entry['step']:,}", kept
    return "", {}


def _tile(split: str, name: str, found: Mapping[str, Any]) -> Tile:
    interval = shown_interval(name, mapping(found.get("intervals")).get(name))
    below = ", ".join(part for part in (split, interval) if part)
    kind = figure(name)
    return Tile(kind.title, shown(name, found[name]), below, kind.meaning)


def scores(run: RunRecord) -> list[Block]:
    """All scores by split; the last evaluation of a run without report.json."""
    evaluation = mapping(run.report.get("evaluation"))
    if not evaluation:
        split, found = last_evaluation(run)
        return _figures(split, found) if found else []
    return [block for split in splits_of(evaluation) for block in _split(split, mapping(evaluation[split]))]


def splits_of(evaluation: Mapping[str, Any]) -> list[str]:
    """Names of the scored splits: test, validation, then any others."""
    return sorted(evaluation, key=lambda split: SCORED_FIRST.index(split) if split in SCORED_FIRST else 2)


def _split(split: str, found: dict[str, Any]) -> list[Block]:
    return [
        *_figures(split, found),
        *_comparison(f"{split}: base beside tuned", mapping(found.get("comparison"))),
        *_comparison(f"{split}: what it could do before", mapping(found.get("forgetting"))),
        *_slices(split, mapping(found.get("slices"))),
        *_swaps(split, mapping(found.get("swaps"))),
        *_memorization(mapping(found.get("memorization"))),
    ]


def _figures(split: str, found: dict[str, Any]) -> list[Block]:
    """A table of metrics with intervals, and a column for each baseline."""
    intervals, baselines = mapping(found.get("intervals")), mapping(found.get("baselines"))
    others = {name: mapping(figures) for name, figures in baselines.items()}
    columns = [
        "figure",
        "value",
        *(["95% interval", ""] if intervals else []),
        *(name.replace("_", " ") for name in others),
    ]
    rows = []
    for name, value in figures_of(found).items():
        interval = intervals.get(name)
        row: list[Cell] = [Titled(figure(name).title, figure(name).meaning), shown(name, value)]
        row += [shown_interval(name, interval), strip(name, value, interval)] if intervals else []
        rows.append([*row, *(shown(name, other.get(name)) for other in others.values())])
    return table(_caption(split, found), columns, rows)


def _caption(split: str, found: Mapping[str, Any]) -> str:
    rows = number(found.get("rows"))
    data, model = mapping(found.get("data")).get("path"), mapping(found.get("model")).get("name")
    answered = number(mapping(found.get("decoding")).get("rows"))
    few = f" ({answered:,.0f} of them answered)" if answered and rows and answered < rows else ""
    of = [f"{rows:,.0f} rows{few}" if rows else "", f"of {data}" if data else "", f"by {model}" if model else ""]
    said = " ".join(part for part in of if part)
    return f"{split}: {said}" if said else split


def strip(name: str, value: Any, interval: Any) -> Cell:
    """A drawing of value and interval for a metric in [0, 1]; "" for any other, or without an interval."""
    # accuracy 0.93 in [0.91, 0.95] -> Strip(value=93.0, low=91.0, high=95.0)
    found, ends = number(value), interval if isinstance(interval, list | tuple) else []
    places = [number(end) for end in (*ends, value)]
    if not figure(name).unit_scale or len(ends) != 2 or not all(p is not None and 0 <= p <= 1 for p in places):
        return ""
    low, high, at = (round(100 * place, 1) for place in places if place is not None)
    return Strip(at, low, high) if found is not None else ""


def _comparison(caption: str, found: dict[str, Any]) -> list[Block]:
    """Base and tuned model on the same rows: values, difference with interval, p-value and significance."""
    columns = ("figure", "base", "tuned", "difference", "95% interval", "p", "real?")
    rows = []
    for name, each in mapping(found.get("figures")).items():
        given = mapping(each)
        p_value = number(given.get("p_value"))
        row = [figure(name).title, shown(name, given.get("base")), shown(name, given.get("tuned"))]
        row += [difference(name, given.get("difference")), shown_interval(name, given.get("interval"))]
        rows.append([*row, _probability(p_value), "yes" if given.get("real") is True else "no"])
    base = f" (base: {found['base']})" if isinstance(found.get("base"), str) else ""
    data = f" ({found['data']})" if isinstance(found.get("data"), str) else ""
    return table(f"{caption}{base}{data}", columns, rows, said=get_sentences(found.get("words")))


def _probability(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def difference(name: str, value: Any) -> str:
    """Format a difference with its sign."""
    found = number(value)
    return shown(name, value) if found is None or found <= 0 else f"+{shown(name, value)}"


def _slices(split: str, found: dict[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for field, each in found.items():
        given = mapping(each)
        gaps = [str(gap["words"]) for gap in objects(given.get("gaps")) if "words" in gap]
        values = {value: mapping(of) for value, of in mapping(given.get("values")).items()}
        blocks += _slice_table(f"{split} by {field}", values, gaps[:MOST_GAPS])
    return blocks


def _slice_table(caption: str, values: dict[str, dict[str, Any]], gaps: list[str]) -> list[Block]:
    """A row for each value of a field; the first metric in [0, 1] is drawn as well."""
    names = list(dict.fromkeys(name for of in values.values() for name in figures_of(of)))
    drawn = next((name for name in names if any(_strip(name, of) for of in values.values())), "")
    columns = ["value", "rows", *(title for name in names for title in [figure(name).title, *[""] * (name == drawn)])]
    rows: list[list[Cell]] = []
    for value, of in values.items():
        row: list[Cell] = [value, shown("rows", of.get("rows"))]
        for name in names:
            row += [_with_interval(name, of), *([_strip(name, of)] if name == drawn else [])]
        rows.append(row)
    return table(caption, columns, rows, said=gaps)


def _strip(name: str, of: Mapping[str, Any]) -> Cell:
    return strip(name, of.get(name), mapping(of.get("intervals")).get(name))


def _with_interval(name: str, found: Mapping[str, Any]) -> str:
    interval = shown_interval(name, mapping(found.get("intervals")).get(name))
    return f"{shown(name, found.get(name))} ({interval})" if interval else shown(name, found.get(name))


def _swaps(split: str, found: dict[str, Any]) -> list[Block]:
    """How answers and metrics change when words are swapped for their counterparts."""
    blocks: list[Block] = []
    for name, each in found.items():
        given = mapping(each)
        rows, changed = number(given.get("rows")), number(given.get("changed"))
        said = f"{split}, words of {name} swapped" + ("" if rows is None else f" in {rows:,.0f} rows")
        said += "" if changed is None else f": the answer changed in {changed:.1%} of them"
        figures = [
            [figure(key).title, difference(key, of.get("difference")), shown_interval(key, of.get("interval"))]
            for key, of in ((key, mapping(of)) for key, of in mapping(given.get("figures")).items())
        ]
        columns = ("figure", "difference", "95% interval")
        blocks += table(said, columns, figures, said=get_sentences(given.get("words")))
    return blocks


def _memorization(found: dict[str, Any]) -> list[Block]:
    """Exposure of planted canaries, and training rows that the model continues verbatim."""
    canaries = [
        [
            *(shown("rows", of.get(name)) for name in ("copies", "canaries")),
            *(_bits(of.get(name)) for name in ("exposure", "most_possible")),
            "–" if number(of.get("extracted")) is None else f"{number(of['extracted']):.0%}",
        ]
        for of in objects(found.get("canaries"))
    ]
    columns = ("copies of each", "canaries", "exposure, bits", "most possible, bits", "extracted")
    return [
        *table("Planted canaries: what it gives away", columns, canaries, said=get_sentences(found.get("words"))),
        *_verbatim(mapping(found.get("verbatim"))),
    ]


def _verbatim(found: dict[str, Any]) -> list[Block]:
    share = number(found.get("share"))
    if share is None:
        return []
    interval = shown_interval("accuracy", found.get("interval"))
    counts = [shown("rows", found.get(name)) for name in ("continued", "rows", "prefix_tokens")]
    said = f"{counts[0]} of {counts[1]} training rows ({share:.1%}{f', {interval}' if interval else ''}) are continued "
    places = get_sentences(found.get("places"))
    listed = f" The first of them: {', '.join(places[:10])}." if places else ""
    return words([f"{said}word for word from their first {counts[2]} tokens.{listed}"])


def _bits(value: Any) -> str:
    found = number(value)
    return "–" if found is None else f"{found:.1f}"
