"""The README's commands in a terminal of 80 columns; and between pipes, where nothing is drawn."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typed_commands import COLUMNS, Shown, Typed

PROGRAM = Path(__file__).parent / "typed_commands.py"
ROOT = PROGRAM.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"

# Two evaluations of more than one batch, and a checkpoint to go on from.
FEW_STEPS = (
    "train.max_steps=4 train.logging_steps=1 train.eval_strategy=steps train.eval_steps=2 train.save_strategy=steps "
    "train.save_steps=2 train.per_device_eval_batch_size=2"
)
FEW_TOKENS = "eval.max_new_tokens=4"
SMALL = "model.scratch.hidden_size=32 model.scratch.num_hidden_layers=1 model.scratch.num_attention_heads=2"
FIRST = f"train recipes/configs/continued_pretraining.yaml --on cpu {FEW_STEPS} {FEW_TOKENS} {SMALL}"
LAST_CHECKPOINT = "train.max_steps=6 train.resume_from_checkpoint=runs/continued_pretraining/checkpoint-4"
RESUMED = FIRST.replace("train.max_steps=4", LAST_CHECKPOINT)
LORA = f"train recipes/configs/lora.yaml --on cpu {FEW_STEPS} {FEW_TOKENS}"
CLASSIFIER = f"train recipes/configs/classification.yaml --on cpu {FEW_STEPS} {SMALL}"
TRAINING = {"first": FIRST, "resumed": RESUMED, "lora": LORA, "classification": CLASSIFIER}
AFTER_TRAINING = {
    "predict": "predict runs/classification data_templates/labelled.jsonl --prefix predicted_ --output predicted.jsonl",
    "score": "score runs/lora data_templates/question_answer.jsonl --base --max-new-tokens 4",
    "generate": 'generate runs/continued_pretraining "The " --max-new-tokens 4',
    "generate --base": 'generate runs/lora "How do I boil an egg?" --base --max-new-tokens 4',
    "chat": "chat runs/lora --max-new-tokens 4",
    "diagnose": "diagnose runs/lora",
    "report": "report runs/continued_pretraining runs/lora",
    "doctor": "doctor",
}
ANSWERS = {"chat": ("How do I boil an egg?", "/quit")}

Type = Callable[..., Shown]


@pytest.fixture(scope="module")
def type_command(tmp_path_factory: pytest.TempPathFactory, datasets_cache: Path) -> Iterator[Type]:
    """`type_command("train ...")`, in a new folder; options are those of `Typed`."""
    folder = tmp_path_factory.mktemp("terminal")
    for name in ("recipes", "data_templates", "accelerate_configs"):
        (folder / name).symlink_to(ROOT / name)
    chosen = {"TERM": "xterm-256color", "PYTHONPATH": f"{ROOT}{os.pathsep}{PROGRAM.parent}"}
    others = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    environment = {name: value for name, value in os.environ.items() if name not in others} | chosen
    program = subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdin is not None
    assert program.stdout is not None

    def run(command: str, **options: object) -> Shown:
        program.stdin.write(json.dumps(asdict(Typed(shlex.split(command), **options))) + "\n")
        program.stdin.flush()
        return Shown(**json.loads(program.stdout.readline()))

    run.folder = folder
    with program:
        yield run


@pytest.fixture(scope="module")
def trained(type_command: Type) -> dict[str, Shown]:
    """What the terminal showed of the trainings that every other command needs."""
    return {name: type_command(command) for name, command in TRAINING.items()}


def as_lines(written: str) -> list[str]:
    """Without colors; what was erased from the terminal stands on lines of its own."""
    return re.sub(r"\x1b\[[\d;?]*\w", "", re.sub(r"(?:\x1b\[2K|\x1b\[1A|\r)+\n?", "\n", written)).split("\n")


def is_left_clean(written: str) -> bool:
    """The cursor is seen, and nothing but text and its colors is in the last line, which is ended."""
    *_, last, after = written.replace("\r\n", "\n").split("\n")
    text = re.sub(r"\x1b\[[\d;]*m", "", last.rsplit("\r", 1)[-1])
    return written.rfind(SHOW) >= written.rfind(HIDE) and text.isprintable() and text != "" and after == ""


@pytest.mark.parametrize("name", TRAINING)
def test_training_draws_its_bars_and_leaves_the_terminal_clean(trained, name):
    shown = trained[name]
    assert shown.status == 0, shown.written[-2_000:]
    assert "Traceback" not in shown.written
    assert "display failed" not in shown.written
    lines = as_lines(shown.written)
    bars = [line for line in lines if "━" in line]
    last = 6 if name == "resumed" else 4
    assert any(re.match(rf"training +{last}/{last} ━+ ", line) for line in bars)
    batches = {
        found[2] for line in bars if (found := re.match(r"evaluating +(\d+)/(\d+) ", line)) if found[1] == found[2]
    }
    assert batches
    assert max(map(int, batches)) >= 2
    assert max(map(len, bars)) <= COLUMNS
    assert all(sum(line.startswith(f"step {step}/{last}  loss") for line in lines) == 1 for step in (last - 1, last))
    assert is_left_clean(shown.written), shown.written[-500:]
    assert "━" not in lines[-2]


@pytest.mark.parametrize("name", AFTER_TRAINING)
def test_every_other_command_ends_well_in_a_terminal(type_command, trained, name):
    shown = type_command(AFTER_TRAINING[name], answers=ANSWERS.get(name, ()))
    assert shown.status == 0, shown.written[-2_000:]
    assert "Traceback" not in shown.written
    assert is_left_clean(shown.written), shown.written[-500:]


NARROW = {"first": f"{FIRST} output_dir=runs/narrow", "doctor": "doctor", "diagnose": "diagnose runs/lora"}
NARROW |= {"generate --base": AFTER_TRAINING["generate --base"], "help": "train --help"}


@pytest.mark.parametrize("name", NARROW)
def test_a_terminal_of_twenty_columns_is_wide_enough(type_command, trained, name):
    shown = type_command(NARROW[name], columns=20)
    assert shown.status == 0, shown.written[-2_000:]
    assert "Traceback" not in shown.written
    assert "display failed" not in shown.written
    bars = [line for line in as_lines(shown.written) if "━" in line and name == "first"]
    assert max(map(len, bars), default=0) <= 20
    # The help ends with an empty line.
    assert is_left_clean(shown.written.rstrip("\r\n") + "\n"), shown.written[-500:]


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_of_which_nothing_is_known_gets_plain_lines(type_command, trained, term):
    known = "unknown" if term is None else term
    for command, answers in (
        (f"{FIRST} output_dir=runs/{known}", ()),
        (AFTER_TRAINING["generate --base"], ()),
        (AFTER_TRAINING["chat"], ANSWERS["chat"]),
        ("doctor", ()),
        ("--help", ()),
    ):
        shown = type_command(command, term=term, answers=answers)
        assert shown.status == 0, shown.written[-2_000:]
        assert "\x1b" not in shown.written, shown.written[-2_000:]
        assert "Traceback" not in shown.written


FULL = "standard output cannot be written (No space left on device)"
SHORT = (
    "--help",
    "diagnose runs/lora",
    "diagnose runs/lora --json",
    "doctor --json",
    "report runs/lora runs/continued_pretraining",
)
SHORT += (AFTER_TRAINING["generate"], f"{AFTER_TRAINING['generate']} --json", AFTER_TRAINING["score"])
SHORT += ("predict runs/classification data_templates/labelled.jsonl --prefix predicted_",)


@pytest.mark.parametrize("command", SHORT)
def test_on_a_full_disk_a_command_says_so_and_nothing_else(type_command, trained, command):
    shown = type_command(command, terminal=False, output="/dev/full")
    assert shown.status == 5, shown.written
    assert shown.written.splitlines()[-1].startswith(FULL)
    assert "Traceback" not in shown.written
    assert "Exception ignored" not in shown.written


@pytest.mark.parametrize("command", SHORT)
def test_a_command_ends_quietly_where_its_reader_has_seen_enough(type_command, trained, command):
    shown = type_command(command, terminal=False, output="a closed pipe")
    assert shown.status == 0, shown.written
    for noise in ("Traceback", "Broken pipe", "Exception ignored", "Errno"):
        assert noise not in shown.written


def test_between_pipes_training_and_resuming_write_lines_alone(type_command, trained):
    for command in (FIRST, RESUMED.replace("runs/continued_pretraining", "runs/piped")):
        shown = type_command(f"{command} output_dir=runs/piped", terminal=False)
        assert shown.status == 0, shown.written[-2_000:]
        assert re.search(r"^step 4/\d  validation loss|^step 6/6  validation loss", shown.written, re.MULTILINE)
        assert not set("\x1b\r━") & set(shown.written)


@pytest.mark.parametrize("name", AFTER_TRAINING)
def test_between_pipes_no_other_command_writes_an_escape_code(type_command, trained, name):
    command = AFTER_TRAINING[name].replace("--output predicted.jsonl", "--output piped.jsonl")
    shown = type_command(command, terminal=False, answers=ANSWERS.get(name, ()))
    assert shown.status == 0, shown.written[-2_000:]
    assert not set("\x1b\r") & set(shown.written)


def test_a_run_whose_terminal_is_closed_goes_on_to_its_end(type_command, trained):
    command = f"{FIRST.replace('max_steps=4', 'max_steps=20')} output_dir=runs/closed"
    shown = type_command(command, closed_at="step 2/20")
    assert shown.status == 0
    assert "step 6/20" not in shown.written  # it was closed while it trained
    report = json.loads((type_command.folder / "runs" / "closed" / "report.json").read_text(encoding="utf-8"))
    assert report["status"] == "done"
    assert report["train"]["history"][-1]["step"] == 20


def test_what_is_typed_here_is_in_the_readme():
    for name, command in {**TRAINING, **AFTER_TRAINING}.items():
        if name not in ("resumed", "report"):  # of other runs there
            assert f"hf-finetune {re.split(' train[.]| --max-', command)[0]}" in README
