"""Each command reads a model of the Hub at one commit, even if somebody pushes another while it is read."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers.utils.hub
from chat_models import saved_parrot
from evaluation.prediction.labelling_models import saved_classifier
from huggingface_hub import HfApi, constants
from peft import AutoPeftModelForCausalLM
from release.hub.hub_server import Hub
from safetensors.torch import load_file, save_file
from tuned_adapters import adapter_on, train
from tuned_classifiers import saved_backbone

import hf_finetune as hf
from hf_finetune.cli import main
from hf_finetune.models.adapters.loading import suppress_peft_warnings
from hf_finetune.models.files.locate import pin_commits
from hf_finetune.release.hub import push_folder

MODEL = "ada/model"


@pytest.fixture(autouse=True)
def empty_cache(hub, tmp_path, monkeypatch):
    """What is loaded comes from the server, as on a machine that has read nothing yet."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    address = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", HfApi(endpoint=hub.endpoint))  # else of an earlier test
    yield
    pin_commits({})


def push(hub: Hub, folder: Path) -> str:
    """Push a folder, and return the commit."""
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# X\n")
    push_folder(folder, MODEL)
    return hub.repositories[MODEL].branches["main"]


def push_both(hub: Hub, monkeypatch: pytest.MonkeyPatch, save: Callable[[Path, int], object], tmp_path: Path) -> None:
    """Push two models, and let the branch move from the first to the second once a file of it was asked for."""
    commits = []
    for number, name in enumerate(("first", "second")):
        save(tmp_path / name, number)
        commits.append(push(hub, tmp_path / name))
    repository = hub.repositories[MODEL]
    repository.branches["main"] = commits[0]

    class Requests(list):
        def append(self, request) -> None:
            super().append(request)
            # Not between the HEAD and the GET of one file, which huggingface_hub 2.4 does not hold together.
            if request.method == "GET" and request.status == 200 and re.search("/resolve/main|/cdn/", request.path):
                repository.branches["main"] = commits[1]

    monkeypatch.setattr(hub, "requests", Requests())


def run(monkeypatch: pytest.MonkeyPatch, *words: object, typed: str = "") -> None:
    monkeypatch.setattr(sys, "argv", ["hf-finetune", *map(str, words)])
    monkeypatch.setattr(logging.root, "handlers", [])  # they keep the stream that was standard error
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code


def save_parrot(folder: Path, number: int) -> None:
    saved_parrot(folder, {"\n": "bc"[number]})


def save_labeler(folder: Path, number: int) -> None:
    saved_classifier(folder, (("bad", "good"), ("no", "yes"))[number])


def save_llama(folder: Path, number: int) -> None:
    saved_backbone(folder, "llama")
    file = folder / "model.safetensors"
    save_file({name: each * (1 + number) for name, each in load_file(file).items()}, file, {"format": "pt"})


def check_moved(hub: Hub) -> None:
    """The branch has moved while the command ran."""
    assert hub.repositories[MODEL].branches["main"] == list(hub.repositories[MODEL].commits)[-1]


@pytest.mark.parametrize("command", ["generate", "chat", "from Python"])
def test_a_model_that_moves_while_it_is_loaded_speaks_as_the_first(hub, tmp_path, monkeypatch, capsys, command):
    push_both(hub, monkeypatch, save_parrot, tmp_path)
    if command == "from Python":
        assert hf.generate(MODEL, "a", temperature=0.0, max_new_tokens=3)[0].continuation == "b"
        assert (
            hf.generate(MODEL, "a", temperature=0.0, max_new_tokens=3)[0].continuation == "c"
        )  # the next call has the next
        return
    asked = ("a",) if command == "generate" else ()
    run(monkeypatch, command, MODEL, *asked, "--temperature", 0, "--max-new-tokens", 3, typed="a\n")
    assert capsys.readouterr().out.strip().splitlines()[-1].strip()[-1] == "b"
    check_moved(hub)


def test_a_classifier_that_moves_while_it_is_loaded_has_the_labels_of_the_first(hub, tmp_path, monkeypatch, capsys):
    push_both(hub, monkeypatch, save_labeler, tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a good day"}\n')
    run(monkeypatch, "predict", MODEL, rows, "--output", tmp_path / "labelled.jsonl")
    assert set(json.loads((tmp_path / "labelled.jsonl").read_text())["scores"]) == {"bad", "good"}
    check_moved(hub)
    assert set(hf.predict(MODEL, ["a good day"])[0]["scores"]) == {"no", "yes"}


def test_an_adapter_is_merged_into_one_commit_of_its_base(hub, tmp_path, monkeypatch):
    push_both(hub, monkeypatch, save_llama, tmp_path)
    model = train(adapter_on(tmp_path / "first", {"target_modules": ["q_proj", "v_proj"]}))
    model.save_pretrained(tmp_path / "adapter")  # without our record of its base, as another tool leaves it
    with suppress_peft_warnings():
        expected = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").merge_and_unload().state_dict()
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": MODEL}))
    run(monkeypatch, "merge", tmp_path / "adapter", tmp_path / "merged")
    check_moved(hub)
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert merged
    for name, weight in merged.items():
        torch.testing.assert_close(weight, expected[name])
