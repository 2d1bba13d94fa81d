"""Real corpora without a network, from the standard library of the Python installation.

    source       text rows: one for each file
    docstrings   instruction rows: what a function, class or module is for, and how it is called
    modules      labelled rows: a function or class, and the package that it is from
    tools        instruction rows: a function, and its description as JSON
    topics       labelled rows: a sentence of documentation, and what it is about

Files are parsed, never imported: importing a module runs it. The same Python gives the same bytes on any machine.
"""

from __future__ import annotations

import platform
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_finetune.data.corpora.files import write_corpus_file
from hf_finetune.data.corpora.library_files import LICENSE, Row, get_public_module, hash_order, read_library_files
from hf_finetune.data.corpora.library_tasks import build_tool_rows, build_topic_rows
from hf_finetune.data.corpora.python_source import format_signature, read_python
from hf_finetune.errors import ConfigError, MachineError, Problem, suggest
from hf_finetune.folders import check_new_file

KINDS = ("source", "docstrings", "modules", "tools", "topics")
# Another kind of the same command, written by canaries.py.
CANARIES = "canaries"
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


def write_corpus(kind: str, path: Path, *, max_bytes: int | None = None, overwrite: bool = False) -> CorpusStats:
    """Write the rows of one of `KINDS` as JSONL, at most `max_bytes`, sampled over the whole library.

    Raises `ConfigError` where the kind is unknown, `path` exists or not one row fits, `CannotWriteError` where the
    file cannot be written, `MachineError` where this Python has no source of its library.
    """
    if kind not in KINDS:
        remedy = suggest(kind, [*KINDS, CANARIES], f"there are {', '.join(KINDS)}")
        raise ConfigError(Problem(f"{kind}: there is no such corpus", remedy, code="HF601"))
    check_new_file(path, overwrite=overwrite, example="corpus.jsonl")
    rows = list(_MAKERS[kind](read_library_files(Path(sysconfig.get_path("stdlib")))))
    if not rows:
        remedy = "use another Python; Linux distributions split the library's source off into a package of its own"
        raise MachineError(Problem("this Python has no source files of its standard library", remedy, code="HF080"))
    kept = rows if max_bytes is None else _sample(rows, max_bytes)
    content = b"".join(row.encode_line() for row in kept)
    write_corpus_file(path, content)
    files = len({row.file for row in kept})
    return CorpusStats(kind, len(kept), len(content), files, LICENSE, platform.python_version())


def _build_source_rows(files: Iterable[tuple[str, str]]) -> Iterator[Row]:
    for name, text in files:
        yield Row(name, {"text": text, "source": name, "license": LICENSE})


def _build_docstring_rows(files: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Yield one row for each question; a name that two files define gives one question."""
    asked: set[str] = set()
    for file, text in files:
        module = get_public_module(file)
        if module is None:
            continue
        for question, answer in _build_questions(module, text):
            if question not in asked and len(answer.split()) >= _MIN_WORDS:
                asked.add(question)
                values = {"instruction": question, "response": answer, "module": module, "license": LICENSE}
                yield Row(file, values)


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
    return phrasings[hash_order(f"{subject} {name}") % len(phrasings)].format(name=name)


def _build_labelled_rows(files: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Yield the functions and classes of each package that has enough of them, up to the maximum of a label."""
    by_label: dict[str, list[Row]] = {}
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
                by_label.setdefault(label, []).append(Row(file, values))
    least, most = _LABEL_ROWS
    for rows in by_label.values():
        if len(rows) >= least:
            chosen = sorted(range(len(rows)), key=lambda number: hash_order(rows[number].values["text"]))[:most]
            yield from (rows[number] for number in sorted(chosen))


def _sample(rows: list[Row], max_bytes: int) -> list[Row]:
    """Sample rows over the whole library, in their order, that fit in `max_bytes`; `ConfigError` if none fits."""
    lines = [row.encode_line() for row in rows]
    smallest = min(map(len, lines))
    if max_bytes < smallest:
        raise ConfigError(
            Problem(f"not one row fits in {max_bytes:,} bytes", f"allow {smallest:,} bytes at least", code="HF603")
        )
    chosen, left = [], max_bytes
    for number in sorted(range(len(rows)), key=lambda number: hash_order(lines[number])):
        if len(lines[number]) <= left:
            chosen.append(number)
            left -= len(lines[number])
    return [rows[number] for number in sorted(chosen)]


_MAKERS = {
    "source": _build_source_rows,
    "docstrings": _build_docstring_rows,
    "modules": _build_labelled_rows,
    "tools": build_tool_rows,
    "topics": build_topic_rows,
}
