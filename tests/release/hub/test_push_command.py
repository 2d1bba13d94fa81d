"""`hf-finetune push`, and models that are loaded from the Hub that it pushed them to, by processes without us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chat_models import parrot, talking_tokenizer
from models.scratch_models import tiny_model, token_ids
from peft import LoraConfig, get_peft_model
from release.hub.hub_folders import PUSHED
from release.hub.hub_server import WRITE, Fault
from transformers import LlamaConfig, LlamaForSequenceClassification
from tuned_adapters import TOKENIZER

import hf_finetune.cli as cli
from hf_finetune.models.adapters.loading import suppress_peft_warnings
from hf_finetune.models.files.adapter import edit_adapter_config
from hf_finetune.release.hub import PushOptions, push_folder

LOAD = """
import json, sys
sys.modules["hf_finetune"] = None
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
ids = torch.tensor(json.loads(sys.argv[1]))
found = {}
with torch.no_grad():
    model = AutoModelForCausalLM.from_pretrained("ada/scratch", trust_remote_code=True).eval()
    found["scratch"] = model(input_ids=ids).logits.tolist()
    model = AutoPeftModelForCausalLM.from_pretrained("ada/adapter").eval()
    found["adapter"] = model(input_ids=ids).logits.tolist()
    model = AutoModelForSequenceClassification.from_pretrained("ada/classifier").eval()
    found["classifier"] = model(input_ids=ids).logits.tolist()
found["tokens"] = AutoTokenizer.from_pretrained("ada/adapter")("Hello, you").input_ids
print(json.dumps(found))
"""


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `hf-finetune` in this process: exit code, standard output and standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hf-finetune", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


def saved(model, tokenizer, folder: Path, license: str = "mit") -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n# X\n")
    return folder


def logits(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_what_is_pushed_loads_elsewhere_as_it_was(hub, tmp_path):
    ids = token_ids(1, 6, seed=3)
    scratch = tiny_model(max_position_embeddings=64)
    talking = talking_tokenizer()
    base = parrot(talking, {"a": "b"})
    classifier = LlamaForSequenceClassification(
        LlamaConfig(vocab_size=61, hidden_size=16, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
                    pad_token_id=0, num_labels=3)
    )  # fmt: skip
    push_folder(saved(scratch, TOKENIZER, tmp_path / "scratch"), "ada/scratch")
    push_folder(saved(classifier, TOKENIZER, tmp_path / "classifier"), "ada/classifier")
    push_folder(saved(base, talking, tmp_path / "base"), "ada/base")
    base.name_or_path = str(tmp_path / "base")
    with suppress_peft_warnings():
        adapter = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    edit_adapter_config(saved(adapter, talking, tmp_path / "adapter"), {"base_model_name_or_path": "ada/base"})
    push_folder(tmp_path / "adapter", "ada/adapter")
    expected = {
        "scratch": logits(scratch, ids), "adapter": logits(adapter, ids), "classifier": logits(classifier, ids)
    }  # fmt: skip

    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": WRITE}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    argv = [sys.executable, "-c", LOAD, json.dumps(ids.tolist())]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, before in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), before)
    assert found["tokens"] == talking("Hello, you").input_ids
    pushed = set(hub.files("ada/adapter"))
    assert {"adapter_config.json", "adapter_model.safetensors"} < pushed
    assert not {"model.safetensors", "config.json"} & pushed, "the base stays where it is"
    assert "modeling_scratch_gpt.py" in hub.files("ada/scratch")
    cdn = hub.asked("GET", "/cdn/")
    assert cdn
    assert not any(request.authorization for request in cdn), "the token stays with the Hub"


def test_the_command_says_what_it_did(hub, folder, command):
    code, out, _ = command("push", folder, "ada/model", "--json")
    facts = json.loads(out)
    assert (code, facts["repo_id"], facts["private"], facts["files"]) == (0, "ada/model", True, len(PUSHED))
    code, out, _ = command("push", folder, "ada/model")
    assert code == 0
    assert f"pushed to {hub.endpoint}/ada/model (private" in out
    assert "were there already" in out
    assert WRITE not in out


def test_a_dry_run_lists_what_would_go_and_sends_nothing(hub, folder, command):
    code, out, _ = command("push", folder, "ada/model", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert {file["name"] for file in plan["files"]} == PUSHED
    _, out, _ = command("push", folder, "ada/model", "--dry-run", "--public")
    assert "would go to ada/model (public); nothing was sent" in out
    assert all(name in out for name in PUSHED)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["my model"], "names no owner; did you mean your-user-name/my-model?"),
        (["https://huggingface.co/ada/model"], "is an address, not a name; did you mean ada/model?"),
        (["ada/model", "--license", "apache"], "did you mean apache-2.0?"),
        (["ada/model/extra"], "did you mean ada/model?"),
    ],
)
def test_what_is_wrong_with_the_command_is_said_before_anything_is_asked(hub, folder, command, words, said):
    code, out, err = command("push", folder, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert hub.requests == []


def test_a_failed_push_exits_6_and_the_command_it_names_goes_on(hub, folder, command):
    hub.faults = [Fault(403, "POST", "/commit/")]
    code, out, err = command("push", folder, "ada/model", "--revision", "v1", "--license", "apache-2.0")
    assert (code, out) == (6, "")
    assert "the token may not do that" in err
    assert WRITE not in err
    words = err.rpartition("to go on: `hf-finetune ")[2].partition("`")[0].split()
    assert words[0] == "push"
    sent = len(hub.uploads())
    assert command(*words)[0] == 0
    assert hub.files("ada/model", "v1").keys() > PUSHED
    assert len(hub.uploads()) == sent, "what had arrived is not sent again"


def test_the_license_is_asked_for_in_a_terminal_and_refused_elsewhere(hub, folder, command, monkeypatch):
    (folder / "README.md").write_text("# Mine\n")
    code, _, err = command("push", folder, "ada/model")
    assert code == 2
    assert "give --license" in err
    person, terminal = os.openpty()
    os.write(person, b"cc-by-4.0\n")
    with os.fdopen(terminal, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        code, out, _ = command("push", folder, "ada/model")
    os.close(person)
    assert code == 0
    assert "says no license" in out
    assert hub.files("ada/model")["README.md"].startswith(b"---\nlicense: cc-by-4.0\n")


def test_offline_is_said_at_once(hub, folder, command, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, _, err = command("push", folder, "ada/model")
    assert code == 6
    assert "HF_HUB_OFFLINE is set" in err


def test_the_command_in_a_process_of_its_own_reaches_the_hub_by_its_endpoint(hub, folder, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": WRITE}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    argv = [sys.executable, "-m", "hf_finetune.cli", "push", str(folder), "ada/model", "--public", "--message", "First"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["ada/model"]
    assert repository.titles[repository.branches["main"]] == "First"
    assert not repository.private
    assert done.stderr.count("\n") <= 2, done.stderr
    assert PushOptions().message not in repository.titles.values()
