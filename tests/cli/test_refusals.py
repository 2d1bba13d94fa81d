"""What needs no model to be refused is refused before torch is imported, in one message, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from preloaded import serve_commands

PROGRAM = """
import json, os, sys
from hf_finetune.cli import main
sys.argv = ["hf-finetune", *json.loads(sys.argv[1])]
try:
    main()
except SystemExit as end:
    heavy = [name for name in ("torch", "transformers", "datasets") if name in sys.modules]
    print(json.dumps({"code": end.code, "heavy": heavy}))
"""


def write_json(path: Path, values: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one model of each kind, as far as their JSON files tell."""
    write_json(tmp_path / "runs/lm/config.json", {"architectures": ["ScratchGPTForCausalLM"]})
    write_json(tmp_path / "runs/lm/tokenizer_config.json", {})
    write_json(tmp_path / "runs/classifier/config.json", {"architectures": ["BertForSequenceClassification"]})
    lora = {"task_type": "CAUSAL_LM", "base_model_name_or_path": "runs/gone"}
    write_json(tmp_path / "runs/lora/adapter_config.json", lora)
    write_json(tmp_path / "runs/head/adapter_config.json", lora | {"task_type": "SEQ_CLS"})
    write_json(tmp_path / "runs/torn/manifest.json", {"data": {}, "versions": {}, "launch": ""})
    for step in (5, 10):
        (tmp_path / f"runs/torn/checkpoint-{step}").mkdir()
    (tmp_path / "runs/empty").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n', encoding="utf-8")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious.txt").write_text("mine", encoding="utf-8")
    write_json(tmp_path / "base" / "config.json", {})
    return tmp_path


@pytest.fixture(scope="module")
def without_torch(
    tmp_path_factory: pytest.TempPathFactory, datasets_cache: Path
) -> Iterator[tuple[str, dict[str, str]]]:
    """`PROGRAM` in a file, and the environment in which `python` is forked where our settings are imported already."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    with serve_commands(folder, os.environ, ["hf_finetune.cli.launcher", "json"]) as environment:
        yield str(folder / "program.py"), environment


@pytest.fixture
def refuse(folder: Path, without_torch: tuple[str, dict[str, str]]):
    """Run a command that is refused; returns its lines on standard error."""

    program, environment = without_torch

    def refuse(*arguments: str) -> list[str]:
        before = sorted(folder.rglob("*"))
        command = ["python", program, json.dumps(arguments)]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        assert json.loads(done.stdout.splitlines()[-1]) == {"code": 2, "heavy": []}, done.stderr
        assert sorted(folder.rglob("*")) == before
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()

    return refuse


MODELS = [
    ("score runs/nope rows.jsonl", "runs/nope: no such folder; "),
    ("score runs/tron rows.jsonl", "runs/tron: no such folder; did you mean runs/torn?"),
    ("score runs/lm rows.jsnl", "command line: no such file: rows.jsnl; did you mean rows.jsonl?"),
    ("score runs/lora rows.jsonl", "runs/lora: is an adapter of 'runs/gone', which is not there; merge it and score"),
    ("score ./runs/x rows.jsonl", "./runs/x: no such folder; "),
    ("generate runs/nope hi", "runs/nope: no such folder; "),
    ("generate runs/lm/config.json hi", "runs/lm/config.json: is a file; name the folder"),
    (
        "generate runs/classifier hi",
        "runs/classifier: is a text classifier, not a language model; label rows with it: ",
    ),
    ("generate runs/head hi", "runs/head: is a text classifier, not a language model; label rows with it: hf-finetune"),
    (
        "generate runs/lora hi",
        "runs/lora: is an adapter of 'runs/gone', which is not there; say where it is now with --b",
    ),
    ("generate runs/lora hi --base-path runs/gon", "runs/gon: --base-path: no such folder; "),
    (
        "generate runs/torn hi",
        "runs/torn: holds no model (neither config.json nor adapter_config.json): its run has not f",
    ),
    (
        "generate runs/empty hi",
        "runs/empty: holds no model (neither config.json nor adapter_config.json); name the folder",
    ),
    (
        "chat runs/classifier",
        "runs/classifier: is a text classifier, not a language model; label rows with it: hf-finetune",
    ),
    (
        "chat runs/lm",
        "runs/lm: has no chat template to talk with; let it continue texts: hf-finetune generate runs/lm '",
    ),
    ("chat runs/nope", "runs/nope: no such folder; "),
    (
        "predict runs/lm rows.jsonl",
        "runs/lm: is a language model, not a text classifier; let it write: hf-finetune gener",
    ),
    (
        "predict runs/lora rows.jsonl",
        "runs/lora: is a language model, not a text classifier; let it write: hf-finetune g",
    ),
    ("predict runs/nope rows.jsonl", "runs/nope: no such folder; "),
    ("predict runs/classifier nope.jsonl", "nope.jsonl: no such file"),
    ("merge runs/lm merged", "runs/lm: is a whole model, not an adapter: there is nothing to merge; use it as it is"),
    ("merge runs/nope merged", "runs/nope: no such folder; "),
    (
        "merge runs/lora merged",
        "runs/lora: is an adapter of 'runs/gone', which is not there; say where it is now with --b",
    ),
    ("export runs/lm out --to onx", "--to: there is no target 'onx'; did you mean onnx?"),
    ("export runs/nope out --to onnx", "runs/nope: no such folder; "),
    ("export runs/empty out --to onnx", "runs/empty: holds no model (neither config.json nor adapter_config.json)"),
    ("export runs/lm used --to onnx", "used: is there already; name another folder, or allow it with --overwrite"),
    (
        "export runs/lora out --to onnx",
        "runs/lora: is an adapter of 'runs/gone', which is not there; say where it is now with --b",
    ),
]


@pytest.mark.parametrize(("command", "message"), MODELS, ids=[command for command, _ in MODELS])
def test_a_model_that_a_command_is_not_for_is_one_message_before_torch(refuse, command, message):
    (line,) = refuse(*command.split())
    assert line.startswith(message)


VALID = "recipe: sft\nmodel: {path: base}\ndata: {train: rows.jsonl}\noutput_dir: out/new/run\n"
RUNS = [
    (["train.max_step=1"], "command line: train.max_step: is not a setting of the section train; did you mean"),
    (["train.max_steps=many"], "command line: train.max_steps: expected a whole number, found 'many'"),
    (["data.train=nope.jsonl"], "command line: data.train: no such file: nope.jsonl; "),
    (["data.train=*.jsnl"], "command line: data.train: no file matches *.jsnl; check the pattern"),
    (["model.path=runs/nope"], "command line: model.path: no such folder: runs/nope; "),
    (["output_dir=used"], "command line: output_dir: used holds precious.txt, and is no run folder of hf-finetune; "),
    (
        ["output_dir=runs/torn", "train.resume_from_checkpoint=false"],
        "command line: output_dir: runs/torn holds another run's checkpoint-10; name another",
    ),
    (["hub.repo_id=nobody", "card.license=mit"], "command line: hub.repo_id: 'nobody' names no owner; "),
    (
        ["hub.repo_id=a/b", "card.license=mit"],
        "hub: HF_HUB_OFFLINE is set, so the Hub is not asked; unset it, or push later",
    ),
    (["train.resume_from_checkpoint=runs/lm"], "command line: train.resume_from_checkpoint: runs/lm is no checkpoint"),
    (["train.report_to=wandbb"], "command line: train.report_to: 'wandbb' is not a tracker; did you mean wandb?"),
    (["--on", "nowhere"], "--on nowhere: no such file or name"),
    (["--on", "rows.jsonl"], "rows.jsonl: --on: is no accelerate configuration; "),
    (["--on", "single_gpu"], "--on single_gpu: "),
]


@pytest.mark.parametrize(("arguments", "message"), RUNS, ids=[" ".join(arguments) for arguments, _ in RUNS])
def test_a_run_that_cannot_be_is_refused_before_torch(refuse, folder, arguments, message):
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    (line,) = refuse("train", "run.yaml", *arguments)
    assert line.startswith(message)


REST = [
    ("train nope.yaml", "nope.yaml: no such run file; "),
    ("train rows.jsonl", "rows.jsonl:1: "),
    ("report runs/nope", "runs/nope: "),
    ("diagnose runs/nope", "runs/nope: "),
    ("push runs/nope a/b", "runs/nope: is no folder; "),
    ("push runs/lm nobody", "'nobody' names no owner; "),
    ("corpus sauce x.jsonl", "sauce: there is no such corpus; did you mean source?"),
    ("generate runs/lm hi --top-p 0", "--top-p: "),
]


@pytest.mark.parametrize(("command", "message"), REST, ids=[command for command, _ in REST])
def test_other_commands_refuse_before_torch_too(refuse, command, message):
    assert refuse(*command.split())[0].startswith(message)


@pytest.mark.parametrize(
    "command",
    [
        *("generate {} hi", "chat {}", "predict {} rows.jsonl", "score {} rows.jsonl", "merge {} out", "serve {}"),
        *("push {} a/b", "report {}", "diagnose {}", "watch {}"),
    ],
)
def test_a_folder_that_is_not_there_gets_near_names_from_every_command(refuse, command):
    assert "runs/tron: " in (line := refuse(*command.format("runs/tron").split())[-1])
    assert "no such folder; did you mean runs/torn?" in line or "is no folder; did you mean runs/torn?" in line
    # pathlib raises for such a name where one that is merely missing is none.
    line = refuse(*command.format("x" * 300).split())[-1]
    assert "x: no such folder; " in line or "x: is no folder; " in line


def test_an_unfinished_run_names_its_newest_checkpoint(refuse):
    line, *_ = refuse("generate", "runs/torn", "hi")
    assert line.endswith("name its newest checkpoint: runs/torn/checkpoint-10 [HF634]")


def test_a_classifier_is_no_base_of_a_language_model(refuse, folder):
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    for recipe in ("sft", "lora", "continued_pretraining"):
        (folder / "run.yaml").write_text(VALID.replace("sft", recipe), encoding="utf-8")
        said = "\n".join(refuse("train", "run.yaml", "model.path=runs/classifier"))
        assert "model.path: runs/classifier is a text classifier, not a language model; " in said


def test_a_folder_of_torn_checkpoints_gets_no_remedy_that_leads_back(refuse, folder):
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    (line,) = refuse("train", "run.yaml", "output_dir=runs/torn", "train.resume_from_checkpoint=false")
    assert "it holds no checkpoint that is whole" in line
    assert "resume" not in line
    for resume in ("auto", "true"):
        *lines, _ = refuse("train", "run.yaml", "output_dir=runs/torn", f"train.resume_from_checkpoint={resume}")
        assert all(
            line.endswith("remove it, or name another output_dir: nothing goes on from it [HF906]") for line in lines
        )


def test_a_key_that_is_a_list_and_a_recipe_on_the_command_line_are_refused(refuse, folder):
    (folder / "run.yaml").write_text(f"{VALID}? [a, b]\n: c\n", encoding="utf-8")
    assert refuse("train", "run.yaml") == ["run.yaml:5: has a key that is not a word; write `key: value` [HF614]"]
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    (line,) = refuse("train", "run.yaml", "recipe=lora")
    assert line.endswith("leave recipe out there: the run file names it [HF618]")


def test_a_path_that_leads_nowhere_is_not_its_own_remedy(refuse, folder):
    (folder / "run.yaml").write_text(VALID, encoding="utf-8")
    (folder / "link.jsonl").symlink_to("gone.jsonl")
    (line,) = refuse("train", "run.yaml", "data.train=link.jsonl")
    assert line.endswith("it is a link that leads to nothing [HF001]")
    (line,) = refuse("train", "run.yaml", "data.train=s3://bucket/rows.csv")
    assert "or download it" in line
    (folder / "link.jsonl").unlink()
