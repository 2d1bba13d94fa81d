"""What a process logs, and to where."""

from __future__ import annotations

import logging
import os
import sys

import transformers


def set_up_logging(*, main_process: bool = True) -> None:
    """Log our messages on the main process, of libraries warnings only, and on other processes errors only."""
    level = logging.INFO if main_process else logging.ERROR
    logging.basicConfig(format="%(message)s", level=logging.WARNING if main_process else logging.ERROR, force=True)
    logging.getLogger("hf_finetune").setLevel(level)
    if not sys.stderr.isatty():  # progress bars would fill a log file
        _silence_datasets()
        transformers.utils.logging.disable_progress_bar()


def _silence_datasets() -> None:
    # A second and a half to import, and most commands read no rows through it.
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    else:
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read when it is imported
