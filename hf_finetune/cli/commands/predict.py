"""`hf-finetune predict`: label a file of rows with a classifier."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hf_finetune.cli.row_files import Output, Overwrite, check_row_files, open_output, read_output
from hf_finetune.cli.terminal import BasePath, Columns, Model, MoreColumns, announce, parse_columns, print_json, say
from hf_finetune.errors import DataError, Problem

JsonFacts = Annotated[
    bool, typer.Option("--json", help="Print what was done as JSON (without --output: to standard error).")
]
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

    mapping, output = parse_columns(columns, more), read_output(output)
    check_saved_model(model, "predict", base_path)  # before torch is imported
    check_row_files(file, output, overwrite=overwrite, example="labelled.jsonl")
    announce(model)
    from hf_finetune.environment import set_up_logging
    from hf_finetune.evaluation import PredictionOptions, predict_file
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.models import hold_commits

    set_up_logging()
    hold_commits()
    unwind_when_stopped()
    options = PredictionOptions(base_path, batch_tokens, max_length, prefix=prefix, top_k=top_k, columns=mapping)
    with open_output(output) as rows:
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
