"""Names and patterns of an adapter's settings, in a run file or in an adapter_config.json of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_finetune.config.model_files.linear import compile_linear, is_plain
from hf_finetune.config.reading.document import format_value

# What peft (0.21) hands to `re`.
PATTERNS = ("target_modules", "exclude_modules")
KEYED_PATTERNS = ("rank_pattern", "alpha_pattern")
NAMES = ("modules_to_save", "layers_pattern")

ALL_LINEAR = "all-linear"

Found = tuple[str, str, str]
"""The key, what is wrong and what to do."""


def find_wrong_patterns(settings: Mapping[str, Any]) -> Iterator[Found]:
    """Yield each pattern that RE2 does not take, and each name with more in it than names have.

    peft matches them all with `re`, in time that a pattern can make exponential: https://docs.python.org/3/library/re.html
    """
    for key in PATTERNS:
        if isinstance(pattern := settings.get(key), str):
            yield from _check_pattern(key, pattern)
    for key in KEYED_PATTERNS:
        if isinstance(patterns := settings.get(key), dict):
            for pattern in patterns:
                yield from _check_pattern(key, pattern)
    for key in NAMES:
        given = settings.get(key)
        for name in [given] if isinstance(given, str) else given if isinstance(given, list) else []:
            if isinstance(name, str) and not is_plain(name):
                yield key, f"{format_value(name)} is no name of a module", "write its letters, digits, _ and . alone"


def _check_pattern(key: str, pattern: str) -> Iterator[Found]:
    try:
        compile_linear(pattern)
    except ValueError as mistake:
        what = f"{format_value(pattern)} is no regular expression that can be matched in bounded time ({mistake})"
        yield key, what, "write names of modules, or a pattern without lookaround and backreferences"
