"""docs/hub.md says what is so: its commands and settings are real, its lists complete, its message the one we print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer
import yaml

from hf_finetune.cli import app
from hf_finetune.config import load_run
from hf_finetune.config.sections import HubSection
from hf_finetune.errors import Problem
from hf_finetune.privacy import SECRETS
from hf_finetune.release.hub import PushOptions, _make_not_pushed_error
from hf_finetune.release.hub.exports import ALL_WRITTEN
from hf_finetune.release.hub.files import _is_allowed
from hf_finetune.release.hub.retries import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")


def test_commands_and_options_of_the_page_are_those_of_the_program():
    push = typer.main.get_command(app).commands["push"]
    options = {name for parameter in push.params for name in parameter.opts if name.startswith("--")}
    named = set(re.findall(r"^\| `(--[a-z-]+)", PAGE, re.MULTILINE)) | {"--dry-run"}
    assert named == options
    for line in re.findall(r"^\$ (hf-finetune .+)$", PAGE, re.MULTILINE):
        words = shlex.split(line)
        assert words[1] == "push"
        push.make_context("push", words[2:])


def test_the_keys_of_the_page_are_all_those_of_the_section():
    assert {f"hub.{name}" for name in HubSection.model_fields} == set(re.findall(r"`(hub\.\w+)`", PAGE))


def test_the_sections_of_the_page_are_taken_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    overrides = [f"{section}={values}" for section, values in yaml.safe_load(block).items()]
    overrides = [line.replace("'", '"').replace("True", "true") for line in overrides]
    run = load_run(["recipes/configs/char_model.yaml", *overrides, f"output_dir={tmp_path}/x"], "continued_pretraining")
    assert run.hub == HubSection(repo_id="my-name/my-model")
    assert (run.card.license, run.card.language) == ("apache-2.0", ["en"])


def test_the_files_of_the_page_are_pushed_and_those_that_stay_are_not():
    table = PAGE.partition("| goes |")[2].partition("Everything else stays")[0]
    names = re.findall(r"`([\w.]+\.\w+|LICENSE|NOTICE)`", table)
    assert len(names) > 12
    assert all(_is_allowed(name) or name in ALL_WRITTEN for name in names)
    assert set(names) >= ALL_WRITTEN - {"Modelfile"}
    assert not any(
        _is_allowed(name) for name in ("x.bin", "x.pt", "x.pkl", ".env", "train.log", "optimizer.pt", "a.py")
    )


def test_the_message_of_the_page_is_the_one_that_is_printed():
    problem = Problem("the Hub has trouble of its own (503)", "push again later", code="HF809")
    assert str(_make_not_pushed_error([problem], "runs/lora", "my-name/my-adapter", PushOptions())) in PAGE


def test_what_is_searched_for_and_for_how_long_is_what_the_page_says():
    for word in ("Hugging Face", "AWS", "GitHub", "GitLab", "Slack", "Google", "Stripe", "PyPI", "sk-", "private key"):
        assert word in PAGE.partition("**No secrets:**")[2]
        assert any(word in kind for kind in SECRETS)
    assert len(SECRETS) == 12, "add the new one to the page and here"
    assert PATIENCE == 300
    assert "five minutes" in PAGE
