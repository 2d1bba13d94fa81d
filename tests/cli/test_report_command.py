from __future__ import annotations

import json

import pytest
from reporting.made_runs import foreign, manifest, report, run_folder, stopped
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.errors import CannotWriteError, ConfigError, DataError
from hf_finetune.reporting import describe_best, read_run


@pytest.fixture
def finished(tmp_path):
    return run_folder(tmp_path / "run", report(), manifest())


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def refusal(kind, *arguments) -> str:
    done = run(*arguments)
    assert isinstance(done.exception, kind)
    return str(done.exception)


def test_one_folder_gets_its_page_and_the_verdict_is_said(finished):
    done = run(finished)
    assert done.exit_code == 0, done.exception
    assert done.stdout.startswith("run: ")
    assert done.stdout.endswith(f"{finished / 'report.html'} is written\n")
    assert "52.0%" in (finished / "report.html").read_text()


def test_a_page_of_ours_is_written_again_and_anybody_elses_refused(finished, tmp_path):
    assert run(finished).exit_code == 0
    assert run(finished).exit_code == 0
    (finished / "report.html").write_text("<h1>mine</h1>")
    assert "is there already, and no page of ours" in refusal(ConfigError, finished)
    assert (finished / "report.html").read_text() == "<h1>mine</h1>"
    assert run(finished, "--output", tmp_path / "other.html").exit_code == 0


def test_several_folders_become_one_page_beside_which_theirs_stay(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = run_folder(tmp_path / "other", report(settings={"train": {"learning_rate": 1.0}}), manifest())
    done = run(finished, other)
    assert done.exit_code == 0, done.exception
    assert "2 runs compared" in (tmp_path / "comparison.html").read_text()
    best = describe_best([read_run(str(folder)) for folder in (finished, other)])
    assert done.stdout.splitlines()[2:] == [*best, "comparison.html is written"]
    again = run(finished, other)
    assert again.stdout.endswith("comparison.html is written, over the comparison that was there\n")
    assert not (finished / "report.html").exists()


def test_what_is_known_is_json_too(finished, tmp_path):
    other = run_folder(tmp_path / "other", report(settings={"train": {"learning_rate": 1.0}}), manifest())
    one = json.loads(run(finished, "--json").stdout)
    assert set(one) == {"page", "runs"}
    assert {"name", "status", "step", "verdict", "model", "findings"} == set(one["runs"][0])
    page = tmp_path / "c.html"
    both = json.loads(run(finished, other, "--json", "--output", page).stdout)
    assert both["page"] == str(page)
    assert both["differences"]["train.learning_rate"] == ["0.0005", "1.0"]
    assert [each["name"] for each in both["runs"]] == ["run", "other"]


@pytest.mark.parametrize("make", [stopped, foreign])
def test_crashed_and_foreign_runs_are_reported(tmp_path, make):
    folder = make(tmp_path / "run")
    assert run(folder).exit_code == 0
    assert (folder / "report.html").exists()


def test_the_state_of_a_trainer_is_reported_beside_it(tmp_path):
    folder = foreign(tmp_path / "run") / "checkpoint-200"
    assert run(folder / "trainer_state.json").exit_code == 0
    assert (folder / "report.html").exists()


def test_what_is_no_run_is_refused_in_one_message(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds nothing of a run" in refusal(ConfigError, tmp_path / "empty")
    assert "is no folder" in refusal(ConfigError, tmp_path / "missing")


def test_a_torn_report_is_refused_by_its_path(finished):
    (finished / "report.json").write_text('{"recipe": "sft", "train": {')
    assert "report.json" in refusal(DataError, finished)


def test_a_page_that_cannot_be_written_is_one_message(finished, tmp_path):
    (tmp_path / "no folder").touch()
    said = refusal(CannotWriteError, finished, "--output", tmp_path / "no folder" / "page.html")
    assert "cannot be written" in said
    assert "name a file elsewhere" in said
