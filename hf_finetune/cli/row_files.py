"""Files of rows that a command reads and writes, in the place of standard input and output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import typer

from hf_finetune.errors import CannotWriteError, ConfigError, DataError, Problem
from hf_finetune.privacy import escape_json

Output = Annotated[str | None, typer.Option(help="The file to write; else, or with -, standard output.")]
STANDARD = "-"
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


def read_output(given: str | None) -> str | None:
    """The file that `--output` names; None for standard output, which `-` is as it is in `--input`."""
    return None if given == STANDARD else given


def check_row_files(file: str, output: str | None, *, overwrite: bool, example: str) -> None:
    """Raise `DataError` where there is no file to read, and `ConfigError` where the output is what is read, is no file,
    or is to be kept; `example` is a name for the message.
    """
    if file != "-" and not Path(file).is_file() and not Path(file).is_fifo():
        what = "is a folder" if Path(file).is_dir() else "no such file"
        raise DataError(Problem(what, "name a file of rows, or - for standard input", file, code="HF001"))
    if output is None:
        return
    from hf_finetune.data import check_rows_name
    from hf_finetune.folders import check_new_file

    path = Path(output)
    if os.path.exists(path) and os.path.exists(file) and path.samefile(file):
        raise ConfigError(
            Problem("is the file to read as well", "name another one", output, key="--output", code="HF707")
        )
    check_new_file(path, overwrite=overwrite, example=example, key="--output")
    check_rows_name(output, "--output")


class _TerminalRows:
    """A terminal, to which lines of JSON are written: they say the same without a sign that it would obey."""

    def writelines(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            print(escape_json(line.decode("utf-8", "surrogatepass")), end="")


@contextmanager
def open_output(output: str | None) -> Iterator[BinaryIO]:
    """Open standard output, or a file that is written aside and renamed when it is complete.

    Raises CannotWriteError where it cannot be written.
    """
    if output is None:
        yield cast(BinaryIO, _TerminalRows()) if sys.stdout.isatty() else sys.stdout.buffer
        return
    from hf_finetune.files import explain_unwritable, open_rows_atomically

    try:
        with open_rows_atomically(Path(output)) as rows:
            yield rows
    except OSError as problem:
        remedy = "name a file in a folder of yours with --output"
        raise CannotWriteError(explain_unwritable(Path(output), problem, remedy)) from problem
