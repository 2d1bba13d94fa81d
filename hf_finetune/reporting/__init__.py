"""The files of a run folder -> report.html, the model card, and a diagnosis. No torch, no Trainer.

files           names, hashes and JSON of a run folder
run_folder      a run folder claimed, begun and finished
resuming        a run typed again: finished, or gone on with
run_log         log.jsonl, read while it is written
liveness        whether a run is at work
run_record      any Trainer's folder, read as far as it got
restarts        how often a run was started again by itself, and why
verdict         whether the model is better than its base, or than guessing, in one sentence
summary         the last lines of a run's log
diagnosis/      what a run's log shows, in sentences
charts/         SVG
page/           report.html: one run, or several compared
card/           README.md: the model card
watching/       a run that is looked at while it goes on
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.reporting.diagnosis import Diagnosis, diagnose
    from hf_finetune.reporting.diagnosis.findings import Finding
    from hf_finetune.reporting.page import PAGE, render_page
    from hf_finetune.reporting.page.comparison import (
        describe_best,
        find_cautions,
        find_differences,
        make_run_names,
        render_comparison,
    )
    from hf_finetune.reporting.resuming import (
        Resume,
        Resumed,
        check_resumable,
        describe_going_on,
        describe_kept,
        find_finished,
        find_resumed,
        find_run_id,
        get_resume,
        read_planned_steps,
        read_reached,
        read_template_date,
        read_threads,
    )
    from hf_finetune.reporting.run_folder import (
        RunReport,
        check_recordable,
        claim_run_folder,
        open_manifest,
        record_scores,
        say_folder_outside,
        write_run_folder,
    )
    from hf_finetune.reporting.run_record import RunRecord, read_run
    from hf_finetune.reporting.watching import (
        SECONDS_BETWEEN_PAGES,
        RunView,
        RunWatcher,
        follow_in_terminal,
        follow_lines,
        is_waited_for,
        keep_page,
        list_facts,
        show,
        wait_for_run,
    )

__all__ = [
    "PAGE",
    "SECONDS_BETWEEN_PAGES",
    "Diagnosis",
    "Finding",
    "Resume",
    "Resumed",
    "RunRecord",
    "RunReport",
    "RunView",
    "RunWatcher",
    "check_recordable",
    "check_resumable",
    "claim_run_folder",
    "describe_best",
    "describe_going_on",
    "describe_kept",
    "diagnose",
    "find_cautions",
    "find_differences",
    "find_finished",
    "find_resumed",
    "find_run_id",
    "follow_in_terminal",
    "follow_lines",
    "get_resume",
    "is_waited_for",
    "keep_page",
    "list_facts",
    "make_run_names",
    "open_manifest",
    "read_planned_steps",
    "read_reached",
    "read_run",
    "read_template_date",
    "read_threads",
    "record_scores",
    "render_comparison",
    "render_page",
    "say_folder_outside",
    "show",
    "wait_for_run",
    "write_run_folder",
]

__getattr__, __dir__ = import_lazily(__name__)
