from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax

from hf_finetune.errors import ModelError
from hf_finetune.folders.decision_record import DECISION
from hf_finetune.models.decision import Decision, read_decision, write_decision
from hf_finetune.reporting.card import find_source_run
from hf_finetune.reporting.card.facts import describe_model

SEVERAL_TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@st.composite
def decisions(draw, kind=None):
    labels = tuple(draw(st.lists(SEVERAL_TEXTS, min_size=2, max_size=6, unique=True)))
    kind = kind or draw(st.sampled_from(["single", "multi"]))
    drawn = [draw(st.floats(0.01, 0.99)) for _ in labels]
    thresholds = tuple(each / sum(drawn) for each in drawn) if kind == "single" else tuple(drawn)
    return Decision(
        labels, kind, draw(st.floats(0.05, 20)), thresholds, draw(st.none() | st.just("f1_macro")), draw(st.booleans())
    )


@st.composite
def decided(draw, kind=None):
    decision = draw(decisions(kind))
    shape = (draw(st.integers(1, 8)), len(decision.labels))
    return decision, draw(arrays(np.float64, shape, elements=st.floats(-50, 50)))


@given(decided())
def test_probabilities_are_those_of_the_logits_over_the_temperature(case):
    decision, logits = case
    scaled = logits / decision.temperature
    expected = expit(scaled) if decision.kind == "multi" else softmax(scaled, axis=1)
    np.testing.assert_allclose(decision.compute_probabilities(logits), expected, atol=1e-12)


@given(decided("single"))
def test_of_one_label_the_largest_ratio_of_probability_and_threshold_decides(case):
    decision, logits = case
    probabilities = decision.compute_probabilities(logits)
    chosen = decision.choose(probabilities)
    for row, number in enumerate(chosen):
        ratios = [p / t for p, t in zip(probabilities[row], decision.thresholds, strict=True)]
        assert ratios[number] == max(ratios)


@given(decided("multi"))
def test_of_several_labels_each_at_its_threshold_is_given(case):
    decision, logits = case
    probabilities = decision.compute_probabilities(logits)
    for given_to, probability in zip(decision.choose(probabilities), probabilities, strict=True):
        assert list(given_to) == [int(p >= t) for p, t in zip(probability, decision.thresholds, strict=True)]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_of_two_labels_the_second_is_chosen_from_its_threshold_on(threshold):
    decision = Decision(("no", "yes"), "single", thresholds=(1 - threshold, threshold))
    second = np.array([0.0, threshold - 1e-9, threshold, threshold + 1e-9, 1.0])
    chosen = decision.choose(np.stack([1 - second, second], axis=1))
    assert chosen.tolist() == [0, 0, 1, 1, 1]


@given(decided())
def test_the_offsets_make_the_largest_logit_decide(case):
    decision, logits = case
    shifted = logits / decision.temperature + decision.offsets
    chosen = decision.choose(decision.compute_probabilities(logits))
    if decision.kind == "multi":
        clear = np.abs(shifted) > 1e-6
        assert ((shifted > 0) == chosen)[clear].all()
    else:
        nearest = np.sort(shifted, axis=1)
        clear = nearest[:, -1] - nearest[:, -2] > 1e-6
        assert (shifted.argmax(axis=1) == chosen)[clear].all()


@given(decided())
def test_the_probabilities_of_a_saved_model_are_those_before_it_was_saved(case):
    decision, logits = case
    saved = logits / decision.temperature + (decision.offsets if decision.offsets_in_weights else 0)
    np.testing.assert_allclose(
        decision.compute_saved_probabilities(saved), decision.compute_probabilities(logits), atol=1e-9
    )


@pytest.mark.parametrize(("kind", "even"), [("single", 1 / 3), ("multi", 0.5)])
def test_without_thresholds_the_even_ones_hold_which_move_nothing(kind, even):
    decision = Decision(("a", "b", "c"), kind)
    assert decision.thresholds == (even,) * 3
    assert not decision.offsets.any()


@given(decisions())
def test_what_is_written_is_read_again(tmp_path_factory, decision):
    folder = tmp_path_factory.mktemp("decision")
    write_decision(decision, folder)
    assert read_decision(folder) == decision


def test_the_file_names_each_threshold_by_its_label(tmp_path):
    write_decision(Decision(("ham", "spam"), "single", 1.5, (0.4, 0.6), "f1_macro", offsets_in_weights=True), tmp_path)
    assert json.loads((tmp_path / DECISION).read_text()) == {
        "labels": ["ham", "spam"],
        "kind": "single",
        "temperature": 1.5,
        "thresholds": {"ham": 0.4, "spam": 0.6},
        "metric": "f1_macro",
        "offsets_in_weights": True,
    }


def test_a_folder_without_one_has_none(tmp_path):
    assert read_decision(tmp_path) is None
    assert read_decision(tmp_path / "nowhere" / "at" / "all") is None


WRONG = {
    None: [
        ("no json", "cannot be read (is torn, or no JSON)"), ("[]", "is no decision of a classifier"),
        ("[" * 100_000, "cannot be read (is nested too deep)"), ({"labels": 10**30}, "cannot be read ("),
    ],
    "unknown": [(1, "is no key of such a file")],
    "labels": [(None, ""), ("ab", ""), ([], ""), ([1, 2], ""), ({"a": 1}, ""), (["ham", "ham", "spam"], "")],
    "kind": [(None, ""), ("several", ""), (["single"], ""), (1, "")],
    "temperature": [(0, ""), (math.inf, ""), (math.nan, ""), ("1", ""), ([], ""), (None, "")],
    "thresholds": [
        ("x", ""), ({"ham": 0.4}, ""), ({"ham": 0.0, "spam": 1.0}, ""), ({"ham": "much", "spam": 0.5}, ""), ([], ""),
        ({"ham": 0.5, "spam": 0.5, "eggs": 0.5}, ""), (5, ""), (None, ""), ({"ham": [0.5], "spam": 0.5}, ""),
    ],
    "metric": [(5, ""), ([], "")],
    "offsets_in_weights": [("no", ""), (1, ""), (None, "")],
}  # fmt: skip


@pytest.mark.parametrize(("key", "value", "said"), [(key, *case) for key, cases in WRONG.items() for case in cases])
def test_a_value_of_another_kind_is_refused_by_its_key_wherever_the_file_is_read(tmp_path, key, value, said):
    write_decision(Decision(("ham", "spam"), "single"), tmp_path)
    file = tmp_path / DECISION
    change = value if key is None else {key: value}
    file.write_text(change if isinstance(change, str) else json.dumps(json.loads(file.read_text()) | change))
    config = {"architectures": ["XForSequenceClassification"], "id2label": {"0": "ham", "1": "spam"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for read in (read_decision, lambda folder: describe_model(find_source_run(folder))):
        with pytest.raises(ModelError) as refused:
            read(tmp_path)
        [problem] = refused.value.problems
        assert (problem.path, problem.key) == (str(file), key)
        assert problem.what.startswith(said or "is not ")
        assert "remove it" in problem.remedy
        assert refused.value.exit_code == 2
