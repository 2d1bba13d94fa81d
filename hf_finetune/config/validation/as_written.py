"""The JSON Schema of a run file, made to accept what the run file's own reader does, whichever YAML parser reads it.

An editor follows YAML 1.2, where `yes` is text; PyYAML follows 1.1, where `1e-4` and `08` are text and `no` is false:
https://github.com/yaml/pyyaml/issues/173
"""

from __future__ import annotations

from typing import Any

_DIGITS = "[0-9][0-9_]*"
_NUMBER = rf"({_DIGITS}(\.[0-9_]*)?|\.{_DIGITS})([eE][-+]?[0-9]{{1,4}})?"
_WHOLE = rf"{_DIGITS}(\.0*)?([eE]\+?[0-9]{{1,4}})?"
_SHARE = rf"({_DIGITS}(\.[0-9_]*)?|\.{_DIGITS})[eE]-[0-9]{{1,4}}"
_NO = [form for word in ("no", "off") for form in (word, word.capitalize(), word.upper())]
_YES = [form for word in ("yes", "on") for form in (word, word.capitalize(), word.upper())]
_AS_TEXT: dict[str, dict[str, Any]] = {
    "number as text": {"type": "string", "pattern": f"^[-+]?{_NUMBER}$"},
    "positive number as text": {"type": "string", "pattern": rf"^\+?{_NUMBER}$"},
    "integer as text": {"type": "string", "pattern": f"^[-+]?{_WHOLE}$"},
    "positive integer as text": {"type": "string", "pattern": rf"^\+?{_WHOLE}$"},
    "share as text": {"type": "string", "pattern": rf"^\+?{_SHARE}$"},
    "boolean as text": {"enum": [*_YES, *_NO, 0, 1]},
}
_ABOUT = ("default", "title", "description")


def accept_as_written(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` with numbers and booleans also as the texts that a parser makes of them, and null as absent."""
    definitions = schema["$defs"]
    walked = {"$defs": {name: _walk_object(section) for name, section in definitions.items()}} | _walk_object(
        {key: value for key, value in schema.items() if key != "$defs"}
    )
    walked["$defs"] |= {_name(kind): text for kind, text in _AS_TEXT.items()}
    return walked


def _walk_object(section: dict[str, Any]) -> dict[str, Any]:
    # `seed:` with nothing after it is the default, as `null` is; what is required is not taken back.
    required = section.get("required", [])
    properties = {name: _widen(node, null=name not in required) for name, node in section["properties"].items()}
    return section | {"properties": properties}


def _widen(node: dict[str, Any], *, null: bool = False) -> dict[str, Any]:
    about = {key: node[key] for key in _ABOUT if key in node}
    branches = _list_branches({key: value for key, value in node.items() if key not in _ABOUT})
    if null and {"type": "null"} not in branches:
        branches.append({"type": "null"})
    return about | (branches[0] if len(branches) == 1 else {"anyOf": branches})


def _list_branches(node: dict[str, Any]) -> list[dict[str, Any]]:
    """List what a node accepts, each once: `{"type": "boolean"}` -> itself and a reference to its words."""
    found: list[dict[str, Any]] = []
    for part in node.get("anyOf", [node]):
        if "anyOf" in part:
            inner = _list_branches(part)
        elif part.get("type") in ("number", "integer", "boolean"):
            inner = [part, {"$ref": f"#/$defs/{_name(_describe_text(part))}"}]
        elif "no" in part.get("enum", ()):
            inner = [{"enum": [*part["enum"], *_NO[1:], False]}]
        else:
            inner = [
                part | {key: _widen(part[key]) for key in ("items", "additionalProperties") if _is_node(part, key)}
            ]
        found += [branch for branch in inner if branch not in found]
    return found


def _is_node(part: dict[str, Any], key: str) -> bool:
    return isinstance(part.get(key), dict)


def _describe_text(part: dict[str, Any]) -> str:
    """Name the text of a number or boolean: `integer as text`, or `positive integer as text` where it is bounded."""
    if part.get("maximum", part.get("exclusiveMaximum", 2)) <= 1:
        return "share as text"
    lowest = part.get("minimum", part.get("exclusiveMinimum"))
    return f"{'positive ' if lowest is not None and lowest >= 0 else ''}{part['type']} as text"


def _name(kind: str) -> str:
    return "".join(word.capitalize() for word in kind.split())
