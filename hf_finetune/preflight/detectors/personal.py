"""What names a person, and what is a secret, in the rows of a run: how often, and on which lines; never what it is.

It is asked in one pass which shapes a part of the text has at all; only these are then looked for in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.data.reading.formats import FORMATS
from hf_finetune.data.splitting.assignment import Rows
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.detectors.personal_shapes import SEEN_BEFORE, Kind, Shape, compile_shapes
from hf_finetune.preflight.detectors.texts import iterate_texts, number_rows
from hf_finetune.preflight.findings import MAX_PLACES, Finding, Place
from hf_finetune.secrets.rules import find_secrets

CODES_OF_KINDS: dict[Kind, tuple[str, str]] = {
    "email": ("HF401", "e-mail addresses"),
    "phone": ("HF402", "phone numbers"),
    "iban": ("HF403", "bank account numbers (IBAN)"),
    "card": ("HF404", "card numbers"),
    "ip": ("HF405", "public IP addresses"),
    "ssn": ("HF406", "numbers of the shape of a US social security number"),
    "key": ("HF411", "keys, tokens or passwords"),
    "url_password": ("HF412", "addresses with a password in them"),
}
# Longer than what any rule of a secret takes for the blanks between a name and its value.
_BETWEEN_ROWS = "\n" * 10
# Passwords in addresses are looked for by `url_password`, which leaves placeholders such as {user}:{key}@host out.
_OF_DETECT_SECRETS = "a secret (Basic Auth Credentials)"
# Of a text: what is taken is noted by cells of so many bytes.
_CELL = 8
# Of a text, in which it is asked at once which shapes it has: in a longer one nearly all are.
_PART = 2**15


@dataclass
class _Seen:
    """What was found of one kind in one split."""

    found: int = 0
    rows: int = 0
    places: list[Place] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Hits:
    """What was found in a batch: for each the kind, its row, and how many lines below the beginning of that."""

    kinds: list[Kind]
    rows: Rows
    lines: Rows


def detect_personal(splits: Splits) -> tuple[list[Finding], dict[str, Any]]:
    """Look for personal data and secrets in all rows: one finding for each kind and split.

    Counts: `{split: {kind: {"found", "rows"}}}`, of all kinds.
    """
    findings, counts = [], {}
    for split, rows in splits.rows.items():
        seen = _search_split(splits, split, rows)
        counts[split] = {kind: {"found": each.found, "rows": each.rows} for kind, each in seen.items()}
        findings += [_build_finding(split, kind, each) for kind, each in seen.items() if each.found]
    return findings, counts


def _build_finding(split: str, kind: Kind, seen: _Seen) -> Finding:
    code, name = CODES_OF_KINDS[kind]
    what = f"{split}: {name}: {seen.found:,}, in {say_count(seen.rows, 'row')}"
    return Finding(code, what, split, seen.rows, tuple(seen.places))


def _search_split(splits: Splits, split: str, rows: Dataset) -> dict[Kind, _Seen]:
    seen: dict[Kind, _Seen] = {kind: _Seen() for kind in get_args(Kind)}
    in_text_file = FORMATS[splits.format].in_text_file
    numbers, own = number_rows(rows)
    for start, texts in iterate_texts(rows, numbers):
        hits = search_texts(texts)
        for kind, its in seen.items():
            at = np.array([each == kind for each in hits.kinds], np.bool_)
            of_kind = hits.rows[at]
            its.found += len(of_kind)
            its.rows += len(set(of_kind.tolist()))
            for row, line in zip(of_kind.tolist(), hits.lines[at].tolist(), strict=True):
                if len(its.places) == MAX_PLACES:
                    break
                path, first = splits.locate(split, int(own[start + row]))
                # In a JSONL a line feed is an escape on the line of its row; in a .txt each ends a line of the file.
                place = Place(path, first + line * in_text_file)
                # Hits are in the order of the rows: another one of the same line can only follow at once.
                if place not in its.places[-1:]:
                    its.places.append(place)
    return seen


def search_texts(texts: pa.Array) -> _Hits:
    """Look for every kind in texts (rows,): hits in the order of the rows."""
    text, starts = _join_rows(texts)
    found = sorted(_search(text, starts), key=itemgetter(1))
    places = np.array([place for _, place in found], np.int64)
    rows = np.searchsorted(starts, places, "right") - 1
    # Counted at once: a row may be a book with something on every line.
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) if found else places
    lines = np.searchsorted(ends, places) - np.searchsorted(ends, starts[rows])
    return _Hits([kind for kind, _ in found], rows, lines)


def mask_labels(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Counts of labels by split, with what holds personal data or a secret named by its kind alone: `[email 1]`.

    One label has one name in all splits.
    """
    labels = list(dict.fromkeys(label for of_split in counts.values() for label in of_split))
    if not labels:
        return {split: {} for split in counts}
    hits, masked, numbers = search_texts(pa.array(labels, pa.string())), dict[str, str](), Counter[str]()
    for row, kind in zip(hits.rows.tolist(), hits.kinds, strict=True):
        if labels[row] not in masked:
            numbers[kind] += 1
            masked[labels[row]] = f"[{kind} {numbers[kind]}]"
    return {
        split: {masked.get(label, label): count for label, count in of_split.items()}
        for split, of_split in counts.items()
    }


def _join_rows(texts: pa.Array) -> tuple[bytes, Rows]:
    """Join texts (rows,), with line feeds between them, and return where each begins: (rows,)."""
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts.fill_null(""))
    # The texts ["a", null, "bc"] begin at [0, 11, 21]: a row without a text has a place, too.
    joined: bytes = pc.binary_join(whole, _BETWEEN_ROWS)[0].as_buffer().to_pybytes()
    sizes = pc.binary_length(texts.fill_null("")).to_numpy(zero_copy_only=False).astype(np.int64) + len(_BETWEEN_ROWS)
    return joined, np.cumsum(sizes) - sizes


def _search(text: bytes, starts: Rows) -> Iterator[tuple[Kind, int]]:
    """Yield the kind and the place of everything that is found in `text`; of what overlaps, the first kind alone.

    `starts`: where each row begins, (rows,).
    """
    taken: dict[int, int] = {}
    for found in find_secrets(text):
        if found.kind != _OF_DETECT_SECRETS and not _is_taken(taken, found.start, found.end):
            _take(taken, found.start, found.end)
            yield "key", found.start
    shapes = compile_shapes()
    for first, end in _cut(starts, len(text)):
        part = text[first:end]
        # In the order of SHAPES: "call 378282246310005" has a card number, and by a later one the number of a phone.
        for number in sorted(shapes.all.Match(part) or ()):
            shape, pattern = shapes.each[int(number)]
            for place, stop in _find_shape(shape, pattern, part):
                if not _is_taken(taken, first + place, first + stop):
                    _take(taken, first + place, first + stop)
                    yield shape.kind, first + place


def _cut(starts: Rows, size: int) -> Iterator[tuple[int, int]]:
    """Cut a text between rows, which begin at `starts` (rows,), into parts in which few shapes are."""
    # Of rows that begin at [0, 20_000, 40_000, 70_000], the parts begin at [0, 40_000, 70_000]: no row is cut in two.
    first = starts[np.searchsorted(starts // _PART, np.unique(starts // _PART))].tolist()
    yield from zip(first, [*first[1:], size], strict=True)


def _find_shape(shape: Shape, pattern: Any, text: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each thing of a shape begins and ends."""
    for match in pattern.finditer(text):
        start, end = match.span(match.lastindex or 0)
        if _is_checked(shape, text, start, end):
            yield start, end


def _is_checked(shape: Shape, text: bytes, start: int, end: int) -> bool:
    # Cut at a byte, which may be inside a character: hence "replace".
    before = text[max(0, start - SEEN_BEFORE) : start].rpartition(b"\n")[2].decode("utf-8", "replace")
    behind = text[end : end + 2].partition(b"\n")[0].decode("utf-8", "replace")
    return shape.check(text[start:end].decode("utf-8", "replace"), before, behind)


def _take(taken: dict[int, int], start: int, end: int) -> None:
    for cell in range(start // _CELL, (end - 1) // _CELL + 1):
        taken[cell] = max(taken.get(cell, 0), end)


def _is_taken(taken: dict[int, int], start: int, end: int) -> bool:
    # A cell knows the farthest end in it: what stands before a find, in its first cell, counts as overlapping, too.
    return any(taken.get(cell, 0) > start for cell in range(start // _CELL, (end - 1) // _CELL + 1))
