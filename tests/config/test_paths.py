from __future__ import annotations

import pytest

from hf_finetune.config.paths import is_local, is_missing


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
