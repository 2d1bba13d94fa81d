"""A page: its environment, its style sheet, how it is saved."""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hf_finetune.errors import CannotWriteError, Problem, advise_unless_limited, find_writing_code
from hf_finetune.files import make_parents, write_atomically

# Marks our pages: any other file named report.html is the user's own and is not overwritten.
MARKER = '<meta name="generator" content="hf-finetune">'
HEAD_CHARACTERS = 2000

# Unicode categories that are not seen or change the direction of text. The joiners (U+200C, U+200D) are exempt:
# Persian, Indic scripts and emoji need them.
INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
KEPT_CHARACTERS = {"\n", "\t", "\u200c", "\u200d"}


@cache
def make_environment(read_template: Callable[[str], str]) -> Any:
    """The environment of templates that `read_template` reads by their names: all text is escaped."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        loader=FunctionLoader(read_template),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=escape_invisible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_shared_style() -> str:
    """The style sheet that all pages begin with."""
    return (files("hf_finetune.pages") / "templates" / "page.css").read_text(encoding="utf-8")


def hash_style(css: str) -> str:
    """The word by which the policy of a page allows this one style sheet, and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()}"


def escape_invisible(value: Any) -> Any:
    """`value` with invisible and direction-changing characters written as escapes: Jinja's `finalize`.

    Anything but a plain string is returned as it is, markup included: its strings have been through here.
    """
    # U+202E turns the rest of a line around, so that "exe.txt" can be read where "txt.exe" stands: it becomes the six
    # characters \u202e. https://trojansource.codes
    if type(value) is not str or (value.isascii() and value.isprintable()):
        return value
    return "".join(
        letter.encode("unicode_escape").decode("ascii")
        if unicodedata.category(letter) in INVISIBLE_CATEGORIES and letter not in KEPT_CHARACTERS
        else letter
        for letter in value
    )


def is_writable_page(path: Path) -> bool:
    """Whether `path` may be written: it does not exist, or is a page with our marker."""
    if not os.path.lexists(path):
        return True
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return MARKER in file.read(HEAD_CHARACTERS)


def save_page(path: Path, html: str) -> None:
    """Write the whole page, which may show rows, for its owner alone, or nothing. Raises `CannotWriteError`."""
    try:
        with make_parents(path):
            write_atomically(path, html, private=True)
    except OSError as problem:
        what = f"cannot be written ({problem.strerror})"
        remedy, code = advise_unless_limited(problem.errno, "name a file elsewhere"), find_writing_code(problem.errno)
        raise CannotWriteError(Problem(what, remedy, path=str(path), code=code)) from problem
