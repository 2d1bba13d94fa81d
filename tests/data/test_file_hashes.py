"""The sha256 of a large file is computed once, and again as soon as the system says that it may be another."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

import hf_finetune.data.file_hashes as module
from hf_finetune.data.file_hashes import hash_data_file


@pytest.fixture
def hashed(monkeypatch, tmp_path):
    """Paths whose bytes were read."""
    monkeypatch.setattr(module, "LARGE", 4)
    monkeypatch.setattr(module, "CLOCK_TICK_S", 0.02)
    read = []
    plain = module.hash_file
    monkeypatch.setattr(module, "hash_file", lambda path: read.append(path) or plain(path))
    return read


def test_an_unchanged_file_is_read_once_and_a_changed_one_again(tmp_path, hashed):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"some rows")
    time.sleep(0.05)
    before = path.stat()
    assert {hash_data_file(path) for _ in range(3)} == {hashlib.sha256(b"some rows").hexdigest()}
    assert len(hashed) == 1
    # Other bytes of the same size, under the time of the old ones: the time of the inode tells.
    path.write_bytes(b"more rows")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    time.sleep(0.05)
    assert hash_data_file(path) == hashlib.sha256(b"more rows").hexdigest()


def test_the_hash_of_a_file_that_was_written_just_now_is_not_kept(tmp_path, hashed, monkeypatch):
    monkeypatch.setattr(module, "CLOCK_TICK_S", 60)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"rows of now")
    assert hash_data_file(path) == hash_data_file(path)
    assert len(hashed) == 2


def test_a_small_file_is_always_read(tmp_path, hashed):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"abc")
    time.sleep(0.05)
    assert hash_data_file(path) == hash_data_file(path)
    assert len(hashed) == 2
