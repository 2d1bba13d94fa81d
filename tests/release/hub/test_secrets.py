"""Secrets in what would be pushed are named by file, line and kind, and never shown."""

from __future__ import annotations

import logging
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from release.hub.hub_folders import model_folder
from safetensors.numpy import save_file

from hf_finetune.environment import progress_lines
from hf_finetune.errors import ConfigError, DataError, Problem
from hf_finetune.privacy import SECRETS, find_secret_kind
from hf_finetune.release.hub import PushOptions, files, plan_push
from hf_finetune.release.hub.files import PlannedFile
from hf_finetune.release.hub.search import places

OPTIONS = PushOptions()

# One of each kind, put together here so that no scanner of this repository takes it for a real one.
EXAMPLES = {
    "a Hugging Face token": "hf_" + "aB3dE6gH9j" * 3 + "kLmN",
    "an AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a GitLab token": "glpat-" + "a1B2-" * 5,
    "a Slack token": "xoxb-" + "123456789012-abcdef",
    "a Google key": "AIza" + "a1B2c3D" * 5,
    "a Stripe key": "sk_live_" + "a1B2" * 6,
    "an API key (sk-)": "sk-proj-" + "a1B2" * 10,
    "a PyPI token": "pypi-AgE" + "a1B2" * 12,
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a key of a service": "npm_" + "a1B2" * 9,
    "a signed web token": ".".join(["eyJ" + "hbGciOiJIUzI1NiJ9", "eyJ" + "zdWIiOiIxMjM0In0", "dozjgNryP4J3jVmN"]),
}


@pytest.fixture(autouse=True)
def no_tokens_around(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))


@pytest.fixture
def folder(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "manifest.json").unlink()
    return folder


def test_there_is_an_example_of_every_kind():
    assert EXAMPLES.keys() == SECRETS.keys()


@pytest.mark.parametrize("kind", SECRETS)
def test_each_kind_is_found_in_any_text_file_with_its_line(folder, kind):
    secret = EXAMPLES[kind]
    assert find_secret_kind(secret) == kind
    for name in ("README.md", "run.yaml", "tokenizer.json", "report.html", "chat_template.jinja"):
        path = folder / name
        before = path.read_text()
        line = f"key='{secret}'"
        is_json = name.endswith(".json")
        path.write_text(f'{{"a":\n{before}\n,\n"{line}": 1}}' if is_json else f"{before}\nnext\n{line}\n")
        with pytest.raises(DataError) as refused:
            plan_push(folder, "ada/model", options=OPTIONS)
        (problem,) = refused.value.problems
        assert (problem.path, problem.line) == (str(path), before.count("\n") + (4 if is_json else 3))
        assert kind in problem.what
        assert secret not in str(refused.value)
        path.write_text(before)


def test_every_place_is_named_in_one_go(folder):
    (folder / "run.yaml").write_text(f"a: {EXAMPLES['an AWS key']}\nb: 1\nc: {EXAMPLES['a GitHub token']}\n")
    (folder / "report.json").write_text(f'"{EXAMPLES["a Slack token"]}"')
    with pytest.raises(DataError) as refused:
        plan_push(folder, "ada/model", options=OPTIONS)
    assert [(problem.path.rpartition("/")[2], problem.line) for problem in refused.value.problems] == [
        ("report.json", 1), ("run.yaml", 1), ("run.yaml", 3)
    ]  # fmt: skip


def test_the_header_of_weights_is_read_and_the_weights_are_not(folder):
    secret = EXAMPLES["a Hugging Face token"]
    values = np.frombuffer((secret * 4).encode()[:128], dtype=np.float32)
    save_file({"weight": values.copy()}, folder / "model.safetensors", metadata={"format": "pt"})
    plan_push(folder, "ada/model", options=OPTIONS)
    save_file({"weight": values.copy()}, folder / "model.safetensors", metadata={"made by": secret})
    with pytest.raises(DataError, match=r"model\.safetensors: holds what looks like a Hugging Face token, in its head"):
        plan_push(folder, "ada/model", options=OPTIONS)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(DataError, match="is not a safetensors file"):
        plan_push(folder, "ada/model", options=OPTIONS)


def test_what_takes_seconds_is_said_before(folder, monkeypatch, caplog):
    caplog.set_level("INFO", logger="hf_finetune")
    plan_push(folder, "ada/model", options=OPTIONS)
    assert caplog.messages == []
    for module in (files, places):
        monkeypatch.setattr(module, "_LARGE", 10)
    plan_push(folder, "ada/model", options=OPTIONS)
    assert [message.partition(" ")[0] for message in caplog.messages] == ["reading", "searching"]


def test_the_token_in_use_and_keys_of_the_environment_are_sought_whatever_they_look_like(folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "no known shape at all")
    monkeypatch.setenv("MY_TRACKER_API_KEY", "0123456789abcdef0123")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("SERVICE_KEY", "/etc/ssl/private/service.pem")
    lines = ["no known shape at all", "0123456789abcdef0123", "/etc/ssl/private/service.pem"]
    lines.append("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    (folder / "run.yaml").write_text("".join(f"x: {line}\n" for line in lines))
    with pytest.raises(DataError) as refused:
        plan_push(folder, "ada/model", options=OPTIONS)
    said = [(problem.line, problem.what) for problem in refused.value.problems]
    assert said[0][0] == 1
    assert said[1] == (2, "holds what looks like the value of MY_TRACKER_API_KEY")
    assert [line for line, _ in said] == [1, 2, 4]
    assert "0123456789abcdef" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub_download", "hf_TOKEN", "sk-learn-based-classification-pipelines", "AKIAS", "xoxo", "eyJ",
        "task-2024-A1", "desk-1234567890ABCDEFGHIJKLMNOP", "-----BEGIN PUBLIC KEY-----", "ghp_short",
        "risk-averse-and-long-words-2B-more",
    ],
)  # fmt: skip
def test_what_only_resembles_a_secret_is_none(text):
    assert find_secret_kind(text) is None


@given(st.text(alphabet=string.ascii_lowercase + " .,-_\n\"'{}:", max_size=400))
def test_prose_in_small_letters_holds_no_secret(text):
    assert find_secret_kind(text.replace("-----BEGIN", "")) is None


@given(st.sampled_from(sorted(EXAMPLES)), st.text(max_size=30), st.text(max_size=30))
def test_a_message_of_ours_never_shows_a_secret(kind, before, after):
    secret = EXAMPLES[kind]
    shown = str(ConfigError(Problem(f"{before} {secret} {after}", f"try {secret}", path=secret, key=secret)))
    assert secret not in shown
    assert "(a secret)" in shown


def test_a_long_search_says_every_five_seconds_where_it_is(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress_lines, "INTERVAL_S", 0.002)
    content = b"a b c d e f g\n" * 20_000
    places.check_secrets([PlannedFile("report.html", Path("report.html"), len(content), "", content)])
    said = [each for each in caplog.messages if each.startswith("still searching report.html")]
    assert len(said) >= 2
