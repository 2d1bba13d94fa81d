"""What a server is asked to be, and whether it can: before a model is loaded."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hf_finetune.errors import ConfigError, MachineError, Problem

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
KEY_VARIABLE = "HF_FINETUNE_API_KEY"
SHORTEST_KEY = 16
MOST_KEY_BYTES = 4096
BACKLOG = 1024
KEY_OPTION = "--api-key-file"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}")
BASE = "base"
"""What the model is served as that others were tuned from."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask for, and how much is done at once."""

    body_bytes: int = 2**20
    prompt_tokens: int | None = None
    """By default what the model takes."""
    max_tokens: int = 1024
    """Of one answer."""
    choices: int = 8
    """Answers to one request."""
    running: int = 32
    """Answers that are generated at once."""
    waiting: int = 128
    seconds: float = 300.0
    """For one request."""
    grace_seconds: float = 30.0
    """For what runs, once the server is to end."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What is served, to whom."""

    model: str
    name: str | None = None
    """By default that of the folder."""
    adapters: dict[str, str] = field(default_factory=dict)
    """Name -> folder or Hub id."""
    base: bool = False
    """Serve what the model was tuned from, too; of an adapter it always is."""
    base_path: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    key_file: str | None = None
    filters: tuple[str, ...] = ()
    """Word lists, and classifiers with their labels: `RUN=LABEL`."""
    votes: str | None = None
    trust_chat_template: str | None = None
    limits: Limits = field(default_factory=Limits)


def check_packages() -> None:
    """Raise `MachineError` where a package of the extra `serve` is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        what = f"{names}: not installed, and serving needs {'it' if len(missing) == 1 else 'them'}"
        raise MachineError(Problem(what, 'in the clone of hf-finetune: pip install ".[serve]"', code="HF711"))


def check_names(options: ServeOptions, *, over_adapter: bool) -> str:
    """Return what the model is served as: the name that was given, else that of its folder.

    `over_adapter`: the model is an adapter, whose base is served as well. Raises `ConfigError` for what is no name, or
    is taken.
    """
    path = Path(options.model)
    name = options.name or (path.resolve().name if path.is_dir() else options.model)
    wrong = [each for each in (name, *options.adapters) if not NAME.fullmatch(each)]
    has_base = options.base or over_adapter
    taken = [each for each in options.adapters if each in (name, BASE)] + [name] * (has_base and name == BASE)
    problems = [
        *(Problem(f"{each!r} is no name for a model", "take letters, digits, . _ / -", code="HF603") for each in wrong),
        *(Problem(f"{each} is taken", "give what you name another name", code="HF601") for each in taken),
    ]
    if problems:
        raise ConfigError([replace(each, key="--name or --adapters") for each in problems])
    return name


def read_key(host: str, file: str | None) -> str | None:
    """Read the key that clients have to show, from a file or the environment; None where none is needed.

    It is no option: everybody on a machine can read the command lines of all processes. Raises `ConfigError` where
    there is none and `host` can be reached from other machines, or where it cannot be used.
    """
    place = KEY_OPTION if file is not None else KEY_VARIABLE
    # What was named by hand holds before what the environment happens to have.
    key = os.environ.get(KEY_VARIABLE) if file is None else _read_key_file(file)
    if not key:
        if file is None and is_loopback(host):
            return None
        what = f"whoever reaches {host} could use the model" if file is None else "holds no key"
        remedy = f"put a key into a file and name it, or into {KEY_VARIABLE}; or leave --host out"
        raise ConfigError(Problem(what, remedy, path=file, key=KEY_OPTION, code="HF872"))
    if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
        what = f"the key has to be of {SHORTEST_KEY} or more printable ASCII characters, without blanks"
        raise ConfigError(Problem(what, "make one: openssl rand -hex 32", key=place, code="HF873"))
    return key


def _read_key_file(name: str) -> str:
    try:
        if not Path(name).is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with open(name, "rb") as file:
            return file.read(MOST_KEY_BYTES).decode("utf-8", "replace").strip()
    except OSError as problem:
        what = f"the file of the key cannot be read ({problem.strerror})"
        # The key itself may stand in the place of a file's name: what was typed is not repeated.
        raise ConfigError(Problem(what, "name a file that holds nothing else", key=KEY_OPTION, code="HF873")) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Take the address; nobody is let in yet. Raises `ConfigError` where it is not to be had."""
    try:
        [(family, kind, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as problem:
        raise _explain_address(host, port, problem) from problem
    # Bound and not listening: until the model is loaded a client is refused at once, and does not wait.
    listening = socket.socket(family, kind)
    try:
        # What an ended server leaves is no hindrance.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        _refuse_shared(host, address, family)
    except OSError as problem:
        listening.close()
        raise _explain_address(host, port, problem) from problem
    return listening


def let_in(listening: socket.socket) -> None:
    """Let connections wait until requests are answered. Raises `ConfigError` where another was first."""
    try:
        listening.listen(BACKLOG)
    except OSError as problem:
        host, port = listening.getsockname()[:2]
        raise _explain_address(host, port, problem) from problem


def _refuse_shared(host: str, address: Sequence[object], family: int) -> None:
    """Raise OSError where somebody listens there already, whom SO_REUSEADDR lets another bind beside."""
    if os.name != "nt" or not address[1]:
        return
    with socket.socket(family, socket.SOCK_STREAM) as other:
        if other.connect_ex((host, address[1])) == 0:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _explain_address(host: str, port: int, problem: OSError) -> ConfigError:
    used = problem.errno == errno.EADDRINUSE
    what = f"port {port} of {host} is in use" if used else f"{host}:{port} cannot be listened at ({problem.strerror})"
    remedy = "name another --port, or 0 for a free one" if used else "name an address of this machine in --host"
    return ConfigError(Problem(what, remedy, key="--port" if used else "--host", code="HF871"))
