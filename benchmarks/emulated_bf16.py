"""What bf16 costs on a CPU that emulates it: training steps of a ScratchGPT under autocast against float32.

    ONEDNN_MAX_CPU_ISA=AVX512_CORE ATEN_CPU_CAPABILITY=avx512 python benchmarks/emulated_bf16.py
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/emulated_bf16.py --no-onednn

The variables hide the bf16 instructions of a newer CPU; without them the machine is measured as it is. torch (2.13)
takes oneDNN for bf16 only where the CPU has AVX-512, whatever they say: `--no-onednn` stands for a CPU without.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from hf_finetune.environment import detect_hardware
from hf_finetune.models.scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM

ROUNDS = 5


def measure_step(model: torch.nn.Module, input_ids: torch.Tensor, *, bf16: bool) -> float:
    """Seconds of one forward and backward pass over `input_ids` (batch, seq)."""
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=input_ids, labels=input_ids).loss
    loss.backward()
    model.zero_grad()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-onednn", action="store_true")
    torch.backends.mkldnn.set_flags(not parser.parse_args().no_onednn)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ScratchGPTConfig(
        vocab_size=4096, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=128
    )
    model = ScratchGPTForCausalLM(config)
    input_ids = torch.randint(0, config.vocab_size, (2, 128))
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for round_number in range(ROUNDS + 1):
        for bf16, each in seconds.items():
            each.append(measure_step(model, input_ids, bf16=bf16))
        if round_number == 0:  # memory is allocated, kernels are compiled
            seconds = {False: [], True: []}
    plain, half = (statistics.median(each) for each in seconds.values())
    print(f"bf16 instructions: {' '.join(detect_hardware().bf16_instructions) or 'none'}")
    print(f"float32 {1000 * plain:.0f} ms, bf16 {1000 * half:.0f} ms a step: {half / plain:.2f} times the time")


if __name__ == "__main__":
    main()
