"""Words are found as by a plain list of alternatives, the longest first, at the speed of a few."""

from __future__ import annotations

import random
import re
import time

from hf_finetune.chat.any_of import find_any


def spans(pattern, text):
    return [match.span() for match in pattern.finditer(text)]


def test_words_are_found_as_by_a_list_of_alternatives():
    dice = random.Random(0)
    for _ in range(300):
        words = list({"".join(dice.choices("ab<", k=dice.randint(1, 6))) for _ in range(dice.randint(1, 25))})
        text = "".join(dice.choices("ab<#", k=60))
        longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
        assert spans(find_any(words, not_behind="#"), text) == spans(re.compile(f"(?<!#)(?:{longest_first})"), text)
        assert spans(find_any(words, first_alone=True), text) == spans(re.compile(f"(?=(?:{longest_first}))."), text)
    assert spans(find_any([]), "anything") == []


def test_words_that_begin_each_other_are_no_deeper_than_python_compiles():
    pattern = find_any(["a" * size for size in range(1, 300)])
    assert spans(pattern, "a" * 299 + "b" + "a" * 300) == [(0, 299), (300, 599), (599, 600)]


def test_thousands_of_words_cost_no_more_than_ten():
    words = [f"<unused{number}>" for number in range(6_000)] + [f"[{chr(0x4E00 + number)}]" for number in range(242)]
    text = "The quick < brown [fox], said <unus> to the lazy dog. " * 2_000
    many, ten = find_any(words), find_any([*words[:5], *words[-5:]])

    def measure(pattern):
        began = time.perf_counter()
        assert pattern.search(text) is None
        return time.perf_counter() - began

    ratios = [measure(many) / measure(ten) for _ in range(9)]
    assert min(ratios) < 3  # 600 with a list of alternatives
