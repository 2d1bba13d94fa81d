"""`hf-finetune check`: what is planted in rows is found, by code and line; and what it writes for other tools."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from chat_models import talking_tokenizer
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.codes import CODES
from hf_finetune.errors import ConfigError, DataError
from hf_finetune.metric_info import find_detectable_share, format_size

SCRATCH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEAMS = ("billing", "technical", "sales")


def spell(number):
    """In letters: the tokenizer knows no digits."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def chat(asked, said):
    return json.dumps({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer, rows with planted faults, and run files: nothing that has weights."""
    folder = tmp_path_factory.mktemp("check")
    talking_tokenizer().save_pretrained(folder / "model")
    rows = [chat(f"question {spell(number)}", f"answer {spell(number)} is this") for number in range(40)]
    rows[4] = "{broken"
    rows[6] = rows[5]
    rows[7] = chat("who?", "...")
    rows[8] = chat("write to jane.doe@mail.org", "that is done")
    rows[9] = chat("a long one", "long " * 60)
    (folder / "train.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "held_out.jsonl").write_text("\n".join([rows[20], chat("new", "and not seen")]) + "\n")
    (folder / "clean.jsonl").write_text("\n".join(rows[10:]) + "\n")
    labels = [TEAMS[0]] * 30 + [TEAMS[1]] * 30 + [TEAMS[2]] * 2
    labelled = [{"text": f"ticket {number} says this", "label": label} for number, label in enumerate(labels)]
    (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    others = [{"text": f"other {row['text']}", "label": row["label"]} for row in labelled[:60]]
    (folder / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    for recipe, train, validation, settings in (
        ("sft", "train.jsonl", "held_out.jsonl", {"max_length": 100}),
        ("classification", "tickets.jsonl", "others.jsonl", {}),
    ):
        run = {
            "recipe": recipe,
            "model": {"scratch": SCRATCH, "tokenizer": str(folder / "model")},
            "data": {"train": str(folder / train), "validation": str(folder / validation)},
            "train": settings,
            "output_dir": str(folder / "run"),
        }
        (folder / f"{recipe}.yaml").write_text(yaml.safe_dump(run))
    return folder


def check(*arguments, code=0):
    done = CliRunner().invoke(app, ["check", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture(scope="module")
def report(folder):
    return json.loads(check(folder / "sft.yaml", "--json", code=2))


def lines_of(report, code, split="train"):
    (finding,) = [each for each in report["findings"] if each["code"] == code and each["split"] == split]
    return [(place["path"].rpartition("/")[2], place["line"]) for place in finding["places"]]


def test_what_is_planted_is_found_with_its_lines(report):
    assert lines_of(report, "HF202", "validation") == [("held_out.jsonl", 1), ("train.jsonl", 21)]
    assert lines_of(report, "HF201") == [("train.jsonl", 7), ("train.jsonl", 6)]
    assert lines_of(report, "HF105") == [("train.jsonl", 8)]
    assert lines_of(report, "HF401") == [("train.jsonl", 9)]
    assert lines_of(report, "HF101") == [("train.jsonl", 10)]
    assert lines_of(report, "HF382", "validation") == []
    (rejected,) = [each for each in report["findings"] if each["code"].startswith("HF0")]
    assert rejected["places"] == [{"path": report["files"][0]["path"], "line": 5}]
    assert (rejected["level"], rejected["count"]) == ("error", 1)
    assert [file["rejected"] for file in report["files"]] == [1, 0]
    levels = [each["level"] for each in report["findings"]]
    assert levels == sorted(levels, key=("error", "warning", "note").index)
    assert report["levels"] == {level: levels.count(level) for level in ("error", "warning", "note")}
    for each in report["findings"]:
        assert (each["why"], each["remedy"] != "") == (CODES[each["code"]].why, True)


def test_rows_and_tokens_are_counted(report):
    train = report["splits"]["train"]
    assert (train["rows"], train["lengths"]["rows"]) == (39, 39)
    assert sum(train["lengths"]["histogram"].values()) == 39
    assert train["lengths"]["limits"][0]["too_long"] == 1


def test_lines_that_a_run_skips_are_no_error_and_strict_is(folder):
    skip = (folder / "sft.yaml", "data.on_bad_line=skip", "data.validation=null")
    assert "warning: train: 1 of 40 lines is rejected" in check(*skip)
    check(*skip, "--strict", code=2)


def test_one_row_is_said_as_one(folder):
    (folder / "one.jsonl").write_text(chat("question a", "answer a") + "\n")
    (folder / "two.jsonl").write_text("{broken\n" + chat("question b", "answer b") + "\n")
    files = (f"data.train={folder / 'one.jsonl'}", f"data.validation={folder / 'two.jsonl'}")
    said = check(folder / "sft.yaml", *files, "--benchmark", folder / "one.jsonl", code=2)
    assert f"  train: {folder}/one.jsonl, 1 row\n" in said
    assert "validation.jsonl, 1 row, 1 of 2 lines rejected" in said.replace("two", "validation")
    assert "error: validation: 1 of 2 lines is rejected: " in said
    assert "validation: a mean over 1 row depends on it alone" in said
    assert "1 of 1 row of " in said
    assert ": 1 training row [HF206]" in said
    assert not re.search(r"\b1 (rows|lines|tokens|turns|pairs|are|have)\b", said)


def test_rows_without_a_fault_have_nothing_to_be_said(folder):
    said = check(folder / "sft.yaml", f"data.train={folder / 'clean.jsonl'}", "data.validation=null", "--strict")
    assert said.endswith("\nnothing was found\n")


def test_the_report_is_in_lines_and_shows_no_text_of_rows(folder):
    said = check(folder / "sft.yaml", code=2)
    assert "error: validation: 1 of 2 rows is a copy of a training row [HF202]\n" in said
    assert f"  {folder}/held_out.jsonl:1 (and {folder}/train.jsonl:21)\n" in said
    assert "`hf-finetune explain HF" in said.splitlines()[-1]
    assert not any(word in said for word in ("jane", "question", "broken"))


def test_rows_are_shown_token_by_token_where_that_is_asked(folder):
    said = check(folder / "sft.yaml", "--show", 2, code=2)
    assert "train.jsonl:1: " in said
    assert "[answer a is this" in said
    shown = json.loads(check(folder / "sft.yaml", "--show", 2, "--json", code=2))["rows"]
    assert [view["title"].rpartition("/")[2] for view in shown] == ["train.jsonl:1", "train.jsonl:40"]


def test_a_page_has_the_findings_and_rows(folder):
    said = check(folder / "sft.yaml", "--html", folder / "page.html", code=2)
    assert said.startswith(f"{folder}/page.html is written\n")
    page = (folder / "page.html").read_text()
    assert "HF202 error: validation: 1 of 2 rows is a copy of a training row" in page
    assert page.count('<span class="t trained"') > 10
    assert "<script" not in page
    check(folder / "sft.yaml", "--html", folder / "page.html", code=2)  # over our own
    (folder / "notes.html").write_text("mine")
    with pytest.raises(ConfigError, match="is there already, and no page of ours"):
        check(folder / "sft.yaml", "--html", folder / "notes.html")


def test_sarif_has_a_rule_for_each_code_and_a_result_for_each_place(folder, report):
    check(folder / "sft.yaml", "--sarif", folder / "out.sarif", code=2)
    log = json.loads((folder / "out.sarif").read_text())
    assert (log["version"], len(log["runs"])) == ("2.1.0", 1)
    (run,) = log["runs"]
    rules = {rule["id"]: rule for rule in run["tool"]["driver"]["rules"]}
    results = run["results"]
    assert {result["ruleId"] for result in results} == set(rules) == {each["code"] for each in report["findings"]}
    places = [each["places"] for each in report["findings"]]
    assert len(results) == sum(
        max(1, len(found) // (2 if each["code"] in ("HF201", "HF202", "HF203") else 1))
        for found, each in zip(places, report["findings"], strict=True)
    )
    for result in results:
        assert result["level"] in ("error", "warning", "note")
        (location,) = result["locations"]
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert location["physicalLocation"]["artifactLocation"]["uri"].startswith("file:///")
    (copy,) = [result for result in results if result["ruleId"] == "HF202"]
    (related,) = copy["relatedLocations"]
    assert related["physicalLocation"]["region"]["startLine"] == 21


def test_labels_that_are_rare_or_never_evaluated_are_said(folder):
    found = {each["code"]: each for each in json.loads(check(folder / "classification.yaml", "--json"))["findings"]}
    assert found["HF383"]["what"] == "train: of 62 rows 'sales' has 2"
    assert found["HF384"]["what"] == "validation: no row has 'sales'"
    least = format_size("accuracy", find_detectable_share(0.0, 0.0, 60))  # as in the verdict of a run
    said = f"validation: 60 rows cannot reliably show a difference of accuracy below {least}"
    assert (found["HF382"]["what"], least) == (said, "12.6 points")


def test_labels_that_are_personal_data_are_named_by_their_kind(folder):
    labels = ["ann.lee@mail.org", "bob@mail.org", "billing"]
    rows = [{"text": f"ticket {number} is here", "label": labels[number % 3]} for number in range(60)]
    (folder / "owners.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "fewer.jsonl").write_text(json.dumps(rows[1] | {"text": "a new one"}) + "\n")
    files = (f"data.train={folder / 'owners.jsonl'}", f"data.validation={folder / 'fewer.jsonl'}")
    said = check(folder / "classification.yaml", *files, "--html", folder / "owners.html", "--json")
    report = json.loads(said)
    assert report["splits"]["train"]["labels"] == {"[email 1]": 20, "[email 2]": 20, "billing": 20}
    assert report["splits"]["validation"]["labels"] == {"[email 2]": 1}
    (missing,) = [each["what"] for each in report["findings"] if each["code"] == "HF384"]
    assert missing == "validation: no row has '[email 1]', 'billing'"
    page = (folder / "owners.html").read_text().partition('id="rows"')[0]
    assert not any("mail.org" in shown for shown in (said, page, check(folder / "classification.yaml", *files)))
    for asked in ("--show-data", "eval.show_data=true"):
        assert "bob@mail.org 20" in check(folder / "classification.yaml", *files, asked)


def test_what_a_run_is_refused_for_is_said_beside_the_rest(folder):
    said = check(folder / "sft.yaml", "model.scratch=null", "model.path=no/such", "model.tokenizer=null", code=2)
    assert "A run would be refused:\n  model.path: " in said
    assert "[HF202]" in said
    assert re.search(r"^train +39 +-", said, re.M)


@pytest.mark.parametrize("option", ["--html", "--sarif"])
def test_nothing_of_somebody_else_is_written_over_and_standard_output_is_no_file(folder, option):
    run, rows = folder / "sft.yaml", folder / "train.jsonl"
    before = run.read_bytes(), rows.read_bytes()
    for taken in (run, rows, folder, "/dev/null"):
        with pytest.raises(ConfigError, match=r"is there already, and no (page|report) of ours.*HF705"):
            check(folder / "no.yaml", option, taken)
    with pytest.raises(ConfigError, match=r"is no name of a file; name a file, such as page.html \[HF706\]"):
        check(folder / "no.yaml", option, "-")
    assert before == (run.read_bytes(), rows.read_bytes())


def test_a_page_and_a_report_of_one_name_are_refused(folder):
    with pytest.raises(ConfigError, match="is also --html"):
        check(folder / "sft.yaml", "--html", folder / "both", "--sarif", folder / "both")
    assert not (folder / "both").exists()


def test_copies_between_splits_that_are_drawn_from_one_file_are_no_error(folder):
    rows = [{"text": f"ticket {number % 40} says this", "label": TEAMS[number % 2]} for number in range(80)]
    (folder / "repeated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"data.train={folder / 'repeated.jsonl'}", "data.validation=null", "data.validation_fraction=0.3")
    found = json.loads(check(folder / "classification.yaml", *settings, "--json"))["findings"]
    assert {each["level"] for each in found if each["code"] == "HF202"} <= {"warning"}
    assert not any("one of the two files" in each["remedy"] for each in found)


def test_rows_longer_than_any_limit_are_measured_whole(folder):
    rows = [{"text": "word " * size, "label": TEAMS[size % 2]} for size in (1, 2, 400)]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"data.train={folder / 'long.jsonl'}", "data.validation=null", "data.max_length=16")
    report = json.loads(check(folder / "classification.yaml", *settings, "--json", code=2))  # a label of one row
    assert report["splits"]["train"]["lengths"]["percentiles"]["max"] > 400
    (lost,) = [each for each in report["findings"] if each["code"] == "HF101"]
    assert lost["remedy"].startswith("shorten these rows")


@pytest.mark.parametrize("run", ["classification", "sft"])
def test_text_that_the_tokenizer_does_not_know_is_named_by_its_lines(folder, run):
    texts = ["this is known", "this is 中文", "that is known", "中"]
    rows = {
        "classification": [{"text": text, "label": TEAMS[place % 2]} for place, text in enumerate(texts)],
        "sft": [json.loads(chat("who?", text)) for text in texts],
    }[run]
    (folder / "unknown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"data.train={folder / 'unknown.jsonl'}", "data.validation=null")
    done = CliRunner().invoke(app, ["check", str(folder / f"{run}.yaml"), *settings, "--json"])
    assert lines_of(json.loads(done.stdout), "HF106") == [("unknown.jsonl", 2), ("unknown.jsonl", 4)]


def test_a_run_that_cannot_be_read_is_json_too(folder):
    arguments = ["check", str(folder / "sft.yaml"), "train.max_lenght=3", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ConfigError)
    (problem,) = json.loads(done.stdout)["problems"]
    assert problem["key"] == "train.max_lenght"


def test_a_file_of_rows_is_told_from_a_run_file(folder):
    with pytest.raises(ConfigError, match=r"clean\.jsonl: is no run file; write one for it: hf-finetune new .*HF615"):
        check(folder / "clean.jsonl")


def test_rows_that_it_will_be_used_on_and_benchmarks_are_held_against_the_training_rows(folder):
    others = folder / "others.txt.jsonl"
    strange = [chat(f"{'zug fährt nach ort '}{number}", "das ist gut so ja") for number in range(60)]
    others.write_text("\n".join(strange) + "\n")
    more = "\n".join(chat(f"question {number} more", f"answer {number}") for number in range(100, 180))
    (folder / "many.jsonl").write_text(more + "\n")
    settings = (folder / "sft.yaml", f"data.train={folder / 'many.jsonl'}", "data.validation=null")
    found = json.loads(check(*settings, "--against", others, "--json"))
    (drift,) = [each["what"] for each in found["findings"] if each["code"] == "HF381"]
    assert not any(word in drift for word in ("zug", "question"))
    found = json.loads(check(*settings, "--against", others, "--show-data", "--json"))
    (drift,) = [each["what"] for each in found["findings"] if each["code"] == "HF381"]
    assert "in training rows: 'answer'" in drift or "'question'" in drift
    found = json.loads(check(*settings, "--benchmark", folder / "many.jsonl", "--json"))
    assert found["counts"]["benchmarks"][str(folder / "many.jsonl")]["shared"] == 80
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        check(*settings, "--benchmark", folder / "no.jsonl")
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        check(*settings, "--against", folder / "no.jsonl")


def test_a_stream_has_no_rows_at_hand(folder):
    with pytest.raises(ConfigError, match=r"data\.stream"):
        check(folder / "sft.yaml", "data.validation=null", "train.max_steps=2", "data.stream=true")


def test_how_a_file_was_read_is_said_behind_it(folder, tmp_path):
    rows = "text,label\n" + "".join(f"café number {spell(number)},{TEAMS[number % 3]}\n" for number in range(12))
    (tmp_path / "rows.csv").write_bytes(rows.encode("latin-1"))
    run = {
        "recipe": "classification",
        "output_dir": str(tmp_path / "run"),
        "data": {"train": str(tmp_path / "rows.csv")},
    }
    run["model"] = {"scratch": SCRATCH, "tokenizer": str(folder / "model")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    for _ in range(2):  # from the file, and from the cache
        said = " ".join(check(tmp_path / "run.yaml").split())
        assert "rows.csv" in said
        assert "latin-1" in said or "1252" in said
