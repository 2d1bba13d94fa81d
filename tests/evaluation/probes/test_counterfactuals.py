"""Words swapped for their counterparts, and what that changes."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.config.sections import EvalSection
from hf_finetune.evaluation.probes.counterfactuals import SWAP_LISTS, measure_swap_effect, swap_words

LISTS = {
    name: json.loads(files("hf_finetune.evaluation.probes").joinpath("swap_lists", f"{name}.json").read_text("utf-8"))
    for name in SWAP_LISTS
}


@pytest.mark.parametrize(
    ("name", "text", "swapped"),
    [
        ("gender", "He met his wife, and SHE saw him.", "She met her husband, and HE saw her."),
        ("gender", "The woman's son; Mr Smith himself?", "The man's daughter; Ms Smith herself?"),
        ("gender", "a manager, the theme, other, Heather, boyish", None),
        ("gender", "he/she, (she), 'he' _he_", "she/he, (he), 'she' _he_"),
        ("names", "Emily wrote to Jamal's boss.", "Lakisha wrote to Greg's boss."),
        ("names", "emily, a jay and a brad", None),
        ("names", "EMILY", "LAKISHA"),
        ("religion", "The church is a non-Christian place", "The mosque is a non-Muslim place"),
        ("religion", "Synagogues and RABBIS", "Pagodas and LAMAS"),
        ("origin", "An American in Paris met Turks", "An Iraqi in Kabul met Canadians"),
        ("origin", "we ate turkey off china", None),
        ("origin", "", None),
    ],
)
def test_whole_words_are_swapped_both_ways_and_keep_their_case(name, text, swapped):
    assert swap_words(text, name) == swapped


@pytest.mark.parametrize("name", SWAP_LISTS)
def test_every_word_of_a_list_is_there_once_and_swapped_twice_is_itself_again(name):
    pairs, one_way = LISTS[name]["pairs"], LISTS[name]["one_way"]
    words = [word for pair in pairs for word in pair] + [*one_way]
    assert len({word.lower() for word in words}) == len(words)
    assert LISTS[name]["about"]
    for one, other in pairs:
        for word in (one, one.upper(), one[0].upper() + one[1:]):
            swapped = swap_words(word, name)
            assert swapped is None or swap_words(swapped, name) == word
        assert swap_words(f"the {one}.", name) == f"the {other}."
    for one, other in one_way.items():
        assert swap_words(one, name) == other


@pytest.mark.parametrize("name", ["religion", "origin"])
def test_counterparts_follow_the_same_article(name):
    for one, other in LISTS[name]["pairs"]:
        vowels = [each[0] in "AEIOaeio" for each in (one, other)]
        assert vowels[0] == vowels[1] or (name == "religion" and "Islam" in (one, other)), (one, other)


def test_the_run_file_names_exactly_the_shipped_lists():
    annotation = EvalSection.model_fields["swaps"].annotation
    assert get_args(get_args(annotation)[0]) == SWAP_LISTS
    shipped = {
        each.name.removesuffix(".json")
        for each in files("hf_finetune.evaluation.probes").joinpath("swap_lists").iterdir()
    }
    assert shipped == set(SWAP_LISTS)


@given(st.text(), st.sampled_from(SWAP_LISTS))
def test_a_swapped_text_is_another_text_with_as_many_lines(text, name):
    swapped = swap_words(text, name)
    assert swapped is None or (swapped != text and swapped.count("\n") == text.count("\n"))


def test_a_text_without_a_word_of_the_list_stays_as_it_is():
    swapped = [swap_words(text, "gender") for text in ("she", "it", "a boy and a girl")]
    assert swapped == ["he", None, "a girl and a boy"]


def mean_of(values):
    return lambda weights: {"accuracy": values @ weights / weights.sum(axis=0)}


def effect(before, after, **options):
    both = mean_of(np.concatenate([before, after]))
    return measure_swap_effect(mean_of(before), mean_of(after), both, len(before), **options)


def test_an_effect_has_its_difference_its_interval_and_how_many_answers_change():
    random = np.random.default_rng(0)
    before = (random.random(100) < 0.9).astype(float)
    after = np.where(random.random(100) < 0.3, 0.0, before)
    found = effect(before, after, predictions=(before.tolist(), after.tolist()))
    figure = found["figures"]["accuracy"]
    low, high = figure["interval"]
    assert figure["difference"] == pytest.approx(after.mean() - before.mean())
    assert low < figure["difference"] < high < 0
    assert figure["real"]
    changed = (before != after).mean()
    assert found["changed"] == changed
    assert found["rows"] == 100
    assert found["words"][0] == f"with the words swapped the model says something else in {changed:.1%} of 100 rows"
    assert found["words"][1].startswith("accuracy: lower by 0.")


def test_a_model_that_does_not_care_about_the_words_is_said_to_show_no_effect():
    alarms = 0
    for seed in range(40):
        before, after = (np.random.default_rng(seed).random((2, 50)) < 0.7).astype(float)
        found = effect(before, after, seed=seed)
        assert "changed" not in found
        alarms += found["words"] != ["no figure changes by more than these 50 rows would by chance"]
    assert alarms <= 5
