"""The accelerate configuration beside the run, or what `accelerate launch` has made of it, against run and machine.

launch_file  reads one: its keys, kinds, words and numbers
gpus         the GPUs that it asks for, against those of this machine
engine       what splits the model over the processes, against the settings of the run
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_finetune.config.checks.launch.engine import (
    MESH,
    Asked,
    asks_for_mesh,
    engine_of_file,
    engine_of_launch,
    engine_of_run,
    list_conflicts,
)
from hf_finetune.config.checks.launch.gpus import (
    NOT_SHARDED,
    VISIBLE,
    check_visible,
    crowd_problem,
    gpus_of_file,
    gpus_of_launch,
    is_deepspeed_on_cpu,
    is_on_cpu,
    launch_problem,
    named_gpus,
)
from hf_finetune.config.checks.launch.launch_file import list_wrong_processes, read_launch_file
from hf_finetune.config.checks.mappings import has_muon_by_default, read_mapping
from hf_finetune.config.reading.document import RunDocument
from hf_finetune.environment.hardware import TRUE, Hardware
from hf_finetune.errors import ConfigError, Problem

__all__ = [
    "NOT_SHARDED",
    "VISIBLE",
    "check_launch",
    "check_launch_file",
    "check_visible",
    "gpus_of_file",
    "gpus_of_launch",
    "named_gpus",
    "read_launch_file",
]

_BY_ACCELERATE = "accelerate launch"
# Apple's GPU is one, of which accelerate makes no group.
_NONE_TO_SPLIT_OVER = ("cpu", "mps")


def check_launch(document: RunDocument, run: Any, hardware: Hardware) -> None:
    """What `accelerate launch` asks for, where it has launched this process; and what the run file splits by itself."""
    use_cpu = run.train.use_cpu and not document.is_refused("train.use_cpu")
    if problem := launch_problem(_BY_ACCELERATE, gpus_of_launch(os.environ), hardware, use_cpu=use_cpu):
        document.problems.append(problem)
        return
    if asks_for_mesh(os.environ):
        document.problems.append(Problem(*MESH, key="PARALLELISM_CONFIG", code="HF721"))
        return
    if document.is_refused("train.fsdp", "train.fsdp_config", "train.deepspeed"):
        return
    use_cpu = use_cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in TRUE
    on_cpu = use_cpu or hardware.accelerator in _NONE_TO_SPLIT_OVER
    train = run.train
    optim = None if has_muon_by_default(run.model, train.model_fields_set) else train.optim
    lora = {} if run.lora is None else run.lora.model_dump(exclude_unset=True)
    told = not use_cpu and is_deepspeed_on_cpu(os.environ)
    asked = Asked(
        *(optim, _find_quantized(run.model), bool(train.fsdp), bool(train.deepspeed), on_cpu),
        lora=_list_given(lora),
        deepspeed_on_cpu=told,
    )
    of_run = engine_of_run(
        train.fsdp,
        read_mapping(document, run, "fsdp_config"),
        train.deepspeed,
        read_mapping(document, run, "deepspeed"),
    )
    for conflict in list_conflicts(engine_of_launch(os.environ) or of_run, asked):
        if conflict.key is None:
            document.problems.append(Problem(conflict.what, conflict.remedy, key=_BY_ACCELERATE, code=conflict.code))
        elif not document.is_refused(".".join(conflict.key)):
            document.refuse(conflict.key, conflict.what, conflict.remedy, code=conflict.code)


def check_launch_file(
    where: str,
    settings: Mapping[str, Any],
    hardware: Hardware,
    *,
    use_cpu: bool,
    run: Any = None,
    path: Path | None = None,
) -> None:
    """Refuse a configuration that asks for what this machine, or the run, cannot have of it.

    `path` is the file of it, for messages; `run` has in its `train` what was given, without defaults. Raises
    `ConfigError`.
    """
    train = {} if run is None else run.train
    if train.get("fsdp") and str(settings.get("distributed_type", "NO")).upper() == "NO":
        raise ConfigError(Problem(*NOT_SHARDED, key="train.fsdp", code="HF684"))
    # The command line may ask for other numbers than the file, which was looked at by itself.
    if wrong := list(list_wrong_processes(settings, settings.get("distributed_type"))):
        raise ConfigError([replace(each, path=where) for each in wrong])
    if problem := launch_problem(f"--on {where}", gpus_of_file(settings), hardware, use_cpu=use_cpu):
        raise ConfigError(problem)
    on_cpu = use_cpu or is_on_cpu(settings) or hardware.accelerator in _NONE_TO_SPLIT_OVER
    if on_cpu and (problem := crowd_problem(f"--on {where}", settings)):
        raise ConfigError(problem)
    quantized, optim = None, train.get("optim", "adamw_torch_fused")
    if run is not None:
        quantized = _find_quantized(run.model)
        optim = None if has_muon_by_default(run.model, train) else optim
    told = not use_cpu and is_deepspeed_on_cpu(os.environ)
    lora = {} if run is None or run.lora is None else run.lora
    asked = Asked(
        *(optim, quantized, bool(train.get("fsdp")), bool(train.get("deepspeed")), on_cpu),
        lora=_list_given(lora),
        deepspeed_on_cpu=told,
    )
    problems = []
    for conflict in list_conflicts(engine_of_file(settings, path or Path(where)), asked):
        key = ".".join(conflict.key) if conflict.key else "distributed_type"
        place = None if conflict.key or path is None else str(path)
        problems.append(Problem(conflict.what, conflict.remedy, path=place, key=key, code=conflict.code))
    if problems:
        raise ConfigError(problems)


def _list_given(lora: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, value in lora.items() if value)


def _find_quantized(model: Any) -> str | None:
    return next((name for name in ("load_in_4bit", "load_in_8bit") if getattr(model, name)), None)
