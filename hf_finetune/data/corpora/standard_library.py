"""Real corpora without a network, from the standard library of the Python installation.

    source       text rows: one for each file
    docstrings   instruction rows: what a function, class or module is for, and how it is called
    modules      labelled rows: a function or class, and the package that it is from

Files are parsed, never imported: importing a module runs it. The same Python gives the same bytes on any machine.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.data.corpora.files import check_target, write_corpus_file
from hf_finetune.data.corpora.python_source import format_signature, read_python
from hf_finetune.errors import ConfigError, MachineError, Problem, suggest

KINDS = ("source", "docstrings", "modules")
# Another kind of the same command, written by canaries.py.
CANARIES = "canaries"
LICENSE = "PSF-2.0"

# Tests, and code with a license or a grammar of its own.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "idlelib", "lib2to3", "site-packages", "__pycache__"}
# Generated tables: long, and nothing to learn from.
_GENERATED = re.compile(
    r"auto-?generated|automatically generated|file is generated|gencodec|generated on windows", re.I
)

# Modules that are documented under another name than that of their file.
_PUBLIC_NAMES = {
    "posixpath": "os.path",
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
}

_MIN_WORDS = 3
_CHUNK_CHARACTERS = range(200, 4001)
# The minimum and maximum of rows of a label: always predicting the largest scores little.
_LABEL_ROWS = (40, 100)

_QUESTION_TEMPLATES = {
    "function": (
        "Explain what {name} does.",
        "What is {name} for?",
        "What does {name} do?",
        "When would I use {name}?",
        "Describe the Python function {name}.",
    ),
    "method": (
        "What does {name} do?",
        "Explain what the method {name} does.",
        "What is {name} for?",
        "When would I call {name}?",
    ),
    "property": (
        "What is {name}?",
        "What does {name} hold?",
    ),
    "class": (
        "What is the class {name}?",
        "What is {name} for?",
        "Explain the Python class {name}.",
        "What does {name} represent?",
    ),
    "module": (
        "What is the module {name} for?",
        "What does the Python module {name} offer?",
        "Describe the module {name}.",
    ),
    "signature": (
        "What arguments does {name} take?",
        "What is the signature of {name}?",
        "How do I call {name}?",
    ),
}


@dataclass(frozen=True, slots=True)
class CorpusStats:
    """Counts of a corpus; `files` is the number of library files with a row in it."""

    kind: str
    rows: int
    bytes: int
    files: int
    license: str
    python: str


@dataclass(frozen=True, slots=True)
class _Row:
    file: str
    values: dict[str, Any]

    def encode_line(self) -> bytes:
        return json.dumps(self.values, ensure_ascii=False).encode() + b"\n"


def write_corpus(kind: str, path: Path, *, max_bytes: int | None = None, overwrite: bool = False) -> CorpusStats:
    """Write the rows of one of `KINDS` as JSONL, at most `max_bytes`, sampled over the whole library.

    Raises `ConfigError` where the kind is unknown, `path` exists or not one row fits, `CannotWriteError` where the
    file cannot be written, `MachineError` where this Python has no source of its library.
    """
    if kind not in KINDS:
        remedy = suggest(kind, [*KINDS, CANARIES], f"there are {', '.join(KINDS)}")
        raise ConfigError(Problem(f"{kind}: there is no such corpus", remedy))
    check_target(path, overwrite)
    makers = {"source": _build_source_rows, "docstrings": _build_docstring_rows, "modules": _build_labelled_rows}
    rows = list(makers[kind](_read_library_files(Path(sysconfig.get_path("stdlib")))))
    if not rows:
        remedy = "use another Python; Linux distributions split the library's source off into a package of its own"
        raise MachineError(Problem("this Python has no source files of its standard library", remedy))
    kept = rows if max_bytes is None else _sample(rows, max_bytes)
    content = b"".join(row.encode_line() for row in kept)
    write_corpus_file(path, content)
    files = len({row.file for row in kept})
    return CorpusStats(kind, len(kept), len(content), files, LICENSE, platform.python_version())


def _read_library_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the relative POSIX name and the text of each library file, sorted by name."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    for name in names:
        parts = name.split("/")
        # Files that an administrator or a build adds (sitecustomize.py, _sysconfigdata_*.py) are not of the library,
        # and may hold paths of the machine.
        if parts[0].removesuffix(".py") not in sys.stdlib_module_names or _SKIPPED_FOLDERS.intersection(parts):
            continue
        # Unlike `open`, this honors the encoding that a file declares.
        with tokenize.open(folder / name) as file:
            text = file.read()
        if text.strip() and not _GENERATED.search(text[:600]):
            yield name, text


def _build_source_rows(files: Iterable[tuple[str, str]]) -> Iterator[_Row]:
    for name, text in files:
        yield _Row(name, {"text": text, "source": name, "license": LICENSE})


def _build_docstring_rows(files: Iterable[tuple[str, str]]) -> Iterator[_Row]:
    """Yield one row for each question; a name that two files define gives one question."""
    asked: set[str] = set()
    for file, text in files:
        module = _get_public_module(file)
        if module is None:
            continue
        for question, answer in _build_questions(module, text):
            if question not in asked and len(answer.split()) >= _MIN_WORDS:
                asked.add(question)
                values = {"instruction": question, "response": answer, "module": module, "license": LICENSE}
                yield _Row(file, values)


def _build_questions(module: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield questions about a module and its public definitions, each with its answer."""
    file = read_python(text)
    yield _ask("module", module), file.docstring
    for definition in file.definitions:
        if not definition.public or not definition.docstring:
            continue
        name = f"{module}.{definition.name}"
        yield _ask(definition.kind, name), definition.docstring
        call = format_signature(definition, name)
        if call is not None:
            yield _ask("signature", name), f"Call it as {call}"


def _ask(subject: str, name: str) -> str:
    """Phrase a question about `name`; its hash chooses the wording, so every run asks the same."""
    phrasings = _QUESTION_TEMPLATES[subject]
    return phrasings[_hash_order(f"{subject} {name}") % len(phrasings)].format(name=name)


def _get_public_module(file: str) -> str | None:
    """Return the name under which a file is imported; None where it is private or a program."""
    parts = file.removesuffix(".py").removesuffix("/__init__").split("/")
    name = _PUBLIC_NAMES.get(".".join(parts), ".".join(parts))
    return None if any(part.startswith("_") for part in name.split(".")) else name


def _build_labelled_rows(files: Iterable[tuple[str, str]]) -> Iterator[_Row]:
    """Yield the functions and classes of each package that has enough of them, up to the maximum of a label."""
    by_label: dict[str, list[_Row]] = {}
    seen: set[str] = set()
    for file, text in files:
        if "/" not in file:
            continue
        label = file.split("/")[0]
        for definition in read_python(text).definitions:
            chunk = definition.source
            if chunk not in seen and len(chunk) in _CHUNK_CHARACTERS:
                seen.add(chunk)
                values = {"text": chunk, "label": label, "source": file, "license": LICENSE}
                by_label.setdefault(label, []).append(_Row(file, values))
    least, most = _LABEL_ROWS
    for rows in by_label.values():
        if len(rows) >= least:
            chosen = sorted(range(len(rows)), key=lambda number: _hash_order(rows[number].values["text"]))[:most]
            yield from (rows[number] for number in sorted(chosen))


def _sample(rows: list[_Row], max_bytes: int) -> list[_Row]:
    """Sample rows over the whole library, in their order, that fit in `max_bytes`; `ConfigError` if none fits."""
    lines = [row.encode_line() for row in rows]
    smallest = min(map(len, lines))
    if max_bytes < smallest:
        raise ConfigError(Problem(f"not one row fits in {max_bytes:,} bytes", f"allow {smallest:,} bytes at least"))
    chosen, left = [], max_bytes
    for number in sorted(range(len(rows)), key=lambda number: _hash_order(lines[number])):
        if len(lines[number]) <= left:
            chosen.append(number)
            left -= len(lines[number])
    return [rows[number] for number in sorted(chosen)]


def _hash_order(content: str | bytes) -> int:
    """Hash content to a sort key: a pseudo-random order that is the same in every process, unlike that of `hash`."""
    data = content.encode() if isinstance(content, str) else content
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
