"""The commit of the user's project: which state of its own files a run was made from."""

from __future__ import annotations

import subprocess
from typing import Any

SECONDS = 10


def describe_commit() -> dict[str, Any] | None:
    """Return the commit of the working folder's git repository, and whether its files differ; None outside of one.

    Neither branch nor remote nor author: these name people and places.
    """
    commit = _ask_git("rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changed = _ask_git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if changed is None else bool(changed)}


def _ask_git(*arguments: str) -> str | None:
    """Return what git says, or None where there is no git, no repository, or no answer in time."""
    # fsmonitor is a program that a repository's own settings may name: a run starts none. `status` would lock and write
    # the index, and a commit that its user makes meanwhile would fail.
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", *arguments]
    try:
        # Under core.quotePath=false names come as the bytes that they are, which need not be text.
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
