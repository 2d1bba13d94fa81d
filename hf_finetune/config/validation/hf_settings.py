"""Settings classes of `train:` and `lora:`, whose fields are those of TrainingArguments, SFTConfig and LoraConfig.

The fields come from a table that `generate.py` writes from the installed packages, so that a run file is validated
without importing torch; here they become pydantic models, so that all sections are validated in the same way.
"""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BeforeValidator, Field, create_model
from pydantic_core import PydanticCustomError

from hf_finetune.config import bounds
from hf_finetune.config.reading.deprecated import REFUSED, SET_BY_RECIPE, SFT_REPLACED
from hf_finetune.config.sections import GeneratedSection, RecipeName, Section
from hf_finetune.folders import AUTO

TABLE_FILE = "stack_settings.json"

SFT_RECIPES: tuple[RecipeName, ...] = ("sft", "lora")

MOST_CHARACTERS = 4_096


def _check_line(text: str) -> str:
    """No setting of the stack that is text, and no mapping, is more than a line: a name, a word, a pattern."""
    if len(text) > MOST_CHARACTERS or not text.isprintable():
        raise PydanticCustomError("not_a_line", "no line of text")
    return text


Line = Annotated[str, AfterValidator(_check_line)]

_TYPES: dict[str, tuple[Any, ...]] = {
    "bool": (bool,),
    "int": (int,),
    # `save_steps: 100` stays 100 in run.yaml, and does not become 100.0.
    "float": (int, float),
    "str": (Line,),
    "dict": (dict[str, Any],),
    "list": (list[Any],),
    "list[str]": (list[Line],),
    # Of token ids, or of layers; which there are is known once the model is loaded.
    "list[int]": (list[Annotated[int, Field(ge=-bounds.LARGEST_COUNT, le=bounds.LARGEST_COUNT)]],),
    "null": (None,),
}

_COUNT = {"ge": 1, "le": bounds.LARGEST_COUNT}
_COUNT_OR_NONE = {"ge": 0, "le": bounds.LARGEST_COUNT}
# Or a share of them, below 1.
_STEPS = {"gt": 0, "le": bounds.LARGEST_COUNT}
_AT_ONCE = {"ge": 1, "le": bounds.MOST_AT_ONCE}
_FACTOR = {"gt": 0, "le": bounds.LARGEST_FACTOR}
_FACTOR_OR_0 = {"ge": 0, "le": bounds.LARGEST_FACTOR}
_SHARE = {"ge": 0, "lt": 1}
_SEED = {"ge": 0, "lt": 2**32}

# Bounds that the stack itself checks after the model is loaded, or not at all. Every number has one.
_BOUNDS: dict[str, dict[str, Any]] = {
    "per_device_train_batch_size": _AT_ONCE,
    "per_device_eval_batch_size": _AT_ONCE,
    "gradient_accumulation_steps": _AT_ONCE,
    "eval_accumulation_steps": _COUNT,
    "num_train_epochs": _FACTOR,
    "max_steps": {"le": bounds.LARGEST_COUNT},  # -1 is none, and what else is below 1 is said in checks/train.py
    "learning_rate": _FACTOR,
    "warmup_steps": _COUNT_OR_NONE,
    "weight_decay": _FACTOR_OR_0,
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": {"gt": 0, "le": 1},
    "max_grad_norm": {"ge": 0, "le": bounds.LARGEST_NORM},
    "label_smoothing_factor": _SHARE,
    "neftune_noise_alpha": _FACTOR_OR_0,
    "router_aux_loss_coef": _FACTOR_OR_0,
    "logging_steps": _STEPS,
    "eval_steps": _STEPS,
    "save_steps": _STEPS,
    "eval_delay": _COUNT_OR_NONE,
    "save_total_limit": _COUNT,
    "dataloader_num_workers": {"ge": 0, "le": bounds.MOST_WORKERS},
    "dataloader_prefetch_factor": {"ge": 1, "le": bounds.MOST_PREFETCHED},
    "torch_empty_cache_steps": _COUNT,
    "ddp_timeout": _COUNT,
    "ddp_bucket_cap_mb": {"ge": 1, "le": bounds.MOST_AT_ONCE},
    "seed": _SEED,
    "data_seed": _SEED,
    "max_length": {"ge": 2, "le": bounds.LONGEST},
    "pad_to_multiple_of": {"ge": 1, "le": bounds.WIDEST},
    "early_stopping_patience": _COUNT,
    "early_stopping_threshold": _FACTOR_OR_0,
    "max_nonfinite_skips": _COUNT,
    "r": {"ge": 1, "le": bounds.LARGEST_RANK},
    "lora_alpha": {"ge": 1, "le": int(bounds.LARGEST_FACTOR)},
    "lora_dropout": _SHARE,
    "layers_to_transform": {"ge": 0, "le": bounds.DEEPEST},
    "qalora_group_size": _COUNT,
}

_RESUME_HELP = (
    "`auto`: go on with the run in `output_dir`, or begin it; `true`: go on, or refuse; `false`: begin, or refuse; "
    "or one of its checkpoints"
)

# Settings of this project in addition to those of TrainingArguments.
MUON = "muon"
_OWN_FIELDS: dict[str, dict[str, Any]] = {
    "early_stopping_patience": {
        "types": ["int", "null"],
        "default": None,
        "help": "Stop after this many evaluations without a better `metric_for_best_model`",
    },
    "early_stopping_threshold": {
        "types": ["float", "null"],
        "default": None,
        "help": "By how much the metric must improve to count as better; needs `early_stopping_patience`",
    },
    "on_nonfinite": {
        "types": ["str"],
        "default": "stop",
        "choices": ["stop", "skip"],
        "help": "Stop at a step whose loss or gradient is NaN or infinite, or leave it out",
    },
    "max_nonfinite_skips": {
        "types": ["int", "null"],
        "default": None,
        "help": "Steps that `on_nonfinite: skip` leaves out at most (10) before it stops",
    },
}


@functools.cache
def load_table() -> dict[str, Any]:
    """Load the generated table: versions, trackers, and the fields of each class of the stack."""
    table: dict[str, Any] = json.loads(files("hf_finetune.config").joinpath(TABLE_FILE).read_text("utf-8"))
    return table


@functools.cache
def build_train_section(recipe: RecipeName) -> type[Section]:
    """Build the settings class of `train:`: TrainingArguments, or SFTConfig for the recipes that use SFTTrainer."""
    fields = dict(load_table()["TrainingArguments"])
    if recipe in SFT_RECIPES:
        fields |= load_table()["SFTConfig"]
    fields["optim"] = fields["optim"] | {"choices": [*fields["optim"]["choices"], MUON]}
    # TrainingArguments declares str (transformers 5.23), but Trainer.train also takes True: the last checkpoint there.
    resume = fields["resume_from_checkpoint"]
    ours = {"types": ["bool", *resume["types"]], "default": AUTO, "help": _RESUME_HELP}
    fields["resume_from_checkpoint"] = resume | ours
    taken = REFUSED.keys() | SFT_REPLACED.keys()
    allowed = {name: field for name, field in fields.items() if f"train.{name}" not in taken}
    return _build_section(get_train_class_name(recipe), allowed | _OWN_FIELDS)


@functools.cache
def build_lora_section() -> type[Section]:
    """Build the settings class of `lora:`: peft's LoraConfig without the fields that the recipe sets."""
    fields = load_table()["LoraConfig"]
    return _build_section(
        "LoraConfig", {name: field for name, field in fields.items() if f"lora.{name}" not in SET_BY_RECIPE}
    )


def get_train_class_name(recipe: RecipeName) -> str:
    """Name the class of the stack whose fields `train:` has."""
    return "SFTConfig" if recipe in SFT_RECIPES else "TrainingArguments"


def _build_section(name: str, fields: dict[str, dict[str, Any]]) -> type[Section]:
    definitions: dict[str, Any] = {
        key: (_build_annotation(key, field), Field(default=field["default"], description=field.get("help")))
        for key, field in fields.items()
    }
    return create_model(name, __base__=GeneratedSection, **definitions)


def _read_no(value: Any) -> Any:
    return "no" if value is False or (isinstance(value, str) and value.lower() in ("no", "off")) else value


def _build_annotation(name: str, field: dict[str, Any]) -> Any:
    # {"types": ["float", "null"], ...} of learning_rate -> Annotated[int, gt 0] | Annotated[float, gt 0] | None
    kinds = [kind for word in field["types"] for kind in _TYPES[word]]
    if "dict" in field["types"]:  # which may be JSON of several lines
        kinds = [str if kind is Line else kind for kind in kinds]
    if "choices" in field:
        words: Any = Literal[tuple(field["choices"])]
        if "no" in field["choices"]:  # YAML 1.1 reads it as false, and so does whoever hands a dict over from PyYAML
            words = Annotated[words, BeforeValidator(_read_no)]
        kinds = [words if kind is Line else kind for kind in kinds]
    bounds = Field(**(_BOUNDS.get(name) or {}))
    bounded = [Annotated[kind, bounds] if kind in (int, float) else kind for kind in kinds]
    return Union[tuple(bounded)]  # noqa: UP007 - the members are only known at run time
