"""YAML of others is read within bounds, wherever it is read."""

from __future__ import annotations

import ast
import json
import time
from pathlib import Path

import pytest
from release.hub.hub_folders import model_folder

from hf_finetune.config.checks.launch import read_launch_file
from hf_finetune.errors import ConfigError, DataError
from hf_finetune.files import read_bounded_yaml
from hf_finetune.privacy import redact_yaml
from hf_finetune.release.hub import PushOptions, plan_push
from hf_finetune.reporting.card.facts import parse_card_metadata
from hf_finetune.reporting.run_record import read_run

ROOT = Path(__file__).resolve().parent.parent
CASES = [json.loads(line) for line in (ROOT / "tests" / "hostile" / "yaml.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_what_is_out_of_bounds_is_refused_in_words_and_in_time(case, tmp_path):
    text = case["text"] * case["times"]
    started = time.process_time()
    with pytest.raises(ValueError, match=case["said"]):
        read_bounded_yaml(text)
    assert time.process_time() - started < 10
    folder = model_folder(tmp_path / "model")
    (folder / "README.md").write_text(f"---\n{text}\n---\n# A model\n")
    assert parse_card_metadata(folder) == {} or case["name"] == "two documents"
    if case["name"] != "two documents":  # its second `---` ends the metadata
        with pytest.raises(DataError, match="what stands between the dashes"):
            plan_push(folder, "ada/model", options=PushOptions())
    for name in ("report.json", "manifest.json", "report.html"):
        (folder / name).unlink()
    (folder / "run.yaml").write_text(text)
    with pytest.raises(DataError, match=r"run\.yaml: is torn, or no YAML"):
        read_run(folder)
    with pytest.raises(ConfigError, match="is no accelerate configuration"):
        read_launch_file(folder / "run.yaml")
    redact_yaml(text)


def test_ordinary_metadata_are_read_as_plain_values():
    text = "license: mit\ntags: &t [a, b]\nmore: *t\nvalue: 1.5\nday: 2026-11-29\nnone:\n"
    assert read_bounded_yaml(text)["more"] == ["a", "b"]
    assert read_bounded_yaml(text)["value"] == 1.5
    assert read_bounded_yaml("") is None


def test_no_file_of_others_is_read_by_yaml_itself():
    for path in (ROOT / "hf_finetune").rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not names & {"safe_load", "full_load", "unsafe_load", "load_all", "safe_load_all"}, path
