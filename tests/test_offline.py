"""Nothing needs the network unless it is named, and nothing is sent to anybody."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config.sections import DataSection, ModelSection, RecipeName, Run
from hf_finetune.errors import ModelError
from hf_finetune.training import apply_defaults

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [*ROOT.glob("hf_finetune/**/*.py"), *ROOT.glob("recipes/*.py"), *ROOT.glob("benchmarks/*.py")]


def test_every_recipe_and_command_runs_on_local_files_without_a_connection(tmp_path, environment_of_a_user):
    # As for a user who has set nothing: online, with telemetry allowed.
    quiet = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI")
    environment = {name: value for name, value in environment_of_a_user.items() if name not in quiet}
    command = [sys.executable, str(ROOT / "tests" / "offline_runs.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "tried.json").read_text()) == []
    for made in ("base", "sft", "merged", "labels"):
        assert (tmp_path / made / "model.safetensors").is_file()
    assert len((tmp_path / "labelled.jsonl").read_text().splitlines()) == 8


def test_the_guard_sees_who_would_connect():
    code = "import offline_runs, socket\n"
    code += "try: socket.create_connection(('127.0.0.1', 1))\nexcept ConnectionError: pass\n"
    code += "for host in ('192.0.2.1', 'example.com'):\n"
    code += "    try: socket.create_connection((host, 80), timeout=1)\n    except OSError: pass\n"
    code += "print(*offline_runs.TRIED, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [line.split()[1] for line in done] == ["192.0.2.1", "example.com"]


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "nobody/no-such-model", "Hello"),
        ("predict", "nobody/no-such-model", "data_templates/labelled.jsonl", "--prefix", "new_"),
        ("merge", "nobody/no-such-model", "merged"),
    ],
    ids=lambda command: command[0],
)
def test_a_hub_id_that_is_not_cached_is_one_message_offline(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ModelError) as refused:
        CliRunner().invoke(app, command, catch_exceptions=False)
    said = str(refused.value)
    assert len(said.splitlines()) == 1
    assert "nobody/no-such-model" in said


def test_no_metric_is_loaded_by_name_and_no_model_beside_the_checks():
    fetching = {"evaluate.load", "load_metric", "torch.hub.load", "hf_hub_download", "snapshot_download"}
    for path in SOURCES:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        assert not fetching & {ast.unparse(call) for call in calls}, path
    # Whoever loads a model calls models.loading.from_stored; the others read what this process has written itself.
    loads = re.compile(r"(?<!PeftConfig)\.from_pretrained\(")
    direct = {path.name for path in ROOT.glob("hf_finetune/**/*.py") if loads.search(path.read_text("utf-8"))}
    converted = {"gguf.py", "gguf_tokenizer.py"}  # of a file whose header was checked, and which holds no code
    called = {"quantized.py"}  # by loading.py alone
    of_exports = {"template_parity.py", "graph_models.py"}  # just written; settings of generation that are checked
    known = {"loading.py", "verification.py", "tokenizers.py", "merge.py", "convert_gpt2.py"}
    assert direct <= known | converted | called | of_exports


@pytest.mark.parametrize("recipe", get_args(RecipeName))
def test_no_tracker_is_told_of_a_run_that_names_none(recipe):
    run = Run(
        recipe=recipe,
        model=ModelSection(path="x"),
        data=DataSection(train="x"),
        train={"use_cpu": True},
        output_dir="y",
    )
    assert apply_defaults(run).train["report_to"] == "none"
