"""`hf-finetune rows`: a table, or one JSON array, as JSONL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hf_finetune.cli.terminal import Columns, Json, MoreColumns, OnBadLine, parse_columns, print_json, say
from hf_finetune.errors import format_problems


def rows(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, Parquet, Arrow, a JSON array, or JSONL to rename in.")],
    output: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    more: MoreColumns = None,
    columns: Columns = None,
    numbers: Annotated[list[str] | None, typer.Option(help="A field of a CSV that holds numbers, not text.")] = None,
    on_bad_line: OnBadLine = "fail",
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Take rows whose text, answer or label is empty.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a table into JSONL: CSV (encoding and delimiter are found), TSV, Parquet, Arrow or one JSON array."""
    from hf_finetune.data import RowsOptions, convert_rows
    from hf_finetune.environment import set_up_logging
    from hf_finetune.metric_info import say_count

    set_up_logging()
    taken, fields = parse_columns(columns, more), tuple(numbers or ())
    options = RowsOptions(taken, fields, on_bad_line, allow_empty=allow_empty, overwrite=overwrite)
    facts = convert_rows(file, output, options)
    if as_json:
        print_json(facts.as_dict())
        return
    for line in format_problems(facts.problems):
        say(line, file=sys.stderr)
    say(f"{output}: {say_count(facts.rows, 'row')} of {file}, {facts.rejected:,} rejected, {facts.blank:,} blank")
