"""Somebody else's folder is never written over, whatever the command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hf_finetune.errors import ConfigError
from hf_finetune.folders import CARD_MARKER, check_replaceable


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
            "is no file",
        ),
        (("corpus", "source", "{parrot}", "--overwrite"), "is a folder"),
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
