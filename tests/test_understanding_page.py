"""docs/understanding.md names keys, figures and findings that there are, and its commands and pictures are sound."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from typer.main import get_command

from hf_finetune.cli import app
from hf_finetune.config import load_run, read_recipe_name
from hf_finetune.config.validation.run_file import list_section_keys
from hf_finetune.environment.project_files import init_project
from hf_finetune.metric_info import METRICS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "understanding.md").read_text(encoding="utf-8")
RUN_FILE = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]
LINES = [line.replace("\\\n", " ") for line in re.findall(r"^\$ ((?:.*\\\n)*.+)$", PAGE, re.MULTILINE)]
COMMANDS = [shlex.split(line)[1:] for line in LINES if line.startswith("hf-finetune ")]
PICTURES = re.findall(r"!\[(.*?)\]\(images/(understanding-[a-z]+\.svg)\)", PAGE)
# Of an entry of train.history.
LOGGED = {"loss", "eval_loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_mib"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder after `init`, with the files that commands of the page make, and are given later."""
    folder = tmp_path_factory.mktemp("project")
    init_project(folder)
    (folder / "first.yaml").write_text(RUN_FILE)
    (folder / "runs" / "first").mkdir(parents=True)
    for command in COMMANDS:
        if command[0] == "corpus":
            (folder / command[2]).write_text('{"text": "a"}\n')
    for line in LINES:
        if " > " in line:
            (folder / line.split()[-1]).write_text('{"text": "a"}\n')
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_is_one_that_there_is(command, project, monkeypatch):
    monkeypatch.chdir(project)
    if command[0] == "train":
        load_run(command[1:], read_recipe_name(command[1]))
    else:
        known = get_command(app).commands[command[0]]
        known.make_context(command[0], command[1:])


def test_a_command_reads_what_one_before_it_wrote():
    made = {"first.yaml"}
    for line in LINES:
        names = re.findall(r"[\w/]+\.(?:jsonl|yaml)|runs/[\w-]+", line)
        given = {name for name in names if not name.startswith("recipes/")}
        target = re.search(r"> (\S+)$|output_dir=(\S+)|^hf-finetune corpus \w+ (\S+)", line)
        written = next(filter(None, target.groups())) if target else ""
        if line == "hf-finetune train first.yaml":
            written = yaml.safe_load(RUN_FILE)["output_dir"]
        assert given - {written} <= made, line
        made.add(written)


def test_every_key_on_the_page_is_one_of_the_run_file():
    recipes = ("continued_pretraining", "classification", "sft", "lora", "score")
    known = {
        f"{section}.{key}" for recipe in recipes for section, keys in list_section_keys(recipe).items() for key in keys
    }
    named = set(re.findall(r"`((?:model|data|train|lora|eval|hub|card)\.[a-z0-9_]+)", PAGE)) - {"train.history"}
    assert len(named) > 25
    assert named <= known


def test_every_figure_of_the_page_is_one_of_the_report():
    tables = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(tables) <= set(METRICS) | LOGGED
    assert set(tables) >= LOGGED | {"perplexity", "bits_per_byte", "token_accuracy"}
    named = set(re.findall(r"`((?:expected|accuracy|f1|log_loss|roc|pr)_?[a-z0-9_]*)`", PAGE))
    assert named
    assert named <= set(METRICS)


def test_every_finding_of_the_page_is_one_of_the_diagnosis():
    sources = (ROOT / "hf_finetune" / "reporting" / "diagnosis").glob("*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    kinds = {*re.findall(r'kind="([a-z_]+)"', text), *re.findall(r'_make_finding\(\s*run,\s*"([a-z_]+)"', text)}
    named = set(re.findall(r"\(`([a-z]\w+)`\)", PAGE))
    assert {"healthy", "overfitting", "underfitting", "plateau", "divergence", "learning_rate_too_low"} <= named
    assert named - {"muon"} <= kinds


def test_every_picture_is_there_and_shown_with_what_it_says():
    shown = {name for _, name in PICTURES}
    assert shown == {path.name for path in (ROOT / "docs" / "images").glob("understanding-*")}
    assert 0 < len(shown) <= 7
    for alt, name in PICTURES:
        path = ROOT / "docs" / "images" / name
        assert len(alt) > 20
        assert path.stat().st_size < 60_000
        drawing = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert drawing.findtext("{http://www.w3.org/2000/svg}desc")
        paper = drawing.find("{http://www.w3.org/2000/svg}rect")  # its own: the page around it may be dark
        assert paper.get("fill") == "#ffffff"
