"""The report in lines of a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hf_finetune.errors import format_problems
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.data_report.report import DataReport, SplitReport
from hf_finetune.preflight.findings import Finding
from hf_finetune.preflight.lengths import AtLimit, SplitLengths
from hf_finetune.privacy import escape_control_characters

_SHOWN = 3
"""Places of a finding."""
_LABELS_SHOWN = 6
_BAR = 24
"""Signs of the longest bar of a histogram."""
_COLUMNS = ("", "rows", "tokens", "trained", "median", "95 %", "longest")


def format_report(report: DataReport) -> Iterator[str]:
    """Yield the lines of a report."""
    yield f"{report.run}: {report.recipe}"
    for file in report.files:
        rejected = f", {file['rejected']:,} of {say_count(file['lines'], 'line')} rejected" if file["rejected"] else ""
        yield f"  {file['split']}: {file['path']}, {say_count(file['rows'], 'row')}{rejected}"
        yield from (f"    {note}" for note in file["notes"])
    if report.splits:
        yield ""
        yield from _format_table(report.splits)
        for name, split in report.splits.items():
            yield from _format_split(name, split)
    if report.problems:
        yield ""
        yield "A run would be refused:"
        yield from (f"  {line}" for line in format_problems(report.problems))
        if report.more_problems:
            yield f"  ... and {report.more_problems:,} more"
    for finding in report.sort_findings():
        yield ""
        yield from format_finding(finding)
    yield ""
    yield _count(report)


def _format_table(splits: Mapping[str, SplitReport]) -> Iterator[str]:
    rows = [_COLUMNS, *(_describe_split(name, split) for name, split in splits.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for first, *others in rows:
        cells = [each.rjust(width) for each, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def _describe_split(name: str, split: SplitReport) -> tuple[str, ...]:
    if split.lengths is None or not split.lengths.percentiles:
        return (name, f"{split.rows:,}", *["-"] * (len(_COLUMNS) - 2))
    sizes = split.lengths.percentiles
    totals = _get_totals(split.lengths)
    return (name, f"{split.rows:,}", *totals, *(f"{sizes[each]:,}" for each in ("50", "95", "max")))


def _get_totals(lengths: SplitLengths) -> tuple[str, str]:
    if not lengths.limits:
        return "-", "-"
    first: AtLimit = lengths.limits[0]
    # A label is learned from all tokens, and none of them is predicted.
    return f"{first.tokens:,}", "-" if lengths.kind == "labelled" else f"{first.trained_tokens:,}"


def _format_split(name: str, split: SplitReport) -> Iterator[str]:
    """What the rows of a split are: a histogram of their tokens, their labels and languages."""
    if split.lengths is not None and split.lengths.histogram and split.rows:
        most = max(split.lengths.histogram.values())
        width = max(map(len, split.lengths.histogram))
        yield ""
        yield f"{name}: rows by their tokens"
        for range_, count in split.lengths.histogram.items():
            bar = "▇" * round(_BAR * count / most) or "▏" * bool(count)
            yield f"  {range_:>{width}}  {bar}{' ' * bool(bar)}{count:,}"
    if split.labels:
        shown = [f"{escape_control_characters(label)} {count:,}" for label, count in split.labels.items()]
        more = f", and {len(shown) - _LABELS_SHOWN:,} more" if len(shown) > _LABELS_SHOWN else ""
        yield f"{name}: labels {', '.join(shown[:_LABELS_SHOWN])}{more}"
    if said := split.languages.describe():
        yield f"{name}: languages: {said}"


def format_finding(finding: Finding) -> Iterator[str]:
    """Yield what was found, where, and what to do."""
    yield f"{finding.level}: {escape_control_characters(finding.what)} [{finding.code}]"
    if finding.places:
        yield f"  {_list_places(finding)}"
    yield f"  {finding.remedy or finding.about.remedy}"


def _list_places(finding: Finding) -> str:
    shown = [escape_control_characters(place) for place in finding.name_places()[: _SHOWN + 1]]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def _count(report: DataReport) -> str:
    counts = report.count_levels()
    if not counts.total():
        return "nothing was found"
    said = ", ".join(f"{counts[level]:,} {level}{'s' * (counts[level] != 1)}" for level in ("error", "warning", "note"))
    codes = [finding.code for finding in report.sort_findings()] + [each.code for each in report.problems if each.code]
    return f"{said}; `hf-finetune explain {codes[0]}` says more of one" if codes else said
