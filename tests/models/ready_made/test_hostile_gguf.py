"""GGUF files as an attacker writes them, each a line of tests/hostile/gguf.jsonl: one message, in bounded time.

A line changes a file that is right: bytes are `put` (a format of `struct`, and its values) `at` a place, or `skip`
bytes behind the name of an `entry` or a `tensor`; an entry is `add`ed, a name `replace`d, the file cut or blown up to a
`hole`; or there is no file, but what `make` says.
"""

from __future__ import annotations

import json
import os
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bounded_runs import Outcome, run_all_bounded
from gguf_files import digits_apart_tokenizer, tiny_llama, write_gguf

from hf_finetune.errors import ModelError
from hf_finetune.models import make_model
from hf_finetune.models.ready_made.gguf_header import read_gguf_header

TABLE = Path(__file__).resolve().parents[2] / "hostile/gguf.jsonl"
CASES = [json.loads(line) for line in TABLE.read_text().splitlines()]
SECONDS, MEBIBYTES = 1.5, 300
LATE = 10
"""Seconds of the clock, on a machine that does other things as well; `SECONDS` are the processor's."""
MAKERS = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "kernel": lambda path: path.symlink_to("/proc/kmsg"),
    "circle": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
    "empty": Path.touch,
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("honest") / "tiny.gguf"
    tokenizer = digits_apart_tokenizer()
    write_gguf(path, tiny_llama(len(tokenizer)), tokenizer)
    make_model(str(path), path.with_name("made"))  # it is right, and all that the others need is imported
    return path.read_bytes()


def pack(form: str, *values: Any) -> bytes:
    return struct.pack(f"<{form}", *(value.encode("latin-1") if isinstance(value, str) else value for value in values))


def find_name(data: bytes, name: str) -> int:
    """The place behind a name in the header."""
    text = pack("Q", len(name)) + name.encode()
    return data.index(text) + len(text)


def harm(data: bytes, case: dict[str, Any]) -> bytes:
    if "replace" in case:
        old, new = case["replace"]
        return data.replace(old.encode(), new.encode())
    if "put" not in case:
        return data
    changed = pack(*case["put"])
    if "add" in case:
        (entries,) = struct.unpack_from("<Q", data, 16)
        place = find_name(data, "general.license") - 8 - len("general.license")
        added = pack("Q", len(case["add"])) + case["add"].encode() + changed
        return data[:16] + pack("Q", entries + 1) + data[24:place] + added + data[place:]
    name = case.get("entry") or case.get("tensor")
    place = case["at"] if name is None else find_name(data, name) + case["skip"]
    return data[:place] + changed + data[place + len(changed) :]


def run_case(data: bytes, folder: Path, case: dict[str, Any]) -> None:
    folder.mkdir()
    path = folder / "bad.gguf"
    if "make" in case:
        MAKERS[case["make"]](path)
    else:
        path.write_bytes(harm(data, case))
        if "hole" in case:
            os.truncate(path, case["hole"])
    start = time.process_time()
    try:
        make_model(str(path), folder / "models" / "made")
    finally:
        assert time.process_time() - start < SECONDS


def test_a_hostile_file_is_one_message_and_leaves_nothing(honest, tmp_path):
    works = [partial(run_case, honest, tmp_path / str(number), case) for number, case in enumerate(CASES)]
    wrong = []
    for number, outcome in enumerate(run_all_bounded(works, seconds=LATE, mebibytes=MEBIBYTES)):
        outcome.note()
        left = [*(tmp_path / str(number) / "models").glob("*")]
        if not is_one_message(outcome, CASES[number]["expected"]) or left:
            wrong.append((CASES[number], outcome.end, outcome.said[-500:], left))
    assert wrong == []


def is_one_message(outcome: Outcome, expected: str) -> bool:
    said = outcome.said
    named = "bad.gguf: " in said and expected in said
    return outcome.end == "refused" and named and len(said.splitlines()) == 1 and "\x1b" not in said


def test_a_file_that_is_cut_off_within_any_field_is_refused(tmp_path, honest):
    path = tmp_path / "cut.gguf"
    tensors = find_name(honest, "token_embd.weight")
    for end in (*range(1, 1_500, 5), *range(tensors - 100, tensors + 1_000, 13)):
        path.write_bytes(honest[:end])
        with pytest.raises(ModelError):
            read_gguf_header(path)
