"""`hf-finetune cache` lists what earlier runs have made, and removes what is old, too much or damaged."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Features, Value
from typer.testing import CliRunner

from hf_finetune.cache import leftovers
from hf_finetune.cache.entries import KINDS, Entry, choose_to_remove, write_entry, write_sidecar
from hf_finetune.cli import app
from hf_finetune.data.cache import build_cached_dataset
from hf_finetune.data.streaming.parts import KIND
from hf_finetune.errors import CannotWriteError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
FEATURES = Features({"n": Value("int64")})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three entries, used 40 days, 2 days and a moment ago."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for name, days in (("old", 40), ("older", 2), ("new", 0)):
        build_cached_dataset("rows", name, FEATURES, make)
        path = max((tmp_path / "hf_finetune").glob("*.arrow"), key=lambda each: each.stat().st_ctime_ns)
        os.utime(path, (0, time.time() - days * 86_400))
    (tmp_path / "hf_finetune" / "row_prints.key").write_bytes(b"kept")
    return tmp_path / "hf_finetune"


def make():
    yield pa.RecordBatch.from_pydict({"n": list(range(1_000))}, schema=FEATURES.arrow_schema)
    return {"rows": 1_000}


def run(*arguments):
    ended = CliRunner().invoke(app, ["cache", *arguments, "--json"])
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    told = json.loads(ended.stdout)
    return len(told["entries"]), len(told["removed"]), len(told["damaged"]), told["leftovers"]


def test_entries_are_listed_and_the_last_used_comes_first(folder):
    assert run() == (3, 0, 0, 0)
    first, *shown, in_all, key = CliRunner().invoke(app, ["cache"]).stdout.splitlines()
    assert re.search(r"hf_finetune: 3 entries, \d+ KiB$", first)
    assert [line.split()[0] for line in shown] == sorted((line.split()[0] for line in shown), reverse=True)
    assert all("rows that were read" in line for line in shown)
    assert re.fullmatch(r"rows that were read: 3 entries, \d+ KiB", in_all)
    assert key.startswith("besides, key of row prints, by which runs recognize rows of earlier ones: 1 file,")


@pytest.mark.parametrize(("options", "left"), [(["--older-than", "30d"], 2), (["--older-than", "12h"], 1)])
def test_what_is_old_is_removed(folder, options, left):
    assert run(*options) == (left, 3 - left, 0, 0)
    assert len(list(folder.glob("*.arrow"))) == len(list(folder.glob("*.json"))) == left
    assert (folder / "row_prints.key").exists()


@pytest.mark.parametrize(("size", "left"), [("0", 0), ("9KB", 1), ("18kib", 2), ("1 GB", 3)])
def test_what_was_used_longest_ago_goes_until_the_rest_fits(folder, size, left):
    newest = max(folder.glob("*.arrow"), key=lambda each: each.stat().st_mtime)
    assert run("--to", size) == (left, 3 - left, 0, 0)
    assert newest.exists() == (left > 0)


def test_what_is_not_as_it_was_written_is_found_and_removed(folder):
    first, second, _ = sorted(folder.glob("*.arrow"))
    changed = bytearray(first.read_bytes())
    changed[len(changed) // 2] ^= 1
    first.write_bytes(changed)
    second.with_suffix(".json").unlink()
    assert run("--verify") == (1, 0, 2, 0)
    assert run("--verify") == (1, 0, 0, 0)


def test_what_killed_processes_have_left_is_swept_and_that_of_living_ones_not(folder, monkeypatch):
    for pid in (os.getpid(), 2**22 + 1):
        (folder / f".rows-0.arrow.{pid}.aside").write_bytes(b"half")
    assert run() == (3, 0, 0, 0)  # just written, perhaps on another machine
    monkeypatch.setattr(leftovers, "SECONDS_OF_LEFTOVERS", -1.0)
    assert run() == (3, 0, 0, 1)
    assert [path.name for path in folder.glob(".*.aside")] == [f".rows-0.arrow.{os.getpid()}.aside"]


def test_a_tokenizer_is_an_entry_as_rows_are(folder):
    path = folder / f"tokenizer-{'0' * 32}.tokenizer"
    write_entry(path, b"{}", {"characters": 0})
    assert re.search(f"trained tokenizer +{'0' * 32}$", CliRunner().invoke(app, ["cache"]).stdout.splitlines()[1])
    assert run("--verify") == (4, 0, 0, 0)
    path.write_bytes(b"[]")
    assert run("--verify") == (3, 0, 1, 0)
    write_entry(path, b"{}", {"characters": 0})
    assert run("--to", "0") == (0, 4, 0, 0)
    assert [each.name for each in folder.iterdir()] == ["row_prints.key"]


def test_of_a_large_entry_that_does_not_fit_the_older_ones_go_as_well():
    of_size = [Entry(Path(f"{number}.arrow"), "rows", size, 9.0 - number) for number, size in enumerate((3, 4, 1))]
    for room, left in ((0, 0), (2, 0), (3, 1), (5, 1), (7, 2), (8, 3)):
        assert choose_to_remove(of_size, older_than=None, to_size=room, now=9.0) == of_size[left:], room


@pytest.mark.parametrize("options", [["--older-than", "soon"], ["--to", "some"], ["--to", "10"]])
def test_what_is_no_time_or_size_is_refused(folder, options):
    with pytest.raises(ConfigError, match=r"is no (length of time; write it as 30d|size; write it as 10GB)"):
        run(*options)


def test_what_cannot_be_removed_is_said(folder):
    blocking = folder / f"rows-{'0' * 32}.arrow"
    blocking.mkdir()
    with pytest.raises(CannotWriteError, match=r"the cache cannot be read or changed \(.*\); allow it, or set HF_DATA"):
        run("--to", "0")


def test_there_may_be_no_cache_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "none"))
    assert run() == (0, 0, 0, 0)


def test_numbers_of_rows_are_listed_verified_and_removed_as_well(folder):
    path = folder / f"chosen-{'0' * 32}.npz"
    np.savez(path, rows=np.arange(1_000))
    assert run("--verify") == (4, 0, 0, 0)
    content = bytearray(path.read_bytes())
    content[2_000] ^= 1
    path.write_bytes(content)
    assert run("--verify") == (3, 0, 1, 0)
    path.write_bytes(b"PK")
    assert run("--verify") == (3, 0, 1, 0)
    np.savez(path, rows=np.arange(1_000))
    os.utime(path, (0, 0))
    assert run("--older-than", "30d")[1] == 2
    assert not path.exists()


def test_scores_of_a_base_and_sums_of_files_are_entries_too(folder):
    scores, mark, rows = (
        folder / f"{name.format('0' * 32)}" for name in ("base_scores-{}.json", "sha256-{}.txt", "hub-{}.jsonl")
    )
    scores.write_text("{}")
    mark.write_text("0" * 64)
    rows.write_text("{}\n")
    write_sidecar(rows, {}, 3, hashlib.sha256(b"{}\n").hexdigest())
    assert run("--verify") == (6, 0, 0, 0)
    shown = CliRunner().invoke(app, ["cache"]).stdout
    for name in ("scores of a base model", "sha256 of a data file", "rows of a data set of the Hub"):
        assert f"{name}: 1 entry, " in shown
    for path in (scores, mark, rows):
        path.write_text("{")
    assert run("--verify") == (3, 0, 3, 0)
    scores.write_text("{}")
    os.utime(scores, (0, 0))
    assert run("--older-than", "30d") == (2, 2, 0, 0)


def test_locks_and_files_without_an_entry_are_swept_where_no_process_is_at_them(folder, monkeypatch):
    names = [f".rows-{number}{'0' * 31}.lock" for number in range(3)]
    for name in names:
        (folder / name).touch()
    left, begun = (folder / f"rows-{number}{'0' * 31}.rejected.jsonl" for number in (9, 0))
    for path in (left, begun):
        path.touch()
    assert run() == (3, 0, 0, 0)  # just written
    monkeypatch.setattr(leftovers, "SECONDS_OF_LEFTOVERS", -1.0)
    with (folder / names[0]).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run() == (3, 0, 0, 3)
        assert ".lock" in (shown := CliRunner().invoke(app, ["cache"]).stdout)
        assert "lock of an entry that is made: 1 file," in shown
        assert "file without its entry: 1 file," in shown
    assert [path.name for path in sorted(folder.glob(".*.lock"))] == names[:1]
    assert not left.exists()
    assert begun.exists()
    assert run() == (3, 0, 0, 2)
    assert run() == (3, 0, 0, 0)
    assert [each.name for each in folder.iterdir() if each.suffix not in (".arrow", ".json")] == ["row_prints.key"]


def test_every_kind_of_entry_has_a_name_for_users():
    made = {KIND}
    for path in (ROOT / "hf_finetune").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        made.update(re.findall(r'(?:build_cached_dataset|place_dataset|_place)\(\s*"([a-z_]+)"', source))
        made.update(re.findall(r'place_in_cache\(f"([a-z_0-9]+)-\{', source))
    assert made == KINDS.keys()
