"""Which model was read: written down, and the same one for a whole run; files from the Hub that are damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.utils.other import get_free_port
from huggingface_hub import constants
from huggingface_hub.utils import close_session, disable_progress_bars
from release.hub.hub_server import READ, Blob, Hub, git_oid, running_hub
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import hub as transformers_hub
from tuned_adapters import TOKENIZER, adapter_on, save, saved_base, train

import hf_finetune as hf
from hf_finetune.config.sections import DataSection, ModelSection, Run, ScratchSection
from hf_finetune.errors import FinetuneError, ModelError
from hf_finetune.models.adapters.attach import attach_adapter
from hf_finetune.models.adapters.loading import load_adapter
from hf_finetune.models.files.adapter import read_base_record
from hf_finetune.models.files.locate import resolve_commit
from hf_finetune.models.files.provenance import describe_model_source, pin_revision
from hf_finetune.models.loading import load_causal_lm, load_config
from hf_finetune.models.saved import load_for_generation
from hf_finetune.run import start_scoring

NAME = "ada/base"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return saved_base(tmp_path / "base")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on loopback, with a cache that is empty."""
    disable_progress_bars()
    with running_hub() as hub:
        files = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(transformers_hub, "_hf_api", None)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", READ)
        close_session()
        yield hub
        close_session()


def on_hub(hub: Hub, folder: Path, name: str = NAME) -> str:
    """A commit with a folder's files on the Hub, weights as it stores large files; returns its id."""
    repository = hub.repositories.get(name) or hub.make(name, private=False)
    files = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        large = hashlib.sha256(content).hexdigest() if path.suffix == ".safetensors" else None
        files[path.name] = Blob(git_oid(content), len(content), large)
        (hub.large if large else hub.blobs)[large or git_oid(content)] = content
    head = hub.commit(repository, files, repository.branches["main"], "a commit")
    repository.branches["main"] = head
    return head


def run_with(model: ModelSection) -> Run:
    return Run(recipe="lora", model=model, data=DataSection(train="x"), train={}, output_dir="runs/x")


def changed(folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    model.save_pretrained(folder)
    return folder


def test_a_folder_is_known_by_its_name_and_what_is_in_it(base, tmp_path):
    source = describe_model_source(ModelSection(path=str(base)))
    assert (source["name"], source["revision"]) == (str(base), None)
    files = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(source["sha256"]) == files
    for name, digest in source["sha256"].items():
        assert hashlib.sha256((base / name).read_bytes()).hexdigest() == digest
    json.dumps(source)
    shutil.copytree(base, tmp_path / "copy")
    assert describe_model_source(ModelSection(path=str(tmp_path / "copy")))["sha256"] == source["sha256"]
    assert describe_model_source(ModelSection(path=str(changed(base))))["sha256"] != source["sha256"]


def test_random_weights_have_no_source_and_a_tokenizer_has_its_own(base):
    section = ModelSection(scratch=ScratchSection(), tokenizer=str(base))
    source = describe_model_source(section)
    assert (source["name"], source["sha256"]) == (None, {})
    assert "tokenizer.json" in source["tokenizer"]["sha256"]


def test_a_model_of_the_hub_is_known_by_its_commit_and_stays_that_commit(hub, base):
    first = on_hub(hub, base)
    run = pin_revision(run_with(ModelSection(path=NAME)))
    assert run.model.revision == first == resolve_commit(NAME)
    assert describe_model_source(run.model) == {"name": NAME, "revision": first, "sha256": {}}
    before = AutoModelForCausalLM.from_pretrained(base)
    second = on_hub(hub, changed(base))
    assert resolve_commit(NAME) == first  # for this process, until another run asks anew
    loaded = load_causal_lm(run.model, load_config(run.model, TOKENIZER), 8, bf16=False)
    assert torch.equal(loaded.lm_head.weight, before.lm_head.weight)
    assert pin_revision(run) == run
    assert pin_revision(run_with(ModelSection(path=NAME))).model.revision == second != first


def test_a_folder_and_a_model_from_random_weights_have_nothing_to_pin(base):
    for section in (ModelSection(path=str(base)), ModelSection(scratch=ScratchSection())):
        run = run_with(section)
        assert pin_revision(run) is run


@pytest.mark.filterwarnings("ignore:Could not find a config file in ada/base:UserWarning")  # peft asks the Hub itself
def test_an_adapter_on_a_model_of_the_hub_names_its_commit_and_loads_over_it(hub, base, tmp_path):
    first = on_hub(hub, base)
    adapter = save(train(adapter_on_hub()), tmp_path / "adapter")
    record = read_base_record(adapter)
    assert (record.name_or_path, record.revision) == (NAME, first)
    on_hub(hub, changed(base))
    load_adapter(str(adapter))


def adapter_on_hub():
    section = ModelSection(path=NAME)
    return attach_adapter(load_causal_lm(section, load_config(section, TOKENIZER), 8, bf16=False), None)


def test_an_adapter_of_the_hub_whose_base_is_a_folder_is_refused_until_it_is_said_where(hub, base, tmp_path):
    adapter = save(train(adapter_on(base)), tmp_path / "adapter")
    on_hub(hub, adapter, "ada/adapter")
    with pytest.raises(ModelError, match=r"a folder of another machine; say where its base is now with --base-path"):
        load_for_generation("ada/adapter")
    load_for_generation("ada/adapter", base=str(base))


def blob_of(cache: Path) -> Path:
    (link,) = cache.rglob("snapshots/*/model.safetensors")
    return link.resolve()


def test_a_file_of_the_cache_that_is_cut_short_is_fetched_again_once(hub, base, tmp_path):
    on_hub(hub, base)
    load_for_generation(NAME)
    blob = blob_of(tmp_path / "cache")
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-10])
    hub.requests.clear()
    loaded, _ = load_for_generation(NAME)
    assert blob_of(tmp_path / "cache").read_bytes() == whole
    assert len(hub.asked("GET", "/cdn/")) == 1
    assert torch.equal(loaded.lm_head.weight, AutoModelForCausalLM.from_pretrained(base).lm_head.weight)


def test_a_file_that_the_hub_itself_has_cut_short_is_refused_by_name(hub, base):
    content = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(content[:-10])
    on_hub(hub, base)
    with pytest.raises(ModelError, match=rf"{NAME}/model.safetensors: model.safetensors is damaged or cut short"):
        load_for_generation(NAME)


def test_content_that_is_not_what_its_name_says_is_fetched_again_when_a_run_begins(hub, base, tmp_path):
    on_hub(hub, base)
    load_for_generation(NAME)
    blob = blob_of(tmp_path / "cache")
    whole = blob.read_bytes()
    assert hashlib.sha256(whole).hexdigest() == blob.name
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # one bit: the header still fits
    describe_model_source(ModelSection(path=NAME))
    assert blob_of(tmp_path / "cache").read_bytes() == whole


def test_content_that_is_other_on_the_hub_itself_than_its_name_says_is_refused(hub, base, tmp_path):
    on_hub(hub, base)
    load_for_generation(NAME)
    blob = blob_of(tmp_path / "cache")
    whole = blob.read_bytes()
    changed_by_a_bit = whole[:-1] + bytes([whole[-1] ^ 1])
    blob.write_bytes(changed_by_a_bit)
    hub.large[blob.name] = changed_by_a_bit
    with pytest.raises(ModelError, match=rf"{NAME}: model.safetensors is not what the Hub says it is; download"):
        describe_model_source(ModelSection(path=NAME))


def test_pickles_of_the_hub_are_not_fetched_and_nobody_is_asked_to_convert_them(hub, base):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    on_hub(hub, base)
    with pytest.raises(ModelError, match=r"has its weights as pytorch_model\.bin, a pickle"):
        load_for_generation(NAME)
    assert not [each for each in hub.requests if "discussions" in each.path or "convert" in each.path]


def test_offline_a_model_that_is_not_there_is_one_message_and_one_that_is_loads(hub, base, monkeypatch):
    on_hub(hub, base)
    load_for_generation(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    load_for_generation(NAME)
    assert pin_revision(run_with(ModelSection(path=NAME))).model.revision == resolve_commit(NAME)
    with pytest.raises(ModelError) as refused:
        load_for_generation("ada/never-seen")
    assert len(str(refused.value).splitlines()) == 1
    assert "ada/never-seen" in str(refused.value)
    assert hub.requests == []


def test_a_run_that_scores_reads_one_commit_from_beginning_to_end(hub, base, tmp_path):
    first = on_hub(hub, base)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a cat"}\n')
    settings = {"recipe": "score", "model": {"path": NAME}, "data": {"test": str(rows)}, "eval": {"base": "ada/other"}}
    on_hub(hub, base, "ada/other")
    other = resolve_commit("ada/other")
    run = start_scoring([settings | {"output_dir": str(tmp_path / "scores")}])
    for name in (NAME, "ada/other"):
        on_hub(hub, changed(base), name)
    assert (resolve_commit(NAME), resolve_commit("ada/other")) == (first, other)
    assert describe_model_source(run.model)["revision"] == first
    assert run.model.revision is None  # which a run file that scores does not take


def test_in_a_notebook_what_comes_after_a_run_reads_the_hub_as_it_is_then(hub, base, tmp_path):
    first = on_hub(hub, base)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a cat"}\n')
    settings = {"model": {"path": NAME}, "data": {"test": str(rows)}, "output_dir": str(tmp_path / "scores")}
    result = hf.score(settings)
    assert json.loads((result.folder / "manifest.json").read_text())["model"]["revision"] == first
    second = on_hub(hub, changed(base))
    assert resolve_commit(NAME) == second != first
    with pytest.raises(FinetuneError):
        hf.score(settings | {"eval": {"forget": "nothing.jsonl"}, "output_dir": str(tmp_path / "again")})
    third = on_hub(hub, changed(base))
    assert resolve_commit(NAME) == third != second  # nor does one that is refused pin it


def test_the_commit_is_not_written_into_a_saved_model(hub, base, tmp_path):
    commit = on_hub(hub, base)
    section = ModelSection(path=NAME)
    config = load_config(section, TOKENIZER)
    load_causal_lm(section, config, 8, bf16=False).save_pretrained(tmp_path / "saved")
    assert commit not in (tmp_path / "saved" / "config.json").read_text()
    assert (
        AutoConfig.from_pretrained(tmp_path / "saved").to_dict().keys()
        == AutoConfig.from_pretrained(base).to_dict().keys()
    )


def test_an_index_of_weights_that_is_none_is_refused(base: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match=r"model.safetensors.index.json: is no index of weights"):
        load_for_generation(str(base))


TWO = """
import os, sys, json
from hf_finetune.config.sections import DataSection, ModelSection, Run
from hf_finetune.environment import init_processes
from hf_finetune.models.files.locate import resolve_commit
from hf_finetune.models.files.provenance import pin_revision
init_processes()
model = ModelSection(path="ada/base", tokenizer="ada/words")
run = Run(recipe="sft", model=model, data=DataSection(train="x"), train={}, output_dir="x")
own = [resolve_commit("ada/base"), resolve_commit("ada/words")]
pinned = pin_revision(run)
print(json.dumps([own, [pinned.model.revision, resolve_commit("ada/words")]]))
"""


def test_two_processes_read_the_commits_that_the_first_has_found(base, tmp_path, environment_of_a_user):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_free_port())}
    processes = []
    for rank, commits in enumerate((["a" * 40, "b" * 40], ["c" * 40, "d" * 40])):
        cache = tmp_path / f"cache-{rank}"  # the branches have moved between one process and the other
        for name, commit in zip(("base", "words"), commits, strict=True):
            repository = cache / f"models--ada--{name}"
            for each in ("a" * 40, "b" * 40, "c" * 40, "d" * 40):
                shutil.copytree(base, repository / "snapshots" / each)
            (repository / "refs").mkdir()
            (repository / "refs" / "main").write_text(commit)
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = {**environment_of_a_user, **address, **ranks, "HF_HUB_CACHE": str(cache)}
        command = [sys.executable, "-W", "ignore", "-c", TWO]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    seen = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes]
    assert [own for own, _ in seen] == [["a" * 40, "b" * 40], ["c" * 40, "d" * 40]]
    assert [read for _, read in seen] == [["a" * 40, "b" * 40]] * 2
