"""Run, data and model -> what will happen, before a model is loaded.

at_start      what a run finds in its rows as it starts
data_report/  what `hf-finetune check` says of the rows of a run
detectors/    what is wrong with rows that can be read: personal data, secrets, duplicates, drift
findings      what is found, with its code, its place and what to do
lengths       tokens of the rows of a run, and what other limits would leave of them
plan/         files of rows -> a run file that runs as it stands: `hf-finetune new`
row_lengths   the tokens of each row, counted in one pass
token_view/   what is trained, token by token
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.preflight.at_start import find_at_start
    from hf_finetune.preflight.data_report.check import check_run
    from hf_finetune.preflight.data_report.page import render_report
    from hf_finetune.preflight.data_report.report import DataReport
    from hf_finetune.preflight.data_report.sarif import build_sarif, is_own_sarif
    from hf_finetune.preflight.data_report.terminal import format_report
    from hf_finetune.preflight.detectors.benchmarks import detect_benchmark_overlap, read_against
    from hf_finetune.preflight.detectors.drift import detect_drift
    from hf_finetune.preflight.detectors.duplicates import detect_duplicates
    from hf_finetune.preflight.detectors.personal import detect_personal
    from hf_finetune.preflight.findings import Finding
    from hf_finetune.preflight.lengths import find_length_faults, measure_lengths
    from hf_finetune.preflight.plan.make import NewRun, make_run_file
    from hf_finetune.preflight.plan.models import Candidate
    from hf_finetune.preflight.token_view.page import render_page
    from hf_finetune.preflight.token_view.rows import check_line, find_row, view_rows
    from hf_finetune.preflight.token_view.settings import load_run_rows, load_token_settings
    from hf_finetune.preflight.token_view.spans import TokenView
    from hf_finetune.preflight.token_view.terminal import list_tokens, render_legend, render_terminal
    from hf_finetune.preflight.token_view.typed import MOST_CHARACTERS, view_text

__all__ = [
    "MOST_CHARACTERS",
    "Candidate",
    "DataReport",
    "Finding",
    "NewRun",
    "TokenView",
    "build_sarif",
    "check_line",
    "check_run",
    "detect_benchmark_overlap",
    "detect_drift",
    "detect_duplicates",
    "detect_personal",
    "find_at_start",
    "find_length_faults",
    "find_row",
    "format_report",
    "is_own_sarif",
    "list_tokens",
    "load_run_rows",
    "load_token_settings",
    "make_run_file",
    "measure_lengths",
    "read_against",
    "render_legend",
    "render_page",
    "render_report",
    "render_terminal",
    "view_rows",
    "view_text",
]

__getattr__, __dir__ = import_lazily(__name__)
