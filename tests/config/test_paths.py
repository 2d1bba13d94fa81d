from __future__ import annotations

import glob
import os

import pytest

from hf_finetune.config import paths
from hf_finetune.config.paths import find_matches, is_local, is_missing
from hf_finetune.data import check_trained_rows
from hf_finetune.errors import ConfigError
from hf_finetune.folders import suggest_path


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("base", False),
        ("gpt2", False),
        ("openai/gpt2", False),
        ("runs/nope", True),
        ("runs/there", False),
        ("./nope", True),
        ("a/b/c", True),
        ("runs\\nope", True),
        ("C:\\nope", True),
        ("~/nope", True),
        ("x" * 5000 + "/y", True),
        ("/" + "x" * 5000, True),
    ],
)
def test_a_path_below_a_folder_that_is_here_is_no_hub_id(workspace, path, missing):
    (workspace / "runs" / "there").mkdir(parents=True)
    assert is_missing(path) is missing


def test_runs_are_of_this_machine_even_before_the_first(workspace, monkeypatch):
    assert is_missing("runs/nope")
    assert not is_missing("models/nope")
    monkeypatch.setenv("HF_HUB_CACHE", str(workspace / "cache"))
    (workspace / "cache" / "models--runs--nope").mkdir(parents=True)
    assert not is_missing("runs/nope")


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("runs/frist", "did you mean runs/first?"),
        ("./runs/first/checkpoint-10", "did you mean runs/first/checkpoint-1?"),
        ("runs/zzz", "runs has first, link"),
        ("run/first", "did you mean runs/first?"),
        ("run/other", "there is no folder run/ here"),
        ("runs/frist/checkpoint-1", "did you mean runs/first/checkpoint-1?"),
        ("runs/other/a/b", "there is no folder other/ in runs"),
        ("runs/link", "it is a link that leads to nothing"),
        ("/nope/a", "there is no folder nope/ in /"),
    ],
)
def test_a_path_that_breaks_off_gets_the_nearest_name_there(workspace, path, remedy):
    (workspace / "runs" / "first" / "checkpoint-1").mkdir(parents=True)
    (workspace / "runs" / "link").symlink_to("nowhere")
    assert suggest_path(path) == remedy


def test_what_the_cache_holds_is_of_the_hub_even_beside_a_folder_of_its_owner(workspace, monkeypatch):
    (workspace / "google").mkdir()
    assert is_local("google/bert")
    monkeypatch.setenv("HF_HUB_CACHE", str(workspace / "cache"))
    (workspace / "cache" / "models--google--bert").mkdir(parents=True)
    assert not is_local("google/bert")


@pytest.mark.parametrize("key", ["model.path", "model.tokenizer", "data.train"])
def test_a_mistyped_folder_of_a_run_file_is_refused_with_the_others(load, problems, workspace, key):
    (workspace / "runs" / "first").mkdir(parents=True)
    text = "recipe: sft\nmodel: {path: base}\ndata: {train: train.jsonl}\noutput_dir: out\n"
    (problem,) = problems(text, f"{key}=runs/frist")
    assert problem.key == key
    assert problem.remedy == "did you mean runs/first?"


PATTERNS = ("**/*.jsonl", "*", "a/*", "a/**", "**/b*/**", "[ab]/*.jsonl", "a/../*", "**/**/x.jsonl", ".h*/*", "none/*")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_glob_finds_and_no_circle_of_links_twice(workspace, pattern):
    for name in ("a/x.jsonl", "a/b/x.jsonl", "b/y.jsonl", ".hidden/x.jsonl", "a/.x.jsonl"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("")
    found, expected = find_matches(pattern, "data.train"), glob.glob(pattern, recursive=True)
    files = [{os.path.normpath(path) for path in each if os.path.isfile(path)} for each in (found, expected)]
    assert files[0] == files[1]
    (workspace / "a" / "round").symlink_to(workspace, target_is_directory=True)
    assert len(find_matches(pattern, "data.train")) < 60


@pytest.mark.parametrize(("bound", "value"), [("MOST_LOOKED_AT", 1_000), ("MOST_SECONDS", -1.0)])
@pytest.mark.parametrize("pattern", ["**/*.jsonl", "many/*.jsonl"])
def test_a_pattern_with_too_much_to_look_at_is_refused_at_its_key(load, workspace, monkeypatch, pattern, bound, value):
    (workspace / "many").mkdir()
    for number in range(1_000):
        (workspace / "many" / str(number)).touch()
    monkeypatch.setattr(paths, bound, value)
    text = f"recipe: sft\nmodel: {{path: base}}\ndata: {{train: '{pattern}'}}\noutput_dir: out\n"
    with pytest.raises(ConfigError, match=r"data.train: there are more than 1,000 files and folders to look at"):
        check_trained_rows(load(text))
