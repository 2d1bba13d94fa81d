"""Every line of a log, whoever writes it, with what a terminal would obey of it escaped.

A name, a label or a path in a message of ours has no line break either, by which it could make a line of its own.
"""

from __future__ import annotations

import copy
import logging
import warnings
from functools import wraps
from pathlib import PurePath
from typing import Any

from hf_finetune.errors import add_code
from hf_finetune.privacy import OF_LINES, escape_control_characters, escape_for_terminal
from hf_finetune.shell import wrap_for

LONGEST_OF_LIBRARY = 2_000
"""Characters of one message of a library: peft writes out all keys that it does not know, a megabyte of them."""

# Those that write through handlers of their own, and quote what they have read from files of others.
_LIBRARIES = ("transformers", "datasets", "huggingface_hub", "accelerate", "trl", "peft")


class EscapingFormatter(logging.Formatter):
    """Formats as the formatter that it takes the place of, and escapes the outcome: names of files, rows, answers.

    Where `stream`, to which it goes, is a terminal, lines are broken between words.
    """

    def __init__(self, inner: logging.Formatter | None, stream: Any = None) -> None:
        super().__init__()
        self.stream = stream
        self.inner = inner or logging.Formatter("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        said = add_code(self.inner.format(_make_flat(record)), getattr(record, "code", ""))
        ours = record.name.partition(".")[0] == "hf_finetune" or record.exc_info
        shown = escape_for_terminal(said) if ours else quote_library(said)
        # The lines of a traceback are those of a program.
        return shown if record.exc_info else wrap_for(self.stream, shown)


def _make_flat(record: logging.LogRecord) -> logging.LogRecord:
    """The record with each text that its message quotes on one line; as it is where it is of a library, or of lines."""
    if not record.name.startswith("hf_finetune") or OF_LINES.items() <= vars(record).items():
        return record
    if not isinstance(record.args, tuple):
        return record
    flat = copy.copy(record)
    # What is in a list is shown by `repr`, which escapes it.
    quoted = (str, PurePath, BaseException)
    flat.args = tuple(
        escape_control_characters(str(each)) if isinstance(each, quoted) else each for each in record.args
    )
    return flat


def quote_library(said: str) -> str:
    """What a library says, of which a file of others may have written a part: escaped, and of a bounded length.

    Its further lines are indented, so that none of them looks like one of ours.
    """
    if (left := len(said) - LONGEST_OF_LIBRARY) > 0:
        said = f"{said[:LONGEST_OF_LIBRARY]} ... ({left:,} characters more)"
    return escape_for_terminal(said).replace("\n", "\n    ")


def escape_logged_lines() -> None:
    """Escape what the handlers of the root and of the libraries write from now on, and warnings of Python."""
    for name in (None, *_LIBRARIES):
        for handler in logging.getLogger(name).handlers:
            if not isinstance(handler.formatter, EscapingFormatter):
                handler.setFormatter(EscapingFormatter(handler.formatter, getattr(handler, "stream", None)))
    if not hasattr(warnings.formatwarning, "__wrapped__"):
        warnings.formatwarning = _escape_output(warnings.formatwarning)


def _escape_output(write: Any) -> Any:
    @wraps(write)
    def write_escaped(*values: Any, **named: Any) -> str:
        return quote_library(write(*values, **named).rstrip("\n")) + "\n"

    return write_escaped
