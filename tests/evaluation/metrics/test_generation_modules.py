"""The metric modules of generated answers against sacrebleu, rouge-score and SQuAD's script, and by hand."""

from __future__ import annotations

import json
import math
import os
import re
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from evaluate import Metric
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from hf_finetune.evaluation import metrics
from hf_finetune.evaluation.metrics.answer_functions import (
    REFUSAL_PHRASES,
    ROUGE_METRICS,
    compute_token_f1,
    normalize_answer,
    split_visible_words,
    split_words,
)
from hf_finetune.evaluation.metrics.answer_length import AnswerLength
from hf_finetune.evaluation.metrics.bleu import Bleu
from hf_finetune.evaluation.metrics.chrf import Chrf
from hf_finetune.evaluation.metrics.exact_match import ExactMatch
from hf_finetune.evaluation.metrics.refusal_rate import RefusalRate
from hf_finetune.evaluation.metrics.repetition import Repetition
from hf_finetune.evaluation.metrics.rouge import Rouge
from hf_finetune.evaluation.metrics.stop_rate import StopRate
from hf_finetune.evaluation.metrics.token_f1 import TokenF1
from hf_finetune.evaluation.metrics.word_perplexity import WordPerplexity

FOLDER = Path(metrics.__file__).parent
SHARED = ("__init__", "base")
MODULES = sorted(path for path in FOLDER.glob("*.py") if not path.stem.endswith(("_functions", *SHARED)))
NEW = {
    "answer_length": AnswerLength,
    "bleu": Bleu,
    "chrf": Chrf,
    "exact_match": ExactMatch,
    "refusal_rate": RefusalRate,
    "repetition": Repetition,
    "rouge": Rouge,
    "stop_rate": StopRate,
    "token_f1": TokenF1,
    "word_perplexity": WordPerplexity,
}
CASES = 1_000
WORDS = [
    "the",
    "a",
    "an",
    "cat",
    "Cat",
    "sat",
    "mat",
    "on",
    "don't",
    "3.5",
    "-",
    "no",
    "No.",
    "yes,",
    "(see",
    "it)",
    ".",
]


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """Metrics by kind, each made once: that takes longer than most of them compute."""
    made: dict[type, Metric] = {}
    folder = str(tmp_path_factory.mktemp("metrics"))

    def get(kind):
        if kind not in made:
            made[kind] = kind(keep_in_memory=True, cache_dir=folder)
        return made[kind]

    return get


def sentence(random, most):
    return " ".join(random.choice(WORDS, size=random.integers(0, most)))


def case(random):
    """Some rows of answers and references that share words; a few are blank, some are the same."""
    rows = int(random.integers(1, 7))
    references = [sentence(random, 12) for _ in range(rows)]
    kept = [reference if random.random() < 0.3 else sentence(random, 12) for reference in references]
    return {"predictions": kept, "references": references}


def computed_every_way(metric, kind, number, rows):
    """Through `compute` for some cases: it costs ten times what the figures do."""
    return metric(kind).compute(**rows) if number < 20 else metric(kind)._compute(**rows)


# The functions of SQuAD's evaluate-v1.1.py, as they were published.
def squad_words(text):
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(prediction, reference):
    prediction_tokens, ground_truth_tokens = squad_words(prediction), squad_words(reference)
    num_same = sum((Counter(prediction_tokens) & Counter(ground_truth_tokens)).values())
    if num_same == 0:
        return 0
    precision, recall = num_same / len(prediction_tokens), num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def test_exact_match_and_f1_are_those_of_squad_on_1000_cases(metric):
    random, compared = np.random.default_rng(0), 0
    while compared < CASES:
        # Where nothing is left of a text SQuAD has no words to compare: that has its own test.
        pairs = [pair for pair in zip(*case(random).values(), strict=True) if all(map(squad_words, pair))]
        if not pairs:
            continue
        rows = {"predictions": [one for one, _ in pairs], "references": [other for _, other in pairs]}
        exact = sum(squad_words(one) == squad_words(other) for one, other in pairs) / len(pairs)
        f1 = sum(squad_f1(*pair) for pair in pairs) / len(pairs)
        assert computed_every_way(metric, ExactMatch, compared, rows) == {"exact_match": exact}
        assert computed_every_way(metric, TokenF1, compared, rows)["token_f1"] == pytest.approx(f1, abs=1e-9)
        compared += 1


def test_bleu_and_chrf_are_those_of_sacrebleu_on_1000_cases(metric):
    random = np.random.default_rng(1)
    for number in range(CASES):
        rows = case(random)
        expected = sacrebleu.corpus_bleu(rows["predictions"], [rows["references"]]).score
        assert computed_every_way(metric, Bleu, number, rows)["bleu"] == pytest.approx(expected, abs=1e-9)
        expected = sacrebleu.corpus_chrf(rows["predictions"], [rows["references"]]).score
        assert computed_every_way(metric, Chrf, number, rows)["chrf"] == pytest.approx(expected, abs=1e-9)


def test_rouge_is_that_of_rouge_score_on_1000_cases_of_ascii_text(metric):
    random, scorer = np.random.default_rng(2), RougeScorer(list(ROUGE_METRICS))
    for number in range(CASES):
        rows = case(random)
        scores = [scorer.score(reference, said) for said, reference in zip(*rows.values(), strict=True)]
        expected = {name: np.mean([score[name].fmeasure for score in scores]) for name in ROUGE_METRICS}
        assert computed_every_way(metric, Rouge, number, rows) == pytest.approx(expected, abs=1e-9)


def test_perplexity_per_word_is_that_of_a_formula_on_1000_cases(metric):
    random = np.random.default_rng(3)
    for number in range(CASES):
        size = int(random.integers(1, 20))
        rows = {"nll_sums": random.exponential(30, size).tolist(), "words": random.integers(1, 50, size).tolist()}
        expected = math.e ** (sum(rows["nll_sums"]) / sum(rows["words"]))
        found = computed_every_way(metric, WordPerplexity, number, rows)["word_perplexity"]
        assert found == pytest.approx(expected, rel=1e-9)


def test_signatures_say_how_sacrebleu_computed(metric):
    rows = {"predictions": ["a b"], "references": ["a b"]}
    assert f"version:{sacrebleu.__version__}" in metric(Bleu).compute(**rows)["bleu_signature"]
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp" in metric(Bleu).compute(**rows)["bleu_signature"]
    assert "case:mixed|eff:yes|nc:6|nw:0|space:no" in metric(Chrf).compute(**rows)["chrf_signature"]


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_text_are_those_of_rouge_score(text):
    assert split_words(text) == DefaultTokenizer().tokenize(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ça va, Zoë?", ["ça", "va", "zoë"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowels that are marks stay in their words
        ("東京へ行く", ["東", "京", "へ", "行", "く"]),
        ("서울에 가다", ["서울에", "가다"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("GPT‑4は１２", ["gpt", "4", "は", "12"]),
        ("ﬁne e\u0301te\u0301", ["fine", "été"]),
    ],
)
def test_words_of_other_scripts_are_kept_and_those_without_spaces_are_read_by_character(metric, text, words):
    assert split_words(text) == words
    assert normalize_answer(text.replace("‑", " ")) == words
    same = {"predictions": [text], "references": [text]}
    assert metric(Rouge).compute(**same)["rouge1"] == metric(TokenF1).compute(**same)["token_f1"] == 1


def test_an_answer_in_chinese_that_is_half_right_has_half_the_f1():
    assert compute_token_f1("北京市。", "北海市") == pytest.approx(2 / 3)
    assert compute_token_f1("北京", "东南") == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The  cat!", "a cat", True),
        ("“Paris”", "paris", True),
        ("a", "the", False),  # options of a question: SQuAD's own script would find nothing left of either
        ("A.", "a.", True),
        ("+", "-", False),
        ("", "!", False),
        ("", " \n", True),
        ("cat", "", False),
        ("1.5", "15", True),  # as in SQuAD
    ],
)
def test_an_answer_matches_when_its_words_do(metric, one, other, same):
    rows = {"predictions": [one], "references": [other]}
    assert metric(ExactMatch).compute(**rows)["exact_match"] == same
    if same:
        assert compute_token_f1(one, other) == 1


def repeated_by_hand(words):
    runs = [tuple(words[start : start + 4]) for start in range(len(words) - 3)]
    return sum(run in runs[:place] for place, run in enumerate(runs)) / len(runs)


@given(st.lists(st.sampled_from(["x", "y", "!", "的"]), min_size=4, max_size=40))
def test_repetition_is_the_share_of_runs_that_came_before(words):
    found = Repetition._compute(None, [" ".join(words)])["repetition"]
    assert found == pytest.approx(repeated_by_hand(words), abs=1e-12)


def test_a_text_that_is_stuck_repeats_and_one_that_is_short_does_not_count(metric):
    stuck = metric(Repetition).compute(predictions=["I am, I am, " * 50])["repetition"]
    assert stuck > 0.97
    assert metric(Repetition).compute(predictions=["!" * 200])["repetition"] > 0.97
    assert metric(Repetition).compute(predictions=["的" * 200])["repetition"] > 0.97
    halved = metric(Repetition).compute(predictions=["one two", "a b c d a b c d", "three"])["repetition"]
    assert halved == pytest.approx(1 / 5)
    assert math.isnan(metric(Repetition).compute(predictions=["one two three"])["repetition"])
    assert split_visible_words("a-b") == ["a", "-", "b"]


def test_refusals_are_told_by_how_an_answer_opens(metric):
    refusals = ["I'm sorry, but that is not possible.", "I can’t help with that.", "As an AI I have no opinion."]
    answers = ["Paris.", "", "The Hawaii cannot-miss list", "He said he was sorry.", "x " * 60 + "I cannot say"]
    for text in refusals:
        assert metric(RefusalRate).compute(predictions=[text]) == {"refusal_rate": 1}, text
    for text in answers:
        assert metric(RefusalRate).compute(predictions=[text]) == {"refusal_rate": 0}, text
    assert metric(RefusalRate).compute(predictions=refusals + answers)["refusal_rate"] == pytest.approx(3 / 8)
    assert sorted({*REFUSAL_PHRASES}) == list(REFUSAL_PHRASES)


def test_lengths_and_stops_are_means_over_rows(metric):
    assert metric(AnswerLength).compute(tokens=[1, 2, 6]) == {"answer_tokens": 3}
    assert metric(StopRate).compute(finished=[True, False, False, False]) == {"stop_rate": 0.25}


def test_without_rows_a_figure_is_nan_and_not_a_crash(metric):
    for kind in NEW.values():
        features = metric(kind)._info().features
        found = metric(kind).compute(**{name: [] for name in features})
        assert all(value is None or math.isnan(value) for value in found.values()), kind
    sums = {"nll_sums": [1.0, math.nan], "words": [1, 1]}
    assert math.isnan(metric(WordPerplexity).compute(**sums)["word_perplexity"])
    assert metric(WordPerplexity).compute(nll_sums=[1e6], words=[1])["word_perplexity"] == math.inf


# `evaluate.load` as somebody else would call it, in a process that may not open a socket and does not have our package.
LOAD = """
import json, socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import evaluate
VALUES = {"string": "the cat sat on the mat", "bool": True, "float64": 2.0, "int64": 1}
found = {}
for path in sys.argv[1:]:
    metric = evaluate.load(path)
    given = {}
    for name, feature in metric.features.items():
        kind = getattr(feature, "dtype", None)
        given[name] = [VALUES[kind]] * 2 if kind in VALUES else [[0.25, 0.75]] * 2
    extra = {"total_bytes": 4} if path.endswith("bits_per_byte.py") else {}
    found[path] = sorted(metric.compute(**given, **extra))
assert not any(name.startswith("hf_finetune") for name in sys.modules)
print(json.dumps(found))
"""


def test_every_metric_loads_by_its_path_without_network_or_package(tmp_path):
    online = {name: value for name, value in os.environ.items() if not name.endswith("OFFLINE")}
    files = list(map(str, MODULES))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, *files],
        capture_output=True,
        text=True,
        env={**online, "HF_HOME": str(tmp_path)},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() == set(files)
    assert NEW.keys() < {path.stem for path in MODULES}
    for path, names in found.items():
        text = Path(path).read_text(encoding="utf-8")
        assert all(name in text.split("Returns:")[1].split('"""')[0] for name in names), path


@pytest.mark.parametrize("name", NEW)
def test_each_file_says_what_goes_in(metric, name):
    info = metric(NEW[name])._info()
    assert all(f"\n    {feature}: " in info.inputs_description for feature in info.features)
