"""Settings as the commented YAML of a run file."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hf_finetune.preflight.plan.choices import Setting
from hf_finetune.privacy import escape_control_characters

WIDTH = 116
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
# Words that YAML takes for something else.
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "inf", "nan"})


def write_run_file(header: Sequence[str], settings: Iterable[Setting]) -> str:
    """Write a run file: `header` as comments, then section by section, each reason behind or above its setting."""
    lines = [line for paragraph in header for line in _comment(paragraph, "")]
    section = ""
    for setting in settings:
        name, _, key = setting.key.rpartition(".")
        if name != section:
            section = name
            lines += ["", f"{name}:"] if name else [""]
        lines += _write_setting(setting, key, "  " if name else "")
    return "\n".join(lines) + "\n"


def _write_setting(setting: Setting, key: str, indent: str) -> Iterator[str]:
    line = f"{indent}{key}: {format_value(setting.value)}"
    # A name of a column or a file may hold what YAML, or a terminal, would take for something else.
    why = escape_control_characters(" ".join(setting.why.split()))
    if not why:
        yield line
    elif len(line) + len(why) + 3 <= WIDTH:
        yield f"{line} # {why}"
    else:
        yield from _comment(why, indent)
        yield line


def _comment(text: str, indent: str) -> list[str]:
    mark = f"{indent}# "
    text = escape_control_characters(text)
    return textwrap.wrap(text, WIDTH, initial_indent=mark, subsequent_indent=mark, break_long_words=False) or ["#"]


def format_value(value: Any) -> str:
    """Write a value in one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_format_text(name)}: {format_value(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(format_value, value)) + "]"
    if isinstance(value, str):
        return _format_text(value)
    # 1e-4 and not 0.0001, whose zeros nobody counts.
    if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e4:
        # YAML 1.1 reads 1e-4, without a point, as text: the settings make a number of it.
        exponent = math.floor(math.log10(abs(value)))
        return f"{value / 10**exponent:.2g}e{exponent}"
    return json.dumps(value)


def _format_text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    # JSON in quotes is YAML, too. What does not print is escaped: YAML would take U+0085 for the end of a line.
    return json.dumps(text, ensure_ascii=not text.isprintable())
