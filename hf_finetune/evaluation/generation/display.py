"""Samples formatted for a terminal."""

from __future__ import annotations

from textwrap import indent

from rich.table import Table
from rich.text import Text

from hf_finetune.evaluation.generation.prompts import Sample
from hf_finetune.privacy import escape_for_terminal, shorten


def format_logged(sample: Sample, *, chat: bool) -> str:
    """Format a sample for the log: an answer below its message, a continuation behind `|` in the line of its prompt."""
    prompt, continuation = (escape_for_terminal(shorten(text)) for text in (sample.prompt, sample.continuation))
    if not chat:
        return f": {prompt}|{continuation}"
    # The lines of an answer are set in, so that none can be taken for a line of the log.
    return indent(f"\nuser: {indent(prompt, '  ').strip()}\nassistant: {indent(continuation, '  ').strip()}", "  ")


def format_sample(sample: Sample, between: str) -> Text:
    """Format a prompt, in bold, and its continuation, with `between` in between."""
    return Text.assemble(
        (escape_for_terminal(shorten(sample.prompt)), "bold"), between, escape_for_terminal(sample.continuation)
    )


def format_side_by_side(before: Sample, after: Sample) -> Table:
    """Format the base model's and the tuned model's continuation of one prompt as a table of two columns."""
    table = Table(title=Text(escape_for_terminal(shorten(before.prompt)), "bold"), title_justify="left", expand=True)
    for name in ("base", "tuned"):
        table.add_column(name, ratio=1)
    table.add_row(Text(escape_for_terminal(before.continuation)), Text(escape_for_terminal(after.continuation)))
    return table
