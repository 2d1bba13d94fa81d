"""What a page is made of: sections of blocks, plain data that the template draws."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.privacy import without_places
from hf_finetune.reporting.charts.svg import Chart

# What a page shows of a table; report.json has the rest.
MOST_ROWS = 150
MOST_CHARACTERS = 3000
# A cell of a table of settings.
MOST_IN_A_CELL = 400

# They change how text is read, not what it says; those that join letters and emoji are text.
INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
KEPT = {"\n", "\t", "\u200c", "\u200d"}


@dataclass(frozen=True)
class Strip:
    """A small drawing in a cell, in per cent of its width: a bar to `value`, or an interval with a dot in it."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Titled:
    """A name, and below it in a few words what it stands for."""

    name: str
    note: str


Cell = str | Strip | Titled


@dataclass(frozen=True)
class Table:
    """Rows under a caption; the first cell of a row is its name. Columns but the first hold numbers, or `texts`."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    said: tuple[str, ...] = ()
    """What the rows come to, in sentences."""
    texts: bool = False
    more: int = 0
    """Rows that are not shown."""
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Words:
    """Sentences."""

    sentences: tuple[str, ...]
    tone: Literal["plain", "warning"] = "plain"
    kind: Literal["words"] = "words"


@dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    items: tuple[tuple[str, str], ...]
    kind: Literal["facts"] = "facts"


@dataclass(frozen=True)
class Tile:
    name: str
    value: str
    below: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Tiles:
    """The figures to see first."""

    tiles: tuple[Tile, ...]
    kind: Literal["tiles"] = "tiles"


@dataclass(frozen=True)
class Advice:
    """A finding of the diagnosis."""

    level: str
    title: str
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Findings:
    findings: tuple[Advice, ...]
    kind: Literal["findings"] = "findings"


@dataclass(frozen=True)
class Exchange:
    """A prompt and what was written after it, once or at several steps."""

    prompt: str
    answers: tuple[tuple[str, str], ...]
    """(when, text)"""


@dataclass(frozen=True)
class Samples:
    exchanges: tuple[Exchange, ...]
    kind: Literal["samples"] = "samples"


@dataclass(frozen=True)
class Matrix:
    """Counts of rows: down what was given, across what was predicted; `shades` 0 to 10 by the share of the row."""

    caption: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    shades: tuple[tuple[int, ...], ...]
    kind: Literal["matrix"] = "matrix"


@dataclass(frozen=True)
class Code:
    """Something to type."""

    caption: str
    text: str
    kind: Literal["code"] = "code"


@dataclass(frozen=True)
class More:
    """Blocks that are shown when they are asked for, and in print."""

    summary: str
    blocks: tuple[Block, ...]
    kind: Literal["more"] = "more"


Block = Table | Words | Facts | Tiles | Findings | Samples | Matrix | Code | More | Chart


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; one without blocks is left out."""

    name: str
    """Of its link."""
    title: str
    blocks: tuple[Block, ...]


def visible(value: Any) -> Any:
    """`value` with characters that are not seen, or that turn the order of letters round, written as `\\u202e`.

    What is no string is returned as it is, and so is markup, which was made of such strings.
    """
    if type(value) is not str or (value.isascii() and value.isprintable()):
        return value
    return "".join(
        letter.encode("unicode_escape").decode("ascii")
        if unicodedata.category(letter) in INVISIBLE and letter not in KEPT
        else letter
        for letter in value
    )


def mapping(value: Any) -> dict[str, Any]:
    """`value` where it is an object with names, else an empty one: a part of a report that was not written by us."""
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    return [mapping(item) for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def sentences(value: Any) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list | tuple) else ()


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    said: Iterable[str] = (),
    texts: bool = False,
) -> list[Block]:
    """A table of the first 150 rows; where there are none, what is said of them, if anything is."""
    all_rows = [tuple(row) for row in rows]
    if not all_rows:
        return words(said)
    kept = tuple(all_rows[:MOST_ROWS])
    return [Table(caption, tuple(columns), kept, tuple(said), texts, len(all_rows) - len(kept))]


def words(given: Iterable[str], tone: Literal["plain", "warning"] = "plain") -> list[Block]:
    found = tuple(given)
    return [Words(found, tone)] if found else []


def some(*blocks: Block | None) -> list[Block]:
    """Those that are there."""
    return [block for block in blocks if block is not None]


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    return text if len(text) <= most else f"{text[:most]} … and {len(text) - most:,} more characters"


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Settings by their dotted keys, as JSON where they are no text; what is not set is left out.

    Of a path outside the folder that the run was started in only the last part is kept.
    """
    if isinstance(value, Mapping) and (value or not prefix):
        return {
            key: text
            for name, item in value.items()
            for key, text in flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    if value in (None, [], {}) or not prefix:
        return {}
    value = without_places(value)
    return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}
