"""The sources that the run file names -> the files to read."""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import datasets
import msgspec

from hf_finetune.cache.entries import write_sidecar
from hf_finetune.cache.holding import find_or_make
from hf_finetune.cache.keys import place_in_cache
from hf_finetune.config.paths import find_matches
from hf_finetune.config.sections import RowFormatName, Source, Sources, TextFileFormat
from hf_finetune.data.reading.file_kinds import PROSE, TABLE_ENDINGS, explain_text_formats, get_ending
from hf_finetune.data.reading.tables.arrow_rows import open_dataset
from hf_finetune.data.reading.tables.rows import TableRow
from hf_finetune.environment.versions import __version__
from hf_finetune.errors import DataError, Problem, suggest
from hf_finetune.files import is_of_kernel, open_atomically
from hf_finetune.folders import leads_out
from hf_finetune.metric_info import say_count
from hf_finetune.ranks import is_first_rank

logger = logging.getLogger(__name__)

JSONL_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
# Endings of the text files in a folder; of lines and paragraphs, others have to be named.
TEXT_ENDINGS = {"file": tuple(PROSE)}
TEXT_FORMATS = get_args(TextFileFormat)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_ENDING = re.compile(
    r"\.(jsonl?|ndjson|txt|csv|tsv|md|rst|py|parquet|arrow|gz|zst|zip|xlsx|docx|pdf|html?)$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file to read: its path, the path as the user wrote it, and its source in the mixture with its weight."""

    path: Path
    shown: str
    source: int
    weight: float


def resolve_sources(sources: Sources, role: str, format_name: RowFormatName) -> list[DataFile]:
    """Return the files of `data.<role>` in order; a folder, a glob or a list gives several.

    Raises DataError naming every source that matches nothing, has rows of another kind, or is named twice.
    """
    files: list[DataFile] = []
    problems: list[Problem] = []
    for number, source in enumerate(sources if isinstance(sources, list) else [sources]):
        source = source if isinstance(source, Source) else Source(path=source)
        try:
            found = _find_files(source.path, role, format_name)
        except DataError as error:
            problems += error.problems
            continue
        except PermissionError as error:
            what, remedy = f"cannot be read: {error.strerror}", "check the permissions of its folder"
            problems.append(Problem(what, remedy, source.path, key=f"data.{role}", code="HF002"))
            continue
        problems += [problem for shown, _ in found if (problem := _find_mismatch(shown, format_name)) is not None]
        files += [DataFile(path, shown, number, source.weight) for shown, path in found]
    problems += _find_duplicates(files, role)
    if problems:
        raise DataError(problems)
    return files


def _find_files(written: str, role: str, format_name: RowFormatName) -> list[tuple[str, Path]]:
    """Find the files of one source: each path as it is shown, and as it is opened."""
    path = Path(written).expanduser()
    # Not `Path.is_dir`, which raises for a name that is longer than file systems take, as 300 stars are.
    if os.path.isdir(path):
        return _list_folder(written, path, role, format_name)
    if os.path.exists(path):
        if not _is_readable(path):
            raise DataError(
                Problem("is not a file", "name a file or a folder", written, key=f"data.{role}", code="HF002")
            )
        return [(written, path)]
    if glob.has_magic(written):
        names = [name for name in find_matches(str(path), f"data.{role}") if _is_readable(Path(name))]
        if not names:
            raise DataError(Problem("no file matches", "check the pattern", written, key=f"data.{role}", code="HF055"))
        # A pattern such as ~/rows/*.jsonl is shown with ~ again: messages and the manifest name no home folder.
        home = str(Path.home()) if written.startswith("~") else ""
        return [("~" + name.removeprefix(home) if home else name, Path(name)) for name in names]
    if _is_hub_id(written, path):
        return [(written, _download_hub_rows(written, role))]
    raise DataError(_explain_missing(written, path, role))


def _list_folder(written: str, folder: Path, role: str, format_name: RowFormatName) -> list[tuple[str, Path]]:
    endings = TEXT_ENDINGS.get(format_name, (".txt",)) if format_name in TEXT_FORMATS else JSONL_ENDINGS
    # Hidden files are those of editors and of macOS, such as ._rows.jsonl.
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.name.endswith(endings) and not entry.name.startswith(".")
    )
    if not names:
        wanted = ", ".join(f"*{ending}" for ending in endings)
        raise DataError(
            Problem(
                f"the folder has no {wanted}",
                _suggest_pattern(folder, written),
                written,
                key=f"data.{role}",
                code="HF055",
            )
        )
    remedy = "put the file itself there, or name it, or a pattern: a folder is read no further than it goes"
    outside = [name for name in names if leads_out(folder / name, folder)]
    if outside:
        what = "is a link out of the folder"
        raise DataError(
            [Problem(what, remedy, os.path.join(written, name), key=f"data.{role}", code="HF056") for name in outside]
        )
    if odd := [name for name in names if not _is_readable(folder / name)]:
        what, remedy = "is not a file", "take it out of the folder, or name the files"
        raise DataError(
            [Problem(what, remedy, os.path.join(written, name), key=f"data.{role}", code="HF002") for name in odd]
        )
    _note_left_out(written, folder, endings)
    return [(os.path.join(written, name), folder / name) for name in names]


def _is_readable(path: Path) -> bool:
    """Whether a path is that of a file which ends: no folder, pipe or device, and no window into the system."""
    return path.is_file() and not is_of_kernel(path)


def _note_left_out(written: str, folder: Path, endings: tuple[str, ...]) -> None:
    """Log the tables that are in a folder beside the files that are read of it."""
    left = sorted(each.name for each in folder.iterdir() if get_ending(each.name) in TABLE_ENDINGS)
    left = [name for name in left if not name.endswith(endings)]
    if left and is_first_rank():
        more = f" and {len(left) - 3:,} more" if len(left) > 3 else ""
        named = f"{', '.join(left[:3])}{more}"
        read = ", ".join(f"*{ending}" for ending in endings)
        logger.warning(
            "%s: of a folder %s are read, so that these are not: %s", written, read, named, extra={"code": "HF057"}
        )


def _suggest_pattern(folder: Path, written: str) -> str:
    """The remedy for a folder without fitting files: a pattern of the tables in it, where it has some."""
    # Tables are not taken unasked: beside rows.csv may lie the rows.jsonl that was made from it.
    found = Counter(ending for each in folder.iterdir() if (ending := get_ending(each.name)) in TABLE_ENDINGS)
    if found:
        ending, count = found.most_common(1)[0]
        pattern = os.path.join(written, f"*{ending}")
        return f"it has {say_count(count, f'{ending} file')}: name them by a pattern, {pattern}"
    return f"name the files, or a pattern such as {os.path.join(written, '**', '*.jsonl')} for folders inside it"


def _explain_missing(written: str, path: Path, role: str) -> Problem:
    folder = path.parent
    try:
        path.stat()  # of a folder that may be listed and not entered, `exists` says that nothing is there
    except OSError as problem:
        if problem.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
    if not os.path.isdir(folder):
        return Problem(
            f"the folder {folder} does not exist", "check the path", written, key=f"data.{role}", code="HF001"
        )
    return Problem(
        "no such file",
        suggest(path.name, os.listdir(folder), "check the path"),
        written,
        key=f"data.{role}",
        code="HF001",
    )


def _find_mismatch(shown: str, format_name: RowFormatName) -> Problem | None:
    if format_name in TEXT_FORMATS:
        if shown.endswith(JSONL_ENDINGS):
            remedy = "set data.format to auto or a row format, or name a text file"
            return Problem(
                f"is JSONL, which format {format_name} would train on as plain text", remedy, shown, code="HF050"
            )
        if get_ending(shown) in {".csv", ".tsv", ".parquet", ".arrow"}:
            remedy = "set data.format to auto or a row format, or name a text file"
            return Problem(
                f"is a table, which format {format_name} would train on as plain text", remedy, shown, code="HF050"
            )
        return None
    kind = PROSE.get(get_ending(shown))
    if kind is not None:
        return Problem(
            f"is {kind}, which format {format_name} does not read", explain_text_formats(), shown, code="HF050"
        )
    return None


def _find_duplicates(files: Iterable[DataFile], role: str) -> list[Problem]:
    """Find files that are read twice, by whatever names: links to one file have its device and inode."""
    seen: dict[tuple[int, int], str] = {}
    problems = []
    for file in files:
        status = file.path.stat()
        identity = status.st_dev, status.st_ino
        if identity in seen:
            remedy = "keep one; `weight: 2.0` reads a file twice"
            what = "is named twice" if seen[identity] == file.shown else f"is the same file as {seen[identity]}"
            problems.append(Problem(what, remedy, file.shown, key=f"data.{role}", code="HF051"))
        seen.setdefault(identity, file.shown)
    return problems


def _is_hub_id(written: str, path: Path) -> bool:
    # "rows/train.jsonl" and "rows/train" with a folder "rows" are missing files, "org/name" without one is of the Hub.
    return bool(_HUB_ID.fullmatch(written)) and not _FILE_ENDING.search(written) and not os.path.isdir(path.parent)


def _download_hub_rows(repo_id: str, role: str) -> Path:
    """Write the split `role` of a Hub data set as JSONL into the cache, and return that file."""
    try:
        rows = datasets.load_dataset(repo_id, split=role)
    except (OSError, datasets.exceptions.DatasetsError, ValueError) as error:
        raise DataError(
            Problem(
                f"there is no such file, and the Hub data set of this name has no loadable split `{role}` "
                f"({type(error).__name__})",
                "check the path; offline, only data sets that are already in the cache can be read",
                repo_id,
                key=f"data.{role}",
                code="HF072",
            )
        ) from None
    # The version: another one may write the same rows differently.
    name = hashlib.sha256(f"{repo_id} {role} {rows._fingerprint} {__version__}".encode()).hexdigest()[:32]
    path = place_in_cache(f"hub-{name}.jsonl")
    return find_or_make(path, lambda: path if path.exists() else None, lambda: _write_hub_rows(rows, repo_id, path))


def _write_hub_rows(rows: datasets.Dataset, repo_id: str, path: Path) -> Path:
    table = open_dataset(rows, repo_id)
    for note in table.notes:
        logger.warning("%s: %s", repo_id, note, extra={"code": "HF066"})
    with open_atomically(path, private=True) as file:
        digest, size = hashlib.sha256(), 0
        for row in table.rows:
            line = msgspec.json.encode(_drop_nulls(row, repo_id)) + b"\n"
            digest.update(line)
            size += file.write(line)
        write_sidecar(path, {}, size, digest.hexdigest())
    return path


def _drop_nulls(row: TableRow, repo_id: str) -> dict[str, Any]:
    # A table gives every row all columns: absent ones are None, and would be keys too many.
    if row.fault is not None:
        raise DataError(Problem(row.fault.reason, row.fault.remedy, repo_id, row.number, code=row.fault.code))
    return {key: value for key, value in (row.values or {}).items() if value is not None}
