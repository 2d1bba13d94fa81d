"""What a file is, by its first bytes and then by its name; where it holds no rows, the command that helps."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import Literal

from hf_finetune.errors import ConfigError, DataError, Problem
from hf_finetune.shell import shell_path

Layout = Literal["jsonl", "csv", "parquet", "arrow", "json"]

LAYOUTS: dict[str, Layout] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".json": "json",
}
TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".arrow", ".json")
PROSE = {".txt": "plain text", ".md": "Markdown text", ".rst": "reStructuredText", ".py": "Python source"}

# Of these a name promises another kind of file; .gz and .zst are written.
_OTHER_ENDINGS = frozenset({".bz2", ".xz", ".lz4", ".zip", ".7z", ".rar", ".tar", ".tgz"})
_OTHER_ENDINGS |= {".xlsx", ".xls", ".ods", ".docx", ".odt", ".pdf", ".html", ".htm", ".sqlite", ".db"}
_NO_TABLES = (".md", ".rst", ".py")  # a line of prose or code may hold a comma as the next one does

_NAMES = {
    "csv": "a table of separated values",
    "parquet": "a Parquet file",
    "arrow": "an Arrow file",
    "json": "one JSON array, not one object a line",
    "jsonl": "JSON Lines",
}
# The first bytes of a file, what it is, and what helps; {file} stands for its name.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", "name it .parquet; set data.format to auto or a row format"),
    (b"ARROW1", "an Arrow file", "name it .arrow; set data.format to auto or a row format"),
    (b"%PDF-", "a PDF document", "`pdftotext {file} rows.txt`; set data.format to paragraphs"),
    (b"\xd0\xcf\x11\xe0", "a document of an old Office", "`libreoffice --headless --convert-to csv {file}`"),
    (b"{\\rtf", "a rich text document", "`libreoffice --headless --convert-to txt:Text {file}`"),
    (b"BZh", "a bzip2 file", "`bunzip2 -k {file}`"),
    (b"\xfd7zXZ\x00", "an xz file", "`unxz -k {file}`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "`7z x {file}`"),
    (b"Rar!", "a RAR archive", "`unrar x {file}`"),
    (b"SQLite format 3", "an SQLite database", "`sqlite3 -json {file} 'select * from TABLE' > rows.json`"),
    (b"\x89HDF", "an HDF5 file", "write its rows as JSONL"),
    (b"\x93NUMPY", "a NumPy array", "write its rows as JSONL"),
)
_JSON_START = re.compile(rb"""["'\[]|(null|true|false|-?[0-9][0-9.eE+-]*)$""")
_POINTER = b"version https://git-lfs.github.com/spec/"
_SHEET = "`libreoffice --headless --convert-to csv {file}`, or save the sheet as CSV, and name that"
_LETTER = "`libreoffice --headless --convert-to txt:Text {file}`; set data.format to paragraphs"


def get_ending(shown: str) -> str:
    """Return the ending of a file's name in lower case, without that of compression: "rows.CSV.gz" -> ".csv"."""
    path = PurePath(shown.lower())
    return PurePath(path.stem).suffix if path.suffix in {".gz", ".zst"} else path.suffix


def check_rows_name(shown: str, key: str | None = None) -> None:
    """Raise ConfigError where a file of JSON Lines is to have a name that says something else."""
    last, ending = PurePath(shown.lower()).suffix, get_ending(shown)
    if last in _OTHER_ENDINGS or LAYOUTS.get(ending, "jsonl") not in {"jsonl", "json"} or ending in PROSE:
        what = f"is written as JSON Lines, which no {last if last in _OTHER_ENDINGS else ending} file holds"
        raise ConfigError(
            Problem(
                what, "name it .jsonl, or .jsonl.gz or .jsonl.zst to have it compressed", shown, key=key, code="HF006"
            )
        )


def check_binary(head: bytes, shown: str) -> None:
    """Raise DataError, with the command that helps, where the first bytes are no text, or stand for another file."""
    found = _name_foreign(head, shown)
    if found is not None:
        what, remedy = found
        raise DataError(
            Problem(f"this is {what}, not rows", remedy.format(file=shell_path(shown)), shown, code="HF005")
        )


def _name_foreign(head: bytes, shown: str) -> tuple[str, str] | None:
    for magic, what, remedy in _FOREIGN:
        if head.startswith(magic):
            return what, remedy
    if head.startswith(b"PK\x03\x04"):
        return _name_archive(head, get_ending(shown))
    if head[257:262] == b"ustar":
        return "a tar archive", "`tar -xf {file}`, and name what is inside"
    if head.startswith(_POINTER):
        return "a Git LFS pointer", "`git lfs pull --include {file}`"
    if b"\0" in head[:4096] and detect_wide_encoding(head) is None and not _is_mostly_text(head[:4096]):
        return "binary data", "write its rows as JSONL"
    return None


def _name_archive(head: bytes, ending: str) -> tuple[str, str]:
    # Word and Excel write zip archives, and put the names of their parts first.
    if ending in {".xlsx", ".ods", ".xlsm"} or b"xl/" in head or b"opendocument.spreadsheet" in head:
        return "a spreadsheet (Excel or OpenDocument)", _SHEET
    if ending in {".docx", ".odt"} or b"word/" in head or b"opendocument.text" in head:
        return "a text document (Word or OpenDocument)", _LETTER
    return "a zip archive", "`unzip {file}`, and name what is inside"


def _is_mostly_text(sample: bytes) -> bool:
    # A CSV or JSONL that was damaged has a few NUL bytes, and its rows are named one by one.
    strange = sum(byte < 9 or 13 < byte < 32 for byte in sample)
    return strange < max(0.05 * len(sample), 3)


def detect_wide_encoding(head: bytes) -> str | None:
    """Name the encoding of UTF-16 or UTF-32 text, by its byte order mark or by the zero bytes of ASCII letters."""
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    sample = head[:64]  # without a mark "{}" is 7B 00 7D 00 in UTF-16LE
    if len(sample) >= 4 and not any(sample[1::2]) and any(sample[0::2]):
        return "UTF-16LE"
    if len(sample) >= 4 and not any(sample[0::2]) and any(sample[1::2]):
        return "UTF-16BE"
    return None


def choose_layout(head: bytes, shown: str, *, by_content: bool = False, streamed: bool = False) -> Layout:
    """Return how the rows of a file are laid out; `head` is what it begins with, decompressed.

    `by_content` trusts the bytes where the name says otherwise; of what is `streamed`, the head may be a line only.
    Raises DataError for what holds no rows, and for a file of another kind than its name.
    """
    named = LAYOUTS.get(get_ending(shown))
    found = _detect_layout(head)
    if found not in {"parquet", "arrow"}:
        check_binary(head, shown)
    if found == "html":
        remedy = f"download it again; `head -c 300 {shell_path(shown)}` shows what the server answered"
        raise DataError(
            Problem("this is an HTML page, such as a server's error, not rows", remedy, shown, code="HF005")
        )
    if found is None:
        return "jsonl" if streamed else _choose_text_layout(head, shown, named, by_content=by_content)
    if by_content or named in {None, found} or (named == "json" and found == "jsonl"):
        return found
    return _refuse_name(found, named, shown)


def _detect_layout(head: bytes) -> Layout | Literal["html"] | None:
    """Detect what bytes alone decide; None for text that is no JSON, and for an empty file."""
    if head.startswith(b"PAR1"):
        return "parquet"
    # An Arrow stream begins with FF FF FF FF and a length; no UTF-8 text has one of these bytes.
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "html"
    text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    if text.startswith("[") and _is_array_of_objects(text):
        return "json"
    # A header may begin with a brace too, as {id},{text} does: a row of JSONL begins with a key or ends at once.
    inside = text[1:].lstrip()
    return "jsonl" if text.startswith("{") and inside[:1] in {'"', "}", ""} else None


def _choose_text_layout(head: bytes, shown: str, named: Layout | None, *, by_content: bool) -> Layout:
    """Choose the layout of text that does not begin as JSON does."""
    if named in {"parquet", "arrow"} and head:
        return _refuse_name("text", named, shown)
    if by_content and named in {"jsonl", None} and _may_be_table(head, shown):
        return "csv"
    if named in {"jsonl", None} and not _has_object_line(head):
        _refuse_text(head, shown)
    return named or "jsonl"


def _refuse_text(head: bytes, shown: str) -> None:
    """Raise DataError where no line of a file's beginning can be a row: it is a table, or prose."""
    if not head.removeprefix(b"\xef\xbb\xbf").strip() or detect_wide_encoding(head) is not None:
        return
    if _may_be_table(head, shown) and not _begins_as_prose(head):
        what, remedy = "this looks like a table of separated values, not JSON Lines", _explain_conversion(shown)
    elif any(_JSON_START.match(line.strip()) for line in head.split(b"\n")[:20]):
        return  # JSON of another kind: each line is named with its own reason
    else:
        kind = PROSE.get(get_ending(shown), "plain text")
        what, remedy = f"this is {kind}, not JSON Lines: no line begins with {{", explain_text_formats()
    raise DataError(Problem(what, remedy, shown, code="HF005"))


def explain_text_formats() -> str:
    """The remedy for prose: the formats that cut it into documents."""
    return (
        "set data.format to lines (each line is a document), paragraphs (blank lines separate documents) "
        "or file (the whole file is one document)"
    )


def _may_be_table(head: bytes, shown: str) -> bool:
    return get_ending(shown) not in _NO_TABLES and looks_like_table(head)


def looks_like_table(head: bytes) -> bool:
    """True where the first lines have the same number, above one, of commas, semicolons, tabs or pipes."""
    lines = [line for line in head.split(b"\n")[:6] if line.strip()]
    # Two lines of prose with a comma each pass, too: it is asked only of what is no JSON, and decides what is advised.
    counts = ([line.count(mark) for line in lines] for mark in (b",", b";", b"\t", b"|"))
    return len(lines) > 1 and any(each[0] and len(set(each)) == 1 for each in counts)


def _begins_as_prose(head: bytes) -> bool:
    """Whether the first line ends as a sentence does, and not as names of columns do."""
    first = next((line.strip() for line in head.split(b"\n") if line.strip()), b"")
    return first.endswith((b".", b"!", b"?"))


def _has_object_line(head: bytes) -> bool:
    lines = [line.strip() for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    return any(line.startswith(b"{") for line in lines[:20])


def _explain_conversion(shown: str) -> str:
    return f"convert it: `hf-finetune rows {shell_path(shown)} converted.jsonl`"


def _refuse_name(found: str, named: Layout | None, shown: str) -> Layout:
    """Raise DataError for a file of another kind than its name says."""
    ending = get_ending(shown)
    if found == "jsonl":
        raise DataError(
            Problem(f"this is JSON Lines, not {_NAMES[named or found]}", "name it .jsonl", shown, code="HF006")
        )
    if found == "text":
        what = f"this is text, not {_NAMES[named or 'csv']}"
        raise DataError(Problem(what, f"was it renamed to {ending}? write it again", shown, code="HF006"))
    raise DataError(Problem(f"this is {_NAMES[found]}", _explain_conversion(shown), shown, code="HF006"))


def check_pretty_printed(head: bytes, shown: str) -> None:
    """Raise DataError, with the command that converts it, where objects have line breaks in them."""
    text = head.decode("utf-8", errors="replace").lstrip()
    if text.startswith("{") and _has_multiline_object(text):
        remedy = (
            "convert it: `python -c 'import json,re,sys; [print(json.dumps(json.loads(row))) for row in "
            r're.split(rb"(?<=})\s*\n(?={)", sys.stdin.buffer.read().strip())]'
            f"' < {shell_path(shown)} > rows.jsonl`"
        )
        raise DataError(
            Problem("this is pretty-printed JSON, not one object a line", remedy, path=shown, line=1, code="HF017")
        )


def _is_array_of_objects(text: str) -> bool:
    """True where `text`, the head of a file, is or begins an array of objects."""
    decoder = json.JSONDecoder()
    try:
        value, end = decoder.raw_decode(text)
        return bool(value) and isinstance(value[0], dict) and not text[end:].strip()
    except (ValueError, RecursionError):  # a ValueError of `int` for thousands of digits, too
        inside = text[1:].lstrip()
    if not inside.startswith("{"):
        return False
    try:
        _, end = decoder.raw_decode(inside)
    except json.JSONDecodeError as error:  # the head may end inside the first object
        return error.pos >= len(inside.rstrip()) or error.msg.startswith("Unterminated")
    except (ValueError, RecursionError):
        return False
    return inside[end:].lstrip()[:1] in {"", ","}


def _has_multiline_object(text: str) -> bool:
    """True where the first JSON value of `text` has line breaks in it."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:end]
