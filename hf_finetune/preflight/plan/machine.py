"""What a run has here: cores, memory, an accelerator."""

from __future__ import annotations

from dataclasses import dataclass

from hf_finetune.environment.facts import read_memory
from hf_finetune.environment.hardware import detect_hardware
from hf_finetune.environment.threads import count_cores

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, as far as it decides how a run is set up."""

    cores: int
    memory: int
    """Bytes of what the model is on: of the machine or its container, or of one GPU."""
    accelerator: str
    devices: int = 1
    bf16: bool = False

    def describe(self) -> str:
        """In words: `2 cores, 23 GiB`."""
        if self.accelerator == "cuda":
            return f"{self.devices} GPU{'s' * (self.devices > 1)} of {self.memory / GIB:.0f} GiB"
        return f"{self.cores} core{'s' * (self.cores > 1)}, {self.memory / GIB:.0f} GiB"


def look_at_machine() -> Machine:
    """Look at this machine; torch is imported only where it has an accelerator."""
    hardware = detect_hardware()
    if hardware.accelerator != "cuda":
        fast = bool(hardware.bf16_instructions)
        return Machine(count_cores(), read_memory(), hardware.accelerator, bf16=fast)
    import torch

    devices = torch.cuda.device_count()
    # Each device is given a batch of the same size: the smallest decides.
    memory = min(torch.cuda.get_device_properties(index).total_memory for index in range(devices))
    return Machine(count_cores(), memory, "cuda", devices, bf16=hardware.has_compute_capability(8))
