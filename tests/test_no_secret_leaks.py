"""Tokens in the environment, the arguments and the data: in no byte of what a run writes, says, tracks or pushes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from release.hub.hub_server import WRITE, running_hub

ROOT = Path(__file__).resolve().parent.parent
IN_ENVIRONMENT = "hf_TESTCANARY" + "EnvironmentA1b2c3d4e5f6g7"
IN_ARGUMENTS = "hf_TESTCANARY" + "ArgumentsA1b2c3d4e5f6g7h8"
IN_DATA = "hf_TESTCANARY" + "DataRowsA1b2c3d4e5f6g7h8i9"
CANARIES = (IN_ENVIRONMENT, IN_ARGUMENTS, IN_DATA)
SMALL = ("model.scratch.hidden_size=16", "model.scratch.num_hidden_layers=1", "model.scratch.num_attention_heads=2")


def disguises(secret: str) -> list[bytes]:
    """The bytes of `secret` as files may hold them: plain, in two bytes a letter, and inside base64 at any offset."""
    inside = [base64.b64encode(b"\0" * offset + secret.encode())[4:-4] for offset in range(3)]
    return [secret.encode(), secret.encode("utf-16-le"), secret.encode("utf-16-be"), *inside]


def hits(content: bytes) -> list[str]:
    return [secret for secret in CANARIES if any(disguise in content for disguise in disguises(secret))]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, datasets_cache):
    """A real run, pushed as it goes, in a process whose token, data and refused arguments are canaries."""
    import os

    folder = tmp_path_factory.mktemp("canaries")
    texts = [f"The quick brown fox number {number} jumps over the lazy dog." for number in range(60)]
    rows = [json.dumps({"text": text}) for text in [*texts, f"The key is {IN_DATA} and no other."]]
    (folder / "rows.jsonl").write_text("\n".join([*rows, '{"text": "torn ' + IN_DATA]) + "\n")
    with running_hub() as hub:
        hub.users[IN_ENVIRONMENT] = hub.users[WRITE]
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_TOKEN": IN_ENVIRONMENT, "HF_HUB_DISABLE_XET": "1", "PYTHONWARNINGS": "default"}

        def command(*words: str) -> subprocess.CompletedProcess[bytes]:
            argv = [sys.executable, "-m", "hf_finetune.cli", *words]
            return subprocess.run(argv, env=environment, capture_output=True, cwd=folder)

        train = ("train", str(ROOT / "recipes/configs/char_model.yaml"), "data.train=rows.jsonl", "data.format=text")
        train += ("data.on_bad_line=skip", "output_dir=out", "train.use_cpu=true", *SMALL)
        train += ("train.max_steps=4", "train.save_strategy=steps", "train.save_steps=2", "train.logging_steps=1")
        train += ("train.report_to=tensorboard", "eval.max_new_tokens=4", "train.eval_steps=2", "card.license=mit")
        train += ("hub.repo_id=ada/fox", "hub.push_every=2")
        done = command(*train)
        refused = [command(*train, argument) for argument in (f"hub.token={IN_ARGUMENTS}", IN_ARGUMENTS)]
        yield folder, hub, done, refused


def test_the_run_is_trained_tracked_and_pushed(trained):
    folder, hub, done, _ = trained
    assert done.returncode == 0, done.stderr.decode()
    names = {path.name for path in (folder / "out").rglob("*")}
    assert {"state.json", "state.safetensors", "trainer_state.json", "report.json", "manifest.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert "model.safetensors" in hub.files("ada/fox")
    assert "model.safetensors" in hub.files("ada/fox", "checkpoints")


def test_no_canary_is_in_what_it_said(trained):
    _, _, done, refused = trained
    assert hits(done.stdout + done.stderr) == []
    for each in refused:
        assert each.returncode == 2
        assert hits(each.stdout + each.stderr) == []
        assert b"accelerate launch" not in each.stderr, "nothing was launched"


def test_no_canary_is_in_any_byte_of_what_it_wrote(trained):
    folder, _, _, _ = trained
    written = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert len(written) > 20
    assert {path: hits(path.read_bytes()) for path in written if hits(path.read_bytes())} == {}


def test_no_canary_is_in_any_body_that_was_sent_and_the_token_only_where_it_belongs(trained):
    _, hub, _, _ = trained
    assert any(request.authorization == f"Bearer {IN_ENVIRONMENT}" for request in hub.requests)
    for request in hub.requests:
        assert hits(request.body + request.other_headers.encode() + request.path.encode()) == [], request.path
    for branch in ("main", "checkpoints"):
        assert {name: hits(content) for name, content in hub.files("ada/fox", branch).items() if hits(content)} == {}


def test_a_canary_is_found_where_there_is_one():
    for secret in CANARIES:
        wrapped = base64.b64encode(b"xy" + secret.encode() + b"z")
        assert hits(secret.encode()) == hits(wrapped) == hits(b"a" + secret.encode("utf-16-le")) == [secret]
