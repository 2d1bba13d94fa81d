"""What a command imports before it does its work: nothing that it does not need, and its first line at once."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_models import saved_parrot

# What nothing but training, an adapter, or measuring rows needs. scipy is transformers' own (5.23, its losses).
HEAVY = {"datasets", "trl", "peft", "evaluate", "sklearn", "matplotlib", "tensorboard", "pandas", "bitsandbytes"}
RUN = """
import os, sys
from hf_finetune.cli import main
for command in ("generate", "chat"):
    sys.argv[1:] = [command, os.environ["MODEL"], *(["hi"] if command == "generate" else []), "--temperature", "0"]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
    print("end of", command, *sys.modules)
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    return saved_parrot(tmp_path / "model", {"\n": "a", "a": "b", "b": "c"})


def test_to_speak_nothing_of_training_is_imported(environment_of_a_user, model):
    run, environment = [sys.executable, "-c", RUN], environment_of_a_user | {"MODEL": model}
    done = subprocess.run(run, env=environment, input="hi\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = dict(re.findall(r"^end of (\w+) (.+)$", done.stdout, re.MULTILINE))
    assert imported.keys() == {"generate", "chat"}
    assert re.findall(r"^abc$|> abc$", done.stdout, re.MULTILINE) == ["abc", "abc"], done.stdout[:200]
    for command, modules in imported.items():
        assert "torch" in modules.split()
        assert HEAVY & {*modules.split()} == set(), command


def test_the_first_line_comes_before_anything_heavy(environment_of_a_user, model):
    for arguments in (
        ("generate", model, "hi"),
        ("chat", model),
        ("score", model, "data_templates/messages.jsonl"),
        ("predict", model, "data_templates/labelled.jsonl"),
        ("merge", model, f"{model}-merged"),
        ("train", "recipes/configs/continued_pretraining.yaml", f"output_dir={model}-run"),
    ):
        began = time.monotonic()
        command = [sys.executable, "-m", "hf_finetune.cli", *arguments]
        with subprocess.Popen(command, env=environment_of_a_user, stderr=subprocess.PIPE, text=True) as process:
            line = process.stderr.readline()
            process.terminate()
        assert line.strip(), arguments
        assert time.monotonic() - began < 5.0, arguments
