"""What splits a model over the processes of a launch, FSDP or DeepSpeed, against what a run asks of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.validation.hf_settings import MUON
from hf_finetune.environment.hardware import TRUE

MESH = (
    "arranges the processes as a mesh, and each process of a run trains on rows of its own, the model split over all",
    "leave it out; fsdp2 splits a model over however many processes there are",
)
_WHOLE_IN_LORA = ("use_dora", "trainable_token_indices")
READS_WHOLE = "an adapter that is DoRA, or of an embedding or single rows of one, reads whole weights"
NOT_UNDER_ZERO3 = "leave it out, or launch with --on fsdp2 or zero2"
INSTALL_DEEPSPEED = 'in the clone of hf-finetune: pip install ".[deepspeed]"'
_REWRITE = "set fsdp_version: 2 in its fsdp_config (`accelerate to-fsdp2 --config_file FILE` rewrites what is older)"


@dataclass(frozen=True, slots=True)
class Engine:
    """What splits a model."""

    name: Literal["fsdp", "deepspeed"]
    number: int
    """The version of FSDP, or the stage of ZeRO."""
    said_by: str
    """The file, setting or command that asks for it, for messages."""

    @property
    def shown(self) -> str:
        """`FSDP2` or `ZeRO-3`."""
        return f"FSDP{self.number}" if self.name == "fsdp" else f"ZeRO-{self.number}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run asks of the engine."""

    optim: str | None
    """None where it is Muon since no other is named: of a new model."""
    quantized: str | None
    """`load_in_4bit` or `load_in_8bit`."""
    fsdp: bool
    deepspeed: bool
    on_cpu: bool
    lora: tuple[str, ...]
    """The settings of an adapter that are given, and not false."""
    deepspeed_on_cpu: bool
    """Whether DeepSpeed is told that it runs on a CPU, by DS_ACCELERATOR, and accelerate is not, by use_cpu."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """What cannot be had together; `key` is the setting of the run, None where the launch itself is at fault."""

    what: str
    remedy: str
    code: str
    key: tuple[str, str] | None = None


def engine_of_file(settings: Mapping[str, Any], path: Path) -> Engine | None:
    """The engine of an accelerate configuration, if any."""
    kind = str(settings.get("distributed_type", "NO")).upper()
    if kind == "FSDP":
        return Engine("fsdp", find_fsdp_version(settings), str(path))
    if kind != "DEEPSPEED":
        return None
    given = settings.get("deepspeed_config") or {}
    file = given.get("deepspeed_config_file")
    return Engine("deepspeed", _find_stage_of_file(file) if file else _whole(given.get("zero_stage"), 2), str(path))


def find_fsdp_version(settings: Mapping[str, Any]) -> int:
    """The version of FSDP that accelerate (1.15) takes a configuration for: the first, where it names none."""
    given = settings.get("fsdp_config") or {}
    return _whole(given.get("fsdp_version", given.get("version")), 1)


def engine_of_launch(environment: Mapping[str, str]) -> Engine | None:
    """The engine that `accelerate launch` asks its processes for, by the variables that it sets."""
    if environment.get("ACCELERATE_USE_FSDP", "").lower() in TRUE:
        return Engine("fsdp", _whole(environment.get("FSDP_VERSION"), 1), "accelerate launch")
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() not in TRUE:
        return None
    file = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    # The stage that accelerate's own plugin takes where it is told none.
    stage = _find_stage_of_file(file) if file else _whole(environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE"), 2)
    return Engine("deepspeed", stage, "accelerate launch")


def engine_of_run(
    fsdp: Any, fsdp_config: Mapping[str, Any], deepspeed: Any, ds_config: Mapping[str, Any]
) -> Engine | None:
    """The engine that a run file asks for by `train.fsdp` or `train.deepspeed`, whose mappings are read already."""
    if fsdp:
        # FSDP2 is what transformers takes where fsdp_config names no version.
        version = fsdp_config.get("fsdp_version", fsdp_config.get("version"))
        return Engine("fsdp", _whole(version, 2), "train.fsdp")
    return Engine("deepspeed", _find_stage(ds_config), "train.deepspeed") if deepspeed else None


def needs_gpu(engine: Engine) -> bool:
    """Whether accelerate (1.15) runs an engine on GPUs alone, and passes over it on a CPU without a word.

    FSDP: `AcceleratorState` looks for it only where the processes have GPUs, and makes plain DDP of it elsewhere.
    """
    return engine.name == "fsdp"


def asks_for_mesh(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` asks for tensor, context or sequence parallelism, as for a launch file's section."""
    return any(name.startswith("PARALLELISM_CONFIG_") for name in environment) or (
        environment.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() in TRUE
    )


def list_conflicts(engine: Engine | None, asked: Asked) -> Iterator[Conflict]:
    """What of a run cannot be had under `engine`, each with its remedy."""
    if engine is None:
        return
    if engine.name == "fsdp" and engine.number != 2:
        what = f"asks for {engine.shown}, and only FSDP2 is run"
        yield Conflict(what, _REWRITE, "HF721", _key_of(engine))
        return
    if asked.on_cpu and needs_gpu(engine):
        what = (
            f"asks for {engine.shown}, which splits a model over GPUs alone: on a CPU accelerate would train a whole "
        )
        what += "copy on each process"
        remedy = "take a launch file that splits nothing, such as --on cpu_2proc, or a machine with GPUs"
        yield Conflict(what, remedy, "HF687", _key_of(engine))
        return
    if asked.on_cpu and engine.name == "deepspeed" and not asked.deepspeed_on_cpu:
        # With use_cpu accelerate (1.15) makes plain DDP of it.
        what = f"asks for {engine.shown} on a CPU, over which DeepSpeed splits a model only where it is told so"
        remedy = "set DS_ACCELERATOR=cpu in the environment and leave train.use_cpu out, or take --on cpu_2proc"
        yield Conflict(what, remedy, "HF687", _key_of(engine))
        return
    # That of `train.deepspeed` is looked for with the other optional packages of a run file.
    if engine.name == "deepspeed" and engine.said_by != "train.deepspeed" and not _is_installed("deepspeed"):
        what = f"asks for {engine.shown}, and the package deepspeed is not installed"
        yield Conflict(what, f"{INSTALL_DEEPSPEED}, or take --on fsdp2", "HF711")
        return
    yield from _list_of_settings(engine, asked)


def _list_of_settings(engine: Engine, asked: Asked) -> Iterator[Conflict]:
    """What the settings of a run ask for that the engine cannot do."""
    for name in ("fsdp", "deepspeed"):
        if getattr(asked, name) and engine.said_by != f"train.{name}":
            what = f"the launch splits the model already, by {engine.shown} ({engine.said_by})"
            yield Conflict(what, "leave it out, or launch with --on multi_gpu", "HF606", ("train", name))
    by = f"{engine.shown} ({engine.said_by})"
    # ZeRO flattens the parameters of a process into one vector, from its first stage on for the optimizer.
    if asked.optim in (None, MUON) and engine.name == "deepspeed" and engine.number > 0:
        muon = "muon, by which a new model is trained unless another is named," if asked.optim is None else "muon"
        what = f"{muon} needs whole matrices, and {by} gives the optimizer a part of a vector"
        yield Conflict(what, "use adamw_torch_fused, or --on fsdp2 or multi_gpu", "HF688", ("train", "optim"))
    splits_weights = engine.name == "fsdp" or engine.number == 3
    if asked.quantized and splits_weights:
        what = f"quantized weights are whole numbers, which {by} cannot split"
        remedy = "leave it out, or launch with --on multi_gpu or zero2: each device then holds the whole base"
        yield Conflict(what, remedy, "HF688", ("model", asked.quantized))
    if engine.shown == "ZeRO-3":
        for name in (name for name in _WHOLE_IN_LORA if name in asked.lora):
            yield Conflict(f"{READS_WHOLE}, which {by} takes apart", NOT_UNDER_ZERO3, "HF688", ("lora", name))


def _key_of(engine: Engine) -> tuple[str, str] | None:
    return ("train", engine.said_by.removeprefix("train.")) if engine.said_by.startswith("train.") else None


def _find_stage_of_file(file: str) -> int:
    """The stage that a JSON file of DeepSpeed names; 0 where it names none, or cannot be read."""
    return _find_stage(read_object(Path(file)) or {})


def _find_stage(config: Mapping[str, Any]) -> int:
    given = config.get("zero_optimization")
    return _whole(given.get("stage"), 0) if isinstance(given, Mapping) else 0


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _whole(value: object, otherwise: int) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else otherwise
