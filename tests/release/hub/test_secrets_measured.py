"""How much of what is planted the search finds, how often it cries wolf, and that it names places and shows nothing."""

from __future__ import annotations

import random
import time

import pytest
from release.hub.ordinary_files import list_ordinary_files
from release.hub.planted_secrets import FORMS, KINDS, draw_secret

from hf_finetune.privacy import hide_secrets
from hf_finetune.release.hub.secret_rules import is_random
from hf_finetune.release.hub.secrets import find_places

SEED = 20
# Each half of a secret that is put over lines or pieces may end in a blank, which nobody knows then to be one.
LEAST_OF_A_FORM = 0.9


def test_at_least_95_of_100_planted_secrets_are_found_and_90_of_each_form_and_kind():
    chance = random.Random(SEED)
    found = {(kind["kind"], form): False for kind in KINDS for form in FORMS}
    for kind in KINDS:
        for form, put in FORMS.items():
            found[kind["kind"], form] = bool(find_places(put(draw_secret(kind, chance)[0], chance), {}))
    assert len(found) > 1_400
    assert sum(found.values()) / len(found) >= 0.95
    for form in FORMS:
        share = [hit for (_, each), hit in found.items() if each == form]
        assert sum(share) / len(share) >= LEAST_OF_A_FORM, form
    for kind in KINDS:
        share = [hit for (each, _), hit in found.items() if each == kind["kind"]]
        assert sum(share) / len(share) >= LEAST_OF_A_FORM, kind["kind"]


def test_at_most_one_of_1000_ordinary_files_is_taken_for_one_with_a_secret():
    files = list(list_ordinary_files(SEED, rounds=60))
    assert len(files) >= 1_000
    alarms = [(name, find_places(content, {})) for name, content in files]
    alarms = [(name, places) for name, places in alarms if places]
    assert len(alarms) <= len(files) / 1_000, alarms


def test_a_secret_is_named_by_the_line_where_it_stands_in_whatever_form():
    text = draw_secret(KINDS[0], random.Random(SEED))[0]
    before = b"a\nb\r\nc\n"
    for form, put in FORMS.items():
        if form not in ("UTF-16", "UTF-16, the other way round"):
            alone = find_places(put(text, random.Random(0)), {})
            assert find_places(before + put(text, random.Random(0)), {}) == [(line + 3, kind) for line, kind in alone]
    assert find_places(f"1\n2\n{text}\n4\n".encode("utf-16"), {}) == [(3, "a Hugging Face token")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0123456789abcdef0123456789abcdef", True), (b"9f86d081884c7d659a2feaa0c55ad015", True),
        (b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", True), (b"configuration_scratch_gpt_2026", False),
        (b"all-MiniLM-L6-v2/checkpoint-100", False), (b"PreTrainedTokenizerFast", False), (b"2026-11-29T13-00", False),
        (b"00000000000000000000000000000000", False), (b"runs/instructions-2/model.safetensors", False),
    ],
)  # fmt: skip
def test_what_stands_behind_a_name_is_a_key_where_it_is_drawn_by_chance(value, expected):
    assert is_random(value) is expected


# Each the worst for one of the expressions: what begins like a secret again and again and never is one.
WORST = (
    "sk-",
    "-eyJ",
    "://a:",
    "aws",
    "key=",
    "\\u",
    "&#1;",
    "%41",
    "\\\\",
    "'+'",
    "A",
    "0f",
    "\n",
    "-----BEGIN ",
    "xoxb-",
)


@pytest.mark.parametrize("piece", WORST)
def test_the_time_grows_with_the_text_alone(piece):
    text = (piece * (1 << 18))[: 1 << 18]
    started = time.process_time()
    find_places(text.encode(), {"no known shape at all": "a token"})
    hide_secrets(text)
    assert time.process_time() - started < 2


def test_a_message_with_half_a_pair_of_surrogates_is_searched_as_any_other():
    secret = "hf_" + "aB3dE6gH9j" * 3
    assert hide_secrets(f"\udcff{secret}\ud800 é") == "\udcff(a secret)\ud800 é"
    assert hide_secrets(f"key_{secret}") == "key_(a secret)"
