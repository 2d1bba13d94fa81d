"""Patterns of an adapter's settings, matched here by RE2, so that peft, which has `re`, is given names alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from peft import LoraConfig
from torch import nn

from hf_finetune.config.model_files.linear import compile_linear, is_plain
from hf_finetune.config.model_files.patterns import KEYED_PATTERNS, PATTERNS
from hf_finetune.models.adapters.continuing import ALL_LINEAR

# As peft 0.21 matches a key of rank_pattern: `get_pattern_key`. `^v_proj` is none of `model.layers.0.self_attn.v_proj`.
PEFT_KEY = r"(?:.*\.)?(?:{})"


@contextmanager
def name_what_matches(model: nn.Module, config: LoraConfig) -> Iterator[None]:
    """While peft reads `config`, have names of `model` in the place of its patterns, which are there again afterwards.

    An adapter on a module of a block gets what the patterns say, in time linear in the names. Plain names stay as they
    are. Raises ValueError for a pattern that RE2 does not take, and for `target_modules` that name nothing.
    """
    names = [name for name, _ in model.named_modules()]
    named: dict[str, Any] = {}
    for key in PATTERNS:
        if isinstance(pattern := getattr(config, key), str) and pattern != ALL_LINEAR:
            matched = filter(compile_linear(pattern).fullmatch, names)
            named[key] = "|".join(map(re.escape, matched)) or None  # alternatives, without a loop
            if named[key] is None and key == "target_modules":
                raise ValueError(f"{pattern!r} matches no module of it")
    names += [name for name, _ in model.named_parameters()]
    for key in KEYED_PATTERNS:
        if not all(map(is_plain, patterns := getattr(config, key) or {})):
            named[key] = _assign_values(patterns, names)
    written = {key: getattr(config, key) for key in named}
    for key, value in named.items():
        setattr(config, key, value)
    try:
        yield
    finally:
        for key, value in written.items():
            setattr(config, key, value)


def _assign_values(patterns: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The value of each name that one of `patterns` matches, the first that does, as peft has it."""
    compiled = {compile_linear(PEFT_KEY.format(pattern)): value for pattern, value in patterns.items()}
    found = {}
    # The longest first: to peft, `layers.0.q_proj` is the end of `decoder.layers.0.q_proj` as well.
    for name in sorted(names, key=len, reverse=True):
        value = next((value for pattern, value in compiled.items() if pattern.fullmatch(name)), None)
        if value is not None:
            found[re.escape(name)] = value
    return found
