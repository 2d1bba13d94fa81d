"""This machine and this installation.

hardware        devices and what they compute fast, without importing torch
versions        of this package, and of those that it stands on
facts           the `environment` part of a report
commit          which state of the user's own project a run was made from
doctor          what is wrong with an installation: `hf-finetune doctor`
machines        the machines of a launch: how many, which of them this is, where the first one listens
processes       the processes of a launch, as accelerate runs them, and whether all are of the same run
bare_process    what a process inherits that deals with files of others
launched        the `accelerate launch` that started this process
threads         how many torch computes with, and how they wait
logs            what a process logs, and to where
escaped_lines   what a terminal would obey in it, escaped
random_state    the generators of random numbers, given back as they were
progress_lines  how far a loop has come, in the log or as a bar
project_files   the recipes, configurations, templates and pages that the package brings
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.environment.commit import describe_commit
    from hf_finetune.environment.doctor import MachineFinding, check_versions, diagnose_machine
    from hf_finetune.environment.escaped_lines import escape_logged_lines
    from hf_finetune.environment.facts import (
        MachineInfo,
        collect_machine_info,
        get_installed_versions,
        report_environment,
    )
    from hf_finetune.environment.hardware import describe_machine, detect_hardware
    from hf_finetune.environment.launched import (
        MACHINE,
        PROCESS,
        STEP,
        Restart,
        list_restarts,
        name_lost,
        note_step,
        read_restart,
        read_step,
    )
    from hf_finetune.environment.logs import set_up_logging
    from hf_finetune.environment.machines import (
        ADDRESSES,
        Machines,
        check_port,
        check_tasks,
        count_restarts,
        find_machines,
        list_left,
        name_restart,
        read_addresses,
    )
    from hf_finetune.environment.processes import (
        check_same,
        check_shared,
        describe_processes,
        init_processes,
        know_processes,
    )
    from hf_finetune.environment.progress_lines import ProgressLines
    from hf_finetune.environment.project_files import (
        find_project_file,
        find_shipped,
        init_project,
        list_other_files,
    )
    from hf_finetune.environment.threads import describe_threads, keep_threads, share_threads
    from hf_finetune.environment.versions import __version__, find_versions

__all__ = [
    "ADDRESSES",
    "MACHINE",
    "PROCESS",
    "STEP",
    "MachineFinding",
    "MachineInfo",
    "Machines",
    "ProgressLines",
    "Restart",
    "__version__",
    "check_port",
    "check_same",
    "check_shared",
    "check_tasks",
    "check_versions",
    "collect_machine_info",
    "count_restarts",
    "describe_commit",
    "describe_machine",
    "describe_processes",
    "describe_threads",
    "detect_hardware",
    "diagnose_machine",
    "escape_logged_lines",
    "find_machines",
    "find_project_file",
    "find_shipped",
    "find_versions",
    "get_installed_versions",
    "init_processes",
    "init_project",
    "keep_threads",
    "know_processes",
    "list_left",
    "list_other_files",
    "list_restarts",
    "name_lost",
    "name_restart",
    "note_step",
    "read_addresses",
    "read_restart",
    "read_step",
    "report_environment",
    "set_up_logging",
    "share_threads",
]

__getattr__, __dir__ = import_lazily(__name__)
