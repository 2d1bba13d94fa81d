"""Files and folders appear whole, under their own name, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from hf_finetune.files import fill_folder_atomically, hash_file, open_atomically, write_atomically


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

    def break_off() -> None:
        with open_atomically(path) as file:
            file.write(b"new")
            assert path.read_text() == "old"
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
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

    def break_off() -> None:
        with fill_folder_atomically(folder) as aside:
            aside.mkdir()
            (aside / "half.bin").write_text("")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert (names_in(tmp_path), names_in(folder)) == (["model"], ["old.bin"])
    with fill_folder_atomically(folder) as aside:
        (aside / "inner").mkdir(parents=True)
        (aside / "inner" / "new.bin").write_text("new")
    assert (names_in(tmp_path), names_in(folder)) == (["model"], ["inner"])
