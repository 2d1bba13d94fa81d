"""The command as a user meets it: exit codes, one clear message, answers at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.data.corpus import KINDS

COMMANDS = ("train", "generate", "corpus", "init", "doctor")


@pytest.fixture
def hf_finetune(project_root, environment_of_a_user):
    def run(*arguments: str, cwd: Path = project_root) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hf_finetune.cli", *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environment_of_a_user, capture_output=True, text=True, check=False, timeout=300
        )

    return run


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command):
    arguments = [command, "--help"] if command else ["--help"]
    code = (
        "import sys; from hf_finetune.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_answers_in_half_a_second(hf_finetune):
    def seconds() -> float:
        started = time.perf_counter()
        assert hf_finetune("--help").returncode == 0
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.5


def test_every_command_is_documented_in_the_help():
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(command in shown for command in COMMANDS)


def test_a_broken_run_file_is_refused_whole_before_anything_is_launched(hf_finetune, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("recipe: continued_pretraining\nmodell: {}\ntrain: {learning_rat: 1}\noutput_dir: x\n")
    done = hf_finetune("train", str(broken))
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{broken}:2: modell" in done.stderr
    assert "did you mean train.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_data_is_one_message_and_exit_code_2_through_the_launcher(hf_finetune, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"text": 3}\n\n{"text": "fine"}\n{"text" "x"}\n')
    done = hf_finetune(
        *("train", "recipes/configs/continued_pretraining.yaml", f"data.train={bad}", f"output_dir={tmp_path}/run")
    )
    assert done.returncode == 2
    assert f"{bad}:2" in done.stderr
    assert f"{bad}:5" in done.stderr
    assert "2 problems" in done.stderr
    assert "Traceback" not in done.stderr
    assert "accelerate launch --config_file accelerate_configs/cpu.yaml" in done.stderr.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "recipes/configs/nothing.yaml"), "recipes/configs/nothing.yaml"),
        (
            ("train", "recipes/configs/char_model.yaml", "--on", "gpu"),
            "There are cpu, cpu_2proc, multi_gpu",
        ),
        (("train", "recipes/configs/char_model.yaml", "--on", "cpu_2prog"), "did you mean cpu_2proc?"),
        (("corpus", "sauce", "x.jsonl"), "source"),
        (("generate", "runs/of_nobody", "x"), "runs/of_nobody"),
        (("init", "README.md"), "README.md"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(hf_finetune, arguments, message):
    done = hf_finetune(*arguments)
    assert done.returncode in (2, 5)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_character_that_the_vocabulary_lacks_is_named(hf_finetune, run_recipe, tmp_path):
    run_recipe("char_model", "train.max_steps=1", "train.eval_strategy=no", "eval.prompts=[]")
    done = hf_finetune("generate", str(tmp_path / "run"), "caf\u00e9 \u4e16")
    assert done.returncode == 2
    assert "U+4E16" in done.stderr
    assert "Traceback" not in done.stderr


def test_generate_is_seeded_and_speaks_json(hf_finetune, run_recipe, tmp_path):
    run_recipe("char_model", "train.max_steps=1", "train.eval_strategy=no", "eval.prompts=[]")
    asked = ("generate", str(tmp_path / "run"), "The ", "A", "--max-new-tokens", "5", "--json")
    first, again = hf_finetune(*asked), hf_finetune(*asked)
    assert first.returncode == 0, first.stderr
    samples = json.loads(first.stdout)
    assert [sample["prompt"] for sample in samples] == ["The ", "A"]
    assert samples == json.loads(again.stdout)
    assert samples != json.loads(hf_finetune(*asked, "--seed", "7").stdout)


def test_doctor_and_corpus_speak_json(hf_finetune, tmp_path):
    doctor = hf_finetune("doctor", "--json")
    assert doctor.returncode == 0
    assert json.loads(doctor.stdout)["facts"]["devices"]
    corpus = hf_finetune("corpus", KINDS[0], str(tmp_path / "c.jsonl"), "--max-bytes", "50000", "--json")
    facts = json.loads(corpus.stdout)
    assert facts["rows"] == len((tmp_path / "c.jsonl").read_text().splitlines())
