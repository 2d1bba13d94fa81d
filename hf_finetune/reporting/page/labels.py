"""A classifier's page besides its scores: metrics per label, confusion matrix, reliability diagram, mistakes."""

from __future__ import annotations

from typing import Any

from hf_finetune.metric_info import figure, number, shown
from hf_finetune.reporting.charts.svg import reliability_chart
from hf_finetune.reporting.page.blocks import Block, Matrix, More, mapping, objects, shortened, table, words
from hf_finetune.reporting.page.scores import splits_of
from hf_finetune.reporting.run_record import RunRecord

# With more labels than this, the most confused pairs are listed instead of the matrix.
WIDEST_MATRIX = 16
MOST_CONFUSED = 30
SHADES = 10
PER_CLASS = ("precision", "recall", "f1", "support", "roc_auc", "pr_auc")

Counts = list[list[int]]


def labels(run: RunRecord) -> list[Block]:
    """Metrics per label, confusion matrix and reliability diagram of each split that has them."""
    evaluation = mapping(run.report.get("evaluation"))
    return [block for split in splits_of(evaluation) for block in _split(split, mapping(evaluation[split]))]


def _split(split: str, found: dict[str, Any]) -> list[Block]:
    confusion = mapping(found.get("confusion_matrix"))
    return [
        *_per_class(split, mapping(found.get("per_class"))),
        *_confusion(split, confusion.get("labels"), confusion.get("counts")),
        *_reliability(split, objects(found.get("reliability"))),
    ]


def _per_class(split: str, found: dict[str, Any]) -> list[Block]:
    given = {label: mapping(of) for label, of in found.items()}
    names = [name for name in PER_CLASS if any(name in of for of in given.values())]
    rows = [[label, *(_of_label(name, of) for name in names)] for label, of in given.items()]
    titles = ["rows" if name == "support" else figure(name).title for name in names]
    return table(f"{split}: each label", ["label", *titles], rows)


def _of_label(name: str, of: dict[str, Any]) -> str:
    if name == "support":
        return "–" if number(of.get(name)) is None else f"{number(of[name]):,.0f}"
    return shown(name, of.get(name))


def _confusion(split: str, names: Any, counts: Any) -> list[Block]:
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
        return table(f"{split}: answers for each label", ("label", "found", "wrongly given", "missed"), rows)
    if not _is_square(counts, len(names)):
        return []
    if len(names) > WIDEST_MATRIX:
        return _most_confused(split, given, counts)
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


def _most_confused(split: str, names: list[str], counts: Counts) -> list[Block]:
    """A table of the largest off-diagonal cells of `counts`: (labels, labels)."""
    pairs = [
        (counts[i][j], names[i], names[j])
        for i in range(len(names))
        for j in range(len(names))
        if i != j and counts[i][j]
    ]
    rows = [
        [given, got, f"{count:,}"] for count, given, got in sorted(pairs, key=lambda pair: -pair[0])[:MOST_CONFUSED]
    ]
    if not rows:
        return words([f"{split}: no row got another label than its own."])
    return table(f"{split}: confused most, of {len(pairs):,} pairs of labels", ("label", "taken for", "rows"), rows)


def _reliability(split: str, bins: list[dict[str, Any]]) -> list[Block]:
    given = [tuple(number(each.get(name)) for name in ("confidence", "accuracy", "rows")) for each in bins]
    found = [
        (confidence, accuracy, int(rows))
        for confidence, accuracy, rows in given
        if confidence is not None and accuracy is not None and rows is not None
    ]
    if not found:
        return []
    chart = reliability_chart(split, [(x, y) for x, y, _ in found], [rows for *_, rows in found])
    numbers = table(
        f"{split}: confidence and accuracy",
        ("confidence", "right", "rows"),
        [[f"{x:.3f}", f"{y:.1%}", f"{rows:,}"] for x, y, rows in found],
    )
    return [chart, More("The numbers of this chart", tuple(numbers))]


def mistakes(run: RunRecord) -> list[Block]:
    """The worst mistakes by file and line; with their texts if the run recorded them."""
    found = [each for each in objects(run.report.get("samples")) if "predicted" in each]
    columns = ["place", "label", "predicted", "score"]
    texts = any("text" in each for each in found)
    rows = []
    for each in found:
        place = f"{each.get('path')}:{each.get('line')}"
        row = [place, _answer(each.get("label")), _answer(each["predicted"])]
        rows.append(
            [*row, shown("probability", each.get("probability")), *([shortened(str(each.get("text", "")))] * texts)]
        )
    said = "A wrong label in the data is likely to be among these."
    columns += ["text"] * texts
    return table("Worst mistakes, likely label errors first", columns, rows, said=[said] * bool(rows), texts=True)


def _answer(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
