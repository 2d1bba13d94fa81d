"""What a run leaves behind says nothing of the machine that made it, and opens nothing that others have pickled."""

from __future__ import annotations

import json
import pickle
import platform
import runpy
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from models.files.test_untrusted_models import Evil
from release.hub.hub_server import WRITE, Hub, running_hub
from safetensors.torch import load_file, save_file
from tuned_adapters import saved_base

from hf_finetune.config import load_run
from hf_finetune.errors import ConfigError, ModelError
from hf_finetune.folders.lock import release_run_folders
from hf_finetune.reporting.run_folder import claim_run_folder

ROOT = Path(__file__).resolve().parent.parent
USER, HOST = "canary-user-name", "canary-host-name"
NAMED = ("model.path=base", "data.train=rows.jsonl", "output_dir=runs/one")
SETTINGS = ("train.max_steps=4", "train.logging_steps=1", "train.bf16=false", "train.use_cpu=true", "eval.prompts=[]")
CHECKPOINTS = ("train.save_strategy=steps", "train.save_steps=2", "train.eval_strategy=steps", "train.eval_steps=2")
BEST = ("train.load_best_model_at_end=true", "train.metric_for_best_model=loss")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of somebody, with a model and rows in it."""
    home = tmp_path / USER
    folder = home / "project"
    folder.mkdir(parents=True)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(folder)
    shutil.copytree(ROOT / "recipes" / "configs", folder / "configs")
    saved_base(folder / "base")
    rows = [
        {"user": f"question {'abc'[n % 3]} {'xyz'[n // 3]}", "assistant": f"answer {'abc'[n % 3]}"} for n in range(9)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(recipe: str, *settings: str) -> None:
    """As from a shell in the project's folder; of a setting that is named twice the last holds."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    script = ROOT / "recipes" / f"{recipe}.py"
    given = dict(setting.split("=", 1) for setting in (*NAMED, *SETTINGS, *settings))
    sys.argv = [str(script), f"configs/{recipe}.yaml", *(f"{key}={value}" for key, value in given.items())]
    try:
        runpy.run_path(str(script))["main"](sys.argv[1:])
    finally:
        release_run_folders()


def mentions(folder: Path, *words: str) -> list[str]:
    """Files of a folder with one of the words in any of their bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [f"{path.name}: {word}" for path in files for word in words if word.encode() in path.read_bytes()]


@pytest.mark.parametrize("recipe", ["sft", "lora"])
def test_no_path_user_or_host_is_in_any_byte_of_a_run_folder(project, tmp_path, recipe):
    run(recipe, *CHECKPOINTS, *BEST)
    folder = project / "runs" / "one"
    assert (folder / "checkpoint-4").is_dir()
    assert mentions(folder, str(tmp_path), USER, HOST, str(ROOT)) == []


@pytest.mark.parametrize("recipe", ["sft", "lora"])
@pytest.mark.parametrize("typed", ["{home}/project", "~/project"])
def test_a_home_folder_that_was_typed_is_in_nothing_that_is_published(project, tmp_path, recipe, typed):
    place = typed.format(home=project.parent)
    named = [f"{key}={place}/{value}" for key, value in (setting.split("=") for setting in NAMED)]
    run(recipe, *named, *CHECKPOINTS, *BEST)
    folder = project / "runs" / "one"
    left = [name for name in mentions(folder, str(tmp_path), USER) if not name.startswith("adapter_config.json")]
    assert left == []
    published = [path for path in folder.iterdir() if path.is_file()]
    assert not [path.name for path in published if USER.encode() in path.read_bytes()]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        close_session()
        yield hub
        close_session()


# Files that the base is loaded from again, by its path; they are redacted when they are pushed.
OPENED_AGAIN = ("adapter_config.json", "base_model.json", "run.yaml")
PUSHED = ("hub.repo_id=ada/model", "hub.push_every=2", "card.license=mit", "train.report_to=tensorboard")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("recipe", ["sft", "lora"])
def test_no_folder_outside_the_project_is_in_what_a_run_leaves_or_pushes(project, tmp_path, hub, recipe):
    private = tmp_path / "clients" / "acme corp"
    private.mkdir(parents=True)
    rows = Path("rows.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("a=1.jsonl", rows[:4]), ("b.jsonl", rows[4:7]), ("c.jsonl", rows[7:])):
        (private / name).write_text("".join(part))
    Path("base").rename(private / "tiny")
    train = f'["../../clients/acme corp/a=1.jsonl", {{path: "{private}/b.jsonl", weight: 2}}]'
    data = (f"data.train={train}", f"data.validation={private}/c.jsonl", "data.validation_fraction=null")
    run(recipe, f"model.path=../../{private.relative_to(tmp_path)}/tiny", *data, *CHECKPOINTS, *BEST, *PUSHED)
    left = [name for name in mentions(project / "runs" / "one", "clients", "acme") if not name.startswith(OPENED_AGAIN)]
    assert left == []
    assert "../../clients/acme corp/tiny" in (project / "runs" / "one" / "run.yaml").read_text()
    for branch in ("main", "checkpoints"):
        sent = hub.files("ada/model", branch)
        assert {"config.json", "adapter_config.json"} & set(sent)
        assert [name for name, content in sent.items() if b"clients" in content or b"acme" in content] == []
    manifest = json.loads(hub.files("ada/model")["manifest.json"])
    assert [file["path"] for file in manifest["data"]["files"]] == ["a=1.jsonl", "b.jsonl", "c.jsonl"]
    assert 'model.path=tiny \'data.train=["a=1.jsonl", {path: "b.jsonl", weight: 2}]\'' in manifest["launch"]


def test_no_folder_outside_the_project_is_in_what_scoring_leaves(project, tmp_path):
    private = tmp_path / "clients" / "acme"
    private.mkdir(parents=True)
    for name in ("test.jsonl", "old.jsonl", "train.jsonl"):
        shutil.copy("rows.jsonl", private / name)
    Path("base").rename(private / "tiny")
    shutil.copytree(private / "tiny", private / "before")
    score = {"model.path": private / "tiny", "eval.base": "../../clients/acme/before", "output_dir": "runs/scored"}
    score |= {"data.test": private / "test.jsonl", "data.train": "../../clients/acme/train.jsonl"}
    score |= {"eval.forget": f"[{private}/old.jsonl]", "eval.verbatim_prefix": 4, "eval.generate_rows": 0}
    script = ROOT / "recipes" / "score.py"
    sys.argv = [str(script), "configs/score.yaml", *(f"{key}={value}" for key, value in score.items())]
    runpy.run_path(str(script))["main"](sys.argv[1:])
    folder = project / "runs" / "scored"
    assert mentions(folder, "clients", "acme") == ["run.yaml: clients", "run.yaml: acme"]
    measured = json.loads((folder / "report.json").read_text())["evaluation"]["test"]
    assert (measured["comparison"]["base"], measured["forgetting"]["data"]) == ("before", "old.jsonl")
    assert measured["data"]["path"] == "test.jsonl"


def test_the_folder_of_a_run_is_its_owners_alone_and_one_that_is_there_is_left_as_it_is(tmp_path):
    claim_run_folder(str(tmp_path / "runs" / "mine"), resume=None)
    assert stat.S_IMODE((tmp_path / "runs" / "mine").stat().st_mode) == 0o700
    (tmp_path / "shared").mkdir(mode=0o755)
    (tmp_path / "shared").chmod(0o755)
    claim_run_folder(str(tmp_path / "shared"), resume=None)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755


PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "custom_checkpoint_0.pkl")
PICKLES += ("pytorch_model.bin", "scaler.pt")


def resumed(folder: Path) -> Any:
    (folder / "report.json").unlink()
    run("sft", *CHECKPOINTS, "train.resume_from_checkpoint=runs/one/checkpoint-2")


def test_no_pickle_of_a_checkpoint_can_run_code(project, tmp_path):
    run("sft", *CHECKPOINTS)
    folder, mark = project / "runs" / "one", tmp_path / "code-has-run"
    report = (folder / "report.json").read_bytes()
    assert not [path for path in folder.rglob("*") if path.name in PICKLES]
    for name in PICKLES:
        path = folder / "checkpoint-2" / name
        path.write_bytes(pickle.dumps(Evil(mark), protocol=2))
        (folder / "report.json").write_bytes(report)
        with pytest.raises(ConfigError, match=f"checkpoint-2 {name} is not of it"):
            resumed(folder)
        path.unlink()
    assert not mark.exists()


def test_a_run_does_not_go_on_over_another_base(project):
    run("sft", *CHECKPOINTS)
    folder = project / "runs" / "one"
    source = json.loads((folder / "manifest.json").read_text())["model"]
    assert (source["name"], source["revision"]) == ("base", None)
    weights = load_file("base/model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, "base/model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="the model is not the one that the run began with"):
        resumed(folder)


@pytest.mark.parametrize("place", ["runs/other/checkpoint-2", "../checkpoint-2", "base", "runs/one"])
def test_a_checkpoint_of_another_folder_is_refused_before_it_is_opened(project, place):
    settings = (
        "model.path=base",
        "data.train=rows.jsonl",
        "output_dir=runs/one",
        f"train.resume_from_checkpoint={place}",
    )
    with pytest.raises(ConfigError, match=r"train.resume_from_checkpoint: .*others' optimizer states are not opened"):
        load_run([str(ROOT / "recipes" / "configs" / "sft.yaml"), *settings], "sft")


@pytest.mark.parametrize("place", ["true", "runs/one/checkpoint-2", "./runs/one/../one/checkpoint-2"])
def test_a_checkpoint_of_the_run_itself_is_gone_on_from(project, place):
    (project / "runs" / "one" / "checkpoint-2").mkdir(parents=True)
    settings = (
        "model.path=base",
        "data.train=rows.jsonl",
        "output_dir=runs/one",
        f"train.resume_from_checkpoint={place}",
    )
    assert load_run([str(ROOT / "recipes" / "configs" / "sft.yaml"), *settings], "sft").train["resume_from_checkpoint"]
