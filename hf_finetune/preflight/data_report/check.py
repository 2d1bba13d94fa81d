"""Read, measure and search the rows of a run, before its model is loaded: `hf-finetune check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from hf_finetune.config import Run
from hf_finetune.data import Splits, freeze_labels
from hf_finetune.data.early_check import hide_messages
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, FinetuneError, MachineError
from hf_finetune.preflight.data_report.contents import (
    count_labels,
    find_label_faults,
    find_language_faults,
    find_rejected,
    find_small_splits,
    sample_languages,
    space_rows,
)
from hf_finetune.preflight.data_report.report import DataReport, SplitReport
from hf_finetune.preflight.detectors.benchmarks import detect_benchmark_overlap, read_against
from hf_finetune.preflight.detectors.drift import detect_drift
from hf_finetune.preflight.detectors.duplicates import detect_duplicates
from hf_finetune.preflight.detectors.personal import detect_personal, mask_labels
from hf_finetune.preflight.findings import Finding
from hf_finetune.preflight.lengths import find_length_faults, measure_lengths
from hf_finetune.preflight.token_view.rows import view_rows
from hf_finetune.preflight.token_view.settings import (
    DEFAULT_SEED,
    TokenSettings,
    load_run_rows,
    load_token_settings,
    name_row_kind,
)
from hf_finetune.preflight.token_view.spans import TokenView

Result = TypeVar("Result")


def check_run(
    run: Run,
    name: str,
    *,
    against: str | None = None,
    benchmarks: Sequence[str] = (),
    show: int = 0,
    show_data: bool = False,
) -> tuple[DataReport, list[TokenView]]:
    """Say what the rows of a run are, what is wrong with them, and what of them would be trained.

    `name`: the run file. `against`: a file of rows that the model will be used on. `show`: how many training rows are
    viewed token by token. `show_data`: whether words of rows by which others are told from them, and labels as they
    are, may be said. What the run would be refused for is among the problems of the report, and all that does not
    depend on it is looked at. Raises `ConfigError` for a run that trains nothing or reads a stream, `DataError` where
    `against` or a benchmark cannot be read, and `MachineError`.
    """
    name_row_kind(run)
    report = DataReport(name, run.recipe)
    with hide_messages():  # of the data: the report says more
        # These first: of a mistyped name it is said at once, and not when all rows have been read.
        names = dict.fromkeys([*benchmarks, *([against] if against else [])])
        others = {path: read_against(path, run.data) for path in names}
        splits = _read_rows(report, run)
        if splits is None:
            return report, []
        _describe_rows(report, splits, run, show_data=show_data)
        settings = _attempt(report, lambda: load_token_settings(run, splits))
        views = _measure(report, splits, settings, show) if settings is not None else []
        _search(report, splits, run, (others[against], against) if against else None, show_data=show_data)
        for path in benchmarks:
            findings, counts = detect_benchmark_overlap(splits, others[path], path)
            report.findings += findings
            report.counts.setdefault("benchmarks", {})[path] = counts
    return report, views


def _read_rows(report: DataReport, run: Run) -> Splits | None:
    """Read the rows as the run does; where it is refused for some, the others."""
    try:
        return load_run_rows(run)
    except DataError as refused:
        lenient = run.model_copy(update={"data": run.data.model_copy(update={"on_bad_line": "skip"})})
        try:
            # What is wrong with rows of it stands among the findings.
            return load_run_rows(lenient, refuse_copies=False)
        except DataError:
            _keep(report, refused)
            return None


def _attempt(report: DataReport, make: Callable[[], Result]) -> Result | None:
    """What `make` returns; None where it is refused, and the report has why."""
    try:
        return make()
    except MachineError:
        raise
    except FinetuneError as refused:
        _keep(report, refused)
        return None


def _keep(report: DataReport, refused: FinetuneError) -> None:
    report.problems += refused.problems[:MAX_PROBLEMS_SHOWN]
    report.more_problems += refused.total - len(refused.problems[:MAX_PROBLEMS_SHOWN])


def _describe_rows(report: DataReport, splits: Splits, run: Run, *, show_data: bool) -> None:
    """Describe the files and splits, and what is wrong with them that no model is needed for."""
    seed = int(run.train.get("seed", DEFAULT_SEED))
    report.files = [
        {
            "path": file.path,
            "split": file.role,
            "lines": file.lines,
            "rows": file.rows,
            "rejected": file.rejected,
            "notes": list(file.notes),
        }
        for file in splits.files
    ]
    labelled = name_row_kind(run) == "labelled"
    labels = {split: count_labels(splits, split) for split in splits.rows} if labelled else {}
    if not show_data:
        labels = mask_labels(labels)
    for split, rows in splits.rows.items():
        languages = sample_languages(splits, split, seed)
        report.splits[split] = SplitReport(len(rows), None, labels.get(split, {}), languages)
    if labelled:
        _attempt(report, lambda: freeze_labels(splits, run.data))
    report.findings += find_rejected(splits, run)
    report.findings += find_small_splits(report.splits, labelled=labelled)
    report.findings += find_label_faults(report.splits)
    report.findings += find_language_faults(report.splits)


def _measure(report: DataReport, splits: Splits, settings: TokenSettings, show: int) -> list[TokenView]:
    """Count tokens, and view rows."""
    lengths = _attempt(report, lambda: measure_lengths(splits, settings))
    if lengths is None:
        return []
    for split, measured in lengths.items():
        report.splits[split].lengths = measured
    report.findings += find_length_faults(lengths, settings)
    numbers = space_rows(len(splits.rows.get("train", ())), show)
    return _attempt(report, lambda: view_rows(splits, "train", settings, numbers)) or [] if numbers else []


def _search(
    report: DataReport, splits: Splits, run: Run, against: tuple[Splits, str] | None, *, show_data: bool
) -> None:
    """Search the rows for duplicates, personal data and drift."""
    for kind, (findings, counts) in {
        "duplicates": detect_duplicates(splits),
        "personal": detect_personal(splits),
        "drift": detect_drift(splits, int(run.train.get("seed", DEFAULT_SEED)), against, show_data=show_data),
    }.items():
        report.findings += [_weigh_drawn(finding, splits, run) for finding in findings]
        report.counts[kind] = counts


def _weigh_drawn(finding: Finding, splits: Splits, run: Run) -> Finding:
    """A finding about a split that the run draws from the rows for training: there are no two files to choose from."""
    if finding.split in (None, "train") or any(file.role == finding.split for file in splits.files):
        return finding
    if finding.code == "HF202":  # of labelled rows, which stay in both; the run says so, and goes on
        return replace(finding, weight="warning", remedy=_ONE_FILE)
    if finding.code in ("HF203", "HF205"):
        return replace(finding, remedy=_ONE_FILE)
    if finding.code == "HF381" and run.data.group_by is not None:
        return replace(
            finding, weight="note", remedy="the split is drawn by groups: a score on it is one on new groups"
        )
    return finding


_ONE_FILE = "take repeated rows out of the file, or split it by what they have in common with data.group_by"
