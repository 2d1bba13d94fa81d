"""Settings of `train` that the stack passes on as keyword arguments, against what takes them.

An unknown name, or a value of another type, is a TypeError of the stack once the model is there; what an optimizer does
not read is passed over without a word.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_finetune.config.bounds import LARGEST_COUNT
from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.reading.document import RunDocument, format_value
from hf_finetune.config.validation.hf_settings import MUON, load_table
from hf_finetune.errors import suggest

CHECKPOINTING = ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
# What transformers (5.23) takes as the name of a JSON file where it is text that begins with no brace.
FROM_FILE = ("accelerator_config", "fsdp_config", "deepspeed")
_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "list": (list,),
}
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list",
    "null": "null",
}
# What others nest: accelerate's own section.
_SECTION_INSIDE = "gradient_accumulation_kwargs"
_AS_MAPPING = "write it as {name: value}"
# The optimizers that read `train.optim_target_modules`, by the beginnings of their names, and do nothing without.
_LOW_RANK = ("galore", "apollo")

# The names that `train.optim_args` has for an optimizer, by the beginning of its name; the first match counts. Of all
# others transformers (5.23) reads none: `trainer_optimizer.py`.
_GALORE = ("rank", "update_proj_gap", "scale", "proj_type")
OPTIM_ARGS: dict[str, tuple[str, ...]] = {
    MUON: ("momentum", "embedding_lr", "beta1"),
    "sgd": ("momentum", "dampening", "weight_decay", "nesterov"),
    "adagrad": ("lr_decay", "weight_decay", "eps"),
    "rmsprop_bnb": ("alpha", "eps", "weight_decay", "momentum", "centered"),
    "rmsprop": ("momentum", "alpha", "eps", "weight_decay", "centered"),
    "ademamix": ("beta1", "beta2", "beta3", "alpha", "eps", "t_alpha", "t_beta3"),
    "paged_ademamix": ("beta1", "beta2", "beta3", "alpha", "eps", "t_alpha", "t_beta3"),
    "adamw_anyprecision": (
        "use_kahan_summation",
        "momentum_dtype",
        "variance_dtype",
        "compensation_buffer_dtype",
    ),
    "galore": _GALORE,
    "apollo": (*_GALORE, "proj", "scale_type"),
    "grokadamw": ("alpha_init", "lamb", "gamma", "grokking_signal_decay_rate", "gradient_clipping"),
    "adamw_torch_4bit": ("block_size", "bf16_stochastic_round"),
    "adamw_torch_8bit": ("block_size", "bf16_stochastic_round"),
    "schedule_free": ("weight_lr_power", "r"),
    "stable_adamw": ("max_lr", "kahan_sum", "decouple_lr"),
}
_TAKE_WORDS = (
    *("nesterov", "centered", "use_kahan_summation", "momentum_dtype", "variance_dtype", "compensation_buffer_dtype"),
    *("proj_type", "proj", "scale_type", "bf16_stochastic_round", "kahan_sum", "decouple_lr"),
)


def check_mappings(document: RunDocument, run: Any) -> None:
    """Check names and values of the settings of `train` that are passed on as they are."""
    taken = load_table()["mappings"]
    schedule = run.train.lr_scheduler_type
    if "lr_scheduler_type" not in run.train.model_fields_set and run.model.scratch is not None:
        schedule = "cosine"
    if not document.is_refused("train.lr_scheduler_type"):
        given = read_mapping(document, run, "lr_scheduler_kwargs")
        check_mapping(document, "lr_scheduler_kwargs", given, taken["lr_scheduler_kwargs"][schedule], of=schedule)
    for name in CHECKPOINTING:
        check_mapping(document, name, read_mapping(document, run, name), taken[name])
    given = read_mapping(document, run, "accelerator_config")
    inside = given.pop(_SECTION_INSIDE, None)
    check_mapping(document, "accelerator_config", given, taken["accelerator_config"])
    if isinstance(inside, dict):
        check_mapping(document, "accelerator_config", inside, taken[_SECTION_INSIDE], inside=_SECTION_INSIDE)
    elif inside is not None:
        document.refuse(("train", "accelerator_config", _SECTION_INSIDE), "is no mapping", _AS_MAPPING, code="HF603")
    _check_flat(document, run, "liger_kernel_config")
    optim = MUON if has_muon_by_default(run.model, run.train.model_fields_set) else run.train.optim
    _check_optim_args(document, optim, run.train.optim_args)
    _check_target_modules(document, optim, run.train.optim_target_modules)
    check_words(document, run, "debug")


def has_muon_by_default(model: Any, given: Container[str]) -> bool:
    """Whether a run whose settings of `train` are these trains by Muon since it names no optimizer: a new model."""
    # What training/defaults.py sets.
    return model.scratch is not None and "optim" not in given


def check_mapping(
    document: RunDocument,
    name: str,
    given: Mapping[str, Any],
    taken: Mapping[str, Sequence[str]],
    *,
    of: str = "",
    inside: str | None = None,
) -> None:
    """Refuse what a mapping names that nothing of the stack takes, and values of another type."""
    section = ("train", name) if inside is None else ("train", name, inside)
    for key, value in given.items():
        if key not in taken:
            listed = ", ".join(taken)
            what = f"is no argument of {of or inside or name}"
            remedy = suggest(key, taken, f"it takes {listed}" if listed else "it takes none: leave it out")
            document.refuse((*section, key), what, remedy, code="HF602")
        elif not _fits(value, taken[key]):
            wanted = " or ".join(_WORDS[kind] for kind in taken[key])
            document.refuse((*section, key), f"expected {wanted}, found {format_value(value)}", "", code="HF603")


def check_words(document: RunDocument, run: Any, name: str) -> None:
    """Refuse words of a setting, in a text with blanks between them or in a list, that the stack does not know."""
    given, known = getattr(run.train, name), load_table()["TrainingArguments"][name]["words"]
    words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    wrong = next((word for word in words if word not in known), None)
    if wrong is not None and not document.is_refused(f"train.{name}"):
        remedy = suggest(wrong, known, f"choose from {', '.join(known)}")
        document.refuse(("train", name), f"{format_value(wrong)} is no option of it", remedy, code="HF604")


def _check_flat(document: RunDocument, run: Any, name: str) -> None:
    for key, value in read_mapping(document, run, name).items():
        if not isinstance(value, bool):
            document.refuse(
                ("train", name, key), f"expected true or false, found {format_value(value)}", "", code="HF603"
            )


def read_mapping(document: RunDocument, run: Any, name: str) -> dict[str, Any]:
    """A copy of a mapping, which may be JSON or in a file as well; {} where there is none, or it is refused.

    The stack itself would open whatever a text names: read a device without end, wait for a pipe.
    """
    given = getattr(run.train, name)
    if document.is_refused(f"train.{name}") or given is None:
        return {}
    if isinstance(given, str):
        given = _read_json(given) if given.startswith("{") or name not in FROM_FILE else read_object(Path(given))
        if given is None:
            file = ", or name a JSON file that is there and holds one" if name in FROM_FILE else ""
            document.refuse(("train", name), "is no mapping", f"{_AS_MAPPING}{file}", code="HF603")
    return dict(given) if isinstance(given, dict) else {}


def _read_json(text: str) -> dict[str, Any] | None:
    # Blanks before the brace are no JSON to the stack.
    try:
        given = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def _fits(value: Any, kinds: Sequence[str]) -> bool:
    """Whether a value is of one of the types, and a number not beyond what the stack counts with."""
    if value is None or isinstance(value, bool):
        return ("null" if value is None else "bool") in kinds
    if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) <= LARGEST_COUNT):
        return False
    if isinstance(value, float) and value.is_integer() and "int" in kinds:
        return True
    return any(isinstance(value, _KINDS[kind]) for kind in kinds if kind not in ("null", "bool"))


def _check_optim_args(document: RunDocument, optim: str, given: str | None) -> None:
    """Check the names in `train.optim_args`, written `name=value, name=value`, against those that `optim` reads."""
    if not given or document.is_refused("train.optim", "train.optim_args"):
        return
    key = ("train", "optim_args")
    taken = next((names for start, names in OPTIM_ARGS.items() if optim.startswith(start)), ())
    if not taken:
        what = f"{optim} reads none, so that it would have no effect"
        document.refuse(
            key, what, "leave it out: train.adam_beta1, train.weight_decay ... are settings of their own", code="HF607"
        )
        return
    for part in given.replace(" ", "").split(","):
        name, _, value = part.partition("=")
        if name not in taken:
            document.refuse(
                key, f"{format_value(name)} is no option of {optim}", f"it takes {', '.join(taken)}", code="HF602"
            )
        elif not _is_option(name, value):
            document.refuse(
                key, f"{format_value(part)} gives {name} no number", f"write it as {name}=0.9", code="HF603"
            )


def _check_target_modules(document: RunDocument, optim: str, given: str | list[str] | None) -> None:
    """Check that an optimizer reads `train.optim_target_modules`, and has it where it does."""
    if document.is_refused("train.optim", "train.optim_target_modules"):
        return
    if given and not optim.startswith(_LOW_RANK):
        what = f"{optim} reads none, so that it would have no effect"
        document.refuse(
            ("train", "optim_target_modules"), what, "leave it out, or choose galore_adamw as train.optim", code="HF607"
        )
    elif not given and optim.startswith(_LOW_RANK):
        what = f"is missing; {optim} needs to know which modules are projected"
        document.refuse(("train", "optim_target_modules"), what, "add it, such as all-linear", code="HF605")


def _is_option(name: str, value: str) -> bool:
    """Whether the text is a value of an option of an optimizer: a word where it takes one, else a number."""
    if name in _TAKE_WORDS:
        return value.isidentifier()
    try:
        return abs(float(value)) <= LARGEST_COUNT
    except ValueError:
        return False
