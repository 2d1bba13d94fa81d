"""Somebody else's folder is never written over, whatever the command."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from unittest.mock import ANY

import pytest

from hf_finetune.errors import ConfigError
from hf_finetune.files import fill_folder_atomically
from hf_finetune.folders import (
    CARD_MARKER,
    check_new_file,
    check_new_folder,
    check_replaceable,
    find_earlier_run,
    is_run_folder,
)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def parrot(tmp_path) -> Path:
    """A model that another tool has saved."""
    folder = tmp_path / "parrot"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (folder / name).write_text("mine")
    return folder


def write_model(folder: Path, name: str, settings: dict[str, object]) -> None:
    """As much of a model as is looked at before its place in a command is."""
    folder.mkdir()
    (folder / name).write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("train", "recipes/configs/char_model.yaml", "output_dir={parrot}"), "holds README.md, and is no run folder"),
        (("merge", "{adapter}", "{parrot}"), "is there already"),
        (("merge", "{adapter}", "{parrot}", "--overwrite"), "even with --overwrite it stays"),
        (
            ("predict", "{classifier}", "data_templates/labelled.jsonl", "--output", "{parrot}", "--overwrite"),
            "is a folder",
        ),
        (("corpus", "source", "{parrot}", "--overwrite"), "is a folder"),
        (("init", "{parrot}"), "holds README.md: nothing is written over"),
        (("corpus", "canaries", "{parrot}", "--overwrite"), "is a folder"),
    ],
)
def test_no_command_writes_into_somebodys_model(project_root, preloaded, parrot, command, said):
    before = files_of(parrot)
    adapter, classifier = parrot.with_name("adapter"), parrot.with_name("classifier")
    write_model(adapter, "adapter_config.json", {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(classifier)})
    write_model(classifier, "config.json", {"architectures": ["BertForSequenceClassification"]})
    arguments = [each.format(parrot=parrot, adapter=adapter, classifier=classifier) for each in command]
    done = subprocess.run(
        ["hf-finetune", *arguments],
        cwd=project_root,
        env=preloaded,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert files_of(parrot) == before


def test_only_a_merged_model_of_ours_is_replaced_and_only_when_told_to(tmp_path):
    check_replaceable(str(tmp_path / "new"), overwrite=False)
    check_replaceable(str(tmp_path), overwrite=False)
    (tmp_path / "model.safetensors").write_text("")
    (tmp_path / "README.md").write_text(f"---\ntags: []\n---\n{CARD_MARKER}\n")
    check_replaceable(str(tmp_path), overwrite=True)
    with pytest.raises(ConfigError, match="allow it with --overwrite"):
        check_replaceable(str(tmp_path), overwrite=False)
    for name in ("notes.txt", "checkpoint-5", "manifest.json"):
        (tmp_path / name).mkdir() if name == "checkpoint-5" else (tmp_path / name).write_text("{}")
        with pytest.raises(ConfigError, match=f"holds {name}, and is no model"):
            check_replaceable(str(tmp_path), overwrite=True)
        (tmp_path / name).rmdir() if name == "checkpoint-5" else (tmp_path / name).unlink()
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="it stays"):
        check_replaceable(str(tmp_path), overwrite=True)


def test_a_folder_that_may_not_be_listed_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    def denied(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(ConfigError, match="what cannot be listed"):
        check_replaceable(str(tmp_path), overwrite=True)


def test_where_no_folder_can_be_made_is_said_before_anything_is_done(tmp_path):
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "circle").symlink_to("circle")
    said = {
        "file": "is a file", "pipe": "is a device or a pipe", "nowhere": "is a link that leads to nothing",
        "circle": "cannot be looked at (Too many levels", "n" * 300: "cannot be looked at (File name too long",
        "file/sub/sub": f"lies below {tmp_path / 'file'}, which is a file",
    }  # fmt: skip
    for name, what in said.items():
        for check in (check_new_folder, lambda place: check_replaceable(place, overwrite=True)):
            with pytest.raises(ConfigError, match=re.escape(what)):
                check(str(tmp_path / name))


def test_a_folder_of_no_name_is_not_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for check in (check_new_folder, lambda place: check_replaceable(place, overwrite=True)):
        with pytest.raises(ConfigError, match="the folder to write has an empty name"):
            check("")


def test_a_link_to_an_empty_folder_leads_to_what_is_made_and_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to("disk")
    check_new_folder(str(tmp_path / "model"))
    with fill_folder_atomically(tmp_path / "model") as aside:
        aside.mkdir()
        (aside / "config.json").write_text("{}")
    assert files_of(tmp_path / "disk") == {"config.json": b"{}"}
    assert (tmp_path / "model").is_symlink()


def test_a_file_or_a_link_is_kept_unless_it_may_be_overwritten_and_a_folder_always(tmp_path):
    (tmp_path / "rows.jsonl").write_text("mine")
    (tmp_path / "link.jsonl").symlink_to("gone")
    for name in ("rows.jsonl", "link.jsonl"):
        with pytest.raises(ConfigError, match="exists already; name another file, or add --overwrite"):
            check_new_file(tmp_path / name, overwrite=False, example="rows.jsonl")
        check_new_file(tmp_path / name, overwrite=True, example="rows.jsonl")
    check_new_file(tmp_path / "n.jsonl", overwrite=False, example="rows.jsonl")
    check_new_file(tmp_path / ("n" * 300), overwrite=False, example="rows.jsonl")
    for place, kind in ((tmp_path, "a folder"), (Path("/dev/null"), "a device or a pipe")):
        with pytest.raises(ConfigError, match=f"is {kind}; name a file, such as rows.jsonl"):
            check_new_file(place, overwrite=True, example="rows.jsonl")


def test_pipes_in_a_folder_are_not_waited_for(tmp_path):
    for name in ("manifest.json", "report.json"):
        os.mkfifo(tmp_path / name)
    assert not is_run_folder(tmp_path)
    assert find_earlier_run(str(tmp_path)) == (f"{tmp_path} holds another run's report.json", ANY)
