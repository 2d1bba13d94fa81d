from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest

from hf_finetune.errors import CannotWriteError, ConfigError, DataError, ModelError
from hf_finetune.reporting.run_folder import RunReport, claim_run_folder, open_manifest, record_scores, write_run_folder

RUN_FILE = "recipe: continued_pretraining\n"
OPENED = {"data": {"files": []}, "model": None, "versions": {}, "seed": 1, "launch": "accelerate launch x"}


def report(**changed) -> RunReport:
    values = {
        "recipe": "continued_pretraining",
        "run_id": "0123456789ab",
        "status": "done",
        "settings": {"seed": 42},
        "data": {"train": {"rows": 3, "tokens": 1200}},
        "parameters": {"total": 1000, "trainable": 900},
        "train": {"steps": 10, "loss": 1.5, "runtime_s": 2.4, "tokens_per_s": 4321.0},
        "evaluation": {"validation": {"loss": 1.25, "perplexity": 3.49, "other": 0.123456}},
    }
    return RunReport(**{**values, **changed})


def test_the_three_files_say_what_was_given_and_hash_the_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "checkpoint-5").mkdir()
    open_manifest(str(tmp_path), {"seed": 42}, RUN_FILE, resume=None)
    write_run_folder(str(tmp_path), report())
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["train"]["steps"] == 10
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {"seed": 42, "files": {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}}
    assert (tmp_path / "run.yaml").read_text() == RUN_FILE
    assert "report.html" in os.listdir(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".aside")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_null(tmp_path, value):
    open_manifest(str(tmp_path), {}, RUN_FILE, resume=None)
    write_run_folder(str(tmp_path), report(train={**report().train, "loss": value}))
    text = (tmp_path / "report.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["train"]["loss"] is None


def test_the_end_of_a_run_is_said_in_the_log(tmp_path, caplog):
    open_manifest(str(tmp_path), {}, RUN_FILE, resume=None)
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        write_run_folder(str(tmp_path), report())
    assert "validation: loss 1.2500  perplexity 3.49" in caplog.text


@pytest.mark.parametrize("held", ["report.json", "checkpoint-50"])
def test_a_folder_of_another_run_is_claimed_only_to_resume_it(tmp_path, held):
    open_manifest(str(tmp_path), OPENED, RUN_FILE, resume=None)
    (tmp_path / held).mkdir()
    with pytest.raises(ConfigError, match=f"holds another run's {held}"):
        claim_run_folder(str(tmp_path), resume=None)
    claim_run_folder(str(tmp_path), resume="true")


def test_a_run_that_failed_before_it_had_a_checkpoint_is_started_again_in_its_folder(tmp_path):
    folder = tmp_path / "run"
    claim_run_folder(str(folder), resume=None)
    claim_run_folder(str(folder), resume=None)  # data was refused: nothing is in it
    (folder / ".manifest.json.aside").write_text("{")  # killed while it was written
    claim_run_folder(str(folder), resume=None)
    open_manifest(str(folder), OPENED, RUN_FILE, resume=None)
    (folder / "config.json").write_text("{}")  # the evaluation at the end failed
    before = sorted(folder.iterdir())
    claim_run_folder(str(folder), resume=None)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("held", ["config.json", "model.safetensors", "README.md", "notes", "manifest.json"])
@pytest.mark.parametrize("resume", [None, True])
def test_what_no_run_of_ours_has_left_is_never_written_over(tmp_path, held, resume):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / held).write_text('{"name": "a web page", "icons": []}')
    if not resume:
        (tmp_path / "checkpoint-5").rmdir()
    with pytest.raises(ConfigError, match=f"holds {held}, and is no run folder of hf-finetune") as refused:
        claim_run_folder(str(tmp_path), resume=resume)
    assert (refused.value.exit_code, refused.value.problems[0].key) == (2, "output_dir")


def test_checkpoints_that_were_copied_without_their_run_are_gone_on_with(tmp_path):
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "lost+found").mkdir()
    claim_run_folder(str(tmp_path), resume=True)
    with pytest.raises(ConfigError, match="holds another run's checkpoint-5"):
        claim_run_folder(str(tmp_path), resume=None)


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    claim_run_folder(str(tmp_path / "a" / "b"), resume=None)
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_vanished_before_the_report_was_written_is_one_message_with_exit_code_5(tmp_path):
    with pytest.raises(CannotWriteError, match="run is not there any more, nor what was saved in it; put it back"):
        write_run_folder(str(tmp_path / "run"), report())


def test_a_folder_that_cannot_be_made_is_a_setting_to_change(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made") as refused:
        claim_run_folder(str(tmp_path / "file" / "run"), resume=None)
    assert refused.value.exit_code == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_model_gets_a_card_and_what_is_written_about_it_is_no_part_of_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    open_manifest(str(tmp_path), {}, RUN_FILE, resume=None)
    for _ in range(2):
        write_run_folder(str(tmp_path), report())
        assert list(json.loads((tmp_path / "manifest.json").read_text())["files"]) == ["config.json"]
    assert "1.25" in (tmp_path / "README.md").read_text()


def test_scores_are_added_to_a_finished_run_and_never_take_the_place_of_its_own(tmp_path):
    with pytest.raises(ConfigError, match=r"no report\.json of a finished run"):
        record_scores(str(tmp_path), "more", {})
    (tmp_path / "report.json").write_text('{"of": "another tool"}')
    with pytest.raises(ConfigError, match=r"no report\.json of a finished run"):
        record_scores(str(tmp_path), "more", {})
    open_manifest(str(tmp_path), OPENED, RUN_FILE, resume=None)
    write_run_folder(str(tmp_path), report())
    for loss in (2.0, 3.0):
        record_scores(str(tmp_path), "more", {"loss": loss, "data": {"path": "more.jsonl"}})
        evaluation = json.loads((tmp_path / "report.json").read_text())["evaluation"]
        assert evaluation["more"]["loss"] == loss
        assert evaluation["validation"]["loss"] == 1.25
        # Both may show rows, and the folder be one that the user had made for everybody.
        assert [(tmp_path / name).stat().st_mode & 0o077 for name in ("report.json", "report.html")] == [0, 0]
    with pytest.raises(ConfigError, match="the run measured validation itself"):
        record_scores(str(tmp_path), "validation", {"loss": 1.0})


def manifest_of(*files: tuple[str, str]) -> dict:
    return {"data": {"files": [{"path": path, "sha256": digest} for path, digest in files]}}


def begin(folder: Path, *files: tuple[str, str], resume: bool | None = True, model: str = "1") -> None:
    manifest = manifest_of(*files) | {
        "model": {"name": "base", "revision": None, "sha256": {"model.safetensors": model}}
    }
    open_manifest(str(folder), manifest, RUN_FILE, resume=resume)


def test_a_resumed_run_whose_data_or_model_changed_is_refused_naming_what(tmp_path):
    begin(tmp_path, ("a.jsonl", "1"), ("b.jsonl", "2"), ("c.jsonl", "3"), resume=None)
    begin(tmp_path, ("a.jsonl", "1"), ("b.jsonl", "2"), ("c.jsonl", "3"))
    with pytest.raises(ModelError, match="the model is not the one that the run began with"):
        begin(tmp_path, ("a.jsonl", "1"), ("b.jsonl", "2"), ("c.jsonl", "3"), model="2")
    with pytest.raises(DataError) as refused:
        begin(tmp_path, ("a.jsonl", "1"), ("b.jsonl", "X"), ("d.jsonl", "4"))
    assert [problem.path for problem in refused.value.problems] == ["b.jsonl", "c.jsonl", "d.jsonl"]
    assert json.loads((tmp_path / "manifest.json").read_text())["data"]["files"][1]["sha256"] == "2"


def test_a_resumed_run_is_the_same_from_another_folder_and_another_one_with_another_split(tmp_path):
    def begin(name: str = "base", rows: str = "1", tokenizer: str = "2", resume: bool | None = True) -> None:
        model = {"name": name, "revision": None, "sha256": {"model.safetensors": "1"}}
        model["tokenizer"] = {"name": "a/b", "revision": tokenizer, "sha256": {}}
        data = manifest_of(("a.jsonl", "1"))["data"] | {"splits": {"train": {"rows": 3, "sha256": rows}}}
        open_manifest(str(tmp_path), {"data": data, "model": model}, RUN_FILE, resume=resume)

    begin(resume=None)
    begin(name="../elsewhere/base/")
    with pytest.raises(DataError, match="the rows are split in another way"):
        begin(rows="2")
    with pytest.raises(ModelError, match=r"model\.tokenizer: the tokenizer is not the one that the run began with"):
        begin(tokenizer="3")


def test_no_folder_outside_is_in_what_a_run_wrote_or_scores_have_added(tmp_path):
    open_manifest(str(tmp_path), OPENED, RUN_FILE, resume=None)
    place = {"path": str(Path.home() / "rows.jsonl"), "line": 3}
    write_run_folder(str(tmp_path), report(samples=[place]))
    record_scores(str(tmp_path), "more", {"loss": 2.0, "data": place})
    for name in ("report.json", "report.html"):
        assert str(Path.home()) not in (tmp_path / name).read_text(), name
    assert '"rows.jsonl"' in (tmp_path / "report.json").read_text()


def test_a_resumed_run_tells_files_of_one_name_apart_and_goes_on_from_another_folder(tmp_path, monkeypatch):
    both = [("/mnt/a/rows.jsonl", "1"), ("/mnt/b/rows.jsonl", "2")]
    begin(tmp_path, *both, resume=None)
    assert [file["path"] for file in json.loads((tmp_path / "manifest.json").read_text())["data"]["files"]] == [
        "rows.jsonl", "rows.jsonl",
    ]  # fmt: skip
    begin(tmp_path, *both)
    for other in (both[:1], [both[0], both[0]], [*both, both[1]], [both[0], ("/mnt/b/rows.jsonl", "3")]):
        with pytest.raises(DataError, match=r"rows\.jsonl: has changed since the run began"):
            begin(tmp_path, *other)
    (tmp_path / "other").mkdir()
    begin(tmp_path / "other", (f"{tmp_path}/data/rows.jsonl", "1"), resume=None)
    monkeypatch.chdir(tmp_path)
    begin(tmp_path / "other", (f"{tmp_path}/data/rows.jsonl", "1"))


def test_the_content_of_the_data_decides_on_a_resumed_run_and_not_the_name_of_its_file(tmp_path):
    begin(tmp_path, ("rows.jsonl", "1"), ("held.jsonl", "2"), resume=None)
    begin(tmp_path, ("renamed/train.jsonl", "1"), ("held.jsonl", "2"))
    begin(tmp_path, ("rows.jsonl", "1"), ("held.jsonl", "2"))
    with pytest.raises(DataError, match="the files have other names, by which they are read in another order"):
        begin(tmp_path, ("a.jsonl", "2"), ("b.jsonl", "1"))
    with pytest.raises(DataError, match=r"held\.jsonl: has changed since the run began"):
        begin(tmp_path, ("train.jsonl", "1"), ("held.jsonl", "3"))
    with pytest.raises(DataError, match=r"new\.jsonl: was not read when the run began"):
        begin(tmp_path, ("train.jsonl", "1"), ("held.jsonl", "2"), ("new.jsonl", "4"))


def test_a_run_that_an_older_version_began_with_whole_paths_goes_on(tmp_path):
    begin(tmp_path, ("/mnt/a/rows.jsonl", "1"), resume=None)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"rows.jsonl"', '"/mnt/a/rows.jsonl"'))
    begin(tmp_path, ("/mnt/a/rows.jsonl", "1"))
    assert "/mnt" not in path.read_text()
