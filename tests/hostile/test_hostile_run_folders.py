"""Records of others in a run folder: whoever types the run again gets a message of ours, or goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from mutations import json_files, yaml_files
from saved_records import put_records

from hf_finetune.config import Run, build_run, dump_yaml
from hf_finetune.errors import FinetuneError
from hf_finetune.folders.checkpoints import seal
from hf_finetune.folders.lock import check_not_in_use
from hf_finetune.folders.ownership import read_finished, was_changed
from hf_finetune.reporting import (
    claim_run_folder,
    describe_kept,
    find_run_id,
    open_manifest,
    read_template_date,
    read_threads,
)
from hf_finetune.typed_again import (
    check_processes,
    check_typed_again,
    choose_checkpoint,
    record_changes,
    say_changes,
)

CASES = [json.loads(line) for line in Path(__file__).with_name("run_records.jsonl").read_text("utf-8").splitlines()]
OF_A_FILE = {"role": "train", "path": "rows.jsonl", "sha256": "a" * 64, "rows": 3}
SPLITS = {"train": {"rows": 3, "sha256": "b" * 64}}
MANIFEST = {
    "run_id": "one",
    "data": {"files": [OF_A_FILE], "splits": SPLITS, "overlap": {}},
    "model": {"name": "base", "revision": None, "sha256": {"config.json": "c" * 64}, "tokenizer": {"name": "base"}},
    "versions": {"torch": "2.12.0"},
    "threads": 1,
    "processes": 1,
    "machine": {"accelerator": "cpu"},
    "template_date": "2026-01-31",
    "changes": [{"from": "checkpoint-4", "key": "train.seed", "old": 1, "new": 2, "kind": "unsafe"}],
    "launch": "x",
    "files": {"model.safetensors": "d" * 64},
}
REPORT = {"status": "done", "settings": {"train": {"max_steps": 60}}, "train": {"steps": 60, "max_steps": 60}}
REPORT |= {"evaluation": {"validation": {"loss": 1.0}}, "parameters": {"total": 5}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that was killed after it had saved a checkpoint at step 4."""
    (tmp_path / "rows.jsonl").touch()
    model = {"scratch": {"preset": "nano"}, "tokenizer": {"train": {"kind": "char"}}}
    values = {"model": model, "data": {"train": str(tmp_path / "rows.jsonl")}, "output_dir": str(tmp_path / "run")}
    return build_run(values, "continued_pretraining")


def fill(run: Run) -> Path:
    folder = Path(run.output_dir)
    if not (folder / "checkpoint-4").exists():
        (folder / "checkpoint-4").mkdir(parents=True)
        put_records(folder / "checkpoint-4", 4, 9)
        seal(folder / "checkpoint-4", {"step": 4, "run_id": "one"})
    (folder / "report.json").unlink(missing_ok=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "run.yaml").write_text(dump_yaml(run))
    return folder


def type_again(run: Run) -> None:
    """All that `start_run` and `record_inputs` ask of the folder, each whatever the one before has said."""
    folder, asks = run.output_dir, []
    asks.append(lambda: check_not_in_use(folder))
    asks.append(lambda: say_changes(check_typed_again(run, 1, allow_changed=True), f"{folder}/checkpoint-4"))
    asks.append(lambda: check_typed_again(run, 1, allow_changed=False))
    asks.append(lambda: check_processes(run, 1, allow_changed=False))
    asks.append(lambda: claim_run_folder(folder, resume="auto"))
    asks.append(lambda: claim_run_folder(folder, resume=None))
    asks.append(lambda: choose_checkpoint(run, first=True, broadcast=lambda found: found))
    asks.append(lambda: record_changes(run, 1, "checkpoint-4"))
    asks.append(lambda: open_manifest(folder, dict(MANIFEST), "recipe: sft\n", resume="checkpoint-4"))
    assert read_threads(folder) in (None, 1)
    assert read_template_date(folder) in (None, "2026-01-31")
    assert was_changed(Path(folder), "checkpoint-4") in (True, False)
    assert (read_finished(Path(folder)) or REPORT).get("status") == "done"
    for text in (find_run_id(folder, f"{folder}/checkpoint-4"), describe_kept(folder, ["hf-finetune"])):
        assert isinstance(text, str)
    for ask in asks:
        try:
            ask()
        except FinetuneError as refused:
            logging.getLogger("hf_finetune").warning("%s", refused)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_record_of_other_kinds_is_as_one_that_is_torn(run, case, caplog):
    folder = fill(run)
    whole = {"manifest.json": MANIFEST, "report.json": REPORT}.get(case["file"], {})
    text = case["text"] * case.get("times", 1) if "text" in case else json.dumps(whole | case["put"])
    (folder / case["file"]).write_text(text)
    type_again(run)
    assert "999999999" not in caplog.text
    assert len(caplog.text) < 20_000


def test_the_records_as_a_run_writes_them_are_believed(run, caplog):
    folder = fill(run)
    (folder / "report.json").write_text(json.dumps(REPORT))
    (folder / "model.safetensors").touch()
    assert read_finished(folder) == REPORT
    assert read_threads(str(folder)) == 1
    assert read_template_date(str(folder)) == "2026-01-31"
    assert was_changed(folder, "checkpoint-4")
    assert find_run_id(str(folder), "none") == "one"


@pytest.mark.parametrize("name", ["manifest.json", "report.json", "run.yaml"])
def test_whatever_a_record_says_a_run_that_is_typed_again_goes_on_or_says_why_not(run, name, request, caplog):
    asked = request.config.getoption("--attacks")
    tries = settings(max_examples=asked // 3 or 12, derandomize=not asked, deadline=None)
    fill(run)
    values = {"manifest.json": json.dumps(MANIFEST), "report.json": json.dumps(REPORT)}
    changed = json_files([values[name]]) if name in values else yaml_files([dump_yaml(run)])

    @settings(tries, suppress_health_check=list(HealthCheck))
    @given(changed)
    def check(content: bytes) -> None:
        (fill(run) / name).write_bytes(content)
        type_again(run)

    check()
