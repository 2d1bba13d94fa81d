"""Every line of a log, whoever writes it, with what a terminal would obey of it escaped."""

from __future__ import annotations

import logging
import warnings
from functools import wraps
from typing import Any

from hf_finetune.privacy import escape_for_terminal

# Those that write through handlers of their own, and quote what they have read from files of others.
_LIBRARIES = ("transformers", "datasets", "huggingface_hub", "accelerate", "trl", "peft")


class EscapingFormatter(logging.Formatter):
    """Formats as the formatter that it takes the place of, and escapes the outcome: names of files, rows, answers."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return escape_for_terminal(self.inner.format(record))


def escape_logged_lines() -> None:
    """Escape what the handlers of the root and of the libraries write from now on, and warnings of Python."""
    for name in (None, *_LIBRARIES):
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler.formatter, EscapingFormatter):
                handler.setFormatter(EscapingFormatter(handler.formatter))
    if not hasattr(warnings.formatwarning, "__wrapped__"):
        warnings.formatwarning = _escape_output(warnings.formatwarning)


def _escape_output(write: Any) -> Any:
    @wraps(write)
    def write_escaped(*values: Any, **named: Any) -> str:
        return escape_for_terminal(write(*values, **named))

    return write_escaped
