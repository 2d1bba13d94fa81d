"""Write the files that are generated from the installed stack: `python -m hf_finetune.config.validation.generate`.

    stack_settings.json    the fields of TrainingArguments, SFTConfig and LoraConfig, so that a run file is
                           validated without importing torch
    run.schema.json        the JSON Schema of a run file, for editors

Run it after a change to sections.py or to the pinned versions; a test compares both files with their sources.
This is the only module of the package `config` that imports the stack, and only that test imports it.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_finetune.config.sections import SHIPPED_RECIPES
from hf_finetune.config.validation.as_written import accept_as_written
from hf_finetune.config.validation.hf_settings import TABLE_FILE, build_train_section, load_table
from hf_finetune.config.validation.run_file import build_run_file_section

SCHEMA_FILE = "run.schema.json"
MAX_HELP = 200
_PACKAGES = ("transformers", "trl", "peft")
_SIMPLE = {bool: "bool", int: "int", float: "float", str: "str", types.NoneType: "null"}

# Defaults of `train:` that are not the dataclasses': ours, what these fill in themselves, and what is no one value.
_OWN_DEFAULTS = {"logging_nan_inf_filter": False, "gradient_checkpointing": False, "activation_checkpointing": False}
_NO_ONE_DEFAULT = {
    "learning_rate": "5e-5; 2e-5 for sft, 2e-4 for an adapter, 1e-3 for a head alone, 0.01 for model.scratch",
    "logging_steps": "500; 10 for sft and lora",
    "optim": "adamw_torch_fused; muon for model.scratch",
    "lr_scheduler_type": "linear; cosine for model.scratch",
    "warmup_steps": "0; 0.05 for model.scratch",
    "train_sampling_strategy": "random; group_by_length for sft, lora and classification without packing",
    "bf16": "false; true for sft, lora and classification on a machine that is fast at it",
    "use_cpu": "true where there is no accelerator",
    "dataloader_pin_memory": "true where there is an accelerator",
}

_PLAIN = {"bool", "int", "float", "str", "null"}
# Arguments of schedules: what Trainer gives them, and what none has a default for.
_SET_BY_TRAINER = ("last_epoch", "num_training_steps", "num_warmup_steps")
_REQUIRED = {"num_decay_steps"}

# TrainingArguments accepts `fsdp: true`, which its annotation leaves out (transformers 5.23).
_ALSO_TAKES = {"fsdp": ["bool"]}
# Texts that a setting takes beside its numbers: in other words TrainingArguments passes over a setting, or reads as a
# number what is beyond its bound.
_TEXTS = {"include_num_input_tokens_seen": ["all", "non_padding", "no"], "pad_to_multiple_of": ["auto"]}
# What accelerate's HPU, Neuron and TensorRT backends stand for is registered by packages of those devices alone.
_COMPILES = ("torch_compile_backend", "torch_compile_mode")


def build_settings_table() -> dict[str, Any]:
    """Build the content of `stack_settings.json` from the installed packages."""
    from peft import LoraConfig
    from transformers import TrainingArguments
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from trl.trainer.sft_config import SFTConfig

    training = _list_fields(TrainingArguments)
    return {
        "versions": {package: version(package) for package in _PACKAGES},
        "trackers": sorted(INTEGRATION_TO_CALLBACK),
        "TrainingArguments": training,
        "SFTConfig": {name: field for name, field in _list_fields(SFTConfig).items() if training.get(name) != field},
        "LoraConfig": _list_fields(LoraConfig),
        "mappings": _list_mappings(),
        "launch": _list_launch_keys(),
    }


def _list_launch_keys() -> dict[str, Any]:
    """List what a configuration of accelerate may hold: its keys, those of each of its sections, and its kinds.

    What `accelerate launch` (1.15) finds in a section is set as the option of that name, which has the section's name
    before it (`fsdp_config: {version: 2}` is --fsdp_version 2); of what is no option it says nothing.
    """
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils import DistributedType

    keys = [field.name for field in dataclasses.fields(ClusterConfig)]
    groups = {str(group.title): group for group in launch_command_parser()._action_groups}
    named = {title: [action.dest for action in group._group_actions] for title, group in groups.items()}
    every = [name for names in named.values() for name in names]
    prefixes = {key: key.removesuffix("_config") + "_" for key in keys if key.endswith("_config")}
    prefixes["parallelism_config"] = "parallelism_config_"
    sections = {key: sorted({name for name in every if name.startswith(prefix)}) for key, prefix in prefixes.items()}
    sections["deepspeed_config"] = sorted(named["DeepSpeed Arguments"])
    # Read with `getattr`, and no option: the first of FSDP, the second of MPI.
    sections["fsdp_config"].append("fsdp_ignored_modules")
    sections["mpirun_config"].append("mpirun_ccl")
    return {"kinds": sorted(kind.value for kind in DistributedType), "keys": keys, "sections": sections}


def _list_mappings() -> dict[str, Any]:
    """List what the stack passes on as keyword arguments: by `section.key`, each name with the types that it takes.

    Of the schedules by their names; none where the stack (transformers 5.23) passes nothing on.
    """
    from accelerate.utils import GradientAccumulationPlugin
    from torch.optim.lr_scheduler import ReduceLROnPlateau
    from torch.utils.checkpoint import checkpoint
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR
    from transformers.trainer_pt_utils import AcceleratorConfig

    wrapped: dict[str, Any] = {"reduce_lr_on_plateau": ReduceLROnPlateau, "greedy": GreedyLR}
    nothing = ("constant", "constant_with_warmup")
    schedules = {
        name.value: {} if name.value in nothing else _list_arguments(wrapped.get(name.value, function))
        for name, function in TYPE_TO_SCHEDULER_FUNCTION.items()
    }
    # Trainer takes two more out before it hands on the rest, and one has no place in the signature.
    more = {"every_n_layers": ["int"], "offload": ["bool"], "preserve_rng_state": ["bool"]}
    of_checkpoint = _list_arguments(checkpoint) | more
    return {
        "lr_scheduler_kwargs": schedules,
        "gradient_checkpointing_kwargs": of_checkpoint,
        "activation_checkpointing_kwargs": of_checkpoint,
        "accelerator_config": _list_arguments(AcceleratorConfig),
        "gradient_accumulation_kwargs": _list_arguments(GradientAccumulationPlugin),
    }


def _list_arguments(function: Any) -> dict[str, list[str]]:
    """List the arguments that a run file can give a function: their names, and the types of plain values of each."""
    found = {}
    for name, argument in inspect.signature(function, eval_str=True).parameters.items():
        told = argument.annotation is not inspect.Parameter.empty
        kinds = set(_list_yaml_types(argument.annotation if told else type(argument.default)))
        if argument.default is not inspect.Parameter.empty and kinds & _PLAIN and name not in _SET_BY_TRAINER:
            found[name] = sorted(kinds & _PLAIN)
    required = inspect.signature(function).parameters.keys() & _REQUIRED
    return found | {name: ["int"] for name in sorted(required)}


def _list_fields(settings_class: type) -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(settings_class)
    table = {}
    for field in dataclasses.fields(settings_class):
        kinds = set(_list_yaml_types(hints[field.name])) | set(_ALSO_TAKES.get(field.name, []))
        entry: dict[str, Any] = {"types": sorted(kinds), "default": _get_default(field)}
        choices = _list_choices(hints[field.name]) or list(field.metadata.get("choices", []))
        if choices := choices or _list_open_choices(field.name):
            entry["choices"] = choices
        if words := _list_words(field.name):
            entry["words"] = words
        if text := _shorten_help(str(field.metadata.get("help", ""))):
            entry["help"] = text
        table[field.name] = entry
    return table


def _list_open_choices(name: str) -> list[str]:
    """List the backends that accelerate takes and torch has, the modes of its inductor, or the texts of a setting."""
    from accelerate.utils import DynamoBackend
    from torch._dynamo import list_backends
    from torch._inductor import list_mode_options

    if name not in _COMPILES:
        return _TEXTS.get(name, [])
    there = list_backends(exclude_tags=())
    backends = [member.value.lower() for member in DynamoBackend if member.value.lower() in there]
    return backends if name == "torch_compile_backend" else list(list_mode_options())


def _list_words(name: str) -> list[str]:
    """List the words that may stand in the text of a setting, which its annotation leaves open."""
    from transformers.debug_utils import DebugOption
    from transformers.trainer_utils import FSDPOption

    kinds: dict[str, type[Enum]] = {"debug": DebugOption, "fsdp": FSDPOption}
    return [str(member.value) for member in kinds.get(name, ())]


def _list_yaml_types(hint: Any) -> list[str]:
    """List the types of YAML values that an annotation accepts."""
    # Optional[Union[str, list[str]]] -> ["str", "list[str]", "null"]; an Enum is written as a word
    if hint in _SIMPLE:
        return [_SIMPLE[hint]]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(hint) for kind in _list_yaml_types(part)]
    if origin is typing.Literal:
        return [_SIMPLE[type(value)] for value in typing.get_args(hint)]
    if origin is list or hint is list:
        items = {kind for part in typing.get_args(hint) for kind in _list_yaml_types(part)}
        return [f"list[{items.pop()}]" if items in ({"str"}, {"int"}) else "list"]
    if origin is tuple:
        return ["list"]
    return ["str"] if isinstance(hint, type) and issubclass(hint, Enum) else ["dict"]


def _list_choices(hint: Any) -> list[str]:
    """List the words that an Enum or Literal annotation allows; [] for any other annotation."""
    parts = typing.get_args(hint) or (hint,)
    for part in parts:
        if isinstance(part, type) and issubclass(part, Enum) and part.__name__ != "DebugOption":
            return [str(member.value) for member in part]
    words = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return [word for word in words if isinstance(word, str)]


def _get_default(field: dataclasses.Field[Any]) -> Any:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if isinstance(value, Enum):
        return value.value
    return value if value is None or isinstance(value, bool | int | float | str | list | dict) else None


def _shorten_help(text: str) -> str:
    sentence = " ".join(text.replace("%%", "%").split()).split(". ")[0].rstrip(".")
    return sentence if len(sentence) <= MAX_HELP else sentence[: MAX_HELP - 1].rsplit(" ", 1)[0] + " …"


def format_json(value: dict[str, Any]) -> str:
    """Format `value` as JSON, the way both files are written."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def build_run_schema() -> dict[str, Any]:
    """Build the schema with which an editor completes and validates a run file, whatever its recipe."""
    # SFTConfig has every field of TrainingArguments, so that its recipes have the most settings under `train`.
    widest = max(SHIPPED_RECIPES, key=lambda recipe: len(build_train_section(recipe).model_fields))
    schema = accept_as_written(build_run_file_section(widest).model_json_schema())
    settings = schema["$defs"][build_train_section(widest).__name__]["properties"]
    for name, value in _OWN_DEFAULTS.items():
        settings[name]["default"] = value
    for name, words in _NO_ONE_DEFAULT.items():
        del settings[name]["default"]
        settings[name]["description"] = f"{settings[name].get('description', '')}. Default: {words}".lstrip(". ")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "hf-finetune run file"} | {
        key: value for key, value in schema.items() if key != "title"
    }


def main() -> None:
    """Write both files beside this module."""
    folder = Path(__file__).parent.parent
    (folder / TABLE_FILE).write_text(format_json(build_settings_table()), encoding="utf-8")
    load_table.cache_clear()
    (folder / SCHEMA_FILE).write_text(format_json(build_run_schema()), encoding="utf-8")


if __name__ == "__main__":
    main()
