"""This machine and this installation.

hardware        devices and what they compute fast, without importing torch
facts           the `environment` part of a report
doctor          what is wrong with an installation: `hf-finetune doctor`
logs            what a process logs, and to where
project_files   the recipes, configurations and templates that the package brings
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.environment.doctor import Finding, check_versions, diagnose
    from hf_finetune.environment.facts import MachineFacts, machine_facts, report_environment, versions
    from hf_finetune.environment.hardware import detect_hardware
    from hf_finetune.environment.logs import set_up_logging
    from hf_finetune.environment.project_files import init_project, project_file, shipped

__all__ = [
    "Finding",
    "MachineFacts",
    "check_versions",
    "detect_hardware",
    "diagnose",
    "init_project",
    "machine_facts",
    "project_file",
    "report_environment",
    "set_up_logging",
    "shipped",
    "versions",
]

__getattr__, __dir__ = import_lazily(__name__)
