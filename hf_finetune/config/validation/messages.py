"""Validation errors of pydantic as messages: which key, what was expected, what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from hf_finetune.config.reading.document import Key, RunDocument, format_key_path, format_value
from hf_finetune.config.sections import SHA256
from hf_finetune.config.validation.known_keys import KnownKeys, find_remedy, find_section, is_foreign
from hf_finetune.errors import suggest

MAX_LISTED = 24
# A likeness takes a millisecond or more, and a file may have thousands of keys that nobody knows.
MOST_EXPLAINED = 1_000
_NOT_SHOWN = "cannot be used"

Described = tuple[str, str, str]
"""What is wrong with a key, what to do about it, and the code of that."""

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "dict": "a section of keys",
    "model": "a section of keys",
    "none": "nothing",
}

_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}

_FORMS = {SHA256: "64 hex digits"}

_REQUIRED = {
    "recipe": "name the recipe, such as `recipe: continued_pretraining`",
    "model": "give model.path (a folder or a Hub id) or model.scratch",
    "data": "give data.train, a file of rows",
    "data.train": "give a file, folder, glob or Hub data set id",
    "output_dir": "name the run folder, such as `output_dir: runs/first`",
}


def report_errors(
    errors: Sequence[ErrorDetails], values: Any, document: RunDocument, known: KnownKeys
) -> list[tuple[Key, bool]]:
    """Add one problem to `document` for each key with errors. Returns the keys, each with whether it is missing."""
    by_key: dict[Key, list[ErrorDetails]] = {}
    for error in errors:
        by_key.setdefault(_locate_error(error, values), []).append(error)
    # A union reports every branch; of `tokenizer: {train: {kind: x}}` the branch that wants text is of no interest:
    # errors at ("model", "tokenizer") and ("model", "tokenizer", "train", "kind") -> only the second is reported.
    around = {key[:length] for key in by_key for length in range(len(key))}
    deepest = [key for key in by_key if key not in around]
    unknown = [key for key in deepest if by_key[key][0]["type"] == "extra_forbidden"]
    meant = {_find_meant(key, known) for key in unknown[:MOST_EXPLAINED]}
    refused = {key[:length] for key in document.refused for length in range(len(key) + 1)}
    for key in deepest:
        # `base_model: X` of another tool is `model.path` here: that `model` is missing is the same problem.
        if by_key[key][0]["type"] == "missing" and len(key) == 1 and str(key[0]) in meant:
            continue
        # A value that was removed because of its own problem is missing now, which is no second problem.
        if key not in refused:
            is_shown = len(document.problems) < MOST_EXPLAINED
            what, remedy, code = _describe_errors(key, by_key[key], known) if is_shown else (_NOT_SHOWN, "", "HF603")
            document.refuse(key, what, remedy, code=code)
            if by_key[key][0]["type"] == "extra_forbidden":
                _report_inside(key, by_key[key][0]["input"], document, known)
    return [(key, by_key[key][0]["type"] == "missing") for key in deepest]


def _find_meant(key: Key, known: KnownKeys) -> str:
    """The section that an unknown key was meant for, "" where that is not known: base_model -> model."""
    remedy = _describe_unknown_key(key, known)[1]
    return remedy.removeprefix("did you mean ").partition(".")[0] if remedy.startswith("did you mean ") else ""


def _locate_error(error: ErrorDetails, values: Any) -> Key:
    """Find the key of an error in the file: pydantic's `loc` without the names of union branches."""
    # ("data", "train", "list[union[...]]", 0, "Source", "weight") -> ("data", "train", 0, "weight")
    # Can go once pydantic (2.14) leaves the branches out: https://github.com/pydantic/pydantic/issues/7261
    key: list[str | int] = []
    for index, part in enumerate(error["loc"]):
        is_missing = error["type"] == "missing" and index == len(error["loc"]) - 1
        if _is_inside(values, part):
            values = values[part]
        elif not is_missing:
            continue
        key.append(part)
    return tuple(key)


def _is_inside(values: Any, part: str | int) -> bool:
    if isinstance(values, list):
        return isinstance(part, int) and part < len(values)
    return isinstance(values, dict) and part in values


def _report_inside(key: Key, values: Any, document: RunDocument, known: KnownKeys) -> None:
    """Report the keys of an unknown section that would not be right in ours either: one attempt mends both."""
    # {"training": {"batch_size": 2}}: training -> train, and training.batch_size -> train.per_device_train_batch_size
    if len(key) > 1 or not isinstance(values, dict):
        return
    section = find_section(str(key[0]), known)
    for name in values:
        if section is None and is_foreign(f"{key[0]}.{name}", known):  # optimizer: {lr: 1e-4}
            document.refuse((*key, name), *_describe_unknown_key((*key, name), known), code="HF602")
        elif section is not None and name not in known.sections[section]:
            document.refuse((*key, name), *_describe_unknown_key((section, name), known), code="HF602")


def _describe_errors(key: Key, errors: list[ErrorDetails], known: KnownKeys) -> Described:
    """Describe the errors of one key."""
    error = errors[0]
    if error["type"] == "missing":
        return "is missing", _REQUIRED.get(format_key_path(key), "give it a value"), "HF605"
    if error["type"] == "extra_forbidden":
        return *_describe_unknown_key(key, known), "HF602"
    value = error["input"]
    if bound := next((error for error in errors if error["type"] in _BOUNDS), None):
        limit = _BOUNDS[bound["type"]].format(**bound["ctx"])
        return f"must be {limit}, not {format_value(value)}", "", "HF603"
    if (choices := _list_choices(errors)) and not any(error["type"] == "too_short" for error in errors):
        what = f"expected {_format_choices(choices)}{_describe_other_types(errors)}, found {format_value(value)}"
        return what, suggest(str(value), choices, "choose one of them"), "HF604"
    return _describe_type_error(errors, value)


def _describe_type_error(errors: list[ErrorDetails], value: Any) -> Described:
    kinds = {error["type"] for error in errors}
    if kinds & {"string_too_short", "too_short"}:
        return "is empty", "give it a value", "HF603"
    if "not_a_line" in kinds:
        what = "is longer than a line, or has a character that cannot be printed"
        return what, "write it in one short line", "HF619"
    if "finite_number" in kinds:
        return f"must be a finite number, not {format_value(value)}", "", "HF603"
    if form := next((error for error in errors if error["type"] == "string_pattern_mismatch"), None):
        return f"expected {_FORMS[form['ctx']['pattern']]}, found {format_value(value)}", "", "HF603"
    expected = [_EXPECTED[kind] for kind in _EXPECTED if any(name.startswith(kind) for name in kinds)]
    if "bool_as_number" in kinds:
        expected = ["a number"]
    if "a number" in expected and "a whole number" in expected:
        expected.remove("a whole number")
    wanted = " or ".join(dict.fromkeys(expected)) or "another value"
    number_for_text = "text" in expected and isinstance(value, int | float) and not isinstance(value, bool)
    remedy = f'write it in quotes: "{format_value(value)}"' if number_for_text else ""
    return f"expected {wanted}, found {format_value(value)}", remedy, "HF603"


def _list_choices(errors: Iterable[ErrorDetails]) -> list[str]:
    """List the choices of a setting, from pydantic's `'a', 'b' or 'c'`."""
    for error in errors:
        if error["type"] == "literal_error":
            text = str(error["ctx"]["expected"]).replace(" or ", ", ")
            return [word.strip("'") for word in text.split(", ")]
    return []


def _describe_other_types(errors: Iterable[ErrorDetails]) -> str:
    """Describe what a setting takes besides its choices: " or a whole number", " or a section of keys" ..."""
    kinds = {error["type"].partition("_")[0] for error in errors} & {"int", "dict", "model"}
    return "".join(f" or {kind}" for kind in dict.fromkeys(_EXPECTED[kind] for kind in sorted(kinds)))


def _format_choices(choices: list[str]) -> str:
    if len(choices) > MAX_LISTED:
        return f"one of {len(choices)} names ({', '.join(choices[:6])}, ...)"
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"


def _describe_unknown_key(key: Key, known: KnownKeys) -> tuple[str, str]:
    section = ".".join(str(part) for part in key[:-1] if isinstance(part, str))
    what = f"is not a setting of {f'the section {section}' if section else 'a run file'}"
    if remedy := find_remedy(str(key[-1]), section, known):
        return what, remedy
    own = sorted(known.sections.get(section, set()))
    if own and len(own) <= MAX_LISTED:
        return what, f"its settings are {', '.join(own)}"
    return what, f"docs/run-file.md lists the settings of {section or 'a run file'}"
