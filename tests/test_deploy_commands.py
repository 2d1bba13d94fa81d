"""The commands of docs/deploy.md, run one after the other on small models in the places of the runs that they name."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
from pathlib import Path

import pytest
from release.export.gguf_models import chat_tokenizer, tiny
from release.export.test_gguf_exports import GATED, adapter_over, scratch
from transformers import BertConfig, BertForSequenceClassification
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.folders import EXPORT
from hf_finetune.release.export.ollama import rendering

for package in ("xllamacpp", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    # Of torch's exporter, which `--to onnx` calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| .+ \| `(hf-finetune [^`]+)`", PAGE, re.MULTILINE)
BLOCKS = re.findall(r"```console\n(.+?)```", PAGE, re.DOTALL)
COMMANDS = [[line] for line in TABLE] + [re.findall(r"^\$ (.+)$", block, re.MULTILINE) for block in BLOCKS]
# A server does not end: those of docs/serving.md are run by its own tests, pushes by those of the Hub. Packages are
# installed here.
ELSEWHERE = ("hf-finetune serve runs/sft", ("pip ", "hf-finetune push "))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model, adapters over it, a classifier, and a GPT from scratch, where the page has them."""
    root = tmp_path_factory.mktemp("deploy")
    (root / "runs").mkdir()
    (root / "data_templates").symlink_to(ROOT / "data_templates")
    for model, name in ((tiny(), "sft"), (classifier(), "classification")):
        model.save_pretrained(root / "runs" / name)
        chat_tokenizer().save_pretrained(root / "runs" / name)
    for name in ("lora", "python_tools"):
        chat_tokenizer().save_pretrained(adapter_over(root / "runs" / "sft", root / "runs" / name))
    scratch(root / "runs" / "first", **GATED)
    return root


def classifier() -> BertForSequenceClassification:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=293, num_labels=3, pad_token_id=2, **sizes)).eval()


@pytest.mark.parametrize("commands", COMMANDS, ids=[each[-1] for each in COMMANDS])
def test_a_command_of_the_page_does_what_it_says(
    commands: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setattr(rendering, "find_go", lambda: None)  # its compiler takes ten seconds the first time
    for name in ("exported", "labels", "adapter"):
        shutil.rmtree(name, ignore_errors=True)
    for line in commands:
        if line == ELSEWHERE[0] or line.startswith(ELSEWHERE[1]):
            continue
        # Those of the command before write where nothing is open.
        monkeypatch.setattr(logging.root, "handlers", [])
        _, *words = shlex.split(line)
        if words[0] == "export":
            words += ["--rows", "4"]  # of the 64, which are asked one by one
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert done.stdout.strip()
        if words[0] == "export":
            assert Path(words[2], EXPORT).is_file()


def test_the_page_has_commands_for_every_way_out() -> None:
    said = " ".join(line for each in COMMANDS for line in each)
    assert len(TABLE) == 10
    assert all(f"--to {name}" in said for name in ("onnx", "llama", "gguf", "ollama", "vllm"))
