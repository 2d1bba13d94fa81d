"""Folders and servers that are out to harm a push: each ends in one message or in a push of what is listed, in bounds.

`push.jsonl` has them. `do` is done to a folder that could be pushed, `server` is what the Hub answers at `path`. `code`
is the exit code, `said` a piece of the message, `logged` of the log. No token is said, logged, or sent to another host;
the folder stays as it is; and what is called SECRET, or named in `never`, is in no request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.utils import close_session
from release.conftest import hub  # noqa: F401 (a fixture)
from release.hub.hub_folders import PUSHED, model_folder
from release.hub.hub_server import WRITE, Fault, Hub, running_hub
from safetensors.numpy import save_file

from hf_finetune.errors import user_errors
from hf_finetune.privacy import list_homes
from hf_finetune.release.hub import PushOptions, client, push_folder
from hf_finetune.release.hub import retries as hub_requests

CASES = [json.loads(line) for line in Path(__file__).with_name("push.jsonl").read_text("utf-8").splitlines()]
FOLDERS = [case for case in CASES if "do" in case]
SERVERS = [case for case in CASES if "server" in case]
SECONDS, MEBIBYTES = 5.0, 300
ENCODED = {
    "plain": WRITE.encode(),
    "base64": base64.b64encode(f'{{"token": "{WRITE}"}}'.encode()),
    "hex": WRITE.encode().hex().encode(),
    "utf16": WRITE.encode("utf-16"),
    "split": f'"{WRITE[:20]}" +\n"{WRITE[20:]}"'.encode(),
    "escaped": "".join(f"\\u{ord(each):04x}" for each in WRITE).encode(),
}


@pytest.fixture
def elsewhere(hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:  # noqa: F811
    """A host that is not the Hub, and says yes to everything."""
    monkeypatch.setattr(hub_requests, "TIMEOUT", 0.5)
    monkeypatch.setattr(client, "LONGEST_ANSWER", 4 << 20)
    close_session()
    with running_hub() as other:
        other.faults = [Fault(200, times=1000)]
        yield other


def fill_in(text: str) -> str:
    return text.replace("TOKEN", WRITE).replace("HOME", list_homes()[0]).replace("[DEEP]", "[" * 100_000)


def spoil(folder: Path, do: dict[str, Any]) -> None:
    """Do to a folder what a line says, each under its own word; the manifest vouches for nothing then."""
    (folder / "manifest.json").unlink()
    (folder.parent / "of-others").mkdir()
    (folder.parent / "of-others" / "tool.jinja").write_text("SECRET")
    written = do.get("write", {}) | {name: json.dumps(value) for name, value in do.get("json", {}).items()}
    written |= {"README.md": f"---\n{do['card']}---\n# X\n"} if "card" in do else {}
    for name, text in written.items():
        path = Path(f"{folder}/{fill_in(name)}")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(fill_in(text).encode("utf-8", "surrogateescape"))
    for name, target in do.get("link", {}).items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
    for name in {"pipe": do.get("pipe"), "folder": do.get("folder")}.values():
        (folder / (name or "-")).unlink(missing_ok=True)
    if "pipe" in do:
        os.mkfifo(folder / do["pipe"])
    if "folder" in do:
        (folder / do["folder"]).mkdir()
    for name, size in do.get("sparse", {}).items():
        with (folder / name).open("r+b" if (folder / name).exists() else "wb") as file:
            file.truncate(size)
    for number in range(do.get("many", 0)):
        (folder / f"{number}.txt").touch()
    if "header" in do:
        content = do["header"].encode()
        (folder / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    if "metadata" in do:
        said = {name: fill_in(text) for name, text in do["metadata"].items()}
        save_file({"weight": np.ones(4, np.float32)}, folder / "model.safetensors", said)
    if "secret" in do:
        with (folder / do["secret"]["name"]).open("ab") as file:
            file.write(b"\n" + ENCODED[do["secret"]["form"]] + b"\n")


def names_in(folder: Path) -> list[bytes]:
    return sorted(os.fsencode(path) for path in folder.parent.rglob("*"))


def push(folder: Path, *, public: bool = False) -> int:
    """The exit code of a push, which takes no longer and no more memory than it may and leaves nothing."""
    before, began = names_in(folder), time.monotonic()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = 0
    try:
        with user_errors():
            push_folder(folder, "ada/model", options=PushOptions(public=public, patience=0.2))
    except SystemExit as end:
        code = int(end.code or 0)
    assert time.monotonic() - began < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < MEBIBYTES << 10
    assert names_in(folder) == before
    return code


def check_said(case: dict[str, Any], code: int, said: str, logged: str) -> None:
    assert code == case["code"], said
    assert (case["said"] or "") in said
    assert case.get("logged", "") in logged
    assert "Traceback" not in said + logged
    assert WRITE not in said + logged
    assert not set("\x1b\u202e") & set(said)
    assert len(said.strip().splitlines()) <= (3 if said.endswith("2 problems\n") else 1)


@pytest.mark.parametrize("case", FOLDERS, ids=lambda case: case["name"])
def test_a_hostile_folder_is_refused_in_a_message_or_pushed_without_what_it_hides(
    hub, tmp_path, capsys, caplog, case  # noqa: F811
):  # fmt: skip
    caplog.set_level(logging.INFO)
    folder = model_folder(tmp_path / "model")
    spoil(folder, case["do"])
    code = push(folder, public=case["do"].get("public", False))
    check_said(case, code, capsys.readouterr().err, caplog.text)
    bodies = b"".join(request.body for request in hub.requests)
    sent = bodies + b"".join(content for files in map(hub.files, hub.repositories) for content in files.values())
    assert b"SECRET" not in sent
    assert case.get("never", "SECRET").encode() not in sent
    if code == 2:
        assert hub.requests == []
    if code == 0:
        assert PUSHED - {"manifest.json"} <= set(hub.files("ada/model")) <= PUSHED | {".gitattributes"}


def make_fault(server: dict[str, Any], hub: Hub, elsewhere: Hub, folder: Path) -> Fault:  # noqa: F811
    given = dict(server)
    kind = next((word for word in ("endless", "drip", "heads") if word in given), given.get("status"))
    body, headers = given.get("body"), {}
    if "location" in given:
        headers["Location"] = (
            given["location"].replace("OTHER", elsewhere.endpoint).replace("SELF", "/api/models/ada/model")
        )
    if "retry_after" in given:
        headers["Retry-After"] = given["retry_after"]
    if "upload" in given:
        weights = (folder / "model.safetensors").read_bytes()
        actions = {
            name: {"href": given[name].replace("OTHER", elsewhere.endpoint)}
            for name in ("upload", "verify")
            if name in given
        }
        found = {"oid": hashlib.sha256(weights).hexdigest(), "size": len(weights), "actions": actions}
        body = json.dumps({"transfer": "basic", "objects": [found]})
    body = None if body is None else body.replace("DEEP", "[" * 100_000).replace("NINES", "9" * 100_000).encode()
    return Fault(kind, given.get("method", "GET"), given["path"], given.get("times", 1), headers=headers, body=body)


@pytest.mark.parametrize("case", SERVERS, ids=lambda case: case["name"])
def test_a_server_that_answers_nonsense_is_one_message_and_learns_no_token(
    hub, elsewhere, tmp_path, capsys, caplog, case  # noqa: F811
):  # fmt: skip
    caplog.set_level(logging.INFO)
    folder = model_folder(tmp_path / "model")
    hub.make("ada/model")
    hub.faults = [make_fault(case["server"], hub, elsewhere, folder)]
    code = push(folder)
    check_said(case, code, capsys.readouterr().err, caplog.text)
    assert f"hf-finetune push {folder} ada/model" in caplog.text or code == 6
    for request in elsewhere.requests:
        assert WRITE not in request.authorization + request.other_headers + request.path
        assert WRITE.encode() not in request.body
    if case["name"] == "an upload to another host":
        assert {request.path for request in elsewhere.requests} == {"/put", "/verify"}
