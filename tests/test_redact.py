"""One rule for paths in everything that leaves a run: the last part alone, or a path inside the working folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.privacy import redact, redact_command, redact_text, redact_yaml
from hf_finetune.shell import shell_line, shell_words

# What must never leave: folders with these names stand in every generated path, none of them last.
PRIVATE = ["acme-corp", "alice", "clients", "secret project", "a=b", "Müller & Söhne", "key=value folder"]
FILES = ["rows.jsonl", "a=b.jsonl", "my rows.jsonl", "model", "données.csv", "x=1,y=2.txt"]

folders = st.lists(st.sampled_from(PRIVATE), min_size=1, max_size=4)
files = st.sampled_from(FILES)


def posix(start: str) -> st.SearchStrategy[tuple[str, str]]:
    return st.tuples(folders, files).map(lambda drawn: ("/".join([start, *drawn[0], drawn[1]]), drawn[1]))


drives = st.sampled_from(["C:", "d:", r"\\server\share", "C:/Users", r"\Users", "C:Users", r"..", r"..\.."])
windows = st.tuples(drives, folders, files, st.sampled_from("\\/")).filter(
    lambda drawn: drawn[3] == "\\" or not drawn[0].startswith(("\\U", "C:U"))
)
paths = st.one_of(
    posix(""),
    posix(".."),
    posix("../.."),
    posix("data/../.."),
    posix("~"),
    posix("~alice"),
    posix("file://"),
    posix("file://localhost"),
    posix("file:"),
    windows.map(lambda drawn: (drawn[3].join([drawn[0], *drawn[1], drawn[2]]), drawn[2])),
)
forms = st.sampled_from(
    [
        lambda path: path,
        lambda path: f"{path}:17",
        lambda path: [path, "b.jsonl"],
        lambda path: {"train": path, "weights": [{"path": path, "weight": 2}]},
        lambda path: f"data.train={path}",
        lambda path: f"--output={path}",
        lambda path: f"x=y.z={path}",
        lambda path: f"eval={{forget: [{path!r}], base: true}}",
        lambda path: f"[data.train={json.dumps(path, ensure_ascii=False)}, b]",
        lambda path: f"[b.jsonl, data.train={path}]" if "," not in path and "'" not in path else path,
        lambda path: f"data.train={json.dumps([path, 'b.jsonl'], ensure_ascii=False)}",
        lambda path: f"data.train={json.dumps({'path': path, 'weight': 2}, ensure_ascii=False)}",
        lambda path: f"{path!r} has 3 rows",
        lambda path: f"cannot read {path}",
        lambda path: f"first data/a.jsonl, then {path}",
        lambda path: f"in (see: {path!r}) and {path!r}",
        lambda path: Path(path),
    ]
)


def leaks(text: str) -> list[str]:
    return [name for name in [*PRIVATE, "server", "Users"] if name in text.replace("\\\\", "\\")]


@given(paths, forms)
def test_nothing_of_a_path_outside_but_its_last_part_leaves(drawn, form):
    path, last = drawn
    shown = redact(form(path))
    text = json.dumps(shown, ensure_ascii=False)
    assert not leaks(text.replace(last, "")), text
    assert last in text.replace('\\"', '"')
    assert redact(shown) == shown


@given(st.lists(st.tuples(paths, forms), min_size=1, max_size=3))
def test_a_launch_line_is_redacted_word_by_word(drawn):
    given_words = [form(path) for (path, _), form in drawn]
    words = [word for word in given_words if isinstance(word, str)]
    typed = ["accelerate", "launch", "recipes/sft.py", "recipes/configs/sft.yaml", *words]
    shown = redact_command(shell_line(typed))
    left = shown
    for (_, last), _ in drawn:
        left = left.replace(last, "")
    assert not leaks(left), shown
    assert shell_words(shown)[:4] == typed[:4]
    assert len(shell_words(shown)) == len(typed)
    assert redact_command(shown) == shown


def test_a_command_that_is_none_of_ours_is_not_shown():
    assert redact({"launch": "accelerate launch x; touch y"}) == {"launch": None}


@given(st.text("/\\~.:= '\"[]{},ab\n-C", max_size=25) | st.text(max_size=60))
def test_what_is_redacted_twice_is_what_was_redacted_once(text):
    assert redact(redact(text)) == redact(text)


@given(st.text("/\\~.:= '\"ab\n-C", max_size=25))
def test_redacting_never_adds_anything(text):
    assert len(redact_text(text)) <= len(text)


@given(st.lists(st.sampled_from(["data", "my rows", "a=b", "x"]), min_size=1, max_size=4).map("/".join))
def test_a_path_inside_the_working_folder_stays_as_it_is_from_there(path):
    assert redact(path) == path
    assert redact(str(Path.cwd() / path)) == path
    assert redact(f"data.train={Path.cwd() / path}") == f"data.train={path}"
    assert redact(f"other/../{path}") == path


@pytest.mark.parametrize(
    "text",
    [
        "meta-llama/Llama-3.2-1B",
        "https://huggingface.co/org/model",
        "a validation loss of 1/2, and/or 3.5 tokens/s",
        "data.train=data_templates/text.jsonl",
        "train.lr_scheduler_type=cosine",
        "[1, 2]",
        "hf://datasets/org/name/rows.jsonl",
        "~5 minutes",
        "about ~5",
        "data/**/*.jsonl",
        "wer 50%/50% (0.6%/1.2%), $/token, 3 / 4",
        "<b>bold</b> </s>",
        ".*\\.(q|v)_proj",
        r"^model\.layers\.\d+\.mlp$",
        "https://host:8080/v1/chat?x=1",
        "..",
        "../..",
        "/",
        "~",
        "",
    ],
)
def test_what_is_no_path_outside_stays(text):
    assert redact(text) == text


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("runs/lora", "runs/lora"),
        ("/home/me/runs/lora", "lora"),
        ("/home/me/runs/lora/", "lora"),
        ("~/models/base/", "base"),
        ("../other/base", "base"),
        ("../../clients/acme/x", "x"),
        (r"C:\Users\me\base", "base"),
        ("gpt2", "gpt2"),
        ("/mnt/acme/..", "mnt"),
        ("data.train=/mnt/acme/a=b.jsonl", "data.train=a=b.jsonl"),
        ("--deepspeed=../../acme/zero.json", "--deepspeed=zero.json"),
        ("-o/mnt/acme/x", "-ox"),
        ("sqlite:////mnt/acme/runs.db", "sqlite:runs.db"),
        ("error:/mnt/secret project/x", "error:x"),
        ("/mnt/acme/rows.jsonl: no such file", "rows.jsonl: no such file"),
        ("see /mnt/secret project/rows.jsonl for it", "see rows.jsonl for it"),
        ("the model in /mnt/acme/a, or ../acme/b", "the model in a, or b"),
        ("token hf_" + "a1" * 15, "token (a secret)"),
    ],
)
def test_of_a_path_outside_the_working_folder_the_last_part_is_shown(typed, shown):
    assert redact(typed) == shown


def test_the_home_folder_itself_names_no_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    for path in ("/home/alice", "/home/alice/", "~/", "file:///home/alice", "~/x/.."):
        assert redact(path) == "~"
    assert redact("~/..") == "home"


@pytest.mark.parametrize(
    "path",
    [
        *("/home/alice", "/Users/alice/", "/mnt/c/Users/alice", "/var/home/alice", "file:///home/alice"),
        *(r"C:\Users\alice", "C:/Users/alice", "c:\\users\\alice\\", r"\Users\alice", r"C:Users\alice"),
        *(r"C:\Documents and Settings\alice", r"\\?\C:\Users\alice"),
        *("file:///C:/Users/alice", "file:C:/Users/alice", r"file://C:\Users\alice"),
    ],
)
def test_the_home_folder_of_another_system_names_no_user_either(path):
    assert redact(path) == "~"
    assert redact(f"data.train={path}") in ("data.train=~", "data.train=file:~")
    assert "alice" not in redact(f"cannot read {path!r} now")
    if " " not in path and "?" not in path:
        assert redact(f"cannot read {path} now") == "cannot read ~ now"


@pytest.mark.parametrize("path", ["file:///C:/Users/alice/x", "file:C:/Users/alice/x", r"file:///C:\Users\alice\x"])
def test_an_address_of_a_file_on_a_drive_is_a_path(path):
    assert redact(path) == "x"
    assert redact(f"cannot read {path} now") == "cannot read x now"


def test_of_a_list_on_the_command_line_only_the_paths_change():
    shown = redact("data.train=[/mnt/clients/acme/a.jsonl, 'b.jsonl', 2, 1e-4, 2024-01-01, no]")
    assert shown == "data.train=[a.jsonl, 'b.jsonl', 2, 1e-4, 2024-01-01, no]"
    assert redact("[&a /mnt/acme/x, *a]") == "[&id001 x, *id001]"
    assert redact("{? [/mnt/acme/x] : y}") == "{? [x] : y}"
    for torn in ("[/mnt/acme/x, 'y/z", "[" * 5000 + "/mnt/acme/x"):
        assert "acme" not in redact(torn)


def test_a_run_file_keeps_its_types_and_where_nothing_changes_its_comments():
    kept = "# mine\ndata: {train: rows.jsonl}\n"
    assert redact_yaml(kept) == kept
    typed = (
        "train: {learning_rate: 1e-4, bf16: no}\ndata:\n  train:\n  - /mnt/acme/a.jsonl\n  - path: ../acme/b.jsonl\n"
    )
    shown = redact_yaml(typed)
    assert yaml.safe_load(shown)["data"] == {"train": ["a.jsonl", {"path": "b.jsonl"}]}
    assert "{learning_rate: 1e-4, bf16: no}" in shown
    assert redact_yaml("a: [") is None


def test_texts_and_labels_are_no_paths():
    told = {
        "samples": [{"prompt": "/no_think Is 1/2 in ~/x?", "continuation": "cd /x", "label": "/people/person/born"}],
        "eval": {"prompts": ["/mnt/acme/x"]},
        "confusion_matrix": {"labels": ["/location/country/capital", "/business/company/founders"]},
        "per_class": {"/location/country/capital": {"f1": 1.0}},
    }
    assert redact(told) == told
    assert redact("eval.prompts=['/no_think a/b']") == "eval.prompts=['/no_think a/b']"


def test_a_path_typed_through_a_link_to_the_working_folder_says_no_more(tmp_path, monkeypatch):
    (tmp_path / "disk" / "project").mkdir(parents=True)
    (tmp_path / "acme").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "acme" / "project")
    assert redact(str(Path.cwd() / "data" / "x.jsonl")) == "data/x.jsonl"
    assert redact(f"{tmp_path}/acme/project/data/x.jsonl") == "x.jsonl"


@pytest.mark.parametrize(
    "part", ["/", "a/", "a=", "[", "/a:", " ~/a", "\\a", "'/a ", " ../a", "0af1", "a.b-", "/ ", "'"]
)
def test_the_time_grows_with_the_length_alone(part):
    began = time.process_time()
    redact(part * 20_000)
    assert time.process_time() - began < 10.0  # a square of 20,000 would be minutes
