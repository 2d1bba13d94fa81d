"""`hf-finetune predict`: label a file of rows with a classifier."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import typer

from hf_finetune.cli.terminal import BasePath, Columns, Model, MoreColumns, announce, parse_columns, print_json, say
from hf_finetune.errors import CannotWriteError, ConfigError, DataError, Problem
from hf_finetune.privacy import escape_json

JsonFacts = Annotated[
    bool, typer.Option("--json", help="Print what was done as JSON (without --output: to standard error).")
]
Output = Annotated[str | None, typer.Option(help="The file to write; else the rows go to standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
BatchTokens = Annotated[int | None, typer.Option(min=1, help="Tokens of one batch, padding included.")]
MaxLength = Annotated[int | None, typer.Option(min=4, help="Cut texts at this many tokens; else at what fits.")]
Prefix = Annotated[str, typer.Option(help="Before the names label, score and scores, where rows have such fields.")]
MostLabels = Annotated[int | None, typer.Option(min=1, help="So many labels in scores, likeliest first; else all.")]


def predict(
    model: Model,
    file: Annotated[str, typer.Argument(help="Rows to label: JSONL (also .gz, .zst) or a table; - is standard input.")],
    more: MoreColumns = None,
    output: Output = None,
    overwrite: Overwrite = False,
    prefix: Prefix = "",
    top_k: MostLabels = None,
    max_length: MaxLength = None,
    batch_tokens: BatchTokens = None,
    base_path: BasePath = None,
    columns: Columns = None,
    as_json: JsonFacts = False,
) -> None:
    """Add label, score and scores to each row of a file; keep its order and every other field."""
    from dataclasses import asdict

    from hf_finetune.config import check_saved_model

    mapping = parse_columns(columns, more)
    check_saved_model(model, "predict", base_path)  # before torch is imported
    if file != "-" and not Path(file).is_file() and not Path(file).is_fifo():
        what = "is a folder" if Path(file).is_dir() else "no such file"
        raise DataError(Problem(what, "name a file of rows, or - for standard input", file, code="HF001"))
    if output is not None:
        _check_output(output, file, overwrite=overwrite)
    announce(model)
    from hf_finetune.environment import set_up_logging
    from hf_finetune.evaluation import PredictionOptions, predict_file
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.models import hold_commits

    set_up_logging()
    hold_commits()
    unwind_when_stopped()
    options = PredictionOptions(base_path, batch_tokens, max_length, prefix=prefix, top_k=top_k, columns=mapping)
    with _open_output(output) as rows:
        facts = predict_file(model, file, rows, options)
    if as_json:
        print_json(asdict(facts), sys.stderr if output is None else sys.stdout)
    elif output is not None:
        say(f"{output}: {facts.rows:,} rows")
    if facts.left_out:
        what = f"{facts.left_out:,} of {facts.left_out + facts.rows:,} rows could not be labeled and were left out"
        raise DataError(
            Problem(what, "correct them as the messages above say, and label those again", path=file, code="HF961")
        )


def _check_output(output: str, file: str, *, overwrite: bool) -> None:
    """Raise `ConfigError` where the output is what is read, is no file, or is to be kept."""
    from hf_finetune.data import check_rows_name
    from hf_finetune.folders import check_new_file

    path = Path(output)
    if os.path.exists(path) and os.path.exists(file) and path.samefile(file):
        raise ConfigError(
            Problem("is the file to read as well", "name another one", output, key="--output", code="HF707")
        )
    check_new_file(path, overwrite=overwrite, example="labelled.jsonl", key="--output")
    check_rows_name(output, "--output")


class _TerminalRows:
    """A terminal, to which lines of JSON are written: they say the same without a sign that it would obey."""

    def writelines(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            print(escape_json(line.decode("utf-8", "surrogatepass")), end="")


@contextmanager
def _open_output(output: str | None) -> Iterator[BinaryIO]:
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
