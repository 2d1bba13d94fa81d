"""Pushing a folder: what goes, what never does, and what the repository then holds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import release.hub.hub_folders as folders
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from release.hub.hub_folders import PUSHED, model_folder
from release.hub.hub_server import FINE, READ, WRITE, Fault

from hf_finetune.config.sections import CardSection, DataSection, HubSection, ModelSection, Run
from hf_finetune.errors import ConfigError, DataError, HubError, NotPushedError, RunFinished
from hf_finetune.files import hash_file
from hf_finetune.models import scratch_gpt
from hf_finetune.release.hub import PushOptions, check_push, plan_push, push_folder, push_run
from hf_finetune.release.hub.card import read_license
from hf_finetune.reporting.card import NO_LICENSE, write_card
from hf_finetune.typed_again import check_typed_again

HOSTILE = Path(__file__).parents[2] / "hostile"
PRIVATE = PushOptions(patience=2.0)
PUBLIC = PushOptions(public=True, patience=2.0)


def run_of(output: object, repo_id: str = "ada/model", **hub: object) -> Run:
    return Run(
        recipe="sft",
        model=ModelSection(path="base"),
        data=DataSection(train="x.jsonl"),
        train={},
        card=CardSection(license="mit"),
        hub=HubSection(repo_id=repo_id, **hub),
        output_dir=str(output),
    )


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_only_files_of_the_list_are_pushed_in_one_commit_to_a_private_repository(hub, folder):
    before = snapshot(folder)
    facts = push_folder(folder, "ada/model", options=PRIVATE)
    assert set(hub.files("ada/model")) == PUSHED | {".gitattributes"}
    assert all(hub.files("ada/model")[name] == (folder / name).read_bytes() for name in PUSHED)
    assert len(hub.history("ada/model")) == 2, "the repository's first commit, and ours"
    assert hub.repositories["ada/model"].private
    assert (facts.files, facts.sent_files, facts.private) == (len(PUSHED), len(PUSHED), True)
    assert facts.bytes == sum((folder / name).stat().st_size for name in PUSHED)
    assert facts.commit == hub.repositories["ada/model"].branches["main"]
    assert snapshot(folder) == before
    assert not any(b"private" in request.body for request in hub.requests if "/commit/" in request.path)


def test_a_second_push_of_the_same_sends_nothing_and_commits_nothing(hub, folder):
    first = push_folder(folder, "ada/model", options=PRIVATE)
    hub.requests.clear()
    again = push_folder(folder, "ada/model", options=PRIVATE)
    assert (again.commit, again.sent_files, again.sent_bytes) == (first.commit, 0, 0)
    assert not [request for request in hub.requests if request.method in ("POST", "PUT")]


def test_files_of_another_model_are_removed_and_files_of_others_stay(hub, tmp_path):
    push_folder(model_folder(tmp_path / "first", shards=3), "ada/model", options=PRIVATE)
    hub.put("ada/model", "examples/photo.txt", b"by hand")
    hub.put("ada/model", "adapter_config.json", b"{}")
    facts = push_folder(model_folder(tmp_path / "second", seed=1), "ada/model", options=PRIVATE)
    names = {"examples/photo.txt", ".gitattributes"} | PUSHED
    assert set(hub.files("ada/model")) == names
    shards = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(facts.removed) == sorted(["adapter_config.json", *shards, "model.safetensors.index.json"])


def test_large_weights_go_in_parts(hub, folder):
    hub.multipart_from, hub.part_size = 5000, 3000
    push_folder(folder, "ada/model", options=PRIVATE)
    assert hub.files("ada/model")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert len(hub.asked("PUT", "/part/")) == 3


def test_a_branch_is_made_and_main_stays_as_it_is(hub, folder):
    facts = push_folder(folder, "ada/model", options=PushOptions(revision="v2", patience=2.0))
    assert set(hub.files("ada/model")) == {".gitattributes"}
    assert set(hub.files("ada/model", "v2")) > PUSHED
    assert facts.commit == hub.repositories["ada/model"].branches["v2"]


def test_a_pull_request_leaves_the_branch_as_it_is_and_needs_no_right_to_write(hub, folder):
    hub.make("someone/model", private=False)
    options = PushOptions(public=True, create_pr=True, patience=2.0)
    facts = push_folder(folder, "someone/model", options=options)
    assert set(hub.files("someone/model")) == {".gitattributes"}
    assert set(hub.files("someone/model", "refs/pr/1")) > PUSHED
    assert facts.url.endswith("/someone/model/discussions/1")


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(hub, folder):
    hub.make("ada/model")
    hub.faults = [Fault("lost", "POST", "/commit/")]
    with pytest.raises(NotPushedError, match="cannot be reached"):
        push_folder(folder, "ada/model", options=PushOptions(create_pr=True, patience=2.0))
    assert [name for name in hub.repositories["ada/model"].branches if "pr" in name] == ["refs/pr/1"]


def test_a_public_repository_takes_nothing_unasked(hub, folder):
    hub.make("ada/model", private=False)
    with pytest.raises(NotPushedError, match=r"is public.*--public"):
        push_folder(folder, "ada/model", options=PRIVATE)
    assert set(hub.files("ada/model")) == {".gitattributes"}
    assert not push_folder(folder, "ada/model", options=PUBLIC).private


def test_a_repository_is_public_where_that_was_said(hub, folder):
    push_folder(folder, "ada/model", options=PUBLIC)
    assert not hub.repositories["ada/model"].private


def test_the_license_given_goes_into_the_pushed_card_alone(hub, folder):
    push_folder(folder, "ada/model", options=PushOptions(license="cc-by-4.0", patience=2.0))
    card = hub.files("ada/model")["README.md"].decode()
    assert card.startswith("---\nlicense: cc-by-4.0\ntags:\n- test\n---\n")
    assert card.count("license") == 1
    assert (folder / "README.md").read_text() == folders.CARD


def test_a_card_of_ours_names_the_repository_and_the_license_unless_somebody_wrote_in_it(hub, folder):
    (folder / "README.md").unlink()
    for name in ("report.json", "generation_config.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps({"recipe": "sft"}))
    (folder / "manifest.json").unlink()
    ours = write_card(folder).read_text()
    assert NO_LICENSE in ours
    push_folder(folder, "ada/model", options=PushOptions(license="mit", patience=2.0))
    pushed = hub.files("ada/model")["README.md"].decode()
    assert pushed.startswith("---\nlicense: mit\n")
    assert 'name = "ada/model"' in pushed
    assert NO_LICENSE not in pushed
    assert (folder / "README.md").read_text() == ours
    (folder / "README.md").write_text(ours + "\nWritten by hand.\n")
    push_folder(folder, "ada/model", options=PushOptions(license="mit", patience=2.0))
    pushed = hub.files("ada/model")["README.md"].decode()
    assert pushed.endswith("\nWritten by hand.\n")
    assert NO_LICENSE not in pushed


def test_a_card_without_metadata_gets_the_license_given(hub, folder):
    (folder / "README.md").write_text("# Mine\n")
    push_folder(folder, "ada/model", options=PushOptions(license="unknown", patience=2.0))
    assert hub.files("ada/model")["README.md"] == b"---\nlicense: unknown\n---\n\n# Mine\n"


@pytest.mark.parametrize(
    ("card", "license", "said"),
    [
        ("# No metadata\n", None, "says no license"),
        ("---\ntags: [x]\n---\n", None, "says no license"),
        ("---\nlicense: apache\n---\nx", None, "did you mean apache-2.0"),
        ("x", "MIT", "did you mean mit"),
        ("", "mit", "no model card"),
    ],
)
def test_a_license_is_asked_for_and_never_made_up(hub, folder, card, license, said):
    (folder / "README.md").write_text(card)
    with pytest.raises(ConfigError, match=said):
        push_folder(folder, "ada/model", options=PushOptions(license=license))
    assert hub.requests == []


def test_a_card_that_the_hub_refuses_stops_the_push_with_its_reason(hub, folder):
    (folder / "README.md").write_text("---\nlicense: mit\ntags: x\n---\n# X\n")
    hub.faults = [Fault(400, "POST", "validate-yaml")]
    with pytest.raises(NotPushedError, match="refuses it"):
        push_folder(folder, "ada/model", options=PRIVATE)
    assert set(hub.files("ada/model")) == {".gitattributes"}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_file_that_is_not_what_the_run_wrote_is_refused(hub, folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(DataError, match=rf"{name}: is not what the run wrote"):
        push_folder(folder, "ada/model", options=PRIVATE)
    assert hub.requests == []


def test_a_card_may_be_edited_and_a_missing_file_is_named(hub, folder):
    (folder / "README.md").write_text(folders.CARD + "More.\n")
    push_folder(folder, "ada/model", options=PRIVATE)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"tokenizer.json: is missing"):
        push_folder(folder, "ada/model", options=PRIVATE)


LINKS = [json.loads(line) for line in (HOSTILE / "folders.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("link", LINKS, ids=[f"{each['name']} to {each['to']}" for each in LINKS])
def test_a_link_is_followed_to_what_is_pushed_and_to_nothing_else(hub, tmp_path, link):
    folder = model_folder(tmp_path / "folder")
    (tmp_path / "of-others").mkdir()
    (tmp_path / "of-others" / "id_ed25519").write_text("of another place")
    (folder / "data.jsonl").write_text("{}")
    (folder / "through").symlink_to("../of-others/id_ed25519")
    (folder / "additional_chat_templates").mkdir()
    (folder / link["name"]).symlink_to(link["to"])
    if link["push"] is None:
        push_folder(folder, "ada/model", options=PRIVATE)
        assert b"# A model" in hub.files("ada/model")[link["name"]]
        return
    with pytest.raises(DataError, match=re.escape(f"{folder / link['name']}: {link['push']}")):
        push_folder(folder, "ada/model", options=PRIVATE)
    assert hub.repositories == {}


def test_the_folder_of_the_hubs_cache_is_pushed_through_its_links_to_blobs_alone(hub, tmp_path):
    cache = tmp_path / "models--org--name"
    made = model_folder(cache / "snapshots" / ("a1" * 20))
    (made / "manifest.json").unlink()
    (cache / "blobs").mkdir()
    (made / "config.json").rename(cache / "blobs" / ("b2" * 20))
    (made / "config.json").symlink_to(f"../../blobs/{'b2' * 20}")
    push_folder(made, "ada/model", options=PRIVATE)
    assert "config.json" in hub.files("ada/model")
    (cache / "token").write_text("private")
    (made / "LICENSE").symlink_to("../../token")
    with pytest.raises(DataError, match="is a link out of the folder"):
        push_folder(made, "ada/model", options=PRIVATE)


@pytest.mark.parametrize("name", ["README.md", "config.json", "base_model.json"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_never_ends_is_refused_before_it_is_opened(tmp_path, name, make):
    folder = model_folder(tmp_path / "folder")
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(DataError, match=rf"folder/{name}: is (no |a named pipe)"):
        plan_push(folder, "ada/model", options=PRIVATE)
    if name == "README.md":  # which the command asks for its license first
        with pytest.raises(DataError, match=r"README\.md: is no file of this folder"):
            read_license(folder)


def test_code_of_a_scratch_gpt_that_somebody_has_altered_is_not_pushed(hub, tmp_path):
    folder = model_folder(tmp_path / "folder")
    (folder / "manifest.json").unlink()
    (folder / "config.json").write_text('{"model_type": "scratch_gpt"}')
    for path in Path(scratch_gpt.__path__[0]).glob("*_scratch_gpt.py"):
        shutil.copy(path, folder)
    push_folder(folder, "ada/model", options=PRIVATE)
    assert "modeling_scratch_gpt.py" in hub.files("ada/model")
    with (folder / "modeling_scratch_gpt.py").open("a") as file:
        file.write("import os\n")
    with pytest.raises(DataError, match=r"modeling_scratch_gpt\.py: is not the code of hf-finetune"):
        push_folder(folder, "ada/model", options=PRIVATE)
    # SECURITY.md says so: a manifest is believed, whoever wrote it.
    forged = {"files": {"modeling_scratch_gpt.py": hash_file(folder / "modeling_scratch_gpt.py")}}
    (folder / "manifest.json").write_text(json.dumps(forged))
    push_folder(folder, "ada/model", options=PRIVATE)
    (folder / "manifest.json").write_text('{"files": []}')
    with pytest.raises(DataError, match="files is no object"):
        push_folder(folder, "ada/model", options=PRIVATE)


@pytest.mark.parametrize(
    ("missing", "error", "said"),
    [
        (["model.safetensors", "manifest.json"], ConfigError, "there are no weights as .safetensors"),
        (["config.json", "manifest.json"], ConfigError, "there is no config.json or adapter_config.json"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(hub, folder, missing, error, said):
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(error, match=said):
        push_folder(folder, "ada/model", options=PRIVATE)


def test_a_missing_shard_is_named(hub, tmp_path):
    folder = model_folder(tmp_path / "sharded", shards=2)
    (folder / "manifest.json").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DataError, match=r"model-00002-of-00002\.safetensors: is named by the index and missing"):
        push_folder(folder, "ada/model", options=PRIVATE)


def test_a_file_that_the_hub_leaves_out_is_noticed(hub, folder):
    hub.ignored = {"tokenizer.json"}
    with pytest.raises(NotPushedError, match=r"does not hold tokenizer.json"):
        push_folder(folder, "ada/model", options=PRIVATE)


@pytest.mark.parametrize(
    ("adapter", "license", "pushed"), [(False, None, False), (False, "other", True), (True, None, True)]
)
def test_weights_of_a_gated_base_are_not_published_unless_somebody_said_its_license(
    hub, folder, adapter, license, pushed
):
    hub.make("meta/llama", private=False, gated="manual")
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: meta/llama\n---\n# X\n")
    if adapter:
        for old, new in (("config.json", "adapter_config.json"), ("model.safetensors", "adapter_model.safetensors")):
            (folder / old).rename(folder / new)
        (folder / "manifest.json").unlink()
    options = PushOptions(public=True, license=license, patience=2.0)
    if pushed:
        push_folder(folder, "ada/model", options=options)
        return
    with pytest.raises(NotPushedError, match=r"weights of meta/llama"):
        push_folder(folder, "ada/model", options=options)
    assert "ada/model" not in hub.repositories
    push_folder(folder, "ada/model", options=PRIVATE)


def test_a_gated_base_is_refused_before_it_is_trained_and_any_checkpoint_of_it_pushed(hub, tmp_path):
    hub.make("meta/llama", private=False, gated="manual")
    run = run_of(tmp_path, private=False).model_copy(update={"model": ModelSection(path="meta/llama")})
    with pytest.raises(HubError, match="these are the weights of meta/llama"):
        check_push(run)
    check_push(run.model_copy(update={"lora": {"r": 4}}))


def test_an_adapter_on_a_base_of_this_machine_is_said_to_load_nowhere_else(folder, tmp_path, caplog):
    (tmp_path / "base").mkdir()
    for base, warned in ((tmp_path / "base", True), ("ada/base", False)):
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
        (folder / "manifest.json").unlink(missing_ok=True)
        caplog.clear()
        plan_push(folder, "ada/model", options=PRIVATE)
        assert ("loads only where its base is" in caplog.text) == warned


def test_pushing_needs_neither_torch_nor_transformers():
    code = "import sys, hf_finetune.release.hub; print({'torch', 'transformers'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


def test_a_base_that_only_some_may_see_is_a_gated_one(hub, folder):
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: [ada/not-there, meta/llama]\n---\n# X\n")
    hub.faults = [Fault(403, "GET", "meta/llama", headers={"X-Error-Code": "GatedRepo"})]
    with pytest.raises(NotPushedError, match="weights of meta/llama"):
        push_folder(folder, "ada/model", options=PUBLIC)
    push_folder(folder, "ada/model", options=PUBLIC)


def test_what_another_commits_meanwhile_stays_and_ours_goes_on_top(hub, folder):
    push_folder(folder, "ada/model", options=PRIVATE)
    (folder / "README.md").write_text(folders.CARD + "New.\n")
    plan = plan_push(folder, "ada/model", options=PRIVATE)
    assert len(plan) == len(PUSHED)
    moved = []

    class Moving(Fault):
        def strikes(self, method, path):
            if method == "POST" and "/commit/" in path and not moved:
                moved.append(hub.put("ada/model", "notes.md", b"theirs"))
            return False

    hub.faults = [Moving(0)]
    facts = push_folder(folder, "ada/model", options=PRIVATE)
    assert hub.files("ada/model")["notes.md"] == b"theirs"
    assert hub.files("ada/model")["README.md"].endswith(b"New.\n")
    assert hub.repositories["ada/model"].parents[facts.commit] == moved[0]
    assert [request.status for request in hub.asked("POST", "/commit/")][-2:] == [412, 200]


def test_a_repository_that_never_stands_still_is_left_after_the_second_try(hub, folder):
    hub.make("ada/model")
    hub.faults = [Fault(412, "POST", "/commit/", times=9)]
    with pytest.raises(NotPushedError, match="others have written"):
        push_folder(folder, "ada/model", options=PRIVATE)
    assert len(hub.asked("POST", "/commit/")) == 2


# Before training.


def test_a_run_that_may_be_pushed_is_let_through_and_leaves_nothing_behind(hub, tmp_path):
    for repo_id in ("ada/new", "lab/new"):
        check_push(run_of(tmp_path, repo_id))
    hub.make("ada/old")
    check_push(run_of(tmp_path, "ada/old"))
    assert set(hub.repositories) == {"ada/old"}
    assert {request.method for request in hub.requests} == {"GET"}


@pytest.mark.parametrize("who", [[], {"auth": 5}, {"auth": {"accessToken": []}}])
def test_a_hub_that_does_not_say_who_one_is_is_one_message(hub, tmp_path, who):
    hub.users[WRITE] = who
    with pytest.raises(HubError, match="answer is none that is understood"):
        check_push(run_of(tmp_path / "out", "lab/new"))


@pytest.mark.parametrize(
    ("token", "repo_id", "said"),
    [
        ("hf_" + "x" * 34, "ada/new", "does not accept the token"),
        (READ, "ada/new", "the token may only read"),
        (FINE, "ada/new", "the token may not write to ada/new"),
        (WRITE, "museum/new", "may only read in museum"),
        (WRITE, "adda/new", "did you mean ada"),
        (WRITE, "someone/open", "may not write to someone/open"),
        (WRITE, "ada/open", "ada/open is public"),
    ],
)
def test_a_run_that_could_not_be_pushed_is_refused_before_it_trains(hub, tmp_path, monkeypatch, token, repo_id, said):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.make("ada/open", private=False)
    hub.make("someone/open", private=False)
    run = run_of(tmp_path / "out", repo_id, private=repo_id != "someone/open")
    with pytest.raises(HubError, match=said) as refused:
        check_push(run)
    assert refused.value.exit_code == 2
    assert f"hf-finetune push {tmp_path / 'out'} {repo_id}" in str(refused.value), "what to do instead"
    assert token not in str(refused.value)


def test_no_token_and_no_network_are_said_before_training(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(HubError, match="no Hugging Face token"):
        check_push(run_of(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        check_push(run_of(tmp_path))
    assert hub.requests == []


def test_other_ranks_and_runs_without_a_hub_ask_nothing(hub, tmp_path, monkeypatch):
    check_push(run_of(tmp_path).model_copy(update={"hub": None}))
    monkeypatch.setenv("RANK", "1")
    check_push(run_of(tmp_path))
    push_run(run_of(tmp_path))
    assert hub.requests == []


# After training.


def test_a_run_is_pushed_as_its_settings_say(hub, folder):
    push_run(run_of(folder, "lab/model", revision="v1"))
    assert set(hub.files("lab/model", "v1")) > PUSHED
    assert hub.repositories["lab/model"].private


def test_a_run_that_is_not_pushed_ends_in_6_with_the_command_that_goes_on(hub, folder):
    hub.faults = [Fault(403, "POST", "/repos/create")]
    before = snapshot(folder)
    with pytest.raises(NotPushedError) as refused:
        push_run(run_of(folder, revision="v1", private=False))
    assert refused.value.exit_code == 6
    assert f"hf-finetune push {folder} ada/model --public --revision v1" in str(refused.value)
    assert snapshot(folder) == before
    push_folder(folder, "ada/model", options=PushOptions(True, "v1", patience=2.0))


def test_a_finished_run_that_was_not_pushed_is_pushed_when_it_is_typed_again(hub, folder):
    run = run_of(folder)
    report = {"status": "done"}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "run.yaml").unlink()
    hub.faults = [Fault(403, "POST", "/commit/")]
    with pytest.raises(NotPushedError):
        push_run(run)
    with pytest.raises(RunFinished):
        check_typed_again(run, 1, allow_changed=False)
    assert set(hub.files("ada/model")) >= PUSHED - {"run.yaml"}
    hub.put("ada/model", "README.md", b"edited there")
    asked = len(hub.requests)
    with pytest.raises(RunFinished):
        check_typed_again(run, 1, allow_changed=False)
    assert len(hub.requests) == asked, "it was pushed, and what is edited there stays"
    (folder / "report.json").write_text(json.dumps(report | {"train": {"steps": 9}}))  # it was trained on
    with pytest.raises(RunFinished):
        check_typed_again(run, 1, allow_changed=False)
    assert hub.files("ada/model")["report.json"] == (folder / "report.json").read_bytes()


def test_whatever_stops_a_push_after_training_ends_in_6(hub, folder):
    (folder / "README.md").unlink()
    with pytest.raises(NotPushedError, match="no model card"):
        push_run(run_of(folder))


def test_a_hub_that_is_down_is_one_clear_message(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    close_session()
    with pytest.raises(NotPushedError, match=r"cannot be reached \(Conn"):
        push_folder(folder, "ada/model", options=PushOptions(patience=0.1))


def test_an_index_that_is_no_json_is_named(hub, folder):
    (folder / "model.safetensors.index.json").write_text("[")
    with pytest.raises(DataError, match="is not JSON"):
        plan_push(folder, "ada/model", options=PRIVATE)
    (folder / "model.safetensors.index.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="is not a JSON object"):
        plan_push(folder, "ada/model", options=PRIVATE)


def test_code_goes_with_a_scratch_gpt_and_with_nothing_else(hub, folder):
    code = {"modeling_scratch_gpt.py", "configuration_scratch_gpt.py", "convert_gpt2.py"}
    for name in code:
        (folder / name).write_text("x = 1\n")
    names = {file.name for file in plan_push(folder, "ada/model", options=PRIVATE)}
    assert not [name for name in names if name.endswith(".py")]
    (folder / "manifest.json").unlink()
    (folder / "config.json").write_text('{"model_type": "scratch_gpt"}')
    for name in code:
        shutil.copy(Path(scratch_gpt.__path__[0], name), folder)
    names = {file.name for file in plan_push(folder, "ada/model", options=PRIVATE)}
    assert {name for name in names if name.endswith(".py")} == code
    assert os.path.exists(folder / "my.py")


def test_without_a_token_the_message_says_how_to_log_in(hub, folder, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(NotPushedError, match=r"there is no Hugging Face token here; log in with `hf auth login`"):
        push_folder(folder, "ada/model", options=PRIVATE)


def test_a_private_repository_that_was_there_stays_private_and_that_is_said(hub, folder, caplog):
    hub.make("ada/model", private=True)
    push_folder(folder, "ada/model", options=PUBLIC)
    assert hub.repositories["ada/model"].private
    assert "ada/model was there already, and stays private" in caplog.text


def test_a_pull_request_needs_a_repository(hub, folder):
    with pytest.raises(HubError, match="there is no repository ada/model to open a pull request on"):
        check_push(run_of(folder, create_pr=True))
