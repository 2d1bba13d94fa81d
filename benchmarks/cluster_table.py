"""The tables of docs/distributed.md: memory of a device, bytes between devices, and the speed of 8 to 512 H100s.

All of it is computed, nothing is measured: the memory by the formulas of `hf-finetune new`, the bytes by those of the
collectives, the speed from published link speeds. The assumptions are the constants below.

    python benchmarks/cluster_table.py
"""

from __future__ import annotations

from dataclasses import dataclass

from hf_finetune.preflight.plan.memory import Memory, Shape, Step, estimate_memory

GB = 10**9
# Of their config.json on the Hub: parameters, hidden, layers, intermediate, heads, vocabulary.
MODELS = {
    "SmolLM2-135M": Shape(134_515_008, 576, 30, 1536, 9, 49_152),
    "Qwen2.5-1.5B": Shape(1_543_714_304, 1536, 28, 8960, 12, 151_936),
    "Llama-3.1-8B": Shape(8_030_261_248, 4096, 32, 14_336, 32, 128_256),
    "Qwen2.5-32B": Shape(32_763_876_352, 5120, 64, 27_648, 40, 152_064),
    "Llama-3.1-70B": Shape(70_553_706_496, 8192, 80, 28_672, 64, 128_256),
}
TOKENS = 2048
"""Of the one row that a device computes at a time."""
ROWS = 8
"""Of a device in a step of which the speed is simulated."""
SPARE = 0.9
"""The share of a card that is counted on: the rest is the libraries' own, and gaps between what is allocated."""
ZERO_BUCKET = 5e8 * 2
"""Bytes: DeepSpeed's `reduce_bucket_size` of 5e8 values, in bf16."""


@dataclass(frozen=True)
class Links:
    """What a cluster of DGX H100 can do, as published, and what share of it is reached."""

    flops: float = 989e12  # of a GPU, dense bf16: NVIDIA H100 SXM data sheet
    compute_share: float = 0.4
    within: float = 450 * GB  # bytes/s of a GPU in one direction: NVLink 4
    between: float = 8 * 50 * GB  # of a machine in one direction: 8 ports of 400 Gbit/s (NDR)
    link_share: float = 0.8
    hop: float = 3e-6  # seconds of each step around a ring
    a_machine: int = 8


def memory_of(shape: Shape, strategy: str, devices: int) -> float:
    """Bytes on each of so many devices under train.bf16 with checkpointing."""
    memory = _estimate(shape)
    state = memory.weights + memory.gradients + memory.optimizer
    working = memory.activations + memory.logits
    # Embeddings and head stay gathered, and two blocks are: the one that computes and the next; each has gradients.
    block = (shape.parameters - _root(shape)) / shape.layers
    gathered = min(shape.parameters, _root(shape) + 2 * block) * (2 + 2)
    # DeepSpeed casts weights and gradients to bf16, and its optimizer keeps a copy of the weights in float32.
    halves, rest = memory.weights / 2, state - memory.gradients / 2
    bytes_of = {
        "single_gpu": state,
        "multi_gpu": state + memory.gradients,  # the buckets in which DDP sums them
        "fsdp2": state / devices + gathered,
        "fsdp2_offload": gathered,
        "zero2": halves + rest / devices + min(memory.gradients / 2, ZERO_BUCKET),
        "zero3": state / devices + gathered,
    }
    return working + bytes_of[strategy.replace("multi_node_", "").replace("multi_node", "multi_gpu")]


def bytes_between(strategy: str, *, bf16: bool) -> int:
    """Bytes a parameter that each device sends in a step, of which 1/N stays; sharded ones do in each micro-batch."""
    value = 2 if bf16 else 4
    # A sum over all is a sum in parts and a gathering; DDP sums the gradients of float32 weights.
    return {"multi_gpu": 2 * 4, "zero2": 2 * value, "zero3": 3 * value, "fsdp2": 3 * value}[strategy]


def simulate(shape: Shape, strategy: str, devices: int, tokens: int, links: Links) -> tuple[float, float]:
    """Seconds of a step: what its devices compute, and what they send."""
    compute = 8 * shape.parameters * tokens / (links.flops * links.compute_share)  # 6, and the forward pass once more
    several = devices > links.a_machine
    speed = links.link_share * (min(links.within, links.between) if several else links.within)
    sent = bytes_between(strategy, bf16=True) * shape.parameters * (devices - 1) / devices / speed
    # DDP sums in trees: its steps grow with the logarithm. Sharded blocks go around a ring, thrice a step.
    steps = 2 * devices.bit_length() * 25 if strategy == "multi_gpu" else 3 * shape.layers * (devices - 1)
    return compute, sent + steps * links.hop


def choose(shape: Shape, devices: int, card: float) -> str:
    """The first launch file, from the fastest on, under which a model trains on so many cards of a machine."""
    for strategy in ("multi_gpu", "fsdp2", "fsdp2_offload"):
        if memory_of(shape, strategy, devices) <= SPARE * card * GB:
            if strategy != "fsdp2_offload":
                return f"`{strategy}`"
            memory = _estimate(shape)
            host = memory.weights + memory.gradients + memory.optimizer
            return f"`fsdp2_offload`, {host / GB:,.0f} GB of memory"
    return "more cards, or LoRA"


def _estimate(shape: Shape) -> Memory:
    return estimate_memory(shape, Step(trained=shape.parameters, tokens=TOKENS, bf16=True, checkpointing=True))


def _root(shape: Shape) -> int:
    return 2 * shape.vocabulary * shape.hidden


def format_memory() -> str:
    """The table of launch files by model size."""
    columns = [("multi_gpu", 1), ("zero2", 8), ("zero3", 8), ("fsdp2", 2), ("fsdp2", 8), ("multi_node_fsdp2", 64)]
    heads = ["`multi_gpu`", *(f"`{name}`, {count}" for name, count in columns[1:])]
    lines = [
        f"| GB a GPU | {' | '.join(heads)} | on 8 of 80 GB | on 4 of 24 GB |",
        "|---|" + "---:|" * len(columns) + "---|---|",
    ]
    for name, shape in MODELS.items():
        cells = [f"{memory_of(shape, strategy, count) / GB:,.0f}" for strategy, count in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {choose(shape, 8, 80)} | {choose(shape, 4, 24)} |")
    return "\n".join(lines)


def format_bytes() -> str:
    """The table of bytes that each device sends in a step."""
    what = {
        "multi_gpu": "the sum of gradients",
        "zero2": "gradients to who has their part, weights back",
        "zero3": "weights for the forward pass, again for the backward pass, gradients to who has their part",
        "fsdp2": "the same",
    }
    lines = [
        "| | bytes a parameter | in bf16 | of an 8B model, 8 GPUs, bf16 | what |",
        "|---|---:|---:|---:|---|",
    ]
    parameters = MODELS["Llama-3.1-8B"].parameters
    for name, said in what.items():
        plain, half = bytes_between(name, bf16=False), bytes_between(name, bf16=True)
        lines.append(f"| `{name}` | {plain} | {half} | {half * parameters * 7 / 8 / GB:,.0f} GB | {said} |")
    return "\n".join(lines)


def format_speed(links: Links | None = None) -> str:
    """The simulated table of 8 to 512 H100s."""
    links = links or Links()
    tokens = ROWS * TOKENS
    runs = [("Qwen2.5-1.5B", "multi_gpu"), ("Llama-3.1-8B", "fsdp2"), ("Llama-3.1-70B", "fsdp2")]
    heads = [f"{model}, {'DDP' if strategy == 'multi_gpu' else 'FSDP2'}" for model, strategy in runs]
    lines = [f"| H100s | {' | '.join(heads)} |", "|---:|" + "---:|" * len(runs)]
    for devices in (8, 16, 32, 64, 128, 256, 512):
        cells = []
        for model, strategy in runs:
            if memory_of(MODELS[model], strategy, devices) > SPARE * 80 * GB:
                cells.append("does not fit")
                continue
            compute, sent = simulate(MODELS[model], strategy, devices, tokens, links)
            best, worst = compute / max(compute, sent), compute / (compute + sent)
            speed = devices * tokens / max(compute, sent)
            cells.append(f"{speed / 1e3:,.0f}k ({100 * worst:.0f}-{100 * best:.0f} %)")
        lines.append(f"| {devices} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(format_memory(), format_bytes(), format_speed(), sep="\n\n")
