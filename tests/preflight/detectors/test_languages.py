"""Languages are named where they can be told, and the rest is counted."""

from __future__ import annotations

import json
from pathlib import Path

from hf_finetune.preflight.data_report.contents import find_language_faults
from hf_finetune.preflight.data_report.report import SplitReport
from hf_finetune.preflight.detectors.languages import Languages, detect_languages

TEMPLATE = Path(__file__).parents[3] / "data_templates" / "text_multilingual.jsonl"
SHORT = ["ok", "a b", "no", "42", "...", "", "yes!", "q 7", "la 3", "me 9", "de 1", "x"]


def test_rows_too_short_to_tell_are_counted_and_no_language_is_named_of_them():
    found = detect_languages(SHORT)
    assert found == Languages({}, 0, len(SHORT))
    assert found.describe() == "12 of 12 rows are too short to tell"


def test_pieces_of_sentences_are_told_right_or_not_at_all():
    rows = [json.loads(line) for line in TEMPLATE.read_text(encoding="utf-8").splitlines()]
    told = right = pieces = 0
    for row in rows:
        words = row["text"].split()
        for first in range(0, len(words) - 5, 5):
            found = detect_languages([" ".join(words[first : first + 5])])
            pieces, told, right = pieces + 1, told + found.told, right + (row["language"] in found.shares)
    assert pieces > 300
    assert right >= 0.95 * told
    assert told > 0.6 * pieces


def test_what_is_not_listed_is_said():
    shares = {"en": 0.6, "de": 0.1, "fr": 0.1, "es": 0.05, "it": 0.05, "ru": 0.05}
    said = Languages(shares, 200, 1).describe()
    assert said == "en 60%, de 10%, fr 10%, es 5%, it 5%, ru 5%, others 5%; 1 of 201 rows is too short to tell"
    assert Languages({"en": 1.0}, 5).describe() == "en 100%"


def test_a_language_that_is_not_trained_is_found_from_three_rows_on():
    train = SplitReport(100, languages=Languages({"en": 1.0}, 100))

    def find(shares, told):
        return [
            each.what
            for each in find_language_faults(
                {"train": train, "test": SplitReport(9, languages=Languages(shares, told))}
            )
        ]

    assert find({"en": 0.6, "de": 0.4}, 5) == []
    assert find({"en": 0.5, "de": 0.5}, 6) == ["test: de (50%) is not among the languages of the training rows"]
    assert find({"de": 0.5, "fr": 0.5}, 6) == [
        "test: de (50%), fr (50%) are not among the languages of the training rows"
    ]
    assert find({"en": 0.95, "de": 0.05}, 100) == []
