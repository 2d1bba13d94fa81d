"""What a process logs, and to where."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import transformers


@contextmanager
def hide_messages(logger_name: str, part: str) -> Iterator[None]:
    """Hide the messages of a library's logger that contain `part`; other levels and messages stay."""

    def keep(record: logging.LogRecord) -> bool:
        return part not in record.getMessage()

    library = logging.getLogger(logger_name)
    # A filter, not a log level: at WARNING and above transformers 5.23 also verifies a plan for tensor parallelism.
    library.addFilter(keep)
    try:
        yield
    finally:
        library.removeFilter(keep)


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
