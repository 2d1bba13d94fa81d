"""Commands that are shown: whatever stands in them, they are one line that a shell reads back as the same words.

What Markdown would end its code at, and what a terminal would obey, is written as `$'\\x60'`, which bash, zsh, ksh and
POSIX.1-2024 read. A card, a page or a message then has nothing to escape: that would undo the quoting. All other lines
that are said to a user are broken between words where they go to a terminal, by `wrap_for`.
"""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections.abc import Iterable
from typing import Any

# A piece of a word as `shell_line` and shlex.join write it.
_PIECE = re.compile(
    r"""(?P<blank>[ \t\n]+)|\$'(?P<escaped>(?:[^'\\]|\\x[0-9a-f]{2})*)'|'(?P<single>[^']*)'|"(?P<double>[^"\\$`!]*)"
    |(?P<bare>[^\s'"\\$`;&|<>()!#*?\[\]{}~^]+)""",
    re.VERBOSE,
)
_NARROWEST = 20
"""Columns; in fewer a line is easier to read as the terminal breaks it."""
# A command is copied from the screen: broken, it would be two. A terminal joins what it has broken itself.
_COMMAND = re.compile(r"\s*(?:\$ )?(?:hf-finetune|accelerate|python|pip|export|vllm|text-generation-launcher) ")


def shell_line(words: Iterable[str]) -> str:
    """`words` as a command line, in printable characters without a backtick."""
    return " ".join(map(shell_quote, words))


def shell_quote(word: str) -> str:
    """One word of a command line; bytes that are no UTF-8, which Python holds as surrogates, stay what they are."""
    if word.isprintable() and "`" not in word:
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(letter: str) -> str:
    # A `!` would be history in an interactive shell that does not know `$'`.
    if letter.isprintable() and letter not in "'\\`!":
        return letter
    try:
        code = letter.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair: no byte string of a command line gives it
        code = letter.encode("utf-8", "replace")
    return "".join(f"\\x{byte:02x}" for byte in code)


def shell_path(path: object) -> str:
    """A path or name as a word that a command does not take for an option."""
    text = str(path)
    return shell_quote(f"./{text}" if text.startswith("-") else text)


def shell_words(line: str) -> list[str] | None:
    """The words of a line of `shell_line` or shlex.join; None for any other, which a shell may do anything with."""
    words: list[list[str]] = []
    place, goes_on = 0, False
    while place < len(line):
        piece = _PIECE.match(line, place)
        if piece is None:
            return None
        place = piece.end()
        if piece["blank"] is not None:
            goes_on = False
            continue
        text = _unescaped(piece["escaped"]) if piece["escaped"] is not None else piece[piece.lastgroup or 0]
        if goes_on:
            words[-1].append(text)
        else:
            words.append([text])
        goes_on = True
    return ["".join(pieces) for pieces in words]


def _unescaped(text: str) -> str:
    """Bytes may be those of one letter together, so that they are put together before they are read."""
    pieces = re.split(r"\\x([0-9a-f]{2})", text)
    raw = b"".join(
        bytes.fromhex(piece) if number % 2 else piece.encode("utf-8", "surrogatepass")
        for number, piece in enumerate(pieces)
    )
    return raw.decode("utf-8", "surrogateescape")


def wrap_for(stream: Any, text: str) -> str:
    """`text`, whose lines are broken between words where `stream` is a terminal; what goes on is indented by two more.

    A word that is longer than a line stays whole, as a path or a code does, and so does a command.
    """
    columns = _measure(stream)
    if columns < _NARROWEST:
        return text
    return "\n".join(_wrap_line(line, columns) for line in text.split("\n"))


def split_for(stream: Any, text: str, taken: int) -> list[str]:
    """The lines of `text` where `stream` is a terminal of which `taken` columns are not for it; else it is one."""
    columns = _measure(stream) - taken
    if columns < _NARROWEST:
        return [text]
    return textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [text]


def _wrap_line(line: str, columns: int) -> str:
    if len(line) <= columns or _COMMAND.match(line):
        return line
    indent = line[: len(line) - len(line.lstrip())]
    parts = textwrap.wrap(
        line.strip(),
        columns,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
        expand_tabs=False,
        replace_whitespace=False,
    )
    return "\n".join(parts) or line


def _measure(stream: Any) -> int:
    """The columns of a terminal, 0 of all else and of one that does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream.isatty() else 0
    except (OSError, ValueError, AttributeError):  # closed, or what stands in for a stream in a notebook
        return 0
