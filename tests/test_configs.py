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
STAND_INS = {
    "python_code": ["data.train=data_templates/text.jsonl"],
    "python_docstrings": ["data.train=data_templates/instruction.jsonl", "data.group_by=null", "train.max_length=64"],
    "python_tools": [
        "data.train=data_templates/instruction.jsonl",
        "data.group_by=null",
        "data.validation_fraction=0.2",
    ],
    "python_topics": ["data.train=data_templates/labelled.jsonl", "data.validation_fraction=0.2"],
    "spam": ["data.train=data_templates/labelled.jsonl", "data.validation_fraction=0.2"],
}
# Run files that take up the model of another, in the order of the runs: a small one is made for all of them.
FIRST = "languages"
QUICK = ("train.max_steps=2", "train.eval_steps=2", "train.save_steps=2", "eval.max_new_tokens=3")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of languages.yaml went."""
    return tmp_path_factory.mktemp(FIRST) / "run"


def test_there_are_run_files_for_the_documented_projects():
    documented = {"continued_pretraining", "char_model", "python_code", "domain_text", "languages"}
    documented |= {"sft", "lora", "qlora", "python_docstrings", "python_tools"}
    documented |= {"sft_smollm2", "lora_smollm2", "classification_minilm"}
    documented |= {"classification", "classification_lora", "multilabel", "spam", "python_topics", "score"}
    assert documented <= {path.stem for path in RUN_FILES}


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_run_file_names_the_schema_that_completes_it(path):
    first = path.read_text().splitlines()[0]
    schema = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / schema).resolve() == ROOT / "hf_finetune" / "config" / "run.schema.json"
    assert "properties" in json.loads((path.parent / schema).read_text())


def test_every_run_file_runs(run_recipe, tmp_path, first_run):
    order = [FIRST, *(path.stem for path in RUN_FILES if path.stem != FIRST)]
    for name in order:
        settings = yaml.safe_load((ROOT / "recipes" / "configs" / f"{name}.yaml").read_text())
        if settings["recipe"] == "score":  # of a model that one of the runs before it has made
            made = tmp_path / Path(settings["model"]["path"]).name
            report = run_recipe(name, f"model.path={made}", f"output_dir={tmp_path / name}", "eval.max_new_tokens=3")
            assert report["evaluation"]["test"]["comparison"]["figures"]["loss"]["tuned"] > 0
            continue
        overrides = [*QUICK, f"output_dir={first_run if name == FIRST else tmp_path / name}"]
        if name == FIRST:  # in the first steps its attention adds nothing, and no adapter on it could learn
            overrides[0] = "train.max_steps=6"
        if "path" in settings["model"]:
            overrides.append(f"model.path={first_run}")
        for each in ("eval_strategy", "save_strategy"):
            if settings["train"][each] == "epoch":
                overrides.append(f"train.{each}=steps")
        report = run_recipe(name, *overrides, *STAND_INS.get(name, []))
        assert report["status"] == "done", name
        assert report["train"]["steps"] == (6 if name == FIRST else 2), name
        assert report["evaluation"]["validation"]["loss"] > 0, name


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_a_run_file_is_valid_as_it_stands(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("data_templates", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    settings = yaml.safe_load(path.read_text())
    rows = settings["data"]["test" if settings["recipe"] == "score" else "train"]
    for needed in (rows, settings["model"].get("path")):
        if needed and not Path(needed).exists():  # made by the command that the file's own comment gives
            assert needed in path.read_text().split("recipe:")[0] or needed.startswith("runs/")
            Path(needed).parent.mkdir(parents=True, exist_ok=True)
            Path(needed).write_text("") if Path(needed).suffix else Path(needed).mkdir()
    load_run([str(path)], read_recipe_name(str(path)))


@pytest.mark.parametrize("path", ACCELERATE_CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_each_of_its_configurations(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == yaml.safe_load(path.read_text())["num_processes"]
