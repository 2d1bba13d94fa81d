"""Every shipped configuration is read, and every run file is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from hf_finetune.config import load_run, read_recipe_name

ROOT = Path(__file__).resolve().parent.parent
RUN_FILES = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
ACCELERATE_CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))

# What a run file needs that another command or run makes; each gets something small of the same kind.
STAND_INS = {"python_code": "data.train=data_templates/text.jsonl"}
QUICK = ("train.max_steps=2", "train.eval_steps=2", "train.save_steps=2", "eval.max_new_tokens=3")


@pytest.fixture(scope="module")
def languages_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of languages.yaml went, which domain_text.yaml continues."""
    return tmp_path_factory.mktemp("languages") / "run"


def test_there_are_run_files_for_the_documented_projects():
    documented = {"continued_pretraining", "char_model", "python_code", "domain_text", "languages"}
    assert documented <= {path.stem for path in RUN_FILES}


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_run_file_names_the_schema_that_completes_it(path):
    first = path.read_text().splitlines()[0]
    schema = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / schema).resolve() == ROOT / "hf_finetune" / "config" / "run.schema.json"
    assert "properties" in json.loads((path.parent / schema).read_text())


def test_every_run_file_runs(run_recipe, tmp_path, languages_run):
    order = ["languages", *(path.stem for path in RUN_FILES if path.stem != "languages")]
    for name in order:
        overrides = [*QUICK, f"output_dir={languages_run if name == 'languages' else tmp_path / name}"]
        if name == "domain_text":
            overrides += [f"model.path={languages_run}", "train.max_steps=2", "train.eval_strategy=steps"]
            overrides += ["train.save_strategy=steps"]
        if name in STAND_INS:
            overrides.append(STAND_INS[name])
        report = run_recipe(name, *overrides)
        assert report["status"] == "done", name
        assert report["train"]["steps"] == 2, name
        assert report["evaluation"]["validation"]["loss"] > 0, name


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_run_file_is_valid_as_it_stands(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("data_templates", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    settings = yaml.safe_load(path.read_text())
    for needed in (settings["data"]["train"], settings["model"].get("path")):
        if needed and not Path(needed).exists():  # made by the command that the file's own comment gives
            assert needed in path.read_text().split("recipe:")[0] or needed.startswith("runs/")
            Path(needed).parent.mkdir(parents=True, exist_ok=True)
            Path(needed).write_text("") if Path(needed).suffix else Path(needed).mkdir()
    load_run([str(path)], read_recipe_name(str(path)))


@pytest.mark.parametrize("path", ACCELERATE_CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_each_of_its_configurations(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
