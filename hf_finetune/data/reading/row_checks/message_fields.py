"""The fields of a message beside its role: what they may be called, and content that is written in parts.

What other tools call "do not train this turn" is refused with our name, since a template would only pass it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hf_finetune.data.reading.formats import MESSAGE_EXTRAS, Items
from hf_finetune.data.reading.json_line import LineError, format_key, name_json_type
from hf_finetune.errors import find_closest

# ms-swift and XTuner: loss, loss_scale; axolotl: training, train_detail; torchtune: masked; and what else is met.
# https://github.com/verl-project/verl/issues/5472
_NAMES_OF_TRAIN = {
    **dict.fromkeys(("loss", "trained", "training", "trainable", "train_on_turn", "learn", "compute_loss"), "true"),
    **dict.fromkeys(("is_trained", "train_detail", "training_detail", "supervised"), "true"),
    **dict.fromkeys(("mask", "masked", "loss_mask", "ignore", "ignore_loss", "no_loss", "no_train"), "false"),
    **dict.fromkeys(("skip", "skip_loss", "frozen", "untrained"), "false"),
    **dict.fromkeys(("loss_scale", "loss_weight", "train_weight"), "weight"),
}
_OF_CALLS = ("id", "type", "index", "function", "name", "arguments")
_OF_FUNCTIONS = ("name", "arguments")
_OF_PARTS = ("type", "text")


def check_required(value: Mapping[str, Any], required: Iterable[str], unknown: list[str], owner: str) -> None:
    """Raise LineError for a key of `required` that `value` lacks, or has under a name that is close to it."""
    for key in required:
        if key in value:
            continue
        if near := find_closest(key, unknown, 0.75):
            raise explain_misspelled(near, key)
        found = ", ".join(format_key(each) for each in list(value)[:10]) or "none"
        names = ", ".join(f"`{each}`" for each in required)
        raise LineError(
            f"the key `{key}` is missing", f"{owner} has {names}; this one has {found}", key=key, code="HF023"
        )


def check_misspelled(
    value: Mapping[str, Any], optional: Iterable[str], unknown: list[str], cutoff: float = 0.8
) -> None:
    """Raise LineError for an `unknown` key that is as close to one of `optional` as `cutoff` says."""
    for key in optional:
        if key not in value and (near := find_closest(key, unknown, cutoff)):
            raise explain_misspelled(near, key)


def explain_misspelled(near: str, key: str) -> LineError:
    """What is said of a key that is not known, and close to one that is."""
    return LineError(
        f"the key {format_key(near)} is not known", f"did you mean `{key}`?", key=key, misspelled=near, code="HF025"
    )


def check_message_keys(message: Mapping[str, Any], place: str, items: Items) -> list[str]:
    """Return the keys of a message that only a chat template may read; raise LineError for missing and foreign ones."""
    unknown = [key for key in message if key not in (*items.required, *items.optional, *MESSAGE_EXTRAS)]
    silent = message.get(items.text) is None and calls_tools(message)
    check_required(
        message, [key for key in items.required if not (silent and key == items.text)], unknown, f"`{place}`"
    )
    for key in unknown:
        if ours := _NAMES_OF_TRAIN.get(key.lower()):
            raise _explain_foreign(key, ours, place)
    check_misspelled(message, (*items.optional, *MESSAGE_EXTRAS), unknown)
    return unknown + _check_calls(message.get("tool_calls"), message.get("function_call"))


def calls_tools(message: Mapping[str, Any]) -> bool:
    """Whether a message has calls of tools, and so may have no text."""
    return "tool_calls" in message or "function_call" in message


def join_text_parts(content: Any, place: str) -> Any:
    """Join content that is a list of texts, as OpenAI writes it; anything else is left as it is.

    Raises LineError for a part that is no text.
    """
    # [{"type": "text", "text": "Hi"}, {"type": "text", "text": " there"}] -> "Hi there"
    if not isinstance(content, list) or not all(isinstance(part, dict) and "type" in part for part in content):
        return content
    for number, part in enumerate(content):
        where = f"{place}[{number}]"
        if part["type"] != "text":
            kind = format_key(str(part["type"]))
            raise LineError(
                f"`{where}` is a part of the type {kind}", "only text is trained: take the row out", code="HF033"
            )
        unknown = [key for key in part if key not in _OF_PARTS]
        check_required(part, _OF_PARTS, unknown, f"`{where}`")
        if unknown:
            raise LineError(f"the key {format_key(unknown[0])} of `{where}` is not known", "take it out", code="HF025")
        if not isinstance(part["text"], str):
            raise LineError(
                f"`{where}.text` must be string, found {name_json_type(part['text'])}", "write a text", code="HF026"
            )
    return "".join(part["text"] for part in content)


def _explain_foreign(key: str, ours: str, place: str) -> LineError:
    remedy = {
        "true": "`train: false` leaves a message out of the loss, and `train: true` says what is so anyway",
        "false": "`train: false` leaves a message out of the loss",
        "weight": "`weight` is 0 or 1",
    }[ours]
    return LineError(f"the key {format_key(key)} of `{place}` is another tool's", remedy, key=key, code="HF025")


def _check_calls(*fields: object) -> list[str]:
    """Return the keys of calls that only a template may read; raise LineError for misspelled ones.

    Otherwise a call may have any form: templates differ in what they read of it.
    """
    # [{"type": "function", "function": {"name": "rain", "arguments": "{}"}}] of `tool_calls`, and the object of the old
    # `function_call`. What stands in `arguments` is the tool's own.
    unknown: list[str] = []
    calls = [call for field in fields for call in (field if isinstance(field, list) else [field])]
    functions = [call["function"] for call in calls if isinstance(call, dict) and "function" in call]
    for found, known in ((calls, _OF_CALLS), (functions, _OF_FUNCTIONS)):
        for each in (value for value in found if isinstance(value, dict)):
            strange = [key for key in each if key not in known]
            check_misspelled(each, known, strange, 0.75)
            unknown += [f"tool_calls[].{key}" for key in strange]
    return unknown
