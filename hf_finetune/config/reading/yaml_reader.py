"""A YAML file -> plain values, each with the line of its key. No object is ever constructed from a tag.

Unquoted scalars follow YAML 1.2, with numbers as people write them: `1e-4`, `2e5` and `1_000` are numbers, while `no`,
`off` and `on` stay text until the type of the setting decides (`eval_strategy: no` is text, `bf16: no` a boolean).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hf_finetune.config.reading.document import Key, Place, RunDocument
from hf_finetune.errors import ConfigError, Problem, suggest
from hf_finetune.files import MAX_YAML_VALUES as MAX_VALUES
from hf_finetune.privacy import MAX_YAML_BYTES as MAX_BYTES
from hf_finetune.privacy import MAX_YAML_DEPTH as MAX_DEPTH
from hf_finetune.privacy import has_open_brackets

# PyYAML follows YAML 1.1: `1e-4` is text there (https://github.com/yaml/pyyaml/issues/173), and `no` is False. So the
# types of scalars are decided here, and PyYAML (6.0) only parses; these can go once it reads YAML 1.2.
_INTEGER = re.compile(r"[-+]?[0-9][0-9_]{0,99}")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]{0,99}(\.[0-9_]{0,99})?|\.[0-9][0-9_]{0,99})([eE][-+]?[0-9]{1,4})?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False, ".inf": math.inf, ".nan": math.nan}

PlaceOf = Callable[[yaml.Node], Place]


def parse_plain(text: str) -> str | int | float | bool | None:
    """Convert an unquoted scalar: null, a boolean, a number, or else the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def read_document(path: str) -> RunDocument:
    """Read a run file. Raises ConfigError if it is no YAML mapping; other problems are collected in the document."""
    if path.endswith(".py"):
        what, remedy = (
            "is a recipe, not a run file",
            f"name a run file of it, such as recipes/configs/{Path(path).stem}.yaml",
        )
        raise ConfigError(Problem(what, remedy, path, code="HF615"))
    text = _decode(path, _read_bytes(path))
    document = RunDocument(path)
    root = compose(text, path)
    if root is None:
        raise ConfigError(
            Problem("the file is empty", "a run file needs recipe, model, data and output_dir", path, 1, code="HF611")
        )
    if not isinstance(root, yaml.MappingNode):
        what = "the file is not a mapping of sections"
        raise ConfigError(
            Problem(
                what, "begin with a line such as `recipe: continued_pretraining`", path, _get_line(root), code="HF611"
            )
        )
    document.values = read_node(root, (), document, lambda node: Place(path, _get_line(node)))
    return document


def compose(text: str, path: str) -> yaml.Node | None:
    """Parse one YAML document into PyYAML's node tree. Raises ConfigError with line and column."""
    # BaseLoader knows no tag but str, seq and map: `!!python/object` cannot construct anything.
    try:
        if has_open_brackets(text):
            raise RecursionError
        return yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_describe_syntax_error(error, path)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise ConfigError(Problem(what, "remove it", path, line, code="HF610")) from None
    except RecursionError:
        raise ConfigError(
            Problem("the file is nested too deeply", f"{MAX_DEPTH} levels at most", path, 1, code="HF613")
        ) from None


def read_node(node: yaml.Node, key: Key, document: RunDocument, place_of: PlaceOf) -> Any:
    """Convert a node to plain values; its problems and places are added to `document` under `key`.

    Raises ConfigError if the document is nested too deeply or has too many values.
    """
    if key:
        document.places.setdefault(key, place_of(node))
    if len(key) > MAX_DEPTH or len(document.places) > MAX_VALUES:
        what = "nested too deeply" if len(key) > MAX_DEPTH else f"the file has more than {MAX_VALUES:,} values"
        place = document.find_place(key[:2])
        raise ConfigError(
            Problem(what, "a run file is short; are anchors repeated in it?", place.path, place.line, code="HF613")
        )
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in ("str", "map", "seq"):
        document.refuse(
            key,
            f"has the tag {node.tag.replace('tag:yaml.org,2002:', '!!')}",
            "tags are not read; leave it out",
            code="HF614",
        )
        return None
    if isinstance(node, yaml.MappingNode):
        return _read_mapping(node, key, document, place_of)
    if isinstance(node, yaml.SequenceNode):
        return [read_node(item, (*key, index), document, place_of) for index, item in enumerate(node.value)]
    is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return check_scalar(parse_plain(node.value) if is_plain else node.value, key, document)


def check_scalar(value: Any, key: Key, document: RunDocument) -> Any:
    """Return `value`, or refuse text that no UTF-8 file can hold and return None."""
    # A lone surrogate comes from "\\ud800" in double quotes, or from a command line that is not UTF-8.
    if isinstance(value, str) and any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        document.refuse(key, "has a character that is not valid Unicode", "write it in UTF-8", code="HF619")
        return None
    return value


def _read_mapping(node: yaml.MappingNode, key: Key, document: RunDocument, place_of: PlaceOf) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.value.isprintable():
            document.refuse(
                key, "has a key that is not a word", "write `key: value`", place=place_of(key_node), code="HF614"
            )
            continue
        name = key_node.value
        here = (*key, name)
        if name == "<<":
            # YAML 1.2 has no merge keys; BaseLoader would make `<<` a key like any other.
            document.refuse(
                here, "merge keys are not read", "write the keys out", place=place_of(key_node), code="HF614"
            )
            continue
        if name in values:
            first = document.find_place(here).line
            what = "is given twice" + (f", first in line {first}" if first else "")
            document.refuse(here, what, "keep one of them", place=place_of(key_node), code="HF612")
            continue
        document.places[here] = place_of(key_node)
        values[name] = read_node(value_node, here, document, place_of)
    return values


def _read_bytes(path: str) -> bytes:
    file = Path(path)
    try:
        if file.is_dir():
            what, remedy = "is a folder, not a run file", _suggest_file(file)
            raise ConfigError(Problem(what, remedy or "name a .yaml file in it", path, code="HF615"))
        if not file.exists():
            raise ConfigError(Problem("no such run file", _suggest_file(file.parent, file.name), path, code="HF001"))
        if not file.is_file():
            raise ConfigError(Problem("is not a regular file", "name a .yaml file", path, code="HF002"))
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid file name"
        raise ConfigError(
            Problem(f"cannot be read ({reason})", "name a .yaml file that you may read", path, code="HF002")
        ) from None
    if len(content) > MAX_BYTES:
        what = f"is larger than {MAX_BYTES // 1024} KiB"
        raise ConfigError(Problem(what, "a run file is a short YAML file; is this a data file?", path, code="HF613"))
    return content


def _decode(path: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte {error.start} is not UTF-8"
        raise ConfigError(Problem(what, "save the file as UTF-8", path, line, code="HF003")) from None


def _suggest_file(folder: Path, name: str | None = None) -> str:
    """Name the YAML file of `folder` that is closest to `name`, else list those that are there."""
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    there = f"YAML files there: {', '.join(names[:10])}" if names else "there is no YAML file in that folder"
    return there if name is None else suggest(name, names, there, show=lambda close: str(folder / close))


def _describe_syntax_error(error: yaml.MarkedYAMLError, path: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    reason = str(error.problem or error.context or "not valid YAML")
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    # The reasons are those of PyYAML 6.0, whose words are for authors of parsers.
    if "'\\t'" in reason:
        return Problem(f"column {column}: a tab", "indent with spaces", path, line, code="HF610")
    if "mapping values are not allowed" in reason:
        reason, remedy = "a second colon", 'indent by two spaces, and quote text that contains ": "'
    elif "another document" in reason:
        reason, remedy = "a second document begins", "a run file is one document; remove the `---`"
    else:
        remedy = "check quotes, brackets and indentation here and in the line above"
    return Problem(f"column {column}: not valid YAML ({reason})", remedy, path, line, code="HF610")


def _get_line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
