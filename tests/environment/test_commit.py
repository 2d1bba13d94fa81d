"""The commit of the user's project is that of the working folder, and nothing is where there is none."""

from __future__ import annotations

import os
import subprocess

from hf_finetune.environment import describe_commit


def git(*arguments):
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@example.com", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_changes_are_those_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_commit() is None
    git("init", "-q")
    assert describe_commit() is None, "no commit yet"
    (tmp_path / "run.yaml").write_text("a")
    git("add", "run.yaml")
    git("commit", "-qm", "one")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "new").write_text("outputs are no change")
    assert describe_commit() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "run.yaml").write_text("b")
    assert describe_commit() == {"commit": git("rev-parse", "HEAD"), "changed": True}


def test_a_repository_cannot_have_a_program_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "one")
    program = tmp_path / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o700)
    git("config", "core.fsmonitor", str(program))
    assert describe_commit() is not None
    assert not (tmp_path / "started").exists()


def test_a_name_that_is_no_text_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    git("config", "core.quotePath", "false")
    name = os.fsencode(tmp_path) + b"/caf\xe9.txt"  # in Latin-1
    with open(name, "w") as file:
        file.write("a")
    git("add", ".")
    git("commit", "-qm", "one")
    with open(name, "w") as file:
        file.write("more")
    assert describe_commit() == {"commit": git("rev-parse", "HEAD"), "changed": True}


def test_the_index_of_the_repository_is_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "run.yaml").write_text("a")
    git("add", "run.yaml")
    git("commit", "-qm", "one")
    os.utime(tmp_path / "run.yaml", (1, 1))  # `git status` would note that the file is the same nevertheless
    before = (tmp_path / ".git" / "index").read_bytes()
    assert describe_commit() == {"commit": git("rev-parse", "HEAD"), "changed": False}
    assert (tmp_path / ".git" / "index").read_bytes() == before


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert describe_commit() is None
