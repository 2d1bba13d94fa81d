"""What the run file calls its data is found, or the user is told what is there instead."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pytest
from cached_datasets import put_into_cache

from hf_finetune.config.sections import Source
from hf_finetune.data.reading.sources import resolve_sources
from hf_finetune.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a few files."""
    monkeypatch.chdir(tmp_path)
    Path("data/inner").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl.gz", "c.jsonl.zst", "notes.txt", "table.csv", ".hidden.jsonl", "inner/d.jsonl"):
        Path("data", name).write_text(name)
    return tmp_path


def shown(sources, format_name="auto"):
    return [file.shown for file in resolve_sources(sources, "train", format_name)]


def test_a_file_keeps_the_name_the_user_gave_it(folder):
    assert shown("data/b.jsonl") == ["data/b.jsonl"]
    assert shown(str(folder / "data/b.jsonl")) == [str(folder / "data/b.jsonl")]


def test_a_folder_gives_its_jsonl_files_in_order_or_its_text_files_for_a_text_format(folder):
    assert shown("data") == ["data/a.jsonl.gz", "data/b.jsonl", "data/c.jsonl.zst"]
    assert shown("data", "paragraphs") == ["data/notes.txt"]


def test_a_pattern_gives_files_in_order(folder):
    assert shown("data/*.jsonl") == ["data/b.jsonl"]
    assert shown("data/**/*.jsonl") == ["data/b.jsonl", "data/inner/d.jsonl"]


def test_a_list_keeps_its_order_and_weights(folder):
    files = resolve_sources([Source(path="data/b.jsonl", weight=2.0), "data/inner"], "train", "auto")
    assert [(file.shown, file.source, file.weight) for file in files] == [
        ("data/b.jsonl", 0, 2.0),
        ("data/inner/d.jsonl", 1, 1.0),
    ]


def test_a_symbolic_link_is_read_as_the_file_it_names(folder):
    Path("link.jsonl").symlink_to("data/b.jsonl")
    assert shown("link.jsonl") == ["link.jsonl"]


def test_a_link_out_of_a_folder_is_refused_and_one_within_it_or_that_is_named_is_read(folder):
    Path("of others").mkdir()
    Path("of others/rows.jsonl").write_text("{}")
    Path("data/inside.jsonl").symlink_to("inner/d.jsonl")
    assert "data/inside.jsonl" in shown("data")
    Path("data/outside.jsonl").symlink_to("../of others/rows.jsonl")
    with pytest.raises(DataError, match=r"data/outside\.jsonl: data\.train: is a link out of the folder"):
        shown("data")
    assert shown("data/outside.jsonl") == ["data/outside.jsonl"]
    assert "data/outside.jsonl" in shown("data/*.jsonl")


def test_a_pipe_in_a_folder_is_refused_and_never_waited_for(folder):
    os.mkfifo("data/pipe.jsonl")
    with pytest.raises(DataError, match=r"data/pipe\.jsonl: data\.train: is not a file; take it out of the folder"):
        shown("data")
    assert "data/pipe.jsonl" not in shown("data/*.jsonl")


def test_the_folder_of_a_hub_data_set_in_the_cache_is_read_through_its_links(folder):
    Path("cache/snapshots/a1").mkdir(parents=True)
    Path("cache/blobs").mkdir()
    Path("cache/blobs/b2").write_text("{}")
    Path("cache/snapshots/a1/rows.jsonl").symlink_to("../../blobs/b2")
    assert shown("cache/snapshots/a1") == ["cache/snapshots/a1/rows.jsonl"]


def test_a_pattern_in_the_home_folder_does_not_spell_the_home_folder_out(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert shown("~/data/*.jsonl") == ["~/data/b.jsonl"]
    assert shown("~/data/b.jsonl") == ["~/data/b.jsonl"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("data/bb.jsonl", r"data/bb.jsonl: data.train: no such file; did you mean b.jsonl"),
        ("data/nothing-like-it", "no such file; check the path"),
        ("dat/b.jsonl", "the folder dat does not exist"),
        ("data/*.json", "no file matches"),
        ("data/inner/../inner2", "no such file; did you mean inner"),
        ("/dev/null", "is not a file"),
    ],
)
def test_what_matches_nothing_is_an_error_that_suggests(folder, written, message):
    with pytest.raises(DataError, match=message):
        shown(written)


def test_a_folder_without_a_fitting_file_says_what_was_looked_for(folder):
    with pytest.raises(DataError, match=r"data/inner: data.train: the folder has no \*.txt"):
        shown("data/inner", "lines")


def test_all_missing_sources_are_named_at_once(folder):
    with pytest.raises(DataError) as refused:
        shown(["data/x1.jsonl", "data/b.jsonl", "data/*.x2"])
    assert len(refused.value.problems) == 2


def test_plain_text_needs_a_choice_and_jsonl_is_not_plain_text(folder):
    with pytest.raises(DataError, match=r"notes.txt: is plain text.*lines .* paragraphs .* file "):
        shown("data/notes.txt")
    with pytest.raises(DataError, match=r"b.jsonl: is JSONL, which format lines would train on as plain text"):
        shown("data/b.jsonl", "lines")
    assert shown("data/notes.txt", "file") == ["data/notes.txt"]


def test_a_file_named_twice_is_an_error(folder):
    Path("link.jsonl").symlink_to("data/b.jsonl")
    with pytest.raises(
        DataError, match=r"link.jsonl: data.train: is the same file as data/b.jsonl; keep one; `weight: 2"
    ):
        shown(["data/b.jsonl", "link.jsonl"])


def test_a_hub_data_set_is_read_through_datasets(folder, monkeypatch):
    rows = [
        {
            "messages": [{"role": "user", "content": "q", "name": None}, {"role": "a", "content": "b", "name": "x"}],
            "id": 1,
        },
        {
            "messages": [{"role": "user", "content": "z", "name": None}, {"role": "a", "content": "b", "name": "x"}],
            "id": None,
        },
    ]
    asked = []

    def load_dataset(repo_id, split):
        asked.append((repo_id, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    [file] = resolve_sources("some-org/chats", "validation", "auto")
    assert asked == [("some-org/chats", "validation")]
    assert file.shown == "some-org/chats"
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    # What a table adds as null is taken off again.
    assert lines[0] == {"messages": [{"role": "user", "content": "q"}, rows[0]["messages"][1]], "id": 1}
    assert "id" not in lines[1]


def test_a_hub_data_set_of_the_cache_loses_its_binary_columns_which_is_said(folder, datasets_cache, caplog):
    rows = [{"text": "a cat", "picture": b"\x89PNG"}, {"text": "a dog", "picture": None}]
    put_into_cache(datasets_cache, "some-org/pictures", train=rows)
    [file] = resolve_sources("some-org/pictures", "train", "auto")
    assert [json.loads(line) for line in file.path.read_text().splitlines()] == [{"text": "a cat"}, {"text": "a dog"}]
    said = "some-org/pictures: binary columns are left out, which JSON does not have: `picture`"
    assert said in caplog.text


def test_a_row_of_a_hub_data_set_that_json_cannot_hold_is_named_by_its_number(folder, datasets_cache):
    rows = [{"text": "a cat", "score": 0.5}, {"text": "a dog", "score": float("inf")}]
    put_into_cache(datasets_cache, "some-org/scores", train=rows)
    for _ in range(2):  # nothing half-written is found the second time
        said = r"^some-org/scores:2: `score` holds an infinite number, .*; leave it out \[HF013\]$"
        with pytest.raises(DataError, match=said):
            shown("some-org/scores")


def test_a_hub_data_set_that_cannot_be_had_offline_is_one_clear_message(folder):
    with pytest.raises(DataError, match=r"some-org/none: data.train: there is no such file, and the Hub data set"):
        shown("some-org/none")


def test_a_file_that_exists_goes_before_a_hub_data_set_of_its_name(folder, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the Hub"))
    Path("data/plain").write_text('{"text": "a"}')
    assert shown("data/plain") == ["data/plain"]
    with pytest.raises(DataError, match="no such file"):
        shown("data/absent")
