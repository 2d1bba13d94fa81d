"""What a push sends names no folder of this machine, also where an older version or another tool has left some."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from release.hub.hub_folders import write_manifest
from safetensors.numpy import save_file

from hf_finetune.config.paths import looks_local
from hf_finetune.errors import DataError
from hf_finetune.privacy import hide_home, make_portable, redact
from hf_finetune.release.hub import PushOptions, plan_push, push_folder
from hf_finetune.release.hub.search import home_paths
from hf_finetune.release.hub.search.home_paths import compile_home_rules
from hf_finetune.release.hub.search.places import Sought, find_places
from hf_finetune.reporting.card import MARKER
from hf_finetune.reporting.diagnosis import Diagnosis
from hf_finetune.reporting.page import render_page
from hf_finetune.reporting.run_record import read_run

OPTIONS = PushOptions(patience=2.0)
LAUNCH = "accelerate launch sft.py run.yaml 'data.train=[/mnt/clients/acme/a.jsonl, b.jsonl]' model.path=../acme/m"
RUN_FILE = "recipe: sft  # mine\nmodel: {path: ../acme/m}\ndata:\n  train: [/mnt/clients/acme/a.jsonl, b.jsonl]\n"
CARD = f"---\nlicense: mit\n---\n\n{MARKER}\n\n# My own words about /v1/chat\n\n```bash\n{LAUNCH}\n```\n"


@pytest.fixture
def old(folder: Path) -> Path:
    """A run folder as versions before this one left it, with the base where another tool writes it."""
    (folder / "run.yaml").write_text(RUN_FILE)
    settings = {"data": {"train": ["/mnt/clients/acme/a.jsonl"]}, "output_dir": "../acme/out"}
    (folder / "report.json").write_text(json.dumps({"recipe": "sft", "settings": settings}))
    (folder / "config.json").write_text(
        json.dumps({"_name_or_path": "/mnt/clients/acme/gpt2", "id2label": {"0": "/people/person/born"}})
    )
    write_manifest(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    files = [{"path": "/mnt/clients/acme/a.jsonl", "role": "train", "sha256": "1"}]
    manifest |= {"launch": LAUNCH, "data": {"files": files}, "versions": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "report.html").write_text(render_page(read_run(folder), Diagnosis("In /mnt/clients/acme.", ())))
    (folder / "README.md").write_text(CARD)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_no_folder_of_this_machine_is_in_what_is_sent_and_the_folder_stays_as_it_is(hub, old):
    before = contents(old)
    push_folder(old, "ada/model", options=OPTIONS)
    sent = hub.files("ada/model")
    assert [name for name, content in sent.items() if b"acme" in content or b"clients" in content] == []
    assert contents(old) == before
    shown = yaml.safe_load(sent["run.yaml"])
    assert shown == {"recipe": "sft", "model": {"path": "m"}, "data": {"train": ["a.jsonl", "b.jsonl"]}}
    assert sent["run.yaml"].startswith(b"# Of each path outside")
    card = sent["README.md"].decode()
    assert "My own words about /v1/chat" in card
    assert "run.yaml 'data.train=[a.jsonl, b.jsonl]' model.path=m\n" in card
    assert b"a.jsonl" in sent["report.html"]


def test_the_manifest_that_is_sent_has_the_hashes_of_what_is_sent_and_can_be_pushed_again(hub, old, tmp_path):
    push_folder(old, "ada/model", options=OPTIONS)
    sent = {name: content for name, content in hub.files("ada/model").items() if name != ".gitattributes"}
    hashes = json.loads(sent["manifest.json"])["files"]
    assert hashes["config.json"] != json.loads((old / "manifest.json").read_text())["files"]["config.json"]
    for name, sha256 in hashes.items():
        if not name.endswith(".safetensors"):
            assert hashlib.sha256(sent[name]).hexdigest() == sha256, name
    assert not push_folder(old, "ada/model", options=OPTIONS).sent_files
    there = tmp_path / "downloaded"
    there.mkdir()
    for name, content in sent.items():
        (there / name).write_bytes(content if content else b"")
    (there / "model.safetensors").write_bytes((old / "model.safetensors").read_bytes())
    again = plan_push(there, "ada/model", options=OPTIONS)
    assert {file.name: file.content for file in again if file.content is not None and file.name != "README.md"} == {
        name: content for name, content in sent.items() if name not in ("model.safetensors", "README.md")
    }


def test_a_base_that_was_a_folder_is_no_name_of_the_hub_and_labels_stay(hub, old):
    push_folder(old, "ada/model", options=OPTIONS)
    config = json.loads(hub.files("ada/model")["config.json"])
    assert looks_local(config["_name_or_path"])
    assert config == {"_name_or_path": "./gpt2", "id2label": {"0": "/people/person/born"}}


def test_a_file_that_names_no_folder_is_sent_byte_for_byte(hub, folder):
    (folder / "run.yaml").write_text("recipe: sft  # mine\nmodel: {path: org/model}\n")
    push_folder(folder, "ada/model", options=OPTIONS)
    sent = hub.files("ada/model")
    for name in ("run.yaml", "report.json", "manifest.json", "config.json", "report.html"):
        assert sent[name] == (folder / name).read_bytes(), name


@pytest.mark.parametrize(("name", "text"), [("run.yaml", "a: ["), ("report.json", "{"), ("config.json", "[")])
def test_a_torn_file_is_refused_by_name(folder, name, text):
    (folder / name).write_text(text)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=name):
        plan_push(folder, "ada/model", options=OPTIONS)


def test_a_secret_is_refused_and_not_taken_out_unseen(folder):
    (folder / "run.yaml").write_text(f"model: {{path: /mnt/acme/hf_{'a1' * 15}}}\n")
    with pytest.raises(DataError, match="Hugging Face token"):
        plan_push(folder, "ada/model", options=OPTIONS)


@pytest.mark.parametrize("typed", [None, [], ["Typed?"]])
def test_questions_of_rows_stay_here_and_typed_ones_are_sent(hub, old, typed):
    samples = [
        {"step": step, "prompt": prompt, "continuation": f"so {prompt}", "tokens": 3, "finished": True}
        for step in (0, 4)
        for prompt in ("Typed?", "Secret row?")
    ]
    report = {"recipe": "sft", "settings": {"eval": {"prompts": typed}}, "samples": samples}
    (old / "report.json").write_text(json.dumps(report))
    (old / "report.html").write_text(render_page(read_run(old), Diagnosis("Done.", ())))
    assert "Secret row?" in (old / "report.html").read_text()
    write_manifest(old)
    push_folder(old, "ada/model", options=OPTIONS)
    sent = hub.files("ada/model")
    assert [name for name, content in sent.items() if content and b"Secret row" in content] == []
    shown = {name for name, content in sent.items() if content and b"Typed?" in content and name != "README.md"}
    assert shown == ({"report.json", "report.html"} if typed else set())


@pytest.fixture
def two_names(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A home folder by its name, which is a link, and by the name that the link leads to."""
    (tmp_path / "disk" / "ann" / "work").mkdir(parents=True)
    (tmp_path / "ann").symlink_to("disk/ann")
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    monkeypatch.chdir(tmp_path / "ann" / "work")
    return tmp_path / "ann", tmp_path / "disk" / "ann"


def test_a_path_of_this_machine_that_somebody_wrote_is_refused_by_its_line(folder, two_names):
    (folder / "manifest.json").unlink()
    before = (folder / "README.md").read_text()
    for home in two_names:
        doubled = str(home)[0] + str(home)[1:].replace("/", "//")
        for place in (f"`{home}/rows.jsonl`", f"`{home}`", f"{home} now", f"<{home}>", f"{home}.", f"{doubled}/rows"):
            (folder / "README.md").write_text(f"{before}\nTrained on {place}\n")
            with pytest.raises(DataError) as refused:
                plan_push(folder, "ada/model", options=OPTIONS)
            [problem] = refused.value.problems
            assert (problem.path, problem.line) == (str(folder / "README.md"), before.count("\n") + 2)
            assert "holds a path of this machine" in problem.what
        (folder / "README.md").write_text(f"{before}\nTrained on {home}a, {home}-2 and {home}.old\n")
        plan_push(folder, "ada/model", options=OPTIONS)
    (folder / "README.md").write_text(f"{before}\nhttps://example.org{two_names[0]}/rows and ~/rows\n")
    plan_push(folder, "ada/model", options=OPTIONS)
    values = {"weight": np.zeros(4, np.float32)}
    save_file(values, folder / "model.safetensors", metadata={"source": f"{two_names[1]}/model.gguf"})
    with pytest.raises(DataError, match=r"model\.safetensors: holds a path of this machine"):
        plan_push(folder, "ada/model", options=OPTIONS)


ANNA, TIM = "/home/anna", "C:\\Users\\Tim"
WRITTEN = {
    "file:///home/anna/x": ANNA, "file://localhost/home/anna/x": ANNA, "vscode://file/home/anna": ANNA,
    "%2Fhome%2Fanna%2Frows": ANNA, "x%3D%2fhome%2fanna": ANNA, "%252Fhome%252Fanna": ANNA, r"\/home\/anna\/x": ANNA,
    r"\u002fhome\u002fanna": ANNA, r"\\/home\\/anna": ANNA, "&#47;home&#x2F;anna": ANNA, "/home/\nanna": ANNA,
    "x-I/home/anna/x": None, "gcc -I/home/anna/x": ANNA, b"in /home/anna/rows".hex(): ANNA,
    base64.b64encode(b"in /home/anna/rows").decode(): ANNA,
    base64.b64encode(b"in %2Fhome%2Fanna%2Frows").decode(): ANNA,
    "C:\\Users\\Tim\\x": TIM, "C:\\\\Users\\\\Tim\\\\x": TIM, "c:/users/tim": TIM, "C:%5CUsers%5CTim": TIM,
    "file:///C:/Users/Tim/x": TIM, base64.b64encode(b"in C:\\Users\\Tim\\rows").decode(): TIM,
    "see &sol;home&sol;anna": ANNA, "see &#47home&#47anna": ANNA, r"see \057home\057anna": ANNA,
    "/ho<b></b>me/anna": ANNA,
    "/home/an\u00adna": ANNA, "=2Fhome=2Fanna=2Frows": ANNA, b"in /home/anna/rows".hex(" "): ANNA,
    base64.b32encode(b"in /home/anna/rows").decode(): ANNA, base64.b85encode(b"in /home/anna/rows").decode(): ANNA,
    "file://host/home/anna/x": ANNA, r"\\wsl$\Ubuntu\home\anna": ANNA, "//wsl.localhost/Ubuntu/home/anna": ANNA,
    "/Home/Anna/x": ANNA, "/mnt/c/Users/Tim/x": TIM, r"\\host\c$\Users\Tim\x": TIM, r"\\?\C:\Users\Tim": TIM,
    "C:&bsol;Users&bsol;Tim": TIM, "C&colon;&bsol;Users&bsol;Tim": TIM, "/cygdrive/c/Users/Tim": TIM,
    "/mnt/c/Users/Timothy": None, "https%3A%2F%2Fexample.org%2Fhome%2Fanna": None, "%2Fhome%2Fannabel": None,
    "/./home/anna/x": ANNA, "/home/./anna": ANNA, "/home/tim/../anna/x": ANNA, "../../../home/anna/x": ANNA,
    "x=docs/../../home/anna": ANNA, "/proc/self/root/home/anna/x": ANNA, "/proc/12/task/3/root/home/anna": ANNA,
    "file:///./home/anna/x": ANNA, "-I/./home/anna": ANNA, "%2F.%2Fhome%2Fanna": ANNA, "C:\\Users\\.\\Tim\\x": TIM,
    b"in /home/./anna/rows".hex(): ANNA, "https://example.org/./home/anna": None, "x/./home/anna": None,
    "/home/./annabel": None, "/home/anna/../tim": ANNA, "../anna": None, "/proc/self/home/anna": None,
    "/home/anna-2": None, "C:\\\\Users\\\\Timothy": None,
}  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_a_path_of_this_machine_is_refused_however_its_slashes_are_written(folder, monkeypatch, text):
    monkeypatch.setattr(home_paths, "list_homes", lambda: [ANNA, TIM])
    path = folder / "README.md"
    path.write_bytes(path.read_bytes() + f"\nan innocent line\n{text}\nthe last\n".encode())
    line = path.read_text().splitlines().index("an innocent line") + 2
    if WRITTEN[text] is None:
        plan_push(folder, "ada/model", options=OPTIONS)
    else:
        with pytest.raises(DataError) as refused:
            plan_push(folder, "ada/model", options=OPTIONS)
        assert [(each.path, each.line) for each in refused.value.problems] == [(str(path), line)]


def test_a_path_of_this_machine_is_refused_in_every_kind_of_file_that_goes(folder, monkeypatch):
    monkeypatch.setattr(home_paths, "list_homes", lambda: [ANNA, "/app"])
    (folder / "manifest.json").unlink()
    encoded = base64.b64encode(b"in /home/anna/rows").decode()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    written = {
        "README.md": f"---\nlicense: mit\n---\n{encoded}",
        "report.html": "<p>&#47;home&#47;anna&#47;rows</p>",
        "chat_template.jinja": "{# from %2Fhome%2Fanna #}{{ messages }}",
        "generation_config.json": '{"from": "\\/home\\/anna"}',
        "tokenizer.json": json.dumps(tokenizer | {"added_tokens": [{"id": 0, "content": f"{ANNA}/rows"}]}),
    }
    before = {name: (folder / name).read_text() for name in written}
    for name, text in written.items():
        (folder / name).write_text(text)
        with pytest.raises(DataError, match=f"{name}:[0-9]+: holds a path of this machine"):
            plan_push(folder, "ada/model", options=OPTIONS)
        (folder / name).write_text(before[name])
    save_file({"weight": np.zeros(4, np.float32)}, folder / "model.safetensors", metadata={"from": encoded})
    with pytest.raises(DataError, match=r"model\.safetensors: holds a path of this machine"):
        plan_push(folder, "ada/model", options=OPTIONS)


def test_what_a_home_folder_holds_is_a_path_of_this_machine_by_its_short_name_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("acme/rows", "Documents/acme", ".cache/huggingface", "app"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(home_paths, "list_homes", lambda: ["/tmp"])

    def is_found(text: str, name: str = "README.md") -> bool:
        return bool(find_places(f"first\n{text}\n".encode(), Sought(homes=compile_home_rules()), name).homes)

    found = (
        "~/acme",
        "`~/acme/rows/x`",
        "$HOME/acme/rows.",
        r"~\\acme\\rows",
        "~/Documents/acme",
        "&#126;/acme",
        "${HOME}/app",
    )
    for text in (*found, base64.b64encode(b"from ~/acme/rows/a.jsonl").decode()):
        assert is_found(text), text
    for text in (
        "~/rows",
        "~/acme/others",
        "~/Documents",
        "~/.cache/huggingface",
        "a~/acme",
        "https://x.org/~/acme",
        "~acme",
    ):
        assert not is_found(text), text
    # One piece of a vocabulary may be /tmp/x; three parts that are there are none.
    assert not is_found('"/tmp/acme": 1', "tokenizer.json")
    monkeypatch.setattr(home_paths, "list_homes", lambda: [f"/{tmp_path.parts[1]}"])
    assert is_found(f'"{tmp_path}/acme": 1', "tokenizer.json")


def test_the_second_name_of_a_home_folder_is_in_nothing_that_is_sent_or_written(folder, two_names):
    for home in two_names:
        assert hide_home({"path": [f"{home}/models/x", str(home)]}) == {"path": ["~/models/x", "~"]}
        assert redact(f"{home}/clients/rows.jsonl") == "rows.jsonl"
        assert make_portable(f"{home}/models/x") == "~/models/x"
        (folder / "manifest.json").unlink(missing_ok=True)
        (home / "clients" / "gpt2").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"_name_or_path": f"{home}/clients/gpt2"}))
        (folder / "base_model.json").write_text('{"name_or_path": "~/clients/gpt2"}')
        (folder / "run.yaml").write_text(f"model: {{path: {home}/clients/gpt2, tokenizer: ~/clients/gpt2}}\n")
        sent = {file.name: file.content or b"" for file in plan_push(folder, "ada/model", options=OPTIONS)}
        assert [name for name, content in sent.items() if b"clients" in content or str(home).encode() in content] == []
