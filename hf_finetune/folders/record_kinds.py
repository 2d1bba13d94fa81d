"""Of which kind the values of a run's records are: report.json, manifest.json, and those of its checkpoints.

All may be written by others. What is wrong is named by its key before anything is made of it; keys that are not
listed here are shown as they are, whatever they hold.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from hf_finetune.files import is_of_kernel
from hf_finetune.privacy import escape_control_characters

_OBJECT, _LIST, _OBJECTS, _TEXT = "object", "list", "list of objects", "text"
_COUNT, _NUMBER, _FIGURE = "whole number", "number", "number or null"
_AMOUNT, _AMOUNT_OR_NULL = "whole number from 0 to 2^53", "whole number from 0 to 2^53, or null"
_FLAG, _TEXT_OR_NULL, _VALUE, _TEXTS = "truth value", "text or null", "number, NaN or null", "list of texts"
_SPAN = "number from 0 to 2^53"
_OBJECT_OR_NULL, _VALUES, _LONG = "object or null", "list of numbers", "whole number from 0 to 2^63"

SEEN = "hf_finetune_seen"
"""The key under which trainer_state.json keeps the counts of what was trained."""

# A star stands for any name, or place in a list. A value may be left out.
REPORT_KINDS = {
    **dict.fromkeys(("settings", "data", "parameters", "train", "evaluation", "distributed", "environment"), _OBJECT),
    "samples": _LIST,
    "settings.card": _OBJECT,
    "settings.card.datasets": _LIST,
    "settings.train": _OBJECT,
    **dict.fromkeys(("settings.train.warmup_steps", "settings.train.max_steps"), _FIGURE),
    "settings.train.num_train_epochs": _FIGURE,
    "data.*.rows": _FIGURE,
    "parameters.*": _COUNT,
    **dict.fromkeys(("train.steps", "train.seen.*"), _AMOUNT),
    "train.max_steps": _AMOUNT_OR_NULL,
    **dict.fromkeys(("train.epochs", "train.runtime_s", "train.tokens_per_s", "train.energy.watt_hours"), _FIGURE),
    **dict.fromkeys(("evaluation.*", "evaluation.*.per_class", "evaluation.*.per_class.*"), _OBJECT),
    **dict.fromkeys(("evaluation.*.baselines", "evaluation.*.baselines.*"), _OBJECT),
    "distributed.restarts": _OBJECTS,
    "distributed.restarts.*.step": _AMOUNT_OR_NULL,
    **dict.fromkeys(("distributed.restarts.*.machines", "distributed.restarts.*.processes"), _VALUES),
    "environment.devices": _OBJECTS,
    "environment.devices.*.memory_gib": _NUMBER,
}
MANIFEST_KINDS = {
    "data": _OBJECT,
    "data.files": _OBJECTS,
    **dict.fromkeys(("data.files.*.path", "data.files.*.sha256", "data.splits.*.sha256"), _TEXT),
    "data.splits": _OBJECT,
    "data.splits.*": _OBJECT,
    "data.stream": _OBJECT,
    "data.stream.shards": _TEXTS,
    "data.overlap": _OBJECT,
    "data.overlap.*": _OBJECT,
    **dict.fromkeys(("model", "model.tokenizer", "model.adapter"), _OBJECT_OR_NULL),
    **dict.fromkeys(("model.name", "model.revision", "model.*.name", "model.*.revision"), _TEXT_OR_NULL),
    "versions": _OBJECT,
    "versions.*": _TEXT,
    "run_id": _TEXT_OR_NULL,
    "processes": _AMOUNT,
    "changes": _OBJECTS,
    **dict.fromkeys(("changes.*.from", "changes.*.key", "changes.*.kind"), _TEXT),
    "files": _OBJECT,
}
# pushed.json of a finished run.
PUSHED_KINDS = dict.fromkeys(("repo_id", "report_sha256", "commit"), _TEXT)
# checkpoint.json, which has its own sum in it.
SEAL_KINDS = {
    "step": _AMOUNT,
    "run_id": _TEXT_OR_NULL,
    "losses": _VALUES,
    "trainable": _AMOUNT,
    "files": _OBJECT,
    "files.*": _OBJECT,
    "files.*.bytes": _AMOUNT,
    "files.*.sha256": _TEXT,
}
# trainer_state.json of a checkpoint: what transformers counts, and we.
TRAINER_STATE_KINDS = {
    **dict.fromkeys(("global_step", "max_steps", "num_input_tokens_seen"), _AMOUNT),
    "num_train_epochs": _LONG,  # sys.maxsize where the rows have no number
    "epoch": _SPAN,
    "total_flos": _NUMBER,
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps", "best_metric"), _VALUE),
    **dict.fromkeys(("train_batch_size", "best_global_step"), _AMOUNT_OR_NULL),
    **dict.fromkeys(("is_local_process_zero", "is_world_process_zero", "is_hyper_param_search"), _FLAG),
    **dict.fromkeys(("trial_name", "best_model_checkpoint"), _TEXT_OR_NULL),
    "trial_params": _OBJECT_OR_NULL,
    "log_history": _OBJECTS,
    "log_history.*.step": _AMOUNT,
    **dict.fromkeys(("stateful_callbacks", f"stateful_callbacks.{SEEN}"), _OBJECT),
    f"stateful_callbacks.{SEEN}.*": _AMOUNT,
}
# state.json of a checkpoint, decoded; the kinds of tensors are looked at beside.
STATE_KINDS = {
    **dict.fromkeys(("optimizer", "optimizer.state", "schedule", "callbacks", "beside"), _OBJECT),
    "optimizer.param_groups": _OBJECTS,
    "scaler": _OBJECT_OR_NULL,
    "ranks": _OBJECTS,
    **dict.fromkeys(("ranks.*.random", "ranks.*.left"), _OBJECT),
    **dict.fromkeys(("ranks.*.logged_step", "ranks.*.initial_step"), _AMOUNT),
    "ranks.*.total": _VALUE,
    "ranks.*.runtime_s": _SPAN,
    **dict.fromkeys(("ranks.*.left.*", "ranks.*.stops"), _FLAG),
    # Of the callbacks those of ours and of transformers; those of a user say themselves what they take.
    "callbacks.EarlyStoppingCallback": _AMOUNT,
    "callbacks.LogLines": _OBJECT,
    "callbacks.LogLines.*": _SPAN,
    "callbacks.SamplePrompts": _OBJECTS,
    **dict.fromkeys(("callbacks.SamplePrompts.*.step", "callbacks.SamplePrompts.*.tokens"), _AMOUNT),
    "callbacks.SamplePrompts.*.prompt_tokens_cut": _AMOUNT,
    "callbacks.SamplePrompts.*.seed": _COUNT,
    "callbacks.SamplePrompts.*.finished": _FLAG,
    **dict.fromkeys(("callbacks.SamplePrompts.*.prompt", "callbacks.SamplePrompts.*.continuation"), _TEXT),
    "callbacks.RestartRecord": _OBJECTS,
    **dict.fromkeys(("callbacks.TrainingGuard", "callbacks.TrainingGuard.watch"), _OBJECT),
    "callbacks.TrainingGuard.skipped": _OBJECTS,
    **dict.fromkeys(("callbacks.TrainingGuard.watch.first", "callbacks.TrainingGuard.watch.recent"), _VALUES),
    "callbacks.TrainingGuard.watch.highest": _VALUE,
    "callbacks.TrainingGuard.watch.had_gradient": _FLAG,
    "callbacks.TrainingGuard.watch.in_a_row": _OBJECT,
    "callbacks.TrainingGuard.watch.in_a_row.*": _AMOUNT,
    "callbacks.TrainingGuard.watch.warned": _TEXTS,
}
_LONGEST_NUMBER = 19


# Up to which a float of JavaScript, and of a chart, tells one step from the next.
LARGEST_AMOUNT = 2**53
# A log of 900,000 entries, the random states of 10,000 processes: three times what log.jsonl may have.
MAX_RECORD_BYTES = 2**28
_MOST_LEVELS = 64
_LONGEST_KEY = 80


def read_record(path: Path, most: int) -> Any:
    """Read the JSON file of a run at `path`, which has at most so many bytes.

    Raises ValueError, whose text says what is wrong with it, and OSError. A pipe is never waited for.
    """
    if not path.is_file() or is_of_kernel(path):
        raise ValueError("is missing" if not os.path.lexists(path) else "is no file")
    if (size := path.stat().st_size) > most:
        raise ValueError(f"has {size:,} bytes, more than {most:,}")
    try:
        return parse_record(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise ValueError("is torn, or no JSON") from problem


def parse_record(text: str) -> Any:
    """Parse a JSON file of a run.

    Raises ValueError for integers beyond 64 bits, too, which no run has counted, and for what is nested deeper than
    anything of a run: what is made of it then needs no bound of its own.
    """
    try:
        value = json.loads(text, parse_int=_parse_int)
    except RecursionError as problem:
        raise ValueError("is nested too deep") from problem
    _check_levels(value)
    return value


def _check_levels(value: Any) -> None:
    # Level by level, and not by calls, which could not be deeper than Python lets them.
    level, depth = [value], 0
    while level := [each for holder in level for each in _list_holders(holder)]:
        depth += 1
        if depth > _MOST_LEVELS:
            raise ValueError("is nested too deep")


def _list_holders(holder: Any) -> list[Any]:
    held = holder.values() if isinstance(holder, dict) else holder if isinstance(holder, list) else ()
    return [each for each in held if isinstance(each, dict | list)]


def _parse_int(digits: str) -> int:
    if len(digits.lstrip("-")) > _LONGEST_NUMBER:
        raise ValueError("has an integer of more than 64 bits")
    return int(digits)


def show_key(key: str) -> str:
    """Show the name of what stands in a record, which may be of any length and any characters."""
    # Before it is cut: an escape may be ten times as long as what it stands for.
    shown = escape_control_characters(key[:_LONGEST_KEY].encode("utf-8", "backslashreplace").decode())
    return shown if len(shown) <= _LONGEST_KEY and len(key) <= _LONGEST_KEY else f"{shown[: _LONGEST_KEY - 3]}..."


def find_wrong_kinds(record: Mapping[str, Any], kinds: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the values of `record` that `kinds` lists: `train.steps is no whole number`."""
    for pattern, kind in kinds.items():
        for key, value in _find_values(record, pattern.split("."), ""):
            if not _CHECKS[kind](value):
                yield f"{show_key(key)} is no {kind}"


def _find_values(holder: Any, names: list[str], key: str) -> Iterator[tuple[str, Any]]:
    if not names:
        yield key.removeprefix("."), holder
        return
    held = dict(enumerate(holder)) if isinstance(holder, list) else holder
    for name, value in held.items() if isinstance(held, Mapping) else ():
        if names[0] in ("*", name):
            yield from _find_values(value, names[1:], f"{key}.{name}")


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def is_amount(value: Any) -> TypeGuard[int]:
    """Whether `value` can count steps, rows or tokens."""
    return _is_count(value) and 0 <= value <= LARGEST_AMOUNT


def _is_number(value: Any) -> bool:
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value))


def _is_value(value: Any) -> bool:
    return value is None or isinstance(value, float) or _is_count(value)


def _is_list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    _OBJECT: lambda value: isinstance(value, dict),
    _OBJECT_OR_NULL: lambda value: value is None or isinstance(value, dict),
    _LIST: lambda value: isinstance(value, list),
    _OBJECTS: _is_list_of(lambda value: isinstance(value, dict)),
    _COUNT: _is_count,
    _AMOUNT: is_amount,
    _AMOUNT_OR_NULL: lambda value: value is None or is_amount(value),
    _LONG: lambda value: _is_count(value) and 0 <= value < 2**63,
    _NUMBER: _is_number,
    _SPAN: lambda value: _is_number(value) and 0 <= value <= LARGEST_AMOUNT,
    _FIGURE: lambda value: value is None or _is_number(value),
    _VALUE: _is_value,
    _VALUES: _is_list_of(_is_number),
    _FLAG: lambda value: isinstance(value, bool),
    _TEXT: lambda value: isinstance(value, str),
    _TEXT_OR_NULL: lambda value: value is None or isinstance(value, str),
    _TEXTS: _is_list_of(lambda value: isinstance(value, str)),
}
