"""`data.columns`: the fields of our row formats, taken from the columns (or keys) that the user's rows have.

columns {"prompt": "query", "completion": "answer.text"}
row     {"id": 1, "query": "Hi", "answer": {"text": "Hello.", "by": "Ada"}}
becomes {"prompt": "Hi", "completion": "Hello.", "id": 1, "answer": {"text": "Hello.", "by": "Ada"}}

A column that has a field's name, and that no field is taken from, stays under another: with {"text": "body"} the row
{"text": "Re: hi", "body": "Hi"} becomes {"text": "Hi", "original_text": "Re: hi"}.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec
from msgspec import Raw

from hf_finetune.data.reading.json_line import LineError, format_key, parse_json_object
from hf_finetune.errors import DataError, Problem, find_closest, suggest
from hf_finetune.shell import shell_line

logger = logging.getLogger(__name__)

KEY = "data.columns"
OPTIONAL_FIELDS = frozenset({"input", "text_pair", "tools"})
"""Fields that a format does without: a row may lack their column, though not every row."""
MAX_LISTED = 20
MOST_GUESSED = 200
"""Names of columns that are compared with ours, each with each: nobody reads a suggestion for the ones behind them."""
_MISSING = object()


class ColumnMapper:
    """Renames the columns of one file's rows to the fields of ours, and notes which columns no row has."""

    def __init__(self, columns: Mapping[str, str], shown: str, key: str = KEY, *, quiet: bool = False) -> None:
        """`columns`: field -> column; a dot in the name of a column goes into an object. `key` names the setting.

        `quiet`: nothing is logged of columns that get another name.
        """
        self.columns = dict(columns)
        self.shown = shown
        self.key = key
        self.unseen = set(self.columns.values())
        self._taken = {*self.columns, *self.columns.values()}
        self._displaced = _list_displaced(self.columns)
        """Fields whose name a column may have that none is taken from."""
        self._quiet = quiet
        self._said: set[str] = set()
        self._checked = False

    def map_row(self, row: Mapping[str, Any], line: int) -> dict[str, Any]:
        """Return the row with our fields first, then the columns that no field is taken from.

        Raises DataError where the first row, of `line`, lacks a column that is not optional.
        """
        if not self._checked:
            self.check_names(row, line, optional=OPTIONAL_FIELDS)
        mapped = {}
        for field, column in self.columns.items():
            value = look_up(row, column)
            if value is not _MISSING:
                mapped[field] = value
                self.unseen.discard(column)
        mapped.update((key, value) for key, value in row.items() if key not in self._taken)
        for name in self._displaced:
            if name in row:
                mapped[self._rename(name, row)] = row[name]
        return mapped

    def _rename(self, name: str, row: Mapping[str, Any]) -> str:
        """The name under which a column stays whose own a field has taken, which is said once of a file."""
        kept = f"original_{name}"
        while kept in row:
            kept = f"original_{kept}"
        if name not in self._said:
            self._said.add(name)
            if not self._quiet:
                what = "%s: `%s` is taken from the column %s; the column %s stays as %s"
                logger.info(what, self.shown, name, *map(format_key, (self.columns[name], name, kept)))
        return kept

    def map_line(self, line: bytes, number: int) -> bytes:
        """Return a line of JSONL with its keys renamed; one that is no row stays as it is, to be rejected as such.

        Raises as `map_row` does.
        """
        try:
            names = parse_json_object(line)
        except LineError:
            return line
        if not self._checked:
            self.check_names(names, number, optional=OPTIONAL_FIELDS)
        # `Raw` is the text of a value as the file has it: 1.0 stays 1.0, and keys keep their order.
        return msgspec.json.encode(self.map_row(msgspec.json.decode(line, type=dict[str, Raw]), number))

    def check_names(self, row: Mapping[str, Any], line: int | None, *, optional: frozenset[str] = frozenset()) -> None:
        """Raise DataError naming every column that `row` lacks, `optional` fields aside."""
        self._checked = True
        # The names of a table are read without the white space around them, and may have been written with it.
        for field, column in self.columns.items():
            if look_up(row, column) is _MISSING and column.strip() in row:
                self._take(field, column.strip())
        problems = [
            self._explain_missing(field, column, row, line)
            for field, column in self.columns.items()
            if field not in optional and look_up(row, column) is _MISSING
        ]
        if problems:
            raise DataError(problems)

    def _take(self, field: str, column: str) -> None:
        """Take a field from another column."""
        self.columns[field] = column
        self.unseen = set(self.columns.values())
        self._taken = {*self.columns, *self.columns.values()}
        self._displaced = _list_displaced(self.columns)

    def check_seen(self) -> None:
        """Raise DataError where the whole file was read and no row had a column."""
        missing = [f"`{column}`" for column in self.columns.values() if column in self.unseen]
        if missing and self._checked:
            what = f"no row has {' or '.join(missing)}"
            raise DataError(Problem(what, "correct the name, or leave it out", self.shown, key=self.key, code="HF024"))

    def _explain_missing(self, field: str, column: str, row: Mapping[str, Any], line: int | None) -> Problem:
        names = list_paths(row) if "." in column else list(row)
        listed = ", ".join(format_key(name) for name in names[:MAX_LISTED]) or "none"
        otherwise = f"the columns are {listed}"
        # Where `answer.text` is missing, `answer` is there and not what was meant.
        meant = [name for name in names if not column.startswith(f"{name}.")]
        remedy = suggest(column, meant, otherwise, show=format_key)
        what = f"there is no column {format_key(column)}, which `{field}` is to be taken from"
        return Problem(what, remedy, self.shown, line, self.key, code="HF024")


def _list_displaced(columns: Mapping[str, str]) -> list[str]:
    """List the fields whose name a column may have that none is taken from, nor from inside it."""
    taken = {part for column in columns.values() for part in (column, column.partition(".")[0])}
    return [field for field in columns if field not in taken]


def explain_pair(columns: Mapping[str, str], key: str = KEY) -> Problem | None:
    """The problem of `columns` that make a pair of one text with itself, which tells no two rows apart; else None."""
    if "text_pair" not in columns or columns.get("text") != columns["text_pair"]:
        return None
    what = f"text and text_pair are both taken from the column {format_key(columns['text'])}"
    return Problem(what, "take one of them from another column, or leave text_pair out", key=key, code="HF029")


def look_up(row: Mapping[str, Any], column: str) -> Any:
    """Return a column's value: that of the name as it stands, or else of the path that its dots make."""
    # The name as it stands comes first: tables of flattened objects have columns that are called `answer.text`.
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, Raw):
            text = bytes(value)
            value = msgspec.json.decode(text, type=dict[str, Raw]) if text.lstrip()[:1] == b"{" else None
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def list_paths(row: Mapping[str, Any], before: str = "", depth: int = 3) -> list[str]:
    """List the columns of a row, those inside objects with dots: ["id", "answer", "answer.text"]."""
    paths = []
    for key, value in list(row.items())[:MAX_LISTED]:
        paths.append(before + key)
        if isinstance(value, Mapping) and depth > 1:
            paths += list_paths(value, f"{before}{key}.", depth - 1)
    return paths


def log_columns(columns: Mapping[str, str], shown: str) -> None:
    """Say once what is taken from where."""
    if columns:
        pairs = ", ".join(f"{column} -> {field}" for field, column in columns.items())
        logger.info("%s: columns %s", shown, pairs)


# What people call the columns of a question, its answer, a text, a label: for a suggestion, never for a decision.
_QUESTIONS = (
    "query",
    "question",
    "prompt",
    "ask",
    "asked",
    "request",
    "input",
    "user",
    "instruction",
    "source",
    "human",
)
_ANSWERS = ("reply", "answer", "response", "completion", "output", "target", "assistant", "result", "solution", "bot")
_TEXTS = ("text", "content", "body", "document", "sentence", "review", "comment", "article", "message", "description")
_LABELS = ("label", "class", "category", "target", "sentiment", "intent", "topic", "rating", "score", "tag")
_LISTS = ("messages", "conversation", "conversations", "chat", "dialog", "dialogue", "turns")
_Words = dict[str, tuple[str, ...]]
_WANTED: tuple[tuple[str, _Words], ...] = (
    ("conversation", {"messages": _LISTS}),
    # Not prompt and completion, which are trained as they stand: a question is asked under the model's chat template.
    ("conversation", {"question": _QUESTIONS, "answer": _ANSWERS}),
    ("labelled", {"text": _TEXTS, "label": _LABELS}),
    ("document", {"text": _TEXTS}),
)


def suggest_columns(row: Mapping[str, Any], becomes: str | None = None) -> dict[str, str]:
    """Suggest the `data.columns` that make a row of ours of this one: {"question": "query", "answer": "reply"}.

    Of the kind `becomes`, where that is given; {} where no names are like those of the fields.
    """
    # {"id", "Question", "reply"} -> {"question": "Question", "answer": "reply"}
    for wanted, found in _guess_columns(row, becomes):
        if len(found) == len(wanted):
            return {field: found[field] for field in wanted if field != found[field]}
    return {}


def _guess_columns(row: Mapping[str, Any], becomes: str | None) -> Iterator[tuple[_Words, dict[str, str]]]:
    """Yield guesses, the surest first: both names like ours, then one of a pair, and a text alone last."""
    # In the order of `_WANTED`, as some words are of two kinds: `target` is an answer beside a question, and a label
    # beside a text.
    kinds = [(kind, wanted) for kind, wanted in _WANTED if becomes in (None, kind)]
    named = [(kind, wanted, _find_columns(row, wanted)) for kind, wanted in kinds]
    yield from ((wanted, found) for kind, wanted, found in named if kind != "document")
    for kind, wanted, found in named:
        if len(found) == 1 < len(wanted):
            yield wanted, found | make_example(row, kind, taken=found)
    yield from ((wanted, found) for kind, wanted, found in named if kind == "document")


def _find_columns(row: Mapping[str, Any], wanted: _Words) -> dict[str, str]:
    """Find the columns whose names are like those of the fields `wanted`, each for one field."""
    found: dict[str, str] = {}
    for field, usual in wanted.items():
        free = [name for name in islice(row, MOST_GUESSED) if name and name not in found.values()]
        column = next((name for word in (field, *usual) for name in free if name.lower() == word), None)
        column = column or next((name for name in free if _resembles(name, (field, *usual))), None)
        if column is not None:
            found[field] = column
    return found


def make_example(row: Mapping[str, Any], becomes: str, taken: Mapping[str, str] | None = None) -> dict[str, str]:
    """Make `data.columns` of the kind `becomes`, beside those `taken`, of the columns of text: what to write.

    Which column it is only the user knows. The label is taken to be the shortest text, {"id": "7", "what": "It broke.",
    "team": "it"} as labelled texts -> {"text": "what", "label": "team"}; a question stands before its answer.
    """
    taken = taken or {}
    fields = [wanted for kind, wanted in _WANTED if kind == becomes][-1]
    free = [name for name in row if name and name not in taken.values()]
    texts = [name for name in free if _is_text(row[name])] or free
    if becomes == "labelled":
        texts.sort(key=lambda name: -len(str(row[name])))
        texts = [*texts[:1], *texts[:0:-1]] if "text" not in taken else texts[::-1]
    return dict(zip([field for field in fields if field not in taken], texts, strict=False))


def _is_text(value: object) -> bool:
    """False for what is, or reads as, a number or nothing: the columns of row numbers and dates are no texts."""
    return isinstance(value, str) and any(character.isalpha() for character in value)


def _resembles(name: str, usual: tuple[str, ...]) -> bool:
    words = name.lower().replace("-", "_").replace(" ", "_").split("_")
    return any(word in usual for word in words) or find_closest(name, usual, 0.8) is not None


def suggest_inside(field: str, column: str, value: object, setting: str = KEY) -> str:
    """Suggest the `columns` that take a text from inside an object; "" for any other value, or where it has none."""
    # {"prompt": {"id": 1, "text": "Hi"}} -> "`data.columns: {prompt: prompt.text}` takes a text from inside it"
    inside = value.items() if isinstance(value, Mapping) else ()
    name = next((name for name, each in inside if isinstance(each, str)), None)
    if name is None:
        return ""
    return f"{format_columns({field: f'{column}.{name}'}, setting)} takes a text from inside it"


def format_columns(columns: Mapping[str, str], setting: str = KEY) -> str:
    """Write `columns` as a line of a run file, or as the option of a command.

    {"text": "body"} -> "`data.columns: {text: body}`" or "`--columns text=body`".
    """
    if setting != KEY:
        return f"`{setting} {shell_line(f'{field}={column}' for field, column in columns.items())}`"
    pairs = ", ".join(f"{field}: {_quote(column)}" for field, column in columns.items())
    return f"`{setting}: {{{pairs}}}`"


def _quote(name: str) -> str:
    plain = name.replace("_", "").replace(".", "").replace("-", "").isalnum() and not name[:1].isdigit()
    return name if plain else msgspec.json.encode(name).decode()
