"""Regular expressions that others wrote: matched by RE2, whose time is linear in the text, and never by `re`."""

from __future__ import annotations

import re
from typing import Any, Protocol

# What is in the names of modules, so that `re` takes it for nothing else; "." is any character to it, and no loop.
_PLAIN = re.compile(r"[\w.-]{1,200}", re.ASCII)
LONGEST_PATTERN = 10_000


class Pattern(Protocol):
    """What is asked of a compiled pattern; None where nothing matches."""

    def fullmatch(self, text: str, /) -> object | None: ...


def is_plain(pattern: str) -> bool:
    """Whether a pattern is a plain name, such as `self_attn.q_proj`, which is linear under any engine."""
    return _PLAIN.fullmatch(pattern) is not None


def compile_linear(pattern: str) -> Pattern:
    """Compile a pattern by RE2, whose `fullmatch` is that of `re`. Raises ValueError with the reason.

    RE2 has no lookaround and no backreferences, and bounds the memory of a pattern: `(a{999}){999}` is refused.
    """
    import re2  # not before there is a pattern of others

    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"longer than {LONGEST_PATTERN:,} characters")
    options: Any = re2.Options()
    options.log_errors = False
    try:
        compiled: Pattern = re2.compile(pattern, options)
        return compiled
    except (re2.error, UnicodeEncodeError) as problem:
        reason = problem.args[0] if problem.args else problem
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from problem
