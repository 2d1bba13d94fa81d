"""All lines that a run has left out, in its folder: the manifest has their number, and the first of each file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from hf_finetune.data.reading.arrow import name_rejected_lines
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.streaming.left_out import iterate_named
from hf_finetune.files import open_atomically
from hf_finetune.folders import REJECTED_LINES
from hf_finetune.privacy import redact_path


class RejectedRow(NamedTuple):
    """A line that was left out."""

    role: str
    """`train`, `validation` or `test`: of the file."""
    path: str
    """As the user wrote it."""
    line: int
    reason: str
    code: str


def iterate_rejected_lines(splits: Splits) -> Iterator[RejectedRow]:
    """Yield the rejected lines of all files of a run, of which the rows have been read with `on_bad_line: skip`."""
    for role in dict.fromkeys(file.role for file in splits.files if file.rejected):
        files = [file.path for file in splits.files if file.role == role]
        # A split that was drawn has its rows in the table of train.
        table = splits.rows[role if role in splits.rows else next(iter(splits.rows))]
        for rows in table.cache_files[:1]:
            with name_rejected_lines(Path(rows["filename"])).open(encoding="utf-8") as kept:
                for each in map(json.loads, kept):
                    yield RejectedRow(role, files[each["file"]], each["line"], each["reason"], each["code"])


def keep_rejected_lines(folder: Path, splits: Splits, *, resume: bool = False) -> None:
    """Write file, line, reason and code of each rejected line of a run's files into its folder, if there are any.

    Those of a stream are added as its parts are trained; of a run that goes on, they stay. For their owner alone, and
    never pushed. Raises OSError.
    """
    streamed = iterate_named(folder / REJECTED_LINES) if resume and splits.stream is not None else iter(())
    first = next(streamed, None)
    if first is None and not any(file.rejected for file in splits.files):
        (folder / REJECTED_LINES).unlink(missing_ok=True)  # of a run that failed here
        return
    redact = lru_cache(1)(redact_path)  # of a file at a time: it asks the system for the working folder
    with open_atomically(folder / REJECTED_LINES, private=True) as out:
        for each in iterate_rejected_lines(splits):
            line = {"file": redact(each.path), "line": each.line, "reason": each.reason, "code": each.code}
            out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        out.writelines(chain(() if first is None else (first,), streamed))
