"""Every regular expression of the project takes a million characters of its own worst text in less than a second."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
from worst_strings import LENGTH, Use, fill, find_slowest, find_uses, measure

from hf_finetune.config.model_files.linear import compile_linear, is_plain

TABLE = Path(__file__).parent / "hostile/patterns.jsonl"
PIECES = [json.loads(line)["piece"] for line in TABLE.read_text().splitlines()]

# Patterns that are put together as the program runs: by the beginning of the place, one as it may be then.
BUILT = {
    "hf_finetune/chat/any_of.py: re.compile('|'.join(": r"<(?=(?:\|im_(?:start\|>|end\|>)|/s>))|\[(?=INST\])",
    "hf_finetune/chat/neutral.py: re.compile('|'.join(": r"<tool_response>|</think>|<think>|aab",
    "hf_finetune/chat/special_tokens.py: re.compile('(?!)'": r"[^\w\s].|.[^\w\s]",
    "hf_finetune/data/reading/tables/csv_rows.py: re.search(f'{re.escape(delimiter)}": r';[ \t]+"(?!")',
    "hf_finetune/evaluation/probes/counterfactuals.py: re.compile(f'(?<!": r"(?<!\w)(?:he|she|Anna|Ahmed)(?!\w)",
    "hf_finetune/files.py: re.compile(f'": r"\.run\.yaml\.(\d+)\.aside",
    "hf_finetune/memory.py: re.search(f'^{name}": r"(?m)^MemAvailable:\s+(\d+) kB",
    "hf_finetune/option_names.py: re.compile(f'(?<!": r"(?<![\w.])(?P<setting>data\.train)(?!\w|\.\w)(?:: true\b)?",
    "hf_finetune/privacy.py: re.search(shape": r"\b[rs]k_live_[0-9A-Za-z]{16,}",
    "hf_finetune/release/hub/redaction.py: re.compile(f": r"(?<![\w.~-])(?:/home/someone|/root)",
}


@cache
def list_uses() -> list[Use]:
    return sorted({(use.place, use.method): use for use in find_uses()}.values(), key=lambda use: use.place)


def test_every_pattern_is_linear_in_the_text():
    slow = {}
    for use in list_uses():
        built = next((text for place, text in BUILT.items() if use.place.startswith(place)), None)
        assert use.pattern is not None or built is not None, f"say in BUILT how this looks as it runs: {use.place}"
        used = Use(use.place, use.pattern or re.compile(str(built)), use.method)
        assert used.pattern is not None
        text = fill(used.pattern, find_slowest(used, PIECES), LENGTH)
        if (taken := measure(used, text)) > 1:
            slow[f"{use.place} {use.method}"] = taken
    assert slow == {}


@pytest.mark.parametrize("pattern", [r"\+?0*[0-9]+", r"\w+!", r"(\w+): ([^,]+)"])
def test_what_is_not_linear_is_found(pattern):
    use = Use("", re.compile(pattern), "fullmatch" if pattern.endswith("+") else "search")
    assert use.pattern is not None
    slowest = find_slowest(use)
    short, longer = (min(measure(use, fill(use.pattern, slowest, size)) for _ in range(3)) for size in (1_000, 8_000))
    assert longer > 20 * short


def test_patterns_of_others_are_compiled_by_re2_alone():
    pattern = compile_linear(r"([a-z._0-9]+)+!")
    assert measure(Use("", pattern, "fullmatch"), "model.layers.0.self_attn.q_proj" * 30_000) < 1
    assert pattern.fullmatch("a.b!")
    assert not pattern.fullmatch("a.b!?")
    for refused in (r"(?=a)b", r"(a)\1", r"(?<!a)b", "(", "a++", "(a{999}){999}", "x" * 20_000, "\ud800"):
        with pytest.raises(ValueError, match=r"."):
            compile_linear(refused)


def test_a_plain_name_has_no_loops():
    assert all(map(is_plain, ("q_proj", "self_attn.q_proj", "layers.0.mlp-in")))
    assert not any(map(is_plain, ("", "q_proj|v_proj", "(a+)+", "q.*", "q\n", "é" * 3, "a" * 1_000)))
