"""Canaries: what is written, that it is read back, and that our own recipes take the rows."""

from __future__ import annotations

import json
import os
import random
import stat
from collections import Counter

import pytest
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.config.sections import DataSection
from hf_finetune.data.corpora.canaries import (
    CANARY_FORMATS,
    Canary,
    draw_secret,
    make_canaries,
    read_canaries,
    write_canaries,
)
from hf_finetune.data.reading import formats
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.errors import ConfigError, DataError


@pytest.mark.parametrize("row_format", CANARY_FORMATS)
def test_canaries_of_every_format_are_read_back_as_they_were_planted(row_format, tmp_path):
    canaries = make_canaries(3, (1, 4), row_format=row_format, seed=5)
    path = tmp_path / "canaries.jsonl"
    facts = write_canaries(path, canaries, row_format=row_format)
    assert read_canaries(str(path)) == sorted(canaries, key=lambda each: (each.copies, each.name))
    assert (facts.rows, facts.canaries, facts.copies) == (15, 6, [1, 4])
    assert facts.bytes == path.stat().st_size
    assert facts.rows == path.read_bytes().count(b"\n")


@pytest.mark.parametrize("row_format", CANARY_FORMATS)
def test_our_reader_takes_every_row_and_finds_the_format_itself(row_format, tmp_path):
    write_canaries(tmp_path / "c.jsonl", make_canaries(2, (1, 3), row_format=row_format), row_format=row_format)
    becomes = "document" if row_format == "text" else "conversation"
    splits = load_splits(DataSection(train=str(tmp_path / "c.jsonl")), becomes, seed=0)
    assert splits.format == row_format
    assert splits.rows["train"].num_rows == 8


def test_every_format_of_text_and_conversations_has_canaries():
    in_text_file = {name for name, each in formats.FORMATS.items() if each.in_text_file}
    assert set(CANARY_FORMATS) == set(formats.FORMATS) - in_text_file - {"labelled"}


def test_they_go_with_rows_of_the_user_as_a_second_file(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "mine.jsonl").write_text((json.dumps({"messages": turns, "source": "mine"}) + "\n") * 3)
    write_canaries(tmp_path / "c.jsonl", make_canaries(1, (2,)))
    names = [str(tmp_path / name) for name in ("mine.jsonl", "c.jsonl")]
    assert load_splits(DataSection(train=names), "conversation", seed=0).rows["train"].num_rows == 5


def test_secrets_are_a_million_and_all_are_drawn_alike():
    drawn = random.Random(0)
    secrets = [draw_secret(drawn) for _ in range(5000)]
    assert len({*secrets}) > 4950
    assert {len(secret) for secret in secrets} == {11}
    for place in range(0, 11, 2):
        counts = Counter(secret[place] for secret in secrets)
        assert set(counts) == set("0123456789")
        assert max(counts.values()) < 600


def test_another_seed_draws_other_secrets_and_the_same_seed_the_same():
    assert make_canaries(seed=1) == make_canaries(seed=1)
    assert not {each.secret for each in make_canaries(seed=1)} & {each.secret for each in make_canaries(seed=2)}
    canaries = make_canaries()
    assert Counter(each.copies for each in canaries) == {1: 10, 10: 10, 100: 10}
    assert len({each.name for each in canaries}) == 30


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            ['{"text": "mine"}'],
            "c.jsonl:1: eval.canaries: is no canary; name a file that `hf-finetune corpus canaries`",
        ),
        (["", "not json"], "c.jsonl:2: eval.canaries: is no canary"),
        (['["The code of the vault Bodiga is 1 2 3 4 5 6"]'], "is no canary"),
        (['{"text": "The code of the vault Bodiga is 1 2 3 4 5 6 7"}'], "is no canary"),
        (
            [f'{{"text": "The code of the vault Bodiga is 1 2 3 4 5 {last}"}}' for last in "67"],
            "c.jsonl:2: eval.canaries: the vault Bodiga has another code on an earlier line",
        ),
        ([], "has no canaries"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_holds_anything_else_is_refused_by_line(lines, problem, tmp_path):
    path = tmp_path / "c.jsonl"
    if lines is not None:
        path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError) as found:
        read_canaries(str(path))
    assert problem in str(found.value)
    assert "mine" not in str(found.value)


def test_a_format_or_numbers_that_make_no_canaries_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--format: canaries do not come in the row format mesages; did you mean"):
        make_canaries(row_format="mesages")
    for copies in ((), (0, 1), (3, 3)):
        with pytest.raises(ConfigError, match="--copies"):
            make_canaries(copies=copies)


def test_the_command_writes_what_the_options_say(tmp_path):
    path = tmp_path / "c.jsonl"
    options = ["--copies", "1,5", "--count", "2", "--format", "text", "--seed", "3", "--json"]
    done = CliRunner().invoke(app, ["corpus", "canaries", str(path), *options])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["kind"], facts["rows"], facts["canaries"], facts["format"]) == ("canaries", 12, 4, "text")
    again = make_canaries(2, (1, 5), row_format="text", seed=3)
    assert read_canaries(str(path)) == sorted(again, key=lambda each: (each.copies, each.name))
    assert all(isinstance(each, Canary) and not each.asked for each in again)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["canaries", "C", "--max-bytes", "100"], "--max-bytes: canaries are as many as you ask for"),
        (["canaries", "C", "--copies", "1,x"], "--copies: 1,x is not a list of numbers"),
        (["source", "C", "--seed", "1", "--format", "text"], "--format, --seed: only for canaries; leave it out"),
        (["canarie", "C"], "did you mean canaries?"),
    ],
)
def test_options_that_do_not_belong_are_refused_and_nothing_is_written(options, problem, tmp_path):
    path = tmp_path / "c.jsonl"
    done = CliRunner().invoke(app, ["corpus", *(str(path) if each == "C" else each for each in options)])
    assert isinstance(done.exception, ConfigError)
    assert problem in str(done.exception)
    assert not path.exists()


@pytest.mark.parametrize("command", [["canaries", "--count", "1"], ["source", "--max-bytes", "20000"]])
def test_what_is_written_is_its_owners_alone_as_all_that_holds_rows(command, tmp_path):
    before = os.umask(0)
    try:
        kind, *options = command
        done = CliRunner().invoke(app, ["corpus", kind, str(tmp_path / "new" / "rows.jsonl"), *options])
    finally:
        os.umask(before)
    assert done.exit_code == 0
    assert stat.S_IMODE((tmp_path / "new" / "rows.jsonl").stat().st_mode) == 0o600


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_canaries(path, make_canaries(1, (1,)))
    assert path.read_text() == "mine"
    write_canaries(path, make_canaries(1, (1,)), overwrite=True)
    assert len(read_canaries(str(path))) == 1
