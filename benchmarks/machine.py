"""What a benchmark runs on: its precision follows the hardware, and both stand beside its figures."""

from __future__ import annotations

import os

import torch

from hf_finetune.environment.hardware import detect_hardware


def bf16_is_fast() -> bool:
    """Whether this machine computes in bfloat16 and does not emulate it."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(detect_hardware().bf16_instructions)


def describe_machine() -> str:
    """The device, and of a CPU its cores and the widest instructions that torch uses: "2 cores, AVX512, bf16"."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{os.cpu_count()} cores, {instructions}, {'bf16' if bf16_is_fast() else 'no bf16'}"
