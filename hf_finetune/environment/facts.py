"""Facts about this machine and its installation, for `hf-finetune doctor`, `report.json` and `manifest.json`."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import is_offline_mode

from hf_finetune.environment.hardware import detect_hardware, read_cpu_field
from hf_finetune.environment.threads import count_cores
from hf_finetune.environment.versions import find_versions
from hf_finetune.files import read_bounded_yaml

# Packages whose versions may change the metrics of a run.
STACK = (
    *("hf-finetune", "torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers", "safetensors"),
    *("huggingface_hub", "peft", "trl", "bitsandbytes", "numpy", "pyarrow"),
)

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A CPU or accelerator, and the precisions that training can use on it."""

    kind: Literal["cpu", "cuda", "mps"]
    name: str
    capability: str
    """A GPU's compute capability; a CPU's instructions for bf16."""
    memory_gib: float
    precisions: tuple[str, ...]


@dataclass(frozen=True)
class MachineInfo:
    """Facts about the machine; a host name, user name or path is never among them."""

    python: str
    system: str
    cores: int
    devices: tuple[Device, ...]
    versions: dict[str, str]
    disk_free_gib: float
    offline: bool
    gpu_driver: bool
    """NVIDIA's driver is loaded, whether or not torch sees a GPU."""
    accelerate_default: dict[str, Any] | None
    """What `accelerate launch` uses without --config_file, in part."""


def collect_machine_info() -> MachineInfo:
    """Collect the facts about this machine; imports torch."""
    return MachineInfo(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=count_cores(),
        devices=(_describe_cpu(), *_list_accelerators()),
        versions=get_installed_versions(),
        disk_free_gib=shutil.disk_usage(".").free / GIB,
        offline=is_offline_mode(),
        gpu_driver=Path("/proc/driver/nvidia/version").is_file(),
        accelerate_default=_read_accelerate_default(),
    )


def report_environment() -> dict[str, Any]:
    """Collect the `environment` part of `report.json`."""
    of_the_moment = ("disk_free_gib", "accelerate_default")
    return {name: value for name, value in asdict(collect_machine_info()).items() if name not in of_the_moment}


def get_installed_versions() -> dict[str, str]:
    """Look up the installed versions of the stack; packages that are not installed are left out."""
    return find_versions(STACK)


def _describe_cpu() -> Device:
    capability = " ".join(detect_hardware().bf16_instructions)
    name = read_cpu_field("model name") or platform.processor() or platform.machine()
    precisions = ("fp32", *(("bf16",) if capability else ()), *_list_quantized("4-bit"))
    return Device("cpu", name, capability, read_memory() / GIB, precisions)


def read_memory() -> int:
    """Read how many bytes this process may use: those of the machine, or the limit of its container (cgroup v2)."""
    import psutil

    total: int = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return total if text == "max" else min(total, int(text))


def _list_quantized(*names: str) -> tuple[str, ...]:
    # All of them or none: bitsandbytes, an extra, does the quantization.
    return names if "bitsandbytes" in get_installed_versions() else ()


def _list_accelerators() -> list[Device]:
    import torch

    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        half = ("bf16", "fp16") if properties.major >= 8 else ("fp16",)
        precisions = ("fp32", *half, *_list_quantized("8-bit", "4-bit"))
        capability = f"{properties.major}.{properties.minor}"
        devices.append(Device("cuda", properties.name, capability, properties.total_memory / GIB, precisions))
    if torch.backends.mps.is_available():
        devices.append(
            Device("mps", "Apple GPU", "", torch.mps.recommended_max_memory() / GIB, ("fp32", "bf16", "fp16"))
        )
    return devices


def _read_accelerate_default() -> dict[str, Any] | None:
    from accelerate.commands.config.config_args import default_config_file

    path = Path(default_config_file)
    if not path.is_file():
        return None
    try:
        settings = read_bounded_yaml(path.read_text(encoding="utf-8"))
    except ValueError:
        settings = None
    # Only these: the file may also name hosts and their addresses.
    names = ("distributed_type", "num_machines", "num_processes", "use_cpu")
    return {name: settings[name] for name in names if name in settings} if isinstance(settings, dict) else {}
