"""A run's folder: whose it is, who writes in it now, and the checkpoints in it.

ownership           what somebody else has put there is never written over
lock                one run per folder
checkpoints         whole and verified, or not there
checkpoint_records  what a checkpoint says beside its weights, looked at before it is believed
encoded_state       the state of a run in JSON, in which names stand for tensors
record_kinds        of which kind the values of a run's records are
decision_record     how a classifier decides, of which kind each value is
opened              what a run was opened with, should its records vanish
near_names          what a path that leads to nothing may have meant
exported            what an export says of itself, and whether its files are still those that were compared
weights             whether the model of a finished run is still whole
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.folders.checkpoints import (
        leave_newer,
        list_numbered,
        sweep,
    )
    from hf_finetune.folders.exported import find_altered
    from hf_finetune.folders.lock import (
        check_not_in_use,
        hold_run_folder,
        release_run_folders,
    )
    from hf_finetune.folders.near_names import suggest_path
    from hf_finetune.folders.ownership import (
        AUTO,
        CARD,
        CARD_MARKER,
        CHECKPOINT,
        EXPORT,
        LOCK,
        LOG,
        LOG_FORMAT,
        MANIFEST,
        MAX_LOG_BYTES,
        NOBODYS,
        NON_FINITE,
        PUSHED,
        RECORDS,
        REJECTED_LINES,
        REPORT,
        RESUME,
        ROW_PRINTS,
        ROW_SCORES,
        RUN_FILE,
        STREAM_PRINTS,
        TRAINER_STATE,
        check_new_file,
        check_new_folder,
        check_replaceable,
        check_run_folder,
        describe_finished,
        find_earlier_run,
        foreign_entry,
        is_run_folder,
        leads_out,
        list_checkpoints,
        make_run_folder,
        not_ours,
        read_finished,
        read_manifest,
        read_pushed,
        read_run_id,
        remove_empty,
        say_new_folder,
        was_changed,
    )

__all__ = [
    "AUTO",
    "CARD",
    "CARD_MARKER",
    "CHECKPOINT",
    "EXPORT",
    "LOCK",
    "LOG",
    "LOG_FORMAT",
    "MANIFEST",
    "MAX_LOG_BYTES",
    "NOBODYS",
    "NON_FINITE",
    "PUSHED",
    "RECORDS",
    "REJECTED_LINES",
    "REPORT",
    "RESUME",
    "ROW_PRINTS",
    "ROW_SCORES",
    "RUN_FILE",
    "STREAM_PRINTS",
    "TRAINER_STATE",
    "check_new_file",
    "check_new_folder",
    "check_not_in_use",
    "check_replaceable",
    "check_run_folder",
    "describe_finished",
    "find_altered",
    "find_earlier_run",
    "foreign_entry",
    "hold_run_folder",
    "is_run_folder",
    "leads_out",
    "leave_newer",
    "list_checkpoints",
    "list_numbered",
    "make_run_folder",
    "not_ours",
    "read_finished",
    "read_manifest",
    "read_pushed",
    "read_run_id",
    "release_run_folders",
    "remove_empty",
    "say_new_folder",
    "suggest_path",
    "sweep",
    "was_changed",
]

__getattr__, __dir__ = import_lazily(__name__)
