"""A chat template is trusted by whoever types its hash, in every command that renders one, and by no folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import yaml
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base
from typer.testing import CliRunner

import hf_finetune as hf
from hf_finetune.chat import rendering, worker_process
from hf_finetune.chat.rendering import TemplateLimitError, end_worker
from hf_finetune.cli import app
from hf_finetune.cli.option_tables import OPTION_NAMES
from hf_finetune.errors import ConfigError, MachineError
from hf_finetune.models import saved
from hf_finetune.models.adapters import loading
from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.option_names import name_options
from hf_finetune.release.comparison_rows import load_comparison_rows

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] + ' ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)
DIGEST = hashlib.sha256(TEMPLATE.encode()).hexdigest()
OTHER = "0" * 64
BOOT = worker_process.BOOT
COMMANDS = ("generate", "generate --base", "chat", "score", "score --base", "merge")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    base = saved_base(folder / "base")
    model = adapter_on(base, {"r": 2})
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.01)
    TOKENIZER.chat_template = TEMPLATE
    try:
        adapter = save(model, folder / "adapter")
        TOKENIZER.save_pretrained(adapter)
    finally:
        TOKENIZER.chat_template = None
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"a {word}?", "answer": "no."}) + "\n" for word in ("cat", "dog")))
    return {"adapter": str(adapter), "rows": str(rows), "base": str(base)}


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """Nothing is trusted yet, and what is not cannot be rendered."""
    end_worker()
    monkeypatch.setattr(rendering, "_trusted", set())
    monkeypatch.setattr(worker_process, "BOOT", "raise SystemExit(3)")


def typed(command, folders, tmp_path, *more):
    name, *options = command.split()
    rest = {
        "generate": ["hi", "--max-new-tokens", "2"],
        "chat": ["--max-new-tokens", "2"],
        "score": [folders["rows"], "--max-new-tokens", "2"],
        "merge": [str(tmp_path / "merged"), "--data", folders["rows"]],
    }[name]
    arguments = [name, folders["adapter"], *rest, *options, *more]
    return CliRunner().invoke(app, arguments, input="hi\n", catch_exceptions=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_template_is_rendered_in_the_process_where_its_hash_is_typed_and_nowhere_else(command, folders, tmp_path):
    with pytest.raises(MachineError, match="does not start"):
        typed(command, folders, tmp_path)
    done = typed(command, folders, tmp_path, "--trust-chat-template", DIGEST.upper())
    assert done.exit_code == 0, done.output
    assert rendering._trusted == {DIGEST}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_hash_of_another_template_is_refused_and_so_is_one_of_another_form(command, folders, tmp_path):
    with pytest.raises(ConfigError, match=f"^--trust-chat-template: .*its sha256 is {DIGEST}; look into it"):
        typed(command, folders, tmp_path, "--trust-chat-template", OTHER)
    with pytest.raises(ConfigError, match=r"--trust-chat-template: expected 64 hex digits, found '"):
        typed(command, folders, tmp_path, "--trust-chat-template", DIGEST[:-1])
    assert rendering._trusted == set()


@pytest.mark.parametrize("command", OPTION_NAMES)
def test_the_remedy_for_a_limit_is_an_option_of_the_command_and_a_key_of_a_run_file_elsewhere(command):
    key = str(TemplateLimitError("did not end", TEMPLATE))
    assert key.startswith("data.chat_template: the chat template did not end on one conversation; look into it")
    assert key.endswith(f", or set data.trust_chat_template: {DIGEST} if it is yours [HF131]")
    with name_options(OPTION_NAMES[command]):
        said = str(TemplateLimitError("did not end", TEMPLATE))
    assert said.startswith("the chat template did not end on one conversation; look into it")
    renders = command not in ("predict", "rows", "new")
    assert said.endswith(f", or set --trust-chat-template {DIGEST} if it is yours [HF131]") == renders
    assert "data." not in said


@pytest.mark.parametrize("command", ["generate", "generate --base", "chat", "whole", "notebook"])
def test_a_template_is_looked_at_before_any_weights_are_loaded(command, folders, tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(loading, "load_base", load)
    monkeypatch.setattr(saved, "load_language_model", load)
    if command == "whole":
        whole = Path(shutil.copytree(folders["base"], tmp_path / "whole"))
        (whole / "chat_template.jinja").write_text(TEMPLATE)
        folders, command = folders | {"adapter": str(whole)}, "generate"
    ask = partial(typed, command, folders, tmp_path)
    if command == "notebook":
        ask = partial(hf.generate, folders["adapter"], "hi", max_new_tokens=2)
    with pytest.raises(MachineError, match="does not start"):
        ask()


def test_a_notebook_trusts_by_an_argument_which_its_messages_name(folders):
    with pytest.raises(ConfigError, match=r"^trust_chat_template: .*not the one that is trusted"):
        hf.generate(folders["adapter"], "hi", max_new_tokens=2, trust_chat_template=OTHER)
    assert len(hf.generate(folders["adapter"], "hi", max_new_tokens=2, trust_chat_template=DIGEST)) == 1


def test_a_model_without_a_template_has_none_to_trust(folders):
    with pytest.raises(ConfigError, match="no chat template that could be trusted; leave it out"):
        hf.generate(folders["base"], "hi", max_new_tokens=2, trust_chat_template=DIGEST)


def test_a_folder_that_names_the_hash_of_its_own_template_is_not_trusted_for_that(folders, tmp_path, monkeypatch):
    data = {"train": folders["rows"], "validation_fraction": 0.5, "trust_chat_template": DIGEST}
    run_file = Path(folders["adapter"], "run.yaml")
    run_file.write_text(yaml.safe_dump({"data": data, "train": {}}))
    try:
        for command in ("generate", "score", "merge"):
            with pytest.raises(MachineError, match="does not start"):
                typed(command, folders, tmp_path)
        monkeypatch.setattr(worker_process, "BOOT", BOOT)
        _, tokenizer = load_adapter(folders["adapter"])
        assert len(load_comparison_rows(None, Path(folders["adapter"]), tokenizer, 64)) == 1
        assert rendering._state.process is not None  # it has rendered them
        assert rendering._trusted == set()
    finally:
        run_file.unlink()
        end_worker()
