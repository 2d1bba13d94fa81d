"""The README is run: each command in order, in a new folder, the long ones with fewer steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", README, re.MULTILINE)
FEWER_STEPS = "train.max_steps=2 train.eval_steps=2 train.save_steps=2 eval.max_new_tokens=2"


def test_every_command_does_what_the_readme_says(tmp_path, environment_of_a_user):
    assert len(COMMANDS) >= 8
    folder = tmp_path / "clone"
    folder.mkdir()
    for command in COMMANDS:
        if command.startswith("pip install "):  # tests/environment/test_project_files.py installs the wheel
            assert shlex.split(command) == ["pip", "install", "."]
            continue
        steps = f" {FEWER_STEPS}" if " train " in command or "recipes/configs" in command else ""
        done = subprocess.run(
            ["bash", "-c", command + steps],
            cwd=folder,
            env=environment_of_a_user,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        if command.endswith("cd ../mydir"):
            folder = tmp_path / "mydir"


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


def test_the_tree_names_every_folder_and_every_file_that_one_may_open():
    tree = README.split("## The tree", 1)[1]
    named = set(re.findall(r"[\w.-]+", tree))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    folders = {Path(name).parts[0] for name in tracked if len(Path(name).parts) > 1 and not name.startswith(".")}
    opened = ("hf_finetune/**/*.py", "recipes/*.py", "accelerate_configs/*.yaml", "docs/*.md")
    files = {path.name for pattern in opened for path in ROOT.glob(pattern)} - {"__init__.py", "__main__.py"}
    assert files
    assert folders | files <= named, (folders | files) - named
    modules = {name for name in named if re.fullmatch(r"\w+\.py", name)}
    assert modules <= {Path(name).name for name in tracked}, "a file that is no longer there"


def test_the_table_of_recipes_names_every_recipe_and_run_file():
    table = README.split("## Recipes", 1)[1].split("## ", 1)[0]
    for path in [*ROOT.glob("recipes/*.py"), *ROOT.glob("recipes/configs/*.yaml")]:
        assert path.stem in table, path
