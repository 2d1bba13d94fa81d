"""What is measured in one pass is what the recipes do at each limit."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from preflight.token_view.test_views import chats, conversation, set_up

from hf_finetune.codes import CODES
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.documents import pack_splits
from hf_finetune.data.tokenization.labelled import tokenize_labelled
from hf_finetune.preflight.lengths import find_length_faults, measure_lengths


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lengths")


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chats=chats, too_long=st.sampled_from(["drop", "cut", "split"]), loss_on=st.sampled_from(["assistant", "all"]))
def test_conversations_lose_what_the_recipe_takes_of_them(folder, chats, too_long, loss_on):
    short = [("a", "b", True)]
    rows = [conversation(chat) for chat in [short, *(chat for chat in chats if chat != short)]]
    splits, made = set_up(folder, "conversation", rows, 32, too_long=too_long, loss_on=loss_on)
    measured = measure_lengths(splits, made)["train"]
    assert [each.limit for each in measured.limits] == [32, 64, 128]
    trained_of = {}
    for limit in (32, 64, 128, 10_000):
        examples, facts = tokenize_conversations(splits, made.tokenizer, made.template, made.data, limit)
        of_rows = Counter()
        for row, labels in zip(examples["train"]["row"], examples["train"]["labels"], strict=True):
            of_rows[row] += sum(label != -100 for label in labels[1:])
        trained_of[limit] = of_rows, facts["train"]
    whole = trained_of[10_000][0]
    for each in measured.limits:
        of_rows, facts = trained_of[each.limit]
        assert (each.tokens, each.trained_tokens) == (facts.tokens, facts.trained_tokens)
        assert (each.too_long, each.without_end) == (facts.too_long, facts.without_end)
        lost = [row for row in whole if of_rows[row] < whole[row]]
        assert each.lost == (0 if too_long == "split" else len(lost))
        assert each.lost_whole == (0 if too_long == "split" else sum(not of_rows[row] for row in lost))
    assert measured.percentiles["max"] == trained_of[10_000][1].longest
    assert sum(measured.histogram.values()) == measured.rows == len(rows)
    found = find_length_faults({"train": measured}, made)
    assert any(each.code == "HF101" for each in found) == bool(measured.limits[0].lost)
    assert {each.code for each in found} <= set(CODES)


def test_what_another_limit_would_save_is_said_with_the_lines(folder):
    rows = [conversation([("a", "b" * size, True)]) for size in (1, 20, 60, 200)]
    splits, made = set_up(folder, "conversation", rows, 40, too_long="cut")
    finding, cut = find_length_faults(measure_lengths(splits, made), made)
    assert (cut.code, cut.what) == ("HF103", "train: 3 of 4 rows are cut inside a turn, whose end token is not trained")
    assert finding.what == (
        "train: 3 of 4 rows lose their answer, or its end, at 40 tokens; 80 would lose 2, 160 would lose 1"
    )
    assert (finding.code, finding.split, finding.count) == ("HF101", "train", 3)
    assert [place.line for place in finding.places] == [2, 3, 4]
    assert finding.remedy == "set train.max_length: 160, if the memory allows it"


def test_no_limit_is_proposed_that_the_model_does_not_take(folder):
    from dataclasses import replace

    splits, made = set_up(folder, "conversation", [conversation([("a", "b" * 200, True)])], 100)
    [measured] = measure_lengths(splits, replace(made, most=150)).values()
    assert [each.limit for each in measured.limits] == [100, 150]


def test_answers_that_say_nothing_and_spelled_tokens_are_found(folder):
    said = ["fine", "...", "<|eos|> is text", " "]
    rows = [conversation([("a", text, True)]) for text in said]
    splits, made = set_up(folder, "conversation", rows, 400, allow_empty=True)
    [measured] = measure_lengths(splits, made).values()
    kinds = {name: [place.line for place in places] for name, places in measured.places.items()}
    assert kinds == {"near_empty": [2], "spelled": [3], "empty": [4]}
    assert {each.code for each in find_length_faults({"train": measured}, made)} == {"HF104", "HF105", "HF107"}


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text("abc ", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=6, unique=True),
    isolate=st.booleans(),
)
def test_documents_lose_nothing(folder, texts, isolate):
    rows, more = [{"text": text} for text in texts], [{"text": "d" + text} for text in texts]
    splits, made = set_up(folder, "document", rows, 7, more=more, isolate_documents=isolate)
    _, facts = pack_splits(splits.rows, made.tokenizer, 7, isolate=isolate)
    for split, measured in measure_lengths(splits, made).items():
        [limit] = measured.limits
        assert (limit.tokens, limit.trained_tokens) == (facts[split].tokens, facts[split].trained_tokens)
        assert measured.percentiles["max"] == 2 + max(len(each["text"]) for each in splits.rows[split])
    assert find_length_faults(measure_lengths(splits, made), made) == []


def test_texts_to_classify_are_counted_as_they_are_cut(folder):
    rows = [{"text": "ab" * size, "label": "xy"[size % 2]} for size in (1, 2, 3, 4, 9, 12)]
    splits, made = set_up(folder, "labelled", rows, 5)
    measured = measure_lengths(splits, made)["train"]
    for each in measured.limits:
        _, facts = tokenize_labelled(splits, made.tokenizer, freeze_labels(splits, made.data), made.data, each.limit)
        assert (each.tokens, each.lost) == (facts["train"].tokens, facts["train"].truncated)
    [finding] = find_length_faults({"train": measured}, made)
    assert finding.what == "train: 4 of 6 rows lose their end at 5 tokens; 10 would lose 2, 20 would lose 1"
