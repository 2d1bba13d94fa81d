from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from hf_finetune import errors
from hf_finetune.chat.given_up import TextGivenUp
from hf_finetune.errors import (
    CannotWriteError,
    ConfigError,
    DataError,
    FinetuneError,
    ModelError,
    NonFiniteError,
    OutOfMemory,
    Problem,
    machine_errors,
    user_errors,
)
from hf_finetune.files import explain_unwritable
from hf_finetune.interruption import NOTHING_KEPT, RESTART, describe_when_stopped


def test_a_problem_reads_place_key_what_and_remedy():
    problem = Problem("is no number", "write 0.1", path="run.yaml", line=7, key="train.learning_rate")
    assert str(problem) == "run.yaml:7: train.learning_rate: is no number; write 0.1"
    assert str(Problem("is empty", path="a.jsonl")) == "a.jsonl: is empty"


def test_a_sentence_that_is_quoted_ends_without_a_point_before_the_remedy():
    assert str(Problem("there are no cached files.", "name a folder")) == "there are no cached files; name a folder"
    assert str(Problem("goes on ...", "name a folder")) == "goes on ...; name a folder"


def test_control_characters_never_reach_the_terminal():
    assert str(Problem("key 'a\x1b[31m\n'")) == "key 'a\\x1b[31m\\n'"


def test_all_problems_are_shown_and_those_beyond_a_hundred_counted():
    error = DataError([Problem(f"line is bad {n}") for n in range(100)], total=250)
    lines = str(error).splitlines()
    assert len(lines) == 102
    assert lines[-2:] == ["... and 150 more", "250 problems"]
    assert str(ConfigError(Problem("one"))) == "one"


@pytest.mark.parametrize(
    ("error", "exit_code"), [(ConfigError, 2), (NonFiniteError, 4), (CannotWriteError, 5), (OutOfMemory, 7)]
)
def test_a_users_mistake_ends_in_its_message_its_code_and_exit_code(capsys, error, exit_code):
    with pytest.raises(SystemExit) as ended, user_errors():
        raise error(Problem("no", code="HF603"))
    assert ended.value.code == exit_code
    assert capsys.readouterr().err == "no [HF603]\n"


def test_an_error_of_another_process_is_what_it_was_there():
    problems = [Problem("is bad", "mend it", "rows.jsonl", line, code="HF010") for line in (3, 7)]
    there = DataError(problems, total=9, summary=Problem("9 rows are rejected"))
    here = pickle.loads(pickle.dumps(there))
    assert (type(here), str(here), here.problems, here.total) == (DataError, str(there), tuple(problems), 9)
    given_up = pickle.loads(pickle.dumps(TextGivenUp(4, "stack")))
    assert (given_up.number, given_up.problems[0].what) == (4, "the tokenizer gives up on a text (stack)")


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), user_errors():
        raise ZeroDivisionError


def test_an_interrupt_ends_in_130():
    with pytest.raises(SystemExit) as ended, user_errors():
        raise KeyboardInterrupt
    assert ended.value.code == 130


def test_every_error_of_a_user_is_a_finetune_error():
    assert all(issubclass(error, FinetuneError) for error in (ConfigError, DataError, NonFiniteError, CannotWriteError))


def test_a_process_behind_the_first_waits_before_it_says_the_same(monkeypatch, capsys):
    waited: list[float] = []
    monkeypatch.setattr(errors.time, "sleep", waited.append)
    for rank, expected in (("0", 0), ("1", 1)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit), user_errors():
            raise ConfigError(Problem("no"))
        assert len(waited) == expected
    assert capsys.readouterr().err == "no\nno\n"


def test_lines_with_one_fault_are_one_message_with_their_numbers():
    many = [Problem("has no label", "add it", "rows.jsonl", line, "label", "HF023") for line in (2, 3, 4, 6, 9)]
    other = Problem("is empty", "fill it in", "rows.jsonl", 5, "text")
    assert str(DataError([*many[:3], other, *many[3:]])).splitlines() == [
        "rows.jsonl:2: label: has no label; add it (and 4 more lines: 3-4, 6, 9) [HF023]",
        "rows.jsonl:5: text: is empty; fill it in",
        "6 problems",
    ]
    assert len(str(DataError(many[:3])).splitlines()) == 4  # three lines are shown as they are
    scattered = [Problem("is bad", path="a", line=line) for line in range(1, 40, 2)]
    assert str(DataError(scattered)).startswith(
        "a:1: is bad (and 19 more lines: 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, ...)"
    )


def test_files_with_one_fault_are_ten_lines_and_a_number():
    problems = [Problem("is Python source", "name rows", f"{n}.py", code="HF050") for n in range(100)]
    said = str(DataError(problems, total=900)).splitlines()
    assert said[0] == "0.py: is Python source; name rows [HF050]"
    assert said[9:] == [
        "9.py: is Python source; name rows (and the same of 90 more) [HF050]",
        "... and 800 more",
        "900 problems",
    ]
    assert len(str(DataError(problems[:10])).splitlines()) == 11  # ten files are shown as they are


def test_what_others_have_written_takes_no_more_than_a_page(monkeypatch):
    monkeypatch.setattr(errors, "MOST_OF_ONE", 400)
    monkeypatch.setattr(errors, "MOST_CHARACTERS", 900)
    said = str(Problem(f"key {'a' * 10**6}\x1b", "write another one", key="b" * 10**5))
    assert len(said) < 410
    assert said.endswith("; write another one")
    assert len(str(Problem("\x1b" * 10**6))) < 410
    lines = errors._keep_within([str(Problem(f"{n} {'a' * 10**4}")) for n in range(100)])
    assert [line[0] for line in lines[:-1]] == ["0", "1"]
    assert lines[-1] == "... and 98 more"


def test_a_summary_is_said_first_and_not_counted():
    error = DataError([Problem("is bad"), Problem("is worse")], summary=Problem("2 of 3 rows are rejected"))
    assert str(error).splitlines() == ["2 of 3 rows are rejected", "is bad", "is worse", "2 problems"]


def test_a_pattern_of_a_tokenizer_that_never_ends_is_one_message(capfd, monkeypatch):
    monkeypatch.setenv("RUST_BACKTRACE", "0")  # to name the places of a stack can take a minute
    tokenizer = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = Split(Regex(r"(a+)+$"), "isolated")
    with (
        pytest.raises(ModelError, match=r"gave up on this model, or on a text under it \(Onig: .*; name another model"),
        machine_errors(),
    ):
        tokenizer.encode("a" * 40 + "b")
    capfd.readouterr()  # Rust has said so itself


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "HF702"), (errno.EDQUOT, "HF702"), (errno.EACCES, "HF701"), (errno.EFBIG, "HF701")],
)
def test_a_write_that_fails_has_the_code_of_its_cause(number, code):
    failed = OSError(number, os.strerror(number), "rows.jsonl")
    with pytest.raises(CannotWriteError, match=rf"rows\.jsonl cannot be .* \[{code}\]$"), machine_errors():
        raise failed
    assert str(explain_unwritable(Path("rows.jsonl"), failed)).endswith(f" [{code}]")


def test_a_process_that_another_one_has_left_alone_says_so_in_one_line(capsys):
    what = "[/__w/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:19864. Check the logs. GLHF!"
    with pytest.raises(SystemExit), user_errors():
        raise RuntimeError(what)
    said = "another process of this run has ended, and this one with it; what that one says is why"
    assert capsys.readouterr().err == f"{said}; {NOTHING_KEPT} [HF713]\n"


def test_under_max_restarts_nobody_is_told_to_type_the_command_again(capsys, monkeypatch):
    monkeypatch.setenv(RESTART, "0")
    describe_when_stopped(lambda: "go on with: hf-finetune train run.yaml")
    with pytest.raises(SystemExit), user_errors():
        raise RuntimeError("[/__w/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:19864")
    said = capsys.readouterr().err
    assert said.endswith("it starts again by itself while restarts are left (--max-restarts) [HF713]\n")
    assert "go on with" not in said
