"""The parts of a page: sections of blocks, plain data that the template draws by their `kind`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.reporting.charts.svg import Chart

# Limits of the page; report.json has the rest.
MAX_TABLE_ROWS = 150
MAX_TEXT_CHARACTERS = 3000
# The same for a cell in a table of settings.
MAX_CELL_CHARACTERS = 400


@dataclass(frozen=True)
class Strip:
    """A drawing in a cell, in percent of its width: a bar to `value`, or an interval with a dot at `value`."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class NotedCell:
    """A text with a note in small print below it."""

    name: str
    note: str


@dataclass(frozen=True)
class LinkCell:
    """A text that leads to another file, by its path from the page's folder; "" leads nowhere."""

    name: str
    href: str


Cell = str | Strip | NotedCell | LinkCell


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its header, the others are numbers, or texts if `texts`."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    said: tuple[str, ...] = ()
    """Sentences above the rows."""
    texts: bool = False
    more: int = 0
    """Number of rows that are left out."""
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Paragraphs:
    """Paragraphs."""

    sentences: tuple[str, ...]
    tone: Literal["plain", "second", "warning"] = "plain"
    """`second`: below the first sentence of the verdict, smaller."""
    kind: Literal["words"] = "words"


@dataclass(frozen=True)
class Facts:
    """Pairs of name and value."""

    items: tuple[tuple[str, str], ...]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True)
class Tile:
    """A headline metric: `below` is its split and interval, `meaning` what it measures."""

    name: str
    value: str
    below: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Tiles:
    """The headline metrics."""

    tiles: tuple[Tile, ...]
    kind: Literal["tiles"] = "tiles"


@dataclass(frozen=True)
class Advice:
    """A finding of the diagnosis; `lines` are pairs of heading and text."""

    level: str
    title: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Findings:
    findings: tuple[Advice, ...]
    kind: Literal["findings"] = "findings"


@dataclass(frozen=True)
class Exchange:
    """A prompt with its completions, one or one for each of several steps."""

    prompt: str
    answers: tuple[tuple[str, str], ...]
    """(when, text)"""


@dataclass(frozen=True)
class Samples:
    exchanges: tuple[Exchange, ...]
    kind: Literal["samples"] = "samples"


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix, (labels, labels): true label by predicted label; `shades` 0 to 10 by the share of the row."""

    caption: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    shades: tuple[tuple[int, ...], ...]
    kind: Literal["matrix"] = "matrix"

    @property
    def fits_half(self) -> bool:
        """Whether it fits half of the page, 32 rem, without a scroll bar: by the length of its labels, in rem."""
        # report.css: a cell is 3.5 rem or its text (half of a rem for a letter), and 1.6 rem of padding.
        columns = sum(max(3.5, len(label) / 2) + 1.6 for label in self.labels)
        return columns + min(22.0, max(8.0, *(len(label) / 2 for label in self.labels))) + 1.6 <= 32


@dataclass(frozen=True)
class Code:
    """A command to copy."""

    caption: str
    text: str
    kind: Literal["code"] = "code"


@dataclass(frozen=True)
class More:
    """Blocks that are folded until opened, and printed in full."""

    summary: str
    blocks: tuple[Block, ...]
    kind: Literal["more"] = "more"


Block = Table | Paragraphs | Facts | Tiles | Findings | Samples | Matrix | Code | More | Chart


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading; without blocks it is left out."""

    name: str
    """Anchor of its link."""
    title: str
    blocks: tuple[Block, ...]


def get_mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a JSON object, else {}: reports can be edited, or written by others."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def get_objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects of a list; [] for any other value."""
    return [get_mapping(item) for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def get_sentences(value: Any) -> tuple[str, ...]:
    """The strings of a list; () for any other value."""
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list | tuple) else ()


def make_table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    said: Iterable[str] = (),
    texts: bool = False,
) -> list[Block]:
    """[a table of at most 150 rows]; without rows, only the sentences of `said`, if any."""
    all_rows = [tuple(row) for row in rows]
    if not all_rows:
        return make_paragraphs(said)
    kept = tuple(all_rows[:MAX_TABLE_ROWS])
    return [Table(caption, tuple(columns), kept, tuple(said), texts, len(all_rows) - len(kept))]


def make_paragraphs(given: Iterable[str], tone: Literal["plain", "second", "warning"] = "plain") -> list[Block]:
    """[paragraphs]; [] without sentences."""
    found = tuple(given)
    return [Paragraphs(found, tone)] if found else []


def drop_none(*blocks: Block | None) -> list[Block]:
    """The blocks that are not None."""
    return [block for block in blocks if block is not None]


def shorten(text: str, most: int = MAX_TEXT_CHARACTERS) -> str:
    """`text`, cut to `most` characters with a note of how many are missing."""
    return text if len(text) <= most else f"{text[:most]} … and {len(text) - most:,} more characters"


def flatten_settings(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted key, values other than strings as JSON; unset ones left out."""
    # {"train": {"bf16": True, "optim": "adamw", "seed": None}} -> {"train.bf16": "true", "train.optim": "adamw"}
    if isinstance(value, Mapping) and (value or not prefix):
        return {
            key: text
            for name, item in value.items()
            for key, text in flatten_settings(item, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    if value in (None, [], {}) or not prefix:
        return {}
    return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}
