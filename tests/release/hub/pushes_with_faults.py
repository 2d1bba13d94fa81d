"""Pushes during which something goes wrong, each to a repository of its own: what is lost, seen in part, or sent twice.

As a program it is one push, to be killed: `pushes_with_faults.py FOLDER REPO`, with HF_ENDPOINT set.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from release.hub.hub_folders import PUSHED, model_folder
from release.hub.hub_server import WRITE, Fault, Hub

from hf_finetune.errors import NotPushedError
from hf_finetune.release.hub import PushOptions, push_folder

SHARDS = 3
OPTIONS = PushOptions(patience=20.0)

MakeFault = Callable[[str, str], Fault]


@dataclass(frozen=True)
class Kind:
    """A fault, made from the repository's name and the sha256 of its second shard."""

    name: str
    fault: MakeFault
    permanent: bool = False
    kills: bool = False


def _at_upload(kind: int | str, **more: Any) -> MakeFault:
    return lambda repo_id, sha256: Fault(kind, "PUT", f"/large/{sha256}", **more)


def _at_commit(kind: int | str, **more: Any) -> MakeFault:
    return lambda repo_id, sha256: Fault(kind, "POST", f"{repo_id}/commit/", **more)


def _at(kind: int | str, method: str, path: str, **more: Any) -> MakeFault:
    return lambda repo_id, sha256: Fault(kind, method, path.format(repo=repo_id, sha256=sha256), **more)


KINDS = [
    Kind("reset in mid-body of an upload", _at_upload("reset")),
    Kind("reset in mid-body of the commit", _at_commit("reset")),
    Kind("answer to the commit lost", _at_commit("lost")),
    Kind("429 at an upload", _at_upload(429, headers={"Retry-After": "0"})),
    Kind("429 at the commit", _at_commit(429, headers={"Retry-After": "0"}, times=2)),
    *(Kind(f"{status} at an upload", _at_upload(status)) for status in (500, 502, 503, 504)),
    *(Kind(f"{status} at the commit", _at_commit(status)) for status in (500, 502, 503, 504)),
    Kind("503 at the first look", _at(503, "GET", r"/api/models/{repo}\?", times=2)),
    Kind("503 at the batch", _at(503, "POST", r"{repo}\.git/info")),
    Kind("409 at the commit", _at_commit(409)),
    Kind("412 at the commit", _at_commit(412)),
    Kind("stall at an upload", _at_upload("stall")),
    Kind("stall at the commit", _at_commit("stall")),
    Kind("403 at the commit", _at_commit(403), permanent=True),
    Kind("403 at an upload", _at_upload(403), permanent=True),
    Kind("401 at the preupload", _at(401, "POST", "{repo}/preupload"), permanent=True),
    Kind("404 at the commit", _at_commit(404), permanent=True),
    Kind("kill of the client at an upload", _at_upload("stall"), kills=True),
    Kind("kill of the client at the commit", _at_commit("stall"), kills=True),
]


@dataclass(frozen=True)
class Outcome:
    kind: str
    lost: int
    """Files that are not on the Hub as they are in the folder, at the end."""
    partial: int
    """Commits that hold some of the files and not all."""
    sent_again: int
    """Large files that arrived more than once."""
    after_permanent: int
    """Requests after one that was refused for good."""
    pushes: int
    """1 where the first push ended well, 2 where the command had to be given again."""


def push_with(hub: Hub, kind: Kind, number: int, root: Path) -> Outcome:
    """Push while `kind` happens, and once more where that ended in exit code 6 or in a kill."""
    repo_id = f"ada/m{number}"
    folder = model_folder(root / f"m{number}", seed=number, shards=SHARDS)
    shas = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))]
    fault = kind.fault(repo_id, shas[1])
    with hub.lock:
        hub.faults.append(fault)
    pushes, after = 1, 0
    if kind.kills:
        _push_and_kill(hub, folder, repo_id, fault)
        pushes = 2
    elif (refused := _push(folder, repo_id)) is not None:
        assert refused.exit_code == 6
        assert f"hf-finetune push {folder} {repo_id}" in str(refused)
        pushes, after = 2, _requests_after_the_refusal(hub, repo_id, shas)
    if pushes == 2:
        push_folder(folder, repo_id, options=OPTIONS)
    return _outcome(hub, kind, repo_id, folder, shas, pushes=pushes, after=after)


def push_all(hub: Hub, kinds: Sequence[Kind], root: Path, threads: int) -> list[Outcome]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda number: push_with(hub, kinds[number], number, root), range(len(kinds))))


def _push(folder: Path, repo_id: str) -> NotPushedError | None:
    try:
        push_folder(folder, repo_id, options=OPTIONS)
    except NotPushedError as refused:
        return refused
    return None


def _push_and_kill(hub: Hub, folder: Path, repo_id: str, fault: Fault) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": WRITE, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "0", "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    child = subprocess.Popen([sys.executable, __file__, str(folder), repo_id], env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while fault.times and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    _, said = child.communicate()
    assert child.returncode == -signal.SIGKILL, said.decode()


def _requests_after_the_refusal(hub: Hub, repo_id: str, shas: list[str]) -> int:
    place = re.compile(rf"/{repo_id}(?!\d)|{'|'.join(shas)}")
    ours = [each for each in hub.requests if place.search(each.path)]
    refused = [index for index, each in enumerate(ours) if each.status in (401, 403, 404) and each.method != "GET"]
    return len(ours) - 1 - refused[0]


def _outcome(hub: Hub, kind: Kind, repo_id: str, folder: Path, shas: list[str], *, pushes: int, after: int) -> Outcome:
    names = (PUSHED - {"model.safetensors"}) | {path.name for path in folder.glob("model*.safetensors*")}
    there = hub.files(repo_id)
    lost = sum(there.get(name) != (folder / name).read_bytes() for name in names)
    partial = sum(bool(names & set(files)) and not names <= set(files) for files in hub.history(repo_id))
    uploads = hub.uploads()
    sent_again = sum(max(0, uploads.count(sha) - 1) for sha in shas)
    return Outcome(kind.name, lost, partial, sent_again, after, pushes)


if __name__ == "__main__":
    push_folder(sys.argv[1], sys.argv[2])
