"""A classifier's page besides its scores: metrics per label, confusion matrix, reliability diagram, mistakes."""

from __future__ import annotations

from typing import Any

from hf_finetune.metric_info import format_metric, get_metric_info, parse_number
from hf_finetune.reporting.charts.svg import make_reliability_chart
from hf_finetune.reporting.page.blocks import (
    Block,
    Matrix,
    More,
    get_mapping,
    get_objects,
    make_paragraphs,
    make_table,
    shorten,
)
from hf_finetune.reporting.run_record import RunRecord
from hf_finetune.reporting.verdict import sort_splits

# With more labels than this, the most confused pairs are listed instead of the matrix.
MAX_MATRIX_LABELS = 16
MAX_CONFUSED_PAIRS = 30
SHADES = 10
PER_CLASS_METRICS = ("precision", "recall", "f1", "support", "roc_auc", "pr_auc")

Counts = list[list[int]]


def build_labels(run: RunRecord) -> list[Block]:
    """Metrics per label, confusion matrix and reliability diagram of each split that has them."""
    evaluation = get_mapping(run.report.get("evaluation"))
    return [block for split in sort_splits(evaluation) for block in _build_split(split, get_mapping(evaluation[split]))]


def _build_split(split: str, found: dict[str, Any]) -> list[Block]:
    confusion = get_mapping(found.get("confusion_matrix"))
    return [
        *_build_per_class(split, get_mapping(found.get("per_class"))),
        *_build_confusion(split, confusion.get("labels"), confusion.get("counts")),
        *_build_reliability(split, get_objects(found.get("reliability"))),
    ]


def _build_per_class(split: str, found: dict[str, Any]) -> list[Block]:
    given = {label: get_mapping(of) for label, of in found.items()}
    names = [name for name in PER_CLASS_METRICS if any(name in of for of in given.values())]
    rows = [[label, *(_format_label_metric(name, of) for name in names)] for label, of in given.items()]
    titles = ["rows" if name == "support" else get_metric_info(name).title for name in names]
    return make_table(f"{split}: each label", ["label", *titles], rows)


def _format_label_metric(name: str, of: dict[str, Any]) -> str:
    if name == "support":
        return "–" if parse_number(of.get(name)) is None else f"{parse_number(of[name]):,.0f}"
    return format_metric(name, of.get(name))


def _build_confusion(split: str, names: Any, counts: Any) -> list[Block]:
    """The confusion matrix; with many labels the most confused pairs; if multi-label, a table of counts per label.

    `counts`: (labels, labels), or (labels, 2, 2) if multi-label, as in sklearn's `multilabel_confusion_matrix`.
    """
    # Read from a file that may have been edited: anything but these two shapes is left out.
    if not isinstance(names, list) or not isinstance(counts, list) or len(names) != len(counts):
        return []
    given = [str(name) for name in names]
    # Two labels: (2, 2) counts could not be told from (2, 2, 2) by length alone, hence the check of both shapes.
    if all(_is_square(count, 2) for count in counts) and not _is_square(counts, len(names)):
        rows = [
            [name, *(f"{of[i][j]:,}" for i, j in ((1, 1), (0, 1), (1, 0)))]
            for name, of in zip(given, counts, strict=True)
        ]
        return make_table(f"{split}: answers for each label", ("label", "found", "wrongly given", "missed"), rows)
    if not _is_square(counts, len(names)):
        return []
    if len(names) > MAX_MATRIX_LABELS:
        return _build_confused_pairs(split, given, counts)
    shades = tuple(tuple(round(SHADES * count / max(sum(row), 1)) for count in row) for row in counts)
    caption = f"{split}: rows by their label (down) and the label they got (across)"
    return [Matrix(caption, tuple(given), tuple(tuple(row) for row in counts), shades)]


def _is_square(counts: Any, size: int) -> bool:
    """Whether `counts` has the shape (size, size) and holds counts."""
    return (
        isinstance(counts, list)
        and len(counts) == size
        and all(isinstance(row, list) and len(row) == size for row in counts)
        and all(isinstance(count, int) and count >= 0 for row in counts for count in row)
    )


def _build_confused_pairs(split: str, names: list[str], counts: Counts) -> list[Block]:
    """A table of the largest off-diagonal cells of `counts`: (labels, labels)."""
    pairs = [
        (counts[i][j], names[i], names[j])
        for i in range(len(names))
        for j in range(len(names))
        if i != j and counts[i][j]
    ]
    rows = [
        [given, got, f"{count:,}"]
        for count, given, got in sorted(pairs, key=lambda pair: -pair[0])[:MAX_CONFUSED_PAIRS]
    ]
    if not rows:
        return make_paragraphs([f"{split}: no row got another label than its own."])
    return make_table(
        f"{split}: confused most, of {len(pairs):,} pairs of labels", ("label", "taken for", "rows"), rows
    )


def _build_reliability(split: str, bins: list[dict[str, Any]]) -> list[Block]:
    given = [tuple(parse_number(each.get(name)) for name in ("confidence", "accuracy", "rows")) for each in bins]
    found = [
        (confidence, accuracy, int(rows))
        for confidence, accuracy, rows in given
        if confidence is not None and accuracy is not None and rows is not None
    ]
    if not found:
        return []
    chart = make_reliability_chart(split, [(x, y) for x, y, _ in found], [rows for *_, rows in found])
    numbers = make_table(
        f"{split}: confidence and accuracy",
        ("confidence", "right", "rows"),
        [[f"{x:.3f}", f"{y:.1%}", f"{rows:,}"] for x, y, rows in found],
    )
    return [chart, More("The numbers of this chart", tuple(numbers))]


def build_mistakes(run: RunRecord) -> list[Block]:
    """The worst mistakes of each split by file and line; with their texts if the run recorded them."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for each in get_objects(run.report.get("samples")):
        if "predicted" in each:
            by_split.setdefault(str(each.get("split", "")), []).append(each)
    return [block for split, found in by_split.items() for block in _build_split_mistakes(split, found)]


def _build_split_mistakes(split: str, found: list[dict[str, Any]]) -> list[Block]:
    scored, texts = (any(name in each for each in found) for name in ("probability", "text"))
    score, text = ["its score"] * scored, ["text"] * texts
    rows = []
    for each in found:
        row = [f"{each.get('path')}:{each.get('line')}"]
        for answer, probability in (("label", "probability_of_label"), ("predicted", "probability")):
            row.append(_format_answer(each.get(answer)))
            row += [format_metric(probability, each.get(probability))] * scored
        rows.append([*row, *([shorten(str(each.get("text", "")))] * texts)])
    said = "A wrong label in the data is likely to be among these."
    title = ": ".join(part for part in (split, "worst mistakes, likely label errors first") if part)
    return make_table(title, ["place", "label", *score, "predicted", *score, *text], rows, said=[said], texts=True)


def _format_answer(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
