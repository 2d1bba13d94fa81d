"""What a process logs, and to where."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import transformers
from huggingface_hub.utils.tqdm import enable_progress_bars

from hf_finetune.environment.escaped_lines import escape_logged_lines


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
    for handler in logging.getLogger().handlers:
        handler.addFilter(_NotAgain())
    escape_logged_lines()
    logging.getLogger("hf_finetune").setLevel(level)
    logging.getLogger("transformers.trainer_utils").addFilter(_is_no_detail)
    # Under CI=true transformers 5.23 says each line twice: by its own handler, and by ours.
    transformers.utils.logging.disable_propagation()
    # A line for each model that is loaded and each checkpoint that is written, between ours.
    transformers.utils.logging.disable_progress_bar()
    if sys.stderr.isatty():
        enable_progress_bars()  # of downloads, which that turns off as well
    else:
        _silence_datasets()


class _NotAgain(logging.Filter):
    """Hide a line that is the one before it again, as where a model and its base read the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        before, self.last = self.last, record.getMessage()
        return self.last != before


def _is_no_detail(record: logging.LogRecord) -> bool:
    # Two checkpoints within a second: it then sorts them by their numbers, as we do (transformers 5.23).
    return not record.getMessage().startswith("mtime may not be reliable")


def _silence_datasets() -> None:
    # A second and a half to import, and most commands read no rows through it.
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    else:
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read when it is imported
