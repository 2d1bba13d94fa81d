"""What models wrote, as a terminal can show it."""

from __future__ import annotations

import re

from rich.table import Table
from rich.text import Text

from hf_finetune.evaluation.generation import Sample

# All but the tab and the line feed: they would steer the terminal.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` with control characters written out, as `\\x1b`."""
    return CONTROL_CHARACTERS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def sample_text(sample: Sample, between: str) -> Text:
    """A prompt, in bold, and what was written after it."""
    return Text.assemble((printable(sample.prompt), "bold"), between, printable(sample.continuation))


def side_by_side(before: Sample, after: Sample) -> Table:
    """What the base and the tuned model wrote for one prompt."""
    table = Table(title=Text(printable(before.prompt), "bold"), title_justify="left", expand=True)
    for name in ("base", "tuned"):
        table.add_column(name, ratio=1)
    table.add_row(Text(printable(before.continuation)), Text(printable(after.continuation)))
    return table
