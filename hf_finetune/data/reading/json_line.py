"""Strict decoding of one line of JSONL, with the precise reason where a line is rejected.

A line is one JSON object in UTF-8 with no key twice, no NaN or Infinity, no integer beyond 64 bits, no float beyond
double precision, no lone surrogate and at most `MAX_NESTING` levels. Python's decoder alone accepts all of these. That
holds for fields that nobody reads, too: a row that other programs would read otherwise is not read at all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

MAX_NESTING = 128
MAX_KEYS = 10_000
"""Keys of an object, columns of a table: each is looked for in every row."""

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONGEST_NUMBER = 20
_IS_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_THOUSANDS = re.compile(r"-?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")
_LEADING = re.compile(r"\+?[0-9]+")
_JSON_TYPES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class LineError(Exception):
    """A line that is rejected: the reason, and the remedy."""

    def __init__(
        self, reason: str, remedy: str = "", *, code: str, key: str | None = None, misspelled: str | None = None
    ) -> None:
        """`misspelled` is the key that the row has where `key` was expected."""
        self.reason = reason
        self.remedy = remedy
        self.code = code
        self.key = key
        self.misspelled = misspelled
        super().__init__(reason)


def name_json_type(value: object) -> str:
    """Name the JSON type of a decoded value, with its article: "an object", "null"."""
    return _JSON_TYPES.get(type(value), "a number")


def format_key(key: str) -> str:
    """Format a key for a message, in backquotes and cut at 60 characters."""
    return f"`{key}`" if len(key) <= 60 else f"`{key[:60]}…`"


def explain_no_number(field: str, value: object) -> LineError:
    """Explain why a value, decoded from JSON or the text of a cell, is no number, and how to write it as one."""
    if not isinstance(value, str):
        what = f"`{field}` must be a number, found {name_json_type(value)}"
        return LineError(what, "write a number, or take the row out", key=field, code="HF027")
    if not value.strip():
        return LineError(
            f"`{field}` is empty, and must be a number", "fill it in, or take the row out", key=field, code="HF027"
        )
    # The text of a row is not shown, but what was meant as a number is.
    short = len(value) <= _LONGEST_NUMBER and (len(value) <= 4 or any(map(str.isdecimal, value)))
    shown = json.dumps(value, ensure_ascii=False) if short else "a text"
    return LineError(
        f"`{field}` must be a number, found {shown}", _suggest_number(value.strip()), key=field, code="HF027"
    )


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_NUMBER else f"{text[:_LONGEST_NUMBER]}..."


def _suggest_number(text: str) -> str:
    """The remedy for a text that is no number of JSON: "1,000", "0,5", "007", "12 EUR"."""
    if _IS_NUMBER.fullmatch(text):
        return "write it without quotes" if math.isfinite(float(text)) else "it is too large: write a smaller one"
    if _THOUSANDS.fullmatch(text):
        whole, point = _shorten(text.replace(",", "")), text.replace(",", ".")
        return f"write {whole}" + (f", or {point} if the comma is a decimal one" if text.count(",") == 1 else "")
    if _DECIMAL_COMMA.fullmatch(text):
        return f"write a decimal point: {_shorten(text.replace(',', '.'))}"
    if _LEADING.fullmatch(text):
        return f"write {_shorten(text.lstrip('+0') or '0')}, without what stands before it"
    if any(map(str.isdecimal, text)):
        return "write digits with a decimal point, such as 12 or 0.5, and nothing beside them"
    return "write a number; where labels have names, leave data.task: regression out"


def decode_utf8(line: bytes) -> str:
    """Decode a line; raises LineError with the position of the first byte that is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(
            f"byte {error.start + 1} of the line is 0x{line[error.start]:02X}, which is not UTF-8",
            "convert the file: `iconv -f WINDOWS-1252 -t UTF-8 old > new` where it is Latin-1 or Windows-1252",
            code="HF003",
        ) from None


def parse_json_object(line: bytes) -> dict[str, Any]:
    """Decode one line under the strict definition of this module; raises LineError."""
    text = decode_utf8(line)
    _check_nesting(line)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _explain_json_error(text, error) from None
    except LineError as fault:
        if fault.key is None and "more than the limit" not in fault.reason:
            fault.reason += _find_number(text)
        raise
    if not isinstance(value, dict):
        raise LineError(
            f"a row must be a JSON object, found {name_json_type(value)}",
            "write each row as {...} on its own line",
            code="HF010",
        )
    # Python decodes the escape \ud83d alone to a lone surrogate, which no UTF-8 file, tokenizer or Arrow table takes.
    if _SURROGATE_ESCAPE.search(line):
        _check_surrogates(value)
    return value


def _check_nesting(line: bytes) -> None:
    # Counted before parsing: the parser's own limit depends on how deep the call stack already is. Brackets inside
    # strings do not count, so strings are taken out first, but only where there are many brackets at all.
    if line.count(b"[") + line.count(b"{") <= MAX_NESTING:
        return
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_NESTING:
            raise LineError(f"nested more than {MAX_NESTING} levels deep", "flatten the row", code="HF014")


def _check_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise LineError(
            "a string has half of a surrogate pair (\\ud800 to \\udfff alone), which is not a character",
            "write the whole pair or the character itself; cutting text between code units makes such halves",
            code="HF016",
        ) from None


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build the dict of an object; raises LineError for a key that occurs twice."""
    if len(pairs) > MAX_KEYS:
        raise LineError(*explain_width(len(pairs), "keys"), code="HF014")
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise LineError(
            f"the key {format_key(twice)} occurs twice in one object", "keep one of them", key=twice, code="HF012"
        )
    return found


def explain_width(width: int, of: str) -> tuple[str, str]:
    """What is wrong with a row or a table that is wider than `MAX_KEYS`, and the remedy."""
    return (
        f"it has {width:,} {of}, more than the limit of {MAX_KEYS:,}",
        "keep those that are read, or make lists of them",
    )


def _parse_integer(digits: str) -> int:
    # int() of a long string takes quadratic time; 64 bits have 19 digits and a sign.
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise LineError(
            f"an integer of {len(digits.lstrip('-')):,} digits does not fit 64 bits",
            "write it as a string",
            code="HF013",
        )
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise LineError("a number is too large for double precision", "write it as a string", code="HF013")
    return value


def _reject_constant(name: str) -> NoReturn:
    raise LineError(f"{name} is not JSON", "write null or leave the key out", code="HF013")


def _keep_fault(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def keep(written: str) -> Any:
        try:
            return parse(written)
        except LineError as fault:
            return fault

    return keep


_DECODER = json.JSONDecoder(
    object_pairs_hook=_build_object, parse_int=_parse_integer, parse_float=_parse_float, parse_constant=_reject_constant
)
_FAULTS_IN_PLACE = json.JSONDecoder(
    parse_int=_keep_fault(_parse_integer),
    parse_float=_keep_fault(_parse_float),
    parse_constant=_keep_fault(_reject_constant),
)


def _find_number(text: str) -> str:
    """Find where the first number that a row cannot hold stands: " (in `meta.id`)", or "" if the line is torn too."""
    try:
        rest: list[tuple[str, Any]] = [("", _FAULTS_IN_PLACE.decode(text))]
    except json.JSONDecodeError:
        return ""
    while rest:
        place, inner = rest.pop()
        if isinstance(inner, LineError):
            return f" (in {format_key(place)})" if place else ""
        if isinstance(inner, dict):
            rest += [(f"{place}.{key}" if place else key, each) for key, each in reversed(inner.items())]
        elif isinstance(inner, list):
            rest += [(f"{place}[{number}]", inner[number]) for number in reversed(range(len(inner)))]
    return ""


def _explain_json_error(text: str, error: json.JSONDecodeError) -> LineError:
    """Find the usual mistake behind a decoder's error: two objects, a cut line, NUL bytes, quotes of Python."""
    # {"a": 1} {"b": 2} is "Extra data" at the second object, and so is a brace too many.
    if error.msg == "Extra data":
        rest = text[error.pos :].lstrip(" \t\r,")
        if rest[:1] in {"{", "["}:
            return LineError(
                "more than one JSON value on the line", "put each object on a line of its own", code="HF011"
            )
        return LineError(
            f"the object ends at character {error.pos}, but the line goes on",
            "remove what follows the object",
            code="HF011",
        )
    if error.pos >= len(text.rstrip(" \t\r")) or error.msg.startswith("Unterminated string"):
        return LineError(
            "not valid JSON: the line ends inside the row",
            "one whole object a line; was the file cut off?",
            code="HF010",
        )
    if "\0" in text:
        return LineError(
            "the line has NUL bytes",
            "the file is damaged, or is UTF-16: `iconv -f UTF-16 -t UTF-8 old > new`",
            code="HF016",
        )
    remedy = "write line breaks and tabs inside strings as \\n and \\t" if "control character" in error.msg else ""
    if text[error.pos : error.pos + 1] == "'":
        remedy = "JSON strings take double quotes: write the file with json.dumps, not str()"
    return LineError(f"not valid JSON: {error.msg.rstrip(': ')} (character {error.pos + 1})", remedy, code="HF010")
