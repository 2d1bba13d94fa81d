"""One line -> one checked row: a fast typed decode for plain lines, the strict definition for all others.

msgspec refuses unknown keys, wrong types, bad UTF-8 and NaN by itself, but of a key that occurs twice it takes the last
(0.22; the counting can go once it refuses such rows). So keys are counted: none occurs twice if there are as many as
the rows have. First every `":` is counted, which a text can spell too (then there are more); if that fails, each
`"key"`, which no text can spell, as a quote inside a string is escaped, but an escape in a key can hide (`\\u0074`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, Struct, UnsetType

from hf_finetune.data.labels.label_map import LabelMap
from hf_finetune.data.reading.columns import suggest_inside
from hf_finetune.data.reading.formats import Items, LabelKind, RowFormat
from hf_finetune.data.reading.json_line import LineError, explain_no_number, name_json_type, parse_json_object
from hf_finetune.data.reading.row_checks.conversations import ConversationRules
from hf_finetune.data.reading.row_checks.labels import LabelRule
from hf_finetune.data.reading.row_checks.message_fields import (
    calls_tools,
    check_message_keys,
    check_misspelled,
    check_required,
    join_text_parts,
)
from hf_finetune.data.reading.row_types import Int64
from hf_finetune.errors import find_closest

Scalar = str | Int64 | float | bool | None

_ESCAPED_KEY_LETTER = re.compile(rb"\\u00(?:3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aA])")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_]+")
_WRONG_TYPE = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<found>[^`]+)` - at `\$\.?(?P<place>[^`]*)`")
_PLACE = re.compile(r" - at `\$\.?(?P<place>[^`]*)`")
MAX_UNUSED_KEYS = 50
# Each is searched for in every block: with the keys of a row of ten thousand that would be quadratic. The others make
# their lines ones that are decoded strictly.
_MAX_EXPECTED_KEYS = 500
_SPACE, _QUOTE, _COLON, _OPENING, _CLOSING, _LINE_END = b' ":{}\n'


@dataclass(frozen=True, slots=True)
class _KeyCount:
    """How often a quoted key must occur in the bytes of decoded rows: once for each row and item that has it."""

    needle: bytes
    in_every_row: bool
    in_row: attrgetter[Any] | None
    in_every_item: bool
    in_item: attrgetter[Any] | None

    def count_expected(self, rows: Sequence[Struct], items: Sequence[Struct]) -> int:
        """Count the occurrences that `rows` and their `items` account for."""
        count = len(rows) * self.in_every_row + len(items) * self.in_every_item
        if self.in_row is not None:
            count += sum(self.in_row(row) is not UNSET for row in rows)
        if self.in_item is not None:
            count += sum(self.in_item(item) is not UNSET for item in items)
        return count


def _map_fields(struct: type[Struct]) -> dict[str, str]:
    """Map the names of a struct's fields in the file to those in Python."""
    return dict(zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True))


def _count_keys(data: bytes) -> int | None:
    """Count every `":`, an upper bound of the keys; None where white space before a colon may hide one."""
    # {"text": "a"} counts 1, and {"text": "a\":"} 2, as the escaped quote in its text has a colon behind it.
    codes = np.frombuffer(data, np.uint8)
    before = codes[:-1][codes[1:] == _COLON]
    if np.any(before <= _SPACE):
        return None
    return int(np.count_nonzero(before == _QUOTE))


def _are_lines_of_objects(data: bytes) -> bool:
    """True where every line begins with `{` and ends with `}`, so that no value spans two of them.

    Inside a value a brace that closes is never followed by one that opens, and a string has no line end: msgspec then
    has as many values as there are lines only if each line is one.
    """
    # {"a": 1} {"a": 2} and, on the two lines after it, {"a": and 3} are three values on three lines.
    if data[:1] != b"{" or data[-1:] != b"}":
        return False
    codes = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(codes == _LINE_END)
    return bool(np.all(codes[ends - 1] == _CLOSING) and np.all(codes[ends + 1] == _OPENING))


class RowDecoder:
    """Decodes lines of one format to instances of `row_type`, and checks them."""

    def __init__(
        self,
        row_format: RowFormat,
        kept: Sequence[str],
        first_row: Mapping[str, Any],
        *,
        allow_empty: bool = False,
        columns: Mapping[str, str] | None = None,
        label_map: Mapping[str, str] | None = None,
        asked: bool = False,
    ) -> None:
        """`kept`: fields besides the format's that splits need; `first_row` has the others to expect.

        `columns`: for messages, the user's names of fields that were renamed. `label_map`: labels -> those of the run.
        `asked`: see `ConversationRules`.
        """
        self.row_format = row_format
        self._columns = columns or {}
        self.allow_empty = allow_empty
        kind: LabelKind | None = "number" if row_format.numbers else None
        self.labels = LabelRule(kind, "", allow_empty, LabelMap({} if kind else label_map or {}))
        own = _map_fields(row_format.row_type)
        others = {key: value for key, value in first_row.items() if key not in own and key not in kept}
        scalars = [key for key, value in others.items() if not isinstance(value, (dict, list))][:_MAX_EXPECTED_KEYS]
        # A misspelled key of the first row must not become an expected one: not listed, its line is decoded strictly.
        slips = {find_closest(key, scalars, 0.8) for key in row_format.optional if key not in first_row}
        unused = [key for key in scalars if _PLAIN_KEY.fullmatch(key) and key not in slips]
        names = {f"other_{number}": key for number, key in enumerate([*(set(kept) - own.keys()), *unused])}
        self.unused_keys = set(unused)
        self.row_type = msgspec.defstruct(
            row_format.row_type.__name__,
            [(name, Scalar | UnsetType, UNSET) for name in names],
            bases=(row_format.row_type,),
            rename=names,
            forbid_unknown_fields=True,
            gc=False,
        )
        self.attributes = _map_fields(self.row_type)
        decoder = msgspec.json.Decoder(self.row_type)
        self._decode, self._decode_lines = decoder.decode, decoder.decode_lines
        self._counts = [self._build_key_count(key) for key in self._list_keys()]
        self._label = attrgetter(own[row_format.label]) if row_format.label else None
        self._label_attribute = own[row_format.label] if row_format.label else ""
        items = row_format.items
        self._items = attrgetter(items.field) if items else None
        self._required_in_item = len(items.required) if items else 0
        self._turn_rules = ConversationRules(row_format, allow_empty=allow_empty, asked=asked)
        self._countable = all(_PLAIN_KEY.fullmatch(key) for key in self.attributes)

    def _list_keys(self) -> Iterable[str]:
        items = self.row_format.items
        return dict.fromkeys((*self.attributes, *(items.required + items.optional if items else ())))

    def _build_key_count(self, key: str) -> _KeyCount:
        items, required = self.row_format.items, key in self.row_format.required
        in_row = key in self.attributes and not required
        in_item = items is not None and key in items.optional
        return _KeyCount(
            needle=f'"{key}"'.encode(),
            in_every_row=required,
            in_row=attrgetter(self.attributes[key]) if in_row else None,
            in_every_item=items is not None and key in items.required,
            in_item=attrgetter(key) if in_item else None,
        )

    def get_field_getter(self, key: str) -> attrgetter[Any]:
        """Return a getter of field `key`, by its name in the file; it gives UNSET for a row without the field."""
        return attrgetter(self.attributes[key])

    def decode_block(self, data: bytes, count: int) -> list[Struct] | None:
        """Decode `count` consecutive lines, joined; None where one of them may be bad: decode these one by one."""
        rows = self._decode_fast(data, count)
        if rows is None or not self._turn_rules.accept_all(rows):
            return None
        if self._label is None:
            return rows
        if not self.labels.pass_fast_check(list(map(self._label, rows))):
            return None
        return [self._rename_label(row) for row in rows] if self.labels.names else rows

    def decode_line(self, line: bytes, place: str) -> Struct:
        """Decode one line, whose `path:line` is `place`. Raises LineError with the reason and the remedy."""
        try:
            return self._decode_and_check(line, place)
        except LineError as bad:
            column = self._columns.get((bad.key or "").partition("[")[0])
            if column is not None:
                bad.reason += f" (it is taken from the column `{column}`)"
            raise

    def _decode_and_check(self, line: bytes, place: str) -> Struct:
        rows = self._decode_fast(line, 1)
        row = rows[0] if rows else self._decode_strict(line)
        fault = self._turn_rules.find_fault(row)
        if fault is not None:
            raise fault
        if self._label is not None:
            self.labels.check(self._label(row), place, str(self.row_format.label))
        return self._rename_label(row) if self.labels.names else row

    def _rename_label(self, row: Struct) -> Struct:
        """Give a checked row, in place, the label that `data.labels` has for its own."""
        setattr(row, self._label_attribute, self.labels.names.rename(getattr(row, self._label_attribute)))
        return row

    def _decode_fast(self, data: bytes, count: int) -> list[Struct] | None:
        """Decode `count` lines by msgspec alone; None where a line fails or may have a key twice."""
        try:
            if count > 1 and _are_lines_of_objects(data):
                rows = self._decode_lines(data)
                if len(rows) != count:
                    return None
            else:  # such as lines that end with b"\r"
                rows = list(map(self._decode, data.split(b"\n")))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return rows if self._has_unique_keys(data, rows) else None

    def _has_unique_keys(self, data: bytes, rows: Sequence[Struct]) -> bool:
        """True where the bytes `data` of `rows` surely hold no key twice in one object."""
        items: list[Struct] = []
        if self._items is not None:
            items = list(chain.from_iterable(map(self._items, rows)))
        # {"text": "a", "text": "b"} has 2 keys where the row has 1: not equal, and "text" is found twice, so False.
        keys = _count_keys(data)
        if keys is not None:
            fewest = len(rows) * len(self.row_format.required) + len(items) * self._required_in_item
            if keys == fewest or keys == sum(count.count_expected(rows, items) for count in self._counts):
                return True
        if not self._countable or _ESCAPED_KEY_LETTER.search(data):
            return False
        return all(data.count(key.needle) == key.count_expected(rows, items) for key in self._counts)

    def _decode_strict(self, line: bytes) -> Struct:
        """Decode a line by the strict definition; raises LineError."""
        value = parse_json_object(line)
        self._check_keys(value)
        known = {key: each for key, each in value.items() if key in self.attributes}
        items = self.row_format.items
        if items is not None:
            known[items.field] = _reduce_items(value[items.field], items, self.unused_keys)
            _check_tools(known.pop("tools", None))
        try:
            row = msgspec.convert(known, self.row_type)
        except msgspec.ValidationError as error:
            fault = _explain_type_error(str(error), self.row_format, known)
            place = fault.key or ""
            fault.remedy = fault.remedy or suggest_inside(place, self._columns.get(place, place), known.get(place))
            raise fault from None
        if items is not None:
            _attach_free_form(row, line, items)
        return row

    def _check_keys(self, value: Mapping[str, Any]) -> None:
        """Raise LineError for a missing or misspelled key; other unknown ones are collected in `unused_keys`."""
        unknown = [key for key in value if key not in self.attributes]
        check_required(value, self.row_format.required, unknown, f"a `{self.row_format.name}` row")
        check_misspelled(value, self.row_format.optional, unknown)
        if len(self.unused_keys) < MAX_UNUSED_KEYS:
            self.unused_keys.update(unknown)


def _check_tools(tools: object) -> None:
    if tools is not None and not isinstance(tools, list):
        raise LineError(
            f"`tools` must be an array, found {name_json_type(tools)}",
            "write the tools as JSON",
            key="tools",
            code="HF026",
        )


def _reduce_items(found: object, items: Items, unused: set[str]) -> object:
    """Reduce each item to the fields that `items` names; a value that is no list is left to the type check.

    Keys that only a chat template may read are added to `unused`. Raises LineError for an item that is no object, or
    whose keys are missing, misspelled or another tool's.
    """
    if not isinstance(found, list):
        return found
    reduced = []
    for number, item in enumerate(found):
        place = f"{items.field}[{number}]"
        if not isinstance(item, dict):
            raise LineError(f"`{place}` must be an object, found {name_json_type(item)}", key=items.field, code="HF026")
        unknown = check_message_keys(item, place, items)
        if len(unused) < MAX_UNUSED_KEYS:
            unused.update(f"{items.field}[].{key}" for key in unknown)
        reduced.append(_reduce_item(item, place, items))
    return reduced


def _reduce_item(item: Mapping[str, Any], place: str, items: Items) -> dict[str, Any]:
    plain = {key: item[key] for key in (*items.required, *items.optional) if key in item}
    plain[items.text] = join_text_parts(item.get(items.text), f"{place}.{items.text}")
    if plain[items.text] is None and calls_tools(item):
        plain[items.text] = ""
    return plain


def _attach_free_form(row: Any, line: bytes, items: Items) -> None:
    """Set the raw JSON text of `tools`, and of the other fields of each item, in a decoded row."""
    # `Raw` is the text of a value as the file has it: 1.0 stays 1.0, and keys keep their order.
    raw = msgspec.json.decode(line, type=dict[str, Raw])
    if "tools" in raw and bytes(raw["tools"]) != b"null":
        row.tools = bytes(raw["tools"]).decode()
    raw_items = msgspec.json.decode(raw[items.field], type=list[dict[str, Raw]])
    for item, fields in zip(getattr(row, items.field), raw_items, strict=True):
        beside = {key: bytes(value).decode() for key, value in fields.items() if _is_free_form(key, value, items)}
        if beside:
            item.extra = "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in beside.items()) + "}"


def _is_free_form(key: str, value: Raw, items: Items) -> bool:
    named = key in items.required or key in items.optional
    return not named or (key == items.text and bytes(value) == b"null")


def _explain_type_error(message: str, row_format: RowFormat, row: Mapping[str, Any]) -> LineError:
    """Turn a message of msgspec about `row` into ours."""
    # "Expected `str`, got `int` - at `$.text`" -> "`text` must be string, found int"
    found = _WRONG_TYPE.search(message)
    if found is not None:
        wanted = found["wanted"].replace(" | ", " or ").replace("str", "string").replace("int", "integer")
        place = found["place"] or "the row"
        remedy = ""
        if row_format.numbers and place == row_format.label:
            return explain_no_number(place, row.get(place))
        if found["found"] == "float" and place.partition("[")[0] == row_format.label:
            remedy = "write a class as text or as a whole number; data.task: regression predicts numbers"
        elif found["found"] == "bool" and place.partition("[")[0] == row_format.label:
            remedy = 'write a class as text, such as "yes", or as a whole number'
        return LineError(f"`{place}` must be {wanted}, found {found['found']}", remedy, key=place, code="HF026")
    place_found = _PLACE.search(message)
    place = place_found["place"] if place_found else "the row"
    if place.endswith(("from", "sender")):
        return LineError(
            f"`{place}` is not a known speaker", "write system, human, gpt or tool", key=place, code="HF031"
        )
    return LineError(f"`{place}` is empty or out of range", "fill it in", key=place, code="HF028")
