"""A Hub on loopback: the part of the Hub's protocol that huggingface_hub speaks when it pushes and loads models.

Reached by the client as it is, through HF_ENDPOINT: whoami, repositories, branches, preupload, Git LFS (basic and
multipart), commits with their parent, pull requests, listings and files. It has no Xet storage, so clients run with
HF_HUB_DISABLE_XET. Faults are put in front of requests by `Fault`; what was asked is in `Hub.requests`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin", ".pt")
WRITE, READ = "hf_" + "w" * 34, "hf_" + "r" * 34
FINE = "hf_" + "f" * 34


@dataclass
class Fault:
    """Something that goes wrong at requests that match, `times` times: a status, or one of these words.

    `reset` breaks the connection when half the body is read, `lost` after the request was carried out, which `taken`
    answers with `body`, `stall` says nothing for `seconds`, `endless` and `drip` have no end, fast and slow, `heads`
    is a head without end; `waited_out` tells that the client did not hang up. `after` lets so many requests pass first;
    `body` is what is answered with a status.
    """

    kind: int | str
    method: str = ""
    path: str = ""
    times: int = 1
    after: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 20.0
    waited_out: bool = False
    body: bytes | None = None

    def strikes(self, method: str, path: str) -> bool:
        if self.times == 0 or (self.method and self.method != method) or not re.search(self.path, path):
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    status: int
    body: bytes
    authorization: str
    other_headers: str


@dataclass(frozen=True)
class Blob:
    """A file of a commit; `lfs` is the sha256 of one that is stored as a large file."""

    oid: str
    size: int
    lfs: str | None = None


@dataclass
class Repository:
    private: bool
    gated: str | bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """What the server knows. `token` is whom it believes: name -> {"role", "name"}."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.endpoint = ""
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.ignored: set[str] = set()
        self.multipart_from = 1 << 40
        self.part_size = 1 << 20
        orgs = [{"name": "lab", "roleInOrg": "write"}, {"name": "museum", "roleInOrg": "read"}]
        scoped = [{"entity": {"type": "user", "name": "someone-else"}, "permissions": ["repo.write"]}]
        self.users: dict[str, dict[str, Any]] = {
            WRITE: {"name": "ada", "orgs": orgs, "auth": {"accessToken": {"role": "write"}}},
            READ: {"name": "ada", "orgs": orgs, "auth": {"accessToken": {"role": "read"}}},
            FINE: {
                "name": "ada",
                "orgs": orgs,
                "auth": {"accessToken": {"role": "fineGrained", "fineGrained": {"scoped": scoped}}},
            },
        }

    def make(self, repo_id: str, *, private: bool = True, gated: str | bool = False) -> Repository:
        repository = self.repositories[repo_id] = Repository(private, gated)
        attributes = b"*.safetensors filter=lfs\n"
        self.blobs[git_oid(attributes)] = attributes
        first = self.commit(repository, {".gitattributes": Blob(git_oid(attributes), len(attributes))}, "", "initial")
        repository.branches["main"] = first
        return repository

    def commit(self, repository: Repository, files: dict[str, Blob], parent: str, title: str) -> str:
        content = json.dumps([parent, title, sorted((name, blob.oid) for name, blob in files.items()), time.time_ns()])
        oid = hashlib.sha1(content.encode()).hexdigest()
        repository.commits[oid] = files
        repository.parents[oid] = parent
        repository.titles[oid] = title
        return oid

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The content of each file of a branch."""
        repository = self.repositories[repo_id]
        commit = repository.commits[repository.branches.get(revision, revision)]
        return {name: self.content(blob) for name, blob in commit.items()}

    def history(self, repo_id: str, revision: str = "main") -> list[dict[str, Blob]]:
        """The files of each commit of a branch, newest first."""
        repository, found = self.repositories[repo_id], []
        commit = repository.branches[revision]
        while commit:
            found.append(repository.commits[commit])
            commit = repository.parents[commit]
        return found

    def content(self, blob: Blob) -> bytes:
        return self.large[blob.lfs] if blob.lfs else self.blobs[blob.oid]

    def put(self, repo_id: str, name: str, content: bytes, branch: str = "main") -> str:
        """A commit of somebody else."""
        with self.lock:
            repository = self.repositories[repo_id]
            head = repository.branches[branch]
            self.blobs[git_oid(content)] = content
            files = repository.commits[head] | {name: Blob(git_oid(content), len(content))}
            repository.branches[branch] = self.commit(repository, files, head, "by somebody else")
            return repository.branches[branch]

    def asked(self, method: str, path: str) -> list[Request]:
        return [each for each in self.requests if each.method == method and re.search(path, each.path)]

    def uploads(self) -> list[str]:
        """sha256 of each large file that arrived, as often as it did."""
        return [
            each.path.rpartition("/")[2].partition("?")[0]
            for each in self.asked("PUT", "/large/")
            if each.status == 200
        ]


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        self.status, self.message, self.code = status, message, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client to acknowledge its head
    hub: Hub

    def log_message(self, *arguments: Any) -> None: ...

    def do_GET(self) -> None:
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        fault = self.fault()
        length = int(self.headers.get("Content-Length") or 0)
        if fault is not None and fault.kind == "reset":
            self.rfile.read(length // 2)
            self.break_off(b"")
            return
        body = self.read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if fault is not None and fault.kind == "stall":
            # Until the client has enough of it and hangs up.
            fault.waited_out = not select.select([self.connection], [], [], fault.seconds)[0]
            self.break_off(body)
            return
        if fault is not None and isinstance(fault.kind, int):
            value = {"error": "a fault"} if fault.body is None else fault.body
            self.answer(fault.kind, value, dict(fault.headers), body)
            return
        if fault is not None and fault.kind in ("endless", "drip", "heads"):
            self.pour(body, 1 << 20 if fault.kind == "endless" else 1, heads=fault.kind == "heads")
            return
        try:
            with self.hub.lock:
                status, value, headers = self.route(body)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message} if refusal.code else {}
            status, value = refusal.status, {"error": refusal.message}
        if fault is not None and fault.kind == "taken":
            self.answer(200, fault.body, {}, body)
            return
        if fault is not None:  # lost
            self.break_off(body)
            return
        self.answer(status, value, headers, body)

    def fault(self) -> Fault | None:
        with self.hub.lock:
            return next((fault for fault in self.hub.faults if fault.strikes(self.command, self.path)), None)

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def break_off(self, body: bytes) -> None:
        self.note(0, body)
        self.close_connection = True
        with suppress(OSError):  # the client was first
            self.connection.shutdown(socket.SHUT_RDWR)

    def pour(self, body: bytes, size: int, *, heads: bool) -> None:
        """Answer blanks, or header after header, until the client hangs up."""
        self.note(200, body)
        self.close_connection = True
        self.send_response(200)
        self.send_header("Connection", "close")
        if heads:
            self.flush_headers()
        else:
            self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b"X-A: b\r\n" if heads else b" " * size)
                time.sleep(0 if size > 1 else 0.02)

    def note(self, status: int, body: bytes) -> None:
        authorization = self.headers.get("Authorization") or ""
        others = "\n".join(
            f"{name}: {value}" for name, value in self.headers.items() if name.lower() != "authorization"
        )
        self.hub.requests.append(Request(self.command, self.path, status, body, authorization, others))

    def answer(self, status: int, value: Any, headers: dict[str, str], body: bytes) -> None:
        self.note(status, body)
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
        for name, each in headers.items():
            self.send_header(name, each)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # What each address does.

    def route(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        for pattern, handle in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command.replace('HEAD', 'GET')} {path}"):
                answer = handle(self, body, query, **found.groupdict())
                return answer if isinstance(answer, tuple) else (200, answer, {})
        raise Refusal(404, f"no such address: {path}", "EntryNotFound")

    @property
    def user(self) -> dict[str, Any] | None:
        return self.hub.users.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def may_write(self, repo_id: str) -> bool:
        user, owner = self.user, repo_id.split("/")[0]
        if user is None or user["auth"]["accessToken"]["role"] == "read":
            return False
        writable = [org["name"] for org in user["orgs"] if org["roleInOrg"] == "write"]
        return owner in (user["name"], *writable) and user["auth"]["accessToken"]["role"] == "write"

    def repository(self, repo_id: str, *, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(repo_id)
        owner = repo_id.split("/")[0]
        mine = self.user is not None and owner in (self.user["name"], *(org["name"] for org in self.user["orgs"]))
        if repository is None or (repository.private and not mine):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write and not self.may_write(repo_id):
            raise Refusal(403, "You don't have the rights to do that")
        return repository

    def head(self, repository: Repository, revision: str) -> str:
        oid = repository.branches.get(revision) or (revision if revision in repository.commits else None)
        if oid is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    def whoami(self, body: bytes, query: Any) -> Any:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        return self.user

    def create(self, body: bytes, query: Any) -> Any:
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or (self.user or {}).get('name')}/{asked['name']}"
        if not self.may_write(repo_id):
            raise Refusal(403, f"You don't have the rights to create a model under {repo_id}")
        if repo_id in self.hub.repositories:
            raise Refusal(409, "You already created this model repo")
        self.hub.make(repo_id, private=asked.get("visibility") == "private")
        return {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": "1"}

    def validate(self, body: bytes, query: Any) -> Any:
        found = re.match(r"\A---\n(.*?)^---", json.loads(body)["content"], re.DOTALL | re.MULTILINE)
        values = yaml.safe_load(found[1]) if found else {}
        if not isinstance((values or {}).get("license", ""), str):
            return 400, {"errors": [{"message": '"license" must be a string'}], "warnings": []}, {}
        return {"errors": [], "warnings": []}

    def auth_check(self, body: bytes, query: Any, repo: str, write: str | None) -> Any:
        self.repository(repo, write=bool(write))
        return {}

    def model(self, body: bytes, query: Any, repo: str, revision: str | None = None) -> Any:
        repository = self.repository(repo)
        oid = self.head(repository, revision or "main")
        siblings = [{"rfilename": name, **self.described(blob)} for name, blob in repository.commits[oid].items()]
        return {
            "_id": "1", "id": repo, "modelId": repo, "sha": oid, "private": repository.private,
            "gated": repository.gated, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings,
        }  # fmt: skip

    def described(self, blob: Blob) -> dict[str, Any]:
        lfs = {"lfs": {"sha256": blob.lfs, "size": blob.size, "pointerSize": 134, "oid": blob.lfs}} if blob.lfs else {}
        return {"size": blob.size, "blobId": blob.oid, "oid": blob.oid, **lfs}

    def tree(self, body: bytes, query: Any, repo: str, revision: str, folder: str | None = None) -> Any:
        repository = self.repository(repo)
        files = repository.commits[self.head(repository, revision)]
        inside = {name: blob for name, blob in files.items() if name.startswith(f"{folder}/" if folder else "")}
        if folder and not inside:
            raise Refusal(404, "no such folder", "EntryNotFound")
        return [{"type": "file", "path": name, **self.described(blob)} for name, blob in inside.items()]

    def branch(self, body: bytes, query: Any, repo: str, branch: str) -> Any:
        repository = self.repository(repo, write=True)
        if branch in repository.branches:
            raise Refusal(409, "Reference already exists")
        repository.branches[branch] = self.head(repository, json.loads(body or b"{}").get("startingPoint") or "main")
        return {}

    def preupload(self, body: bytes, query: Any, repo: str, revision: str) -> Any:
        repository = self.repository(repo, write="create_pr" not in query)
        there = repository.commits[self.head(repository, revision)]
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": file["path"] in self.hub.ignored,
                    "oid": (there[file["path"]].lfs or there[file["path"]].oid) if file["path"] in there else None,
                }
                for file in json.loads(body)["files"]
            ]
        }

    def batch(self, body: bytes, query: Any, repo: str) -> Any:
        self.repository(repo)
        return {"transfer": "basic", "objects": [self.action(each) for each in json.loads(body)["objects"]]}

    def action(self, wanted: dict[str, Any]) -> dict[str, Any]:
        oid, size = wanted["oid"], wanted["size"]
        if oid in self.hub.large:
            return {"oid": oid, "size": size}
        verify = {"href": f"{self.hub.endpoint}/verify/{oid}", "header": {}}
        if size < self.hub.multipart_from:
            return {
                "oid": oid,
                "size": size,
                "actions": {"upload": {"href": f"{self.hub.endpoint}/large/{oid}"}, "verify": verify},
            }
        count = -(-size // self.hub.part_size)
        parts = {str(n): f"{self.hub.endpoint}/part/{oid}/{n}" for n in range(1, count + 1)}
        header = {"chunk_size": str(self.hub.part_size), **parts}
        upload = {"href": f"{self.hub.endpoint}/complete/{oid}", "header": header}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def large(self, body: bytes, query: Any, oid: str) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content is not that of the object")
        self.hub.large[oid] = body
        return {}

    def part(self, body: bytes, query: Any, oid: str, number: str) -> Any:
        self.hub.parts[oid, int(number)] = body
        return 200, {}, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}

    def complete(self, body: bytes, query: Any, oid: str) -> Any:
        numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
        return self.large(b"".join(self.hub.parts[oid, number] for number in numbers), query, oid)

    def verify(self, body: bytes, query: Any, oid: str) -> Any:
        if oid not in self.hub.large:
            raise Refusal(404, "no such object")
        return {}

    def take_commit(self, body: bytes, query: Any, repo: str, revision: str) -> Any:
        opens = "create_pr" in query
        repository = self.repository(repo, write=not opens)
        if self.user is None:
            raise Refusal(401, "Log in first")
        head = self.head(repository, revision)
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, head):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = self.applied(dict(repository.commits[head]), lines[1:])
        oid = self.hub.commit(repository, files, head, header["summary"])
        reference = (
            f"refs/pr/{sum(name.startswith('refs/pr/') for name in repository.branches) + 1}" if opens else revision
        )
        repository.branches[reference] = oid
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}"}
        number = reference.rpartition("/")[2]
        pull = {"pullRequestUrl": f"{self.hub.endpoint}/{repo}/discussions/{number}"} if opens else {}
        return answer | pull

    def applied(self, files: dict[str, Blob], lines: list[dict[str, Any]]) -> dict[str, Blob]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
                self.hub.blobs[git_oid(content)] = content
                files[value["path"]] = Blob(git_oid(content), len(content))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise Refusal(400, f"{value['path']} was never uploaded")
                size = len(self.hub.large[value["oid"]])
                files[value["path"]] = Blob(git_oid(value["oid"].encode()), size, value["oid"])
            elif files.pop(value["path"], None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        return files

    def resolve(self, body: bytes, query: Any, repo: str, revision: str, name: str) -> Any:
        repository = self.repository(repo)
        if repository.gated and not self.may_write(repo):
            raise Refusal(403, "Access to this model is restricted", "GatedRepo")
        oid = self.head(repository, revision)
        blob = repository.commits[oid].get(name)
        if blob is None:
            self_headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": oid}
            return 404, {"error": "Entry not found"}, self_headers
        headers = {"X-Repo-Commit": oid, "ETag": f'"{blob.lfs or blob.oid}"'}
        if blob.lfs is None:
            return 200, self.hub.content(blob), headers
        # As to a CDN: another origin, which gets no token.
        place = f"{self.hub.endpoint.replace('127.0.0.1', 'localhost')}/cdn/{blob.lfs}"
        linked = {"X-Linked-Etag": f'"{blob.lfs}"', "X-Linked-Size": str(blob.size), "Location": place}
        return 302, b"", headers | linked

    def cdn(self, body: bytes, query: Any, oid: str) -> Any:
        return 200, self.hub.large[oid], {"ETag": f'"{oid}"'}


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
ROUTES = [
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"GET /api/models/{_REPO}/auth-check(?P<write>/write)?", Handler.auth_check),
    (rf"GET /api/models/{_REPO}", Handler.model),
    (rf"GET /api/models/{_REPO}/revision/{_REVISION}", Handler.model),
    (rf"GET /api/models/{_REPO}/tree/{_REVISION}(?:/(?P<folder>.+))?", Handler.tree),
    (rf"POST /api/models/{_REPO}/branch/(?P<branch>.+)", Handler.branch),
    (rf"POST /api/models/{_REPO}/preupload/{_REVISION}", Handler.preupload),
    (rf"POST /api/models/{_REPO}/commit/{_REVISION}", Handler.take_commit),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /large/(?P<oid>\w+)", Handler.large),
    (r"PUT /part/(?P<oid>\w+)/(?P<number>\d+)", Handler.part),
    (r"POST /complete/(?P<oid>\w+)", Handler.complete),
    (r"POST /verify/(?P<oid>\w+)", Handler.verify),
    (rf"GET /{_REPO}/resolve/{_REVISION}/(?P<name>.+)", Handler.resolve),
    (r"GET /cdn/(?P<oid>\w+)", Handler.cdn),
]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # clients that are killed leave


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub on a free port of this machine, in threads of this process."""
    hub = Hub()
    server = Server(("127.0.0.1", 0), type("HandlerOfThisHub", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
