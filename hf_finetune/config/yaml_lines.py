"""A YAML file -> plain values, each with the line of its key. Nothing is ever constructed from a tag.

Plain words are read by YAML 1.2's rules, with numbers as people write them: `1e-4`, `2e5` and `1_000` are numbers,
`no`, `off` and `on` stay words until the setting says whether it wants a word (`eval_strategy: no`) or a boolean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hf_finetune.config.document import Key, Place, RunDocument
from hf_finetune.config.suggestions import did_you_mean
from hf_finetune.errors import ConfigError, Problem

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_VALUES = 10_000  # aliases can make a short file denote billions of values

_INTEGER = re.compile(r"[-+]?[0-9][0-9_]{0,99}")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]{0,99}(\.[0-9_]{0,99})?|\.[0-9][0-9_]{0,99})([eE][-+]?[0-9]{1,4})?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False, ".inf": math.inf, ".nan": math.nan}

PlaceOf = Callable[[yaml.Node], Place]


def parse_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted word."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def read_document(path: str) -> RunDocument:
    """Read a run file. Raises ConfigError where there is nothing to read on from; other problems are collected."""
    text = _decode(path, _read_bytes(path))
    document = RunDocument(path)
    root = compose(text, path)
    if root is None:
        raise ConfigError(Problem("the file is empty", "a run file needs recipe, model, data and output_dir", path, 1))
    if not isinstance(root, yaml.MappingNode):
        what = "the file is not a mapping of sections"
        raise ConfigError(Problem(what, "begin with a line such as `recipe: continued_pretraining`", path, _line(root)))
    document.values = node_value(root, (), document, lambda node: Place(path, _line(node)))
    return document


def compose(text: str, path: str) -> yaml.Node | None:
    """The node tree of one YAML document. Raises ConfigError with line and column."""
    try:
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_problem(error, path)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise ConfigError(Problem(what, "remove it", path, line)) from None
    except RecursionError:
        raise ConfigError(Problem("the file is nested too deeply", f"{MAX_DEPTH} levels at most", path, 1)) from None


def node_value(node: yaml.Node, key: Key, document: RunDocument, place_of: PlaceOf) -> Any:
    """The plain value of a node; problems and places go to `document` under `key`."""
    if key:
        document.places.setdefault(key, place_of(node))
    if len(key) > MAX_DEPTH or len(document.places) > MAX_VALUES:
        what = "nested too deeply" if len(key) > MAX_DEPTH else f"the file has more than {MAX_VALUES:,} values"
        raise ConfigError(Problem(what, "a run file is short; are anchors repeated in it?", *_where(document, key[:2])))
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in ("str", "map", "seq"):
        document.refuse(
            key, f"has the tag {node.tag.replace('tag:yaml.org,2002:', '!!')}", "tags are not read; leave it out"
        )
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, key, document, place_of)
    if isinstance(node, yaml.SequenceNode):
        return [node_value(item, (*key, index), document, place_of) for index, item in enumerate(node.value)]
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return scalar(parse_plain(node.value) if is_plain else node.value, key, document)


def scalar(value: Any, key: Key, document: RunDocument) -> Any:
    """`value` itself, unless it is text that no UTF-8 file can hold."""
    if isinstance(value, str) and any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        document.refuse(key, "has a character that is not valid Unicode", "write it in UTF-8")
        return None
    return value


def _mapping(node: yaml.MappingNode, key: Key, document: RunDocument, place_of: PlaceOf) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.value.isprintable():
            document.refuse(key, "has a key that is not a word", "write `key: value`", place=place_of(key_node))
            continue
        name = key_node.value
        here = (*key, name)
        if name == "<<":
            document.refuse(here, "merge keys are not read", "write the keys out", place=place_of(key_node))
            continue
        if name in values:
            first = document.place(here).line
            what = "is given twice" + (f", first in line {first}" if first else "")
            document.refuse(here, what, "keep one of them", place=place_of(key_node))
            continue
        document.places[here] = place_of(key_node)
        values[name] = node_value(value_node, here, document, place_of)
    return values


def _read_bytes(path: str) -> bytes:
    file = Path(path)
    try:
        if file.is_dir():
            what, remedy = "is a folder, not a run file", _neighbours(file)
            raise ConfigError(Problem(what, remedy or "name a .yaml file in it", path))
        if not file.exists():
            raise ConfigError(Problem("no such run file", _neighbours(file.parent, file.name), path))
        if not file.is_file():
            raise ConfigError(Problem("is not a regular file", "name a .yaml file", path))
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid file name"
        raise ConfigError(Problem(f"cannot be read ({reason})", "name a .yaml file that you may read", path)) from None
    if len(content) > MAX_BYTES:
        what = f"is larger than {MAX_BYTES // 1024} KiB"
        raise ConfigError(Problem(what, "a run file is a short YAML file; is this a data file?", path))
    return content


def _decode(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte {error.start} is not UTF-8"
        raise ConfigError(Problem(what, "save the file as UTF-8", path, line)) from None


def _neighbours(folder: Path, name: str | None = None) -> str:
    """What the user may have meant among the YAML files of `folder`; "" where there is none."""
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    if name is not None and (close := did_you_mean(name, names)):
        return f"did you mean {folder / close}?"
    return f"YAML files there: {', '.join(names[:10])}" if names else "there is no YAML file in that folder"


def _syntax_problem(error: yaml.MarkedYAMLError, path: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    reason = str(error.problem or error.context or "not valid YAML")
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    if "'\\t'" in reason:
        return Problem(f"column {column}: a tab", "indent with spaces", path, line)
    if "mapping values are not allowed" in reason:
        reason, remedy = "a second colon", 'indent by two spaces, and quote text that contains ": "'
    elif "another document" in reason:
        reason, remedy = "a second document begins", "a run file is one document; remove the `---`"
    else:
        remedy = "check quotes, brackets and indentation here and in the line above"
    return Problem(f"column {column}: not valid YAML ({reason})", remedy, path, line)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _where(document: RunDocument, key: Key) -> tuple[str, int | None]:
    place = document.place(key)
    return place.path, place.line
