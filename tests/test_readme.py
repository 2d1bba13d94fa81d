"""The README is run: each command in order, in a new folder, the long ones with fewer steps."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN_FILE, *_ = README.split("## Your own file", 1)[1].split("## ", 1)
FEWER_STEPS = "train.max_steps=2 train.eval_steps=2 train.save_steps=2 eval.max_new_tokens=2"
FEWER_TOKENS = "--max-new-tokens 8"


def read_commands(text: str) -> list[str]:
    return re.findall(r"^\$ (.+)$", text, re.MULTILINE)


def type_commands(commands: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run each in bash, as somebody who copies them would."""
    for command in commands:
        if command.startswith("pip install "):  # tests/environment/test_project_files.py installs the wheel
            assert shlex.split(command) == ["pip", "install", "."]
            continue
        if command == ". .venv/bin/activate":  # these commands are on the path
            continue
        trains = " train " in command or "recipes/configs" in command
        fewer = FEWER_STEPS if trains else FEWER_TOKENS if command.startswith("hf-finetune generate") else ""
        done = subprocess.run(
            ["bash", "-c", f"{command} {fewer}"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if command.endswith("cd ../mydir"):
            folder = folder.parent / "mydir"


@pytest.mark.real
def test_a_file_of_ones_own_becomes_a_scored_model(tmp_path, preloaded, real_model):
    real_model("minilm")  # or skips, where the commands would download it
    (tmp_path / "models").mkdir()
    # Made by what the command calls: it takes most of the test, and the command finds that it is whole.
    (tmp_path / "models" / "smollm2-135m").symlink_to(real_model("smollm2-135m"))
    for name in ("recipes", "data_templates", "accelerate_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    commands = read_commands(OWN_FILE)
    assert len(commands) == 7
    type_commands(commands, tmp_path, preloaded)
    report = json.loads((tmp_path / "runs" / "questions" / "report.json").read_text())
    assert (report["recipe"], report["status"], report["data"]["train"]["dropped"]) == ("lora", "done", 0)
    assert (
        report["evaluation"]["validation"]["comparison"]["figures"]["loss"]["base"] < 8
    )  # of a model that knows English


def test_every_other_command_does_what_the_readme_says(tmp_path, preloaded):
    commands = read_commands(README.replace(OWN_FILE, ""))
    assert len(commands) >= 8
    folder = tmp_path / "clone"
    folder.mkdir()
    type_commands(commands, folder, preloaded)


def test_nothing_says_to_install_from_an_index_that_has_no_hf_finetune_and_every_extra_is_one():
    """`pip install hf-finetune` fails until it is published, and would then be somebody else's package if not ours."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    written = ("*.md", "Makefile", "hf_finetune/**/*.py", "recipes/**/*.yaml", "recipes/*.py", "docs/*.md")
    texts = [path.read_text(encoding="utf-8") for pattern in written for path in ROOT.glob(pattern) if path.is_file()]
    commands = [command for text in texts for command in re.findall(r"pip install ([^\n`]+)", text)]
    assert len(commands) >= 6
    assert not [command for command in commands if re.match(r"""[^#]*\bhf[-_]finetune(\[|["']|\s|$)""", command)]
    assert {extra for command in commands for extra in re.findall(r"\.\[(\w+)\]", command)} <= extras.keys()


def test_every_file_that_the_readme_links_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_tree_names_every_folder_and_what_lies_beside_the_rooms():
    tree = README.split("## The tree", 1)[1]
    assert len(tree.splitlines()) <= 55
    named = set(re.findall(r"[\w.-]+", tree))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    top = {Path(name).parts[0] for name in tracked if len(Path(name).parts) > 1 and not name.startswith(".")}
    rooms = {path.parent.name for path in ROOT.glob("hf_finetune/**/__init__.py")}
    beside = {path.name for path in ROOT.glob("hf_finetune/*.py")} - {"__init__.py"}
    assert top | rooms | beside <= named, (top | rooms | beside) - named
    modules = {name for name in named if re.fullmatch(r"\w+\.py", name)}
    assert modules <= {Path(name).name for name in tracked}, "a file that is no longer there"


def test_the_table_of_recipes_names_every_recipe_and_run_file():
    table = README.split("## Recipes", 1)[1].split("## ", 1)[0]
    for path in [*ROOT.glob("recipes/*.py"), *ROOT.glob("recipes/configs/*.yaml")]:
        assert path.stem in table, path
