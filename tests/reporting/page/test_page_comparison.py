from __future__ import annotations

import json

import numpy as np
import pytest
from reporting.made_runs import classifier, foreign, manifest, report, run_folder, stopped
from reporting.page.page_reader import Read

from hf_finetune.reporting.diagnosis import Diagnosis
from hf_finetune.reporting.page.comparison import (
    describe_best,
    find_cautions,
    find_differences,
    find_least_apart,
    make_run_names,
    render_comparison,
)
from hf_finetune.reporting.run_record import read_run


def made(folder, evaluation, learning_rate=1e-4, **manifest_changed):
    settings = {"train": {"learning_rate": learning_rate, "max_steps": 300}, "output_dir": str(folder)}
    return read_run(run_folder(folder, report(evaluation=evaluation, settings=settings), manifest(**manifest_changed)))


def matched(value, interval=None):
    found = {"exact_match": value, "loss": 2.0 - value}
    return {"test": found | ({"intervals": {"exact_match": interval}} if interval else {})}


def text_of(runs) -> str:
    return Read(render_comparison(runs, [Diagnosis(f"Verdict {number}.", ()) for number in range(len(runs))])).text


@pytest.fixture
def two(tmp_path):
    return [
        made(tmp_path / "low", matched(0.4, [0.35, 0.45])),
        made(tmp_path / "high", matched(0.6, [0.55, 0.65]), learning_rate=5e-4),
    ]


def test_a_difference_that_intervals_can_show_keeps_them_apart_in_four_of_five_cases():
    random, errors = np.random.default_rng(0), np.array([0.02, 0.03])
    half = 1.96 * errors
    drawn = random.normal(0.0, errors, size=(20_000, 2)) + np.array([find_least_apart(*(2 * half)), 0.0])
    assert np.mean(drawn[:, 0] - half[0] > drawn[:, 1] + half[1]) == pytest.approx(0.8, abs=0.01)


def test_the_run_that_is_ahead_is_named_with_what_its_interval_allows_to_say(tmp_path, two):
    said = "high has the best exact match on test: 60.0% (55.0% to 65.0%); next is low with 40.0% (35.0% to 45.0%)."
    assert describe_best(two) == [
        f"{said} Their intervals do not overlap; such intervals reliably show 13.0 points or more."
    ]
    close = made(tmp_path / "close", matched(0.41, [0.36, 0.46]))
    chance = "Their intervals overlap: the difference may be chance; "
    overlapping = f"{chance}such intervals reliably show 13.0 points or more."
    assert describe_best([two[0], close])[0].endswith(overlapping)
    plain = made(tmp_path / "plain", matched(0.9))
    assert describe_best([two[0], plain])[0].endswith("Without an interval of plain the difference may be chance.")
    assert "have the same exact match on test: 40.0%" in describe_best([two[0], made(tmp_path / "o", matched(0.4))])[0]


def test_lower_is_better_for_a_loss(tmp_path):
    runs = [
        made(tmp_path / name, {"validation": {"loss": loss}}) for name, loss in (("a", 1.5), ("b", 1.2), ("c", 1.9))
    ]
    assert describe_best(runs)[0].startswith("b has the best loss on validation: 1.2000; next is a with 1.5000.")


def test_why_runs_cannot_be_compared_is_said(tmp_path):
    some = made(tmp_path / "some", {"validation": {"loss": 1.0}})
    none, other = made(tmp_path / "none", {}), made(tmp_path / "other", {"validation": {"mae": 1.0}})
    assert describe_best([some, none])[0].endswith("compared: none scored neither test nor validation rows.")
    assert describe_best([some, other])[0].endswith("compared: no figure is in all of them.")


def test_runs_on_other_rows_are_not_ranked_and_the_page_warns(tmp_path, two):
    other = manifest()["data"] | {"splits": {"test": {"sha256": "77" * 32}, "validation": {"sha256": "34" * 32}}}
    one = manifest()["data"] | {"splits": {"test": {"sha256": "66" * 32}, "validation": {"sha256": "34" * 32}}}
    runs = [made(tmp_path / "x", matched(0.4), data=one), made(tmp_path / "y", matched(0.9), data=other)]
    assert describe_best(runs) == [
        "These runs have no figure by which they could be compared: they are scored on other test rows."
    ]
    assert find_cautions(runs) == [
        "The test rows of these runs differ, so their figures on test answer different questions."
    ]
    assert find_cautions(runs)[0] in text_of(runs)
    assert find_cautions(two) == []


def test_losses_under_different_tokenizers_are_not_ranked_but_bits_per_byte_are(tmp_path):
    scores = (
        {"loss": 2.0, "perplexity": 7.4, "bits_per_byte": 1.1},
        {"loss": 3.0, "perplexity": 20.1, "bits_per_byte": 0.9},
    )
    runs = [
        made(tmp_path / f"t{number}", {"validation": each}, files={"tokenizer.json": str(number) * 64})
        for number, each in enumerate(scores)
    ]
    assert describe_best(runs)[0].startswith("t1 has the best bits per byte on validation: 0.900;")
    assert "tokenizers differ" in find_cautions(runs)[0]


def test_only_what_differed_is_listed_and_the_runs_own_names_are_not(two):
    for number, run in enumerate(two):
        run.report["distributed"]["waited_s"] = {"min": 0.0, "max": number, "by_process": [0.0, number]}
    assert find_differences(two) == {"train.learning_rate": ["0.0001", "0.0005"]}
    text = text_of(two)
    assert "train.learning_rate" in text
    assert "train.max_steps" not in text
    assert "output_dir" not in text


def test_data_versions_and_the_way_it_ran_are_among_what_differs(tmp_path):
    files = [{"role": "train", "path": "train.jsonl", "sha256": "99" * 32}]
    runs = [
        made(tmp_path / "a", matched(0.4)),
        made(
            tmp_path / "b",
            matched(0.4),
            data=manifest()["data"] | {"files": files},
            versions={"torch": "2.12.0"},
            seed=7,
        ),
    ]
    found = find_differences(runs)
    assert found["sha256 of train file 1"] == ["cd" * 8, "99" * 8]
    assert found["versions.torch"] == ["2.13.0", "2.12.0"]
    assert found["seed"] == ["42", "7"]


def test_runs_that_differ_in_nothing_say_so(tmp_path):
    runs = [made(tmp_path / name, matched(0.4)) for name in ("a", "b")]
    assert "No setting, data file, model or version differed" in text_of(runs)


def test_a_page_of_several_runs_has_their_figures_curves_costs_and_verdicts(two):
    text = text_of(two)
    for said in (
        *("2 runs compared", "low", "high", "40.0%", "35.0% to 45.0%", "higher is better", "lower is better"),
        *("What it took", "12 min 34 s", "5,012", "50,000", "120,000"),
        *("Training loss", "Validation loss", "Learning rate", "Verdict 0.", "Verdict 1.", "finished"),
    ):
        assert said in text, said


def test_curves_of_runs_are_told_apart_by_more_than_their_color(tmp_path):
    runs = [made(tmp_path / f"r{number}", matched(0.4)) for number in range(8)]
    read = Read(render_comparison(runs, [Diagnosis("", ())] * 8))
    keys = [a["class"] for tag, a in read.elements if tag == "path" and a["d"] == "M1 4L23 4"]
    assert keys[:8] == [f"curve s{number}" for number in range(8)]


def test_crashed_and_foreign_runs_are_compared_by_their_last_validation(tmp_path):
    runs = [read_run(stopped(tmp_path / "crashed")), read_run(foreign(tmp_path / "other")), made(tmp_path / "ours", {})]
    text = text_of(runs)
    assert "not finished" in text
    assert "another Trainer's" in text
    assert not [key for key in find_differences(runs) if key.startswith(("versions.", "distributed."))]
    assert describe_best(runs[:2])[0].startswith("other has the best loss on validation")


def test_a_classifier_beside_a_language_model_is_a_page_too(tmp_path):
    runs = [read_run(run_folder(tmp_path / "c", classifier(), manifest())), made(tmp_path / "l", matched(0.4))]
    assert "exact match" in text_of(runs)


def test_folders_of_the_same_name_are_told_apart_by_those_above_in_the_working_folder(tmp_path, monkeypatch):
    runs = [made(tmp_path / side / "run", matched(0.4)) for side in ("a", "b")]
    assert make_run_names(runs) == ["run (1)", "run (2)"]
    monkeypatch.chdir(tmp_path)
    assert make_run_names(runs) == ["a/run", "b/run"]
    assert make_run_names([runs[0], runs[0]]) == ["run (1)", "run (2)"]


def test_samples_of_the_same_prompt_stand_side_by_side_the_last_of_each_run(two):
    read = Read(render_comparison(two, [Diagnosis("", ())] * 2))
    assert "Where is my parcel?" in read.text
    assert read.text.count("It is on its way.") == 2
    assert "a a a a a" not in read.text, "what a run said before training is on its own page"


def test_a_run_leads_to_its_own_page_where_that_lies_below(tmp_path, two):
    (two[0].folder / "report.html").write_text("page")
    for folder, expected in ((tmp_path, ["low/report.html"]), (two[1].folder, []), (None, [])):
        read = Read(render_comparison(two, [Diagnosis("", ())] * 2, folder=folder))
        links = [given["href"] for tag, given in read.elements if tag == "a" and not given["href"].startswith("#")]
        assert links == expected, folder


def with_rows(folder, letters, nll):
    """A run whose validation rows have these hashes; each row was two examples of ten tokens."""
    splits = {"validation": {"sha256": "".join(letters), "row_hashes": "".join(each * 16 for each in letters)}}
    run = made(folder, {"validation": {"loss": nll / 10}}, data=manifest()["data"] | {"splits": splits})
    numbers = [number for number in range(len(letters)) for _ in range(2)]
    sums = [[nll + number, 1, 10] for number in numbers]
    (folder / "row_scores.json").write_text(json.dumps({"validation": {"tuned": sums, "row": numbers}}))
    return run


def test_runs_on_other_rows_are_compared_on_those_that_they_share_and_it_is_said_how_many(tmp_path):
    one, other = with_rows(tmp_path / "a", "abc", 20.0), with_rows(tmp_path / "b", "bcde", 10.0)
    said = "On the 2 validation rows that all share (of 3, 4) the loss is: a 2.1500, b 1.0500."
    assert said in text_of([one, other])  # a: (2 x 21 + 2 x 22) / 40; b: (2 x 10 + 2 x 11) / 40
    assert "share none" in text_of([one, with_rows(tmp_path / "c", "xyz", 1.0)])
    assert "share" not in text_of([one, one]), "the same rows need no such sentence"
    (tmp_path / "b" / "row_scores.json").write_text("[")
    assert "that all share" not in text_of([one, other])
