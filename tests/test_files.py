"""Files and folders appear whole, under their own name, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets import Features, Value

from hf_finetune.data.cache import build_cached_dataset
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.files import (
    fill_folder_atomically,
    hash_file,
    make_private_folder,
    open_atomically,
    open_rows_atomically,
    write_atomically,
)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_as_it_was_given_and_hashed_as_it_lies(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_atomically(path, "Zürich\r\n\n")
    assert path.read_bytes() == "Zürich\r\n\n".encode()
    assert hash_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    write_atomically(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert names_in(tmp_path) == ["rows.jsonl"]


def test_the_old_file_stays_until_the_block_ends_and_after_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    with pytest.raises(KeyError), open_atomically(path) as file:  # noqa: PT012
        file.write(b"new")
        assert path.read_text() == "old"
        raise KeyError
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

    def fail(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["rows.jsonl"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append("fsync"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    write_atomically(tmp_path / "rows.jsonl", "new")
    assert done == ["fsync", "replace", "fsync"]  # the file, then the folder


def test_a_folder_takes_the_place_of_the_old_one_only_when_it_is_whole(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.bin").write_text("old")
    with pytest.raises(KeyError), fill_folder_atomically(folder) as aside:  # noqa: PT012
        aside.mkdir()
        (aside / "half.bin").write_text("")
        raise KeyError
    assert (names_in(tmp_path), names_in(folder)) == (["model"], ["old.bin"])
    with fill_folder_atomically(folder) as aside:
        (aside / "inner").mkdir(parents=True)
        (aside / "inner" / "new.bin").write_text("new")
    assert (names_in(tmp_path), names_in(folder)) == (["model"], ["inner"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_holds_rows_is_its_owners_alone_and_all_else_is_as_the_umask_has_it(tmp_path, umask, monkeypatch):
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst"):
        (tmp_path / name).write_text("readable by all")
        with open_rows_atomically(tmp_path / name) as file:
            file.write(b"{}")
        assert mode(tmp_path / name) == 0o600
    write_atomically(tmp_path / "private", "x", private=True)
    write_atomically(tmp_path / "page.html", "x")
    assert (mode(tmp_path / "private"), mode(tmp_path / "page.html")) == (0o600, 0o666 & ~umask)
    with fill_folder_atomically(tmp_path / "merged") as aside:
        aside.mkdir()
        (aside / "config.json").write_text("{}")
    assert (mode(tmp_path / "merged"), mode(tmp_path / "merged" / "config.json")) == (0o777 & ~umask, 0o666 & ~umask)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = pa.record_batch({"ids": [1, 2]})
    build_cached_dataset("rows", ["x"], Features({"ids": Value("int64")}), lambda: yield_rows(rows))
    cached = sorted((tmp_path / "cache" / "hf_finetune").iterdir())
    assert [path.suffix for path in cached] == [".arrow", ".json"]
    assert [mode(path) for path in (*cached, cached[0].parent)] == [0o600, 0o600, 0o700]


def yield_rows(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    yield rows
    return {}


def test_a_cache_of_an_older_version_is_closed_and_one_of_another_user_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "hf_finetune").mkdir(mode=0o755)
    assert make_private_folder(tmp_path / "hf_finetune") == tmp_path / "hf_finetune"
    assert mode(tmp_path / "hf_finetune") == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    made = make_private_folder(tmp_path / "hf_finetune")
    assert (made.name, mode(made)) == ("hf_finetune-12345", 0o700)


def test_nothing_that_lies_where_a_file_is_written_aside_is_written_to(tmp_path):
    others = tmp_path / "of others"
    others.write_text("theirs")
    (tmp_path / f".rows.jsonl.{os.getpid()}.aside").symlink_to(others)
    write_atomically(tmp_path / "rows.jsonl", "ours")
    assert ((tmp_path / "rows.jsonl").read_text(), others.read_text()) == ("ours", "theirs")


def test_a_folder_beside_the_one_that_is_made_stays_but_what_a_killed_process_has_left(tmp_path):
    theirs, left, running = (tmp_path / f".model.{name}aside" for name in ("", "99999999.", "1."))
    for folder in (theirs, left, running):
        folder.mkdir()
        (folder / "weights").write_text("x")
    with fill_folder_atomically(tmp_path / "model") as aside:
        aside.mkdir()
    assert names_in(tmp_path) == [running.name, theirs.name, "model"]


def test_what_gave_way_when_a_process_was_killed_gets_its_name_back(tmp_path):
    old = tmp_path / ".model.99999999.old.aside"
    old.mkdir()
    (old / "weights").write_text("old")
    with pytest.raises(KeyError), fill_folder_atomically(tmp_path / "model"):
        raise KeyError
    assert names_in(tmp_path) == ["model"]
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_a_folder_is_never_half_removed_under_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    removed = []
    monkeypatch.setattr(shutil, "rmtree", lambda path, **how: removed.append(path.name))
    with fill_folder_atomically(folder) as aside:
        aside.mkdir()
    assert removed
    assert not [name for name in removed if not name.startswith(".model.")]


def test_a_folder_that_cannot_give_way_stays(tmp_path, monkeypatch):
    folder, move = tmp_path / "model", os.replace
    folder.mkdir()
    (folder / "weights").write_text("old")

    def refuse(old, new):
        if Path(new) == folder and ".old." not in str(old):
            raise OSError(errno.EIO, "an error of the disk")
        move(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="an error of the disk"), fill_folder_atomically(folder) as aside:
        aside.mkdir()
    assert names_in(tmp_path) == ["model"]
    assert (folder / "weights").read_text() == "old"


def test_what_somebody_has_put_there_meanwhile_is_not_replaced(tmp_path):
    folder = tmp_path / "model"

    def check() -> None:
        if folder.exists():
            raise ConfigError(Problem("is there already"))

    with pytest.raises(ConfigError), fill_folder_atomically(folder, check) as aside:  # noqa: PT012
        aside.mkdir()
        folder.mkdir()
        (folder / "theirs").write_text("x")
    assert names_in(tmp_path) == ["model"]
    assert names_in(folder) == ["theirs"]
