"""What a client is told of the fields that cannot be taken: the names that it wrote, and what each takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError

from hf_finetune.errors import find_closest
from hf_finetune.release.serve.api.errors import ApiError

MOST_SHOWN = 200
MOST_FIELDS = 8
# A body of a megabyte may hold a hundred thousand values that cannot be taken.
MOST_LOOKED_AT = 1_000
# As OpenAI calls them.
CODES = {
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "json_invalid": "invalid_json",
}

Schema = Mapping[str, Any]


def explain_refused(
    kind: type[BaseModel], refused: ValidationError, highest: Mapping[str, int] | None = None
) -> ApiError:
    """Explain why a body is no request of `kind`: one message a field, and no value of any.

    `highest` are the largest values that this server takes, by field.
    """
    errors = refused.errors(include_input=False, include_context=False, include_url=False)
    if errors[0]["type"] == "json_invalid":
        # Where it breaks off, by line and column: none of its words.
        return ApiError(400, errors[0]["msg"][: 2 * MOST_SHOWN], code=CODES["json_invalid"])
    schema = kind.model_json_schema()
    set_highest(schema["properties"], highest or {})
    said: dict[str, str] = {}
    codes: list[str] = []
    for error in islice(errors, MOST_LOOKED_AT):
        place, found = _find_field(schema, error["loc"])
        if place not in said:  # each form that a field may have is an error of pydantic's
            said[place] = _explain(place, error, found, schema)
            codes.append(CODES.get(error["type"], "invalid_value"))
    more = [f"and {len(said) - MOST_FIELDS:,} more fields"] if len(said) > MOST_FIELDS else []
    message = "; ".join([*said.values()][:MOST_FIELDS] + more)
    return ApiError(400, message, param=next(iter(said)) or None, code=codes[0])


def set_highest(properties: dict[str, Any], highest: Mapping[str, int]) -> None:
    """Write the largest values that a server takes into the fields of a request."""
    for name in highest.keys() & properties.keys():
        properties[name]["anyOf"][0]["maximum"] = highest[name]


def _find_field(schema: Schema, parts: Sequence[str | int]) -> tuple[str, Schema]:
    """Find what a user calls the field at `parts`, and its schema, or that of the object where it is not known.

    Behind a field of several forms pydantic names the form that it tried, which nobody wrote: the field ends there.
    """
    place, found = "", schema
    for part in parts:
        forms = _list_forms(found, schema)
        if len(forms) > 1:
            break
        [found] = forms
        if isinstance(part, int):
            place, found = f"{place}[{part}]", found.get("items", {})
        else:
            place = f"{place}.{part[:MOST_SHOWN]}".removeprefix(".")
            if part not in found.get("properties", {}):
                break
            found = found["properties"][part]
    return place[-MOST_SHOWN:], found


def _explain(place: str, error: Mapping[str, Any], found: Schema, schema: Schema) -> str:
    if error["type"] == "extra_forbidden":
        close = find_closest(place.rpartition(".")[2], found["properties"])
        return f"{place}: is not a field that this server knows" + (f" (did you mean {close}?)" if close else "")
    forms = _list_forms(found, schema)
    if all(_is_idle(form) for form in forms):
        values = _join(dict.fromkeys(_show_only(form) for form in forms))
        return f"{place}: is not offered here: leave it out" + ("" if values == "null" else f", or give {values}")
    takes = _join(_describe(form, schema) for form in forms)
    missing = "is missing, and " if error["type"] == "missing" else ""
    return f"{place}: {missing}takes {takes}" if place else f"the body has to be {takes}"


def _list_forms(found: Schema, schema: Schema) -> list[Schema]:
    """The forms that a field may have, without null beside others, which says no more than that it may be left out."""
    if "$ref" in found:
        return _list_forms(schema["$defs"][found["$ref"].rpartition("/")[2]], schema)
    forms = [found] if "anyOf" not in found else [part for each in found["anyOf"] for part in _list_forms(each, schema)]
    return [each for each in forms if each.get("type") != "null"] or forms


def _is_idle(form: Schema) -> bool:
    """Whether a form has one value alone, by which nothing changes."""
    bounds = form.get("minimum"), form.get("maximum")
    one_value = not isinstance(form.get("const", ""), str) or form.get("maxProperties") == 0
    return one_value or form.get("type") == "null" or (None not in bounds and bounds[0] == bounds[1])


def _show_only(form: Schema) -> str:
    if form.get("type") in ("null", "object"):
        return "{}" if form["type"] == "object" else "null"
    return str(form.get("const", form.get("minimum"))).lower()


def _describe(form: Schema, schema: Schema, *, several: bool = False) -> str:
    """Describe what a form takes: `a text of at most 256 characters`, or of `several` of them `texts of ...`."""
    if "const" in form:
        return f'"{form["const"]}" alone'
    if "enum" in form:
        return _join(f'"{value}"' for value in form["enum"])
    name = form["type"]
    words = {"string": "text", "integer": "whole number", "number": "number", "array": "list", "object": "object"}
    if name == "boolean":
        return "true or false"
    noun = f"{words[name]}s" if several else f"{'an' if name == 'object' else 'a'} {words[name]}"
    return noun + _describe_bounds(form) + _describe_parts(form, schema)


def _describe_bounds(form: Schema) -> str:
    least, most = (form.get(name, form.get(f"exclusive{name.capitalize()}")) for name in ("minimum", "maximum"))
    if "exclusiveMaximum" in form:
        most -= 1  # of whole numbers alone
    if least is not None and most is not None:
        low, high = (f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound in (least, most))
        return f" above {low} and of at most {high}" if "exclusiveMinimum" in form else f" from {low} to {high}"
    if "maxLength" in form:
        return f" of {'1 to' if form.get('minLength') else 'at most'} {form['maxLength']:,} characters"
    return " that is not empty" if form.get("minLength") else ""


def _describe_parts(form: Schema, schema: Schema) -> str:
    if form["type"] == "array":
        parts = _join(_describe(each, schema, several=True) for each in _list_forms(form["items"], schema))
        counts = {(True, True): "1 to ", (False, True): "at most ", (True, False): "one or more "}
        most = f"{form['maxItems']:,} " if "maxItems" in form else ""
        return f" of {counts.get(('minItems' in form, 'maxItems' in form), '')}{most}{parts}"
    if form["type"] == "object" and (keys := form.get("required") or form.get("properties")):
        return f" with {_join(keys, 'and')}"
    return ""


def _join(words: Iterable[str], last_word: str = "or") -> str:
    *first, last = words
    return f"{', '.join(first)} {last_word} {last}" if first else last
