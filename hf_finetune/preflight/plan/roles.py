"""Which of several files are for training, which for validation and test: by their names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Literal

from hf_finetune.config.paths import find_matches
from hf_finetune.config.sections import TextFileFormat
from hf_finetune.data.reading.file_kinds import PROSE, get_ending
from hf_finetune.data.reading.lines import decompress
from hf_finetune.data.reading.sources import JSONL_ENDINGS, DataFile, resolve_sources
from hf_finetune.errors import DataError, Problem
from hf_finetune.shell import shell_path

Role = Literal["train", "validation", "test"]
ROLES: dict[Role, frozenset[str]] = {
    "train": frozenset({"train", "training"}),
    "validation": frozenset({"validation", "valid", "val", "dev", "eval"}),
    "test": frozenset({"test", "testing", "heldout"}),
}
HEAD_BYTES = 2**18
MANY_FILES = 10
"""So many text files are documents, each as a whole."""
_MARKS = re.compile(r"[^A-Za-z]+")


def assign_roles(files: Sequence[str]) -> dict[Role, list[str]]:
    """Assign each file to a role by the first or last word of its name; all to train where no other is for it.

    ["a-train.jsonl", "a-dev.jsonl"] -> {"train": ["a-train.jsonl"], "validation": ["a-dev.jsonl"]}
    """
    roles: dict[Role, list[str]] = {}
    for file in files:
        roles.setdefault(_find_role(file) if len(files) > 1 else "train", []).append(file)
    if "train" not in roles:
        return {"train": list(files)}
    return {role: roles[role] for role in ROLES if role in roles}


def _find_role(file: str) -> Role:
    # Its ends alone: train-test-split-of-march.jsonl is all three, and may be any of them.
    # `rows.test.jsonl.gz` is rows.test.
    stem = PurePath(PurePath(file).name.removesuffix(".gz").removesuffix(".zst")).stem
    words = [word for word in _MARKS.split(stem.lower()) if word]
    ends = {*words[:1], *words[-1:]}
    return next((role for role, names in ROLES.items() if names & ends), "train")


def find_files(roles: dict[Role, list[str]], text_format: TextFileFormat | None) -> dict[str, list[DataFile]]:
    """Find the files of each role. Raises DataError naming all that are missing, empty or of another kind."""
    found: dict[str, list[DataFile]] = {}
    problems: list[Problem] = []
    for role, files in roles.items():
        try:
            found[role] = resolve_sources([*files], role, text_format or "auto")
        except DataError as error:
            problems += error.problems
    empty = [each.shown for files in found.values() for each in files if each.path.stat().st_size == 0]
    problems += [Problem("the file is empty", "put rows into it", shown, code="HF007") for shown in empty]
    if problems:
        raise DataError(problems)
    return found


def choose_text_format(files: Sequence[str]) -> TextFileFormat | None:
    """Choose how files of plain text are cut into documents; None where they hold rows.

    Each of many files is one document; a file with blank lines holds paragraphs, another one lines. Raises DataError
    for a table that is called .txt, and for texts beside rows.
    """
    listed = {file: _list_texts(file) for file in files}
    texts = [path for paths in listed.values() for path in paths]
    if not texts:
        return None
    if others := [file for file, paths in listed.items() if not paths] or [
        path for path in texts if get_ending(path) not in PROSE
    ]:
        text = next(path for path in texts if path not in others)
        what = f"is plain text, and {others[0]} is not: a run reads one of both"
        raise DataError(Problem(what, "name files of one kind", text, code="HF050"))
    if len(texts) >= MANY_FILES:
        return "file"
    heads = [_read_head(path) for path in texts]
    for path, head in zip(texts, heads, strict=True):
        _refuse_table(path, head)
    # Windows ends lines by \r\n; blank lines at the two ends of a file separate nothing.
    if any(b"\n\n" in head.replace(b"\r", b"").strip() for head in heads):
        return "paragraphs"
    return "lines" if any(b"\n" in head.strip() for head in heads) else "file"


def _list_texts(file: str) -> list[str]:
    """The text files that an argument stands for; [] for one of rows."""
    if os.path.isdir(file):
        with suppress(OSError):  # whoever reads the folder says so
            return _list_texts_of_folder(file)
        return []
    if glob.has_magic(file) and not os.path.exists(file):
        found = find_matches(os.path.expanduser(file), "data.train")
        return found if any(get_ending(path) in PROSE for path in found) else []
    return [file] if get_ending(file) in PROSE and os.path.isfile(file) else []


def _list_texts_of_folder(file: str) -> list[str]:
    names = sorted(name for name in os.listdir(file) if not name.startswith("."))
    rows = any(name.endswith(JSONL_ENDINGS) for name in names)
    return [] if rows else [os.path.join(file, name) for name in names if get_ending(name) == ".txt"]


def _read_head(file: str) -> bytes:
    from pathlib import Path

    return next(iter(decompress(Path(file), file)), b"")[:HEAD_BYTES]


def _refuse_table(file: str, head: bytes) -> None:
    """Raise DataError where each line has a tab: a label and a text, which would be trained as one text."""
    lines = [line for line in head.split(b"\n")[:50] if line.strip()]
    if len(lines) > 1 and {line.count(b"\t") for line in lines} == {1}:
        what = "each line has one tab, as that of a table has"
        remedy = f"name it .tsv, with the names of the columns above: {shell_path('label<TAB>text')}"
        raise DataError(Problem(what, remedy, file, code="HF006"))
