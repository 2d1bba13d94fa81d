"""An accelerate configuration, read: its kind, its keys, its words and its numbers.

Accelerate (1.15) itself says what is wrong with the outer keys in a traceback, and nothing of what is in its sections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hf_finetune.config.bounds import LARGEST_COUNT
from hf_finetune.config.checks.launch.engine import MESH
from hf_finetune.config.reading.document import format_value
from hf_finetune.config.validation.hf_settings import load_table
from hf_finetune.errors import ConfigError, Problem, suggest
from hf_finetune.files import read_bounded_yaml

# One of these is in every file that `accelerate config` writes, and in ours.
_OF_A_LAUNCH = {"compute_environment", "distributed_type", "num_processes", "use_cpu", "mixed_precision"}
# Names of older files, which accelerate still translates.
_OLD_KEYS = ("fp16", "dynamo_backend")
_HERE = "LOCAL_MACHINE"
_LARGEST_PORT = 65535
# Each with the smallest and the largest that it may be.
_NUMBERS = {
    "num_processes": (1, LARGEST_COUNT),
    "num_machines": (1, LARGEST_COUNT),
    "machine_rank": (0, LARGEST_COUNT),
    "main_process_port": (0, _LARGEST_PORT),
}
# Sections that one kind of launch reads.
_SECTION_OF = {"fsdp_config": "FSDP", "deepspeed_config": "DEEPSPEED", "megatron_lm_config": "MEGATRON_LM"}
# What FSDP1 read; of FSDP2 accelerate (1.15) passes over them, or fails once the model is loaded.
_OF_FSDP1 = {
    "fsdp_sharding_strategy": "write fsdp_reshard_after_forward: true, or false for what SHARD_GRAD_OP does",
    "fsdp_backward_prefetch": "leave it out",
    "fsdp_forward_prefetch": "leave it out",
    "fsdp_use_orig_params": "leave it out",
}
# Of DeepSpeed's section, what a run file has under its own names.
_OF_THE_RUN = {
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "gradient_clipping": "train.max_grad_norm",
}
_WORDS: dict[str, tuple[object, ...]] = {
    "fsdp_auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"),
    "fsdp_state_dict_type": ("FULL_STATE_DICT", "SHARDED_STATE_DICT"),
    "fsdp_reshard_after_forward": (True, False),
    "fsdp_offload_params": (True, False),
    "fsdp_activation_checkpointing": (True, False),
    "fsdp_cpu_ram_efficient_loading": (True, False),
    "zero_stage": (0, 1, 2, 3),
}


def read_launch_file(path: Path) -> dict[str, Any]:
    """The settings of an accelerate configuration.

    Raises `ConfigError` where it is none, and with all that is wrong in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = read_bounded_yaml(text)
    except (OSError, ValueError):
        text, settings = "", None
    if not isinstance(settings, dict) or not settings.keys() & _OF_A_LAUNCH:
        remedy = "name a file that `accelerate config` wrote, or one of accelerate_configs"
        raise ConfigError(Problem("is no accelerate configuration", remedy, path=str(path), key="--on", code="HF683"))
    problems = [replace(each, path=str(path), line=_find_line(text, each.key)) for each in _list_problems(settings)]
    if problems:
        raise ConfigError(problems)
    return settings


def _list_problems(settings: Mapping[str, Any]) -> Iterator[Problem]:
    where = settings.get("compute_environment", _HERE)
    if where != _HERE:
        what = f"is for {format_value(where)}, and a run is launched on this machine and those beside it"
        remedy = f"name a file with compute_environment: {_HERE}, such as those of accelerate_configs"
        yield Problem(what, remedy, key="compute_environment", code="HF721")
        return
    yield from _check_keys(settings)
    yield from _check_kind(settings)
    for name, (least, most) in _NUMBERS.items():
        given: Any = settings.get(name)
        if name in settings and not (_is_whole(given) and least <= int(given) <= most):
            wanted = f"{least} or more" if most == LARGEST_COUNT else f"{least} to {most}"
            what = f"expected a whole number, {wanted}, found {format_value(given)}"
            yield Problem(what, "correct it, or leave it out", key=name, code="HF603")


def _check_keys(settings: Mapping[str, Any]) -> Iterator[Problem]:
    known = load_table()["launch"]
    yield from _list_unknown("", settings, [*known["keys"], *_OLD_KEYS])
    for section, names in known["sections"].items():
        given = settings.get(section)
        if given is not None and not isinstance(given, dict):
            yield Problem(
                f"expected a section, found {format_value(given)}", "indent its keys", key=section, code="HF603"
            )
        elif given:
            prefix = f"{section.removesuffix('_config')}_"
            short = [name.removeprefix(prefix) for name in names]
            yield from _list_unknown(f"{section}.", given, [*names, *short])


def _list_unknown(before: str, given: Mapping[str, Any], known: Iterable[str]) -> Iterator[Problem]:
    names = list(known)
    for name in given:
        if name not in names:
            remedy = suggest(str(name), names, "leave it out")
            yield Problem("is no key of an accelerate configuration", remedy, key=f"{before}{name}", code="HF602")


def _check_kind(settings: Mapping[str, Any]) -> Iterator[Problem]:
    kinds, given = load_table()["launch"]["kinds"], settings.get("distributed_type")
    if given is False:
        given = "NO"  # YAML takes the bare word for false
        what = "expected a word, found false, which YAML makes of NO"
        yield Problem(what, 'write "NO" in quotes', key="distributed_type", code="HF604")
    elif "distributed_type" not in settings:
        yield Problem("is missing", f"add one of {', '.join(kinds)}", key="distributed_type", code="HF605")
    elif given not in kinds:
        remedy = suggest(str(given), kinds, f"choose one of {', '.join(kinds)}")
        yield Problem(f"{format_value(given)} is no kind of launch", remedy, key="distributed_type", code="HF604")
        return
    elif given == "MEGATRON_LM":
        remedy = "use FSDP, as accelerate_configs/fsdp2.yaml"
        yield Problem("no recipe runs under Megatron-LM", remedy, key="distributed_type", code="HF721")
    for section, kind in _SECTION_OF.items():
        if isinstance(settings.get(section), dict) and settings[section] and given != kind:
            remedy = f"set distributed_type: {kind}, or leave it out"
            yield Problem(f"has no effect with distributed_type: {given}", remedy, key=section, code="HF607")
    if settings.get("parallelism_config"):
        yield Problem(*MESH, key="parallelism_config", code="HF721")
    if given == "FSDP" and isinstance(settings.get("fsdp_config") or {}, dict):
        yield from _check_fsdp(settings.get("fsdp_config") or {})
    if given == "DEEPSPEED" and isinstance(settings.get("deepspeed_config") or {}, dict):
        yield from _check_deepspeed(settings, settings.get("deepspeed_config") or {})
    yield from list_wrong_processes(settings, given)


def _check_fsdp(given: Mapping[str, Any]) -> Iterator[Problem]:
    named = {f"fsdp_{str(name).removeprefix('fsdp_')}": (name, value) for name, value in given.items()}
    written, version = named.get("fsdp_version", ("fsdp_version", 1))
    if str(version) != "2":
        # Accelerate takes a file without a version for the first; the two read other options of the same section.
        what = f"{format_value(version)} is no version of FSDP"
        if str(version) == "1":
            what = "is of FSDP1, as a file is that names no version"
        remedy = "set fsdp_version: 2 (`accelerate to-fsdp2 --config_file FILE` rewrites the rest)"
        yield Problem(what, remedy, key=f"fsdp_config.{written}", code="HF721")
        return
    for name, remedy in _OF_FSDP1.items():
        written, value = named.get(name, (name, None))
        if value not in (None, False, "NO_PREFETCH"):
            yield Problem("is of FSDP1, and has no effect on FSDP2", remedy, key=f"fsdp_config.{written}", code="HF607")
    yield from _check_words("fsdp_config", named)


def _check_words(section: str, named: Mapping[str, tuple[str, Any]]) -> Iterator[Problem]:
    for name, words in _WORDS.items():
        written, value = named.get(name, (name, None))
        # Accelerate reads 'true' as true, and "2" as 2.
        if value is not None and str(value).lower() not in [str(word).lower() for word in words]:
            known = ", ".join(format_value(word).strip("'") for word in words)
            what = f"expected one of {known}, found {format_value(value)}"
            yield Problem(what, "choose one of them", key=f"{section}.{written}", code="HF604")


def _check_deepspeed(settings: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _check_words("deepspeed_config", {name: (name, value) for name, value in given.items()})
    for name, setting in _OF_THE_RUN.items():
        if given.get(name) is not None:
            what = f"is the run file's to say, as {setting}: accelerate would take this in its place"
            yield Problem(what, "leave it out here", key=f"deepspeed_config.{name}", code="HF606")
    file = given.get("deepspeed_config_file")
    if file is not None and not Path(str(file)).is_file():
        what = f"no such file: {format_value(file)}"
        yield Problem(what, "correct the path", key="deepspeed_config.deepspeed_config_file", code="HF001")
    launcher = given.get("deepspeed_multinode_launcher")
    if _whole(settings.get("num_machines")) > 1 and launcher != "standard":
        # The others log in to the machines by ssh and write an environment file into the working folder.
        what = f"expected standard for several machines, found {format_value(launcher)}"
        remedy = "set it to standard, and type the same line on each machine"
        yield Problem(what, remedy, key="deepspeed_config.deepspeed_multinode_launcher", code="HF604")


def list_wrong_processes(settings: Mapping[str, Any], kind: Any) -> Iterator[Problem]:
    """Processes that accelerate (1.15) would not start, or would refuse in a traceback."""
    processes, machines = _whole(settings.get("num_processes")), _whole(settings.get("num_machines")) or 1
    one = kind == "NO" or (kind == "MULTI_CPU" and not settings.get("mpirun_config"))
    if one and processes > 1:
        what = f"asks for {processes} processes, and distributed_type: {kind} starts one"
        remedy = "set distributed_type: MULTI_GPU, on a CPU too, as in accelerate_configs/cpu_2proc.yaml"
        yield Problem(what, remedy, key="num_processes", code="HF606")
    ids = str(settings.get("gpu_ids", "all"))
    local = processes // machines
    # "-1,-1" hides all GPUs, from however many processes.
    if (
        ids != "all"
        and not ids.startswith("-1")
        and kind in ("MULTI_GPU", "FSDP", "DEEPSPEED")
        and 0 < len(ids.split(",")) != local > 0
    ):
        what = f"names {len(ids.split(','))} for {local} process{'es' if local > 1 else ''} on this machine"
        yield Problem(what, "name one GPU a process, or leave gpu_ids at all", key="gpu_ids", code="HF606")


def _find_line(text: str, key: str | None) -> int:
    """The line of a key such as `fsdp_config.fsdp_version`, or of its section; the first where neither is written."""
    node, line = yaml.compose(text, yaml.SafeLoader), 1  # which was read already, within bounds
    for name in str(key).split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if pair[0].value == name), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _is_whole(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or _whole(value) > 0 or str(value) == "0"


def _whole(value: object) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
