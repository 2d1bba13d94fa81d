"""The settings of a run, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hf_finetune.config.sections import RecipeName
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.memory import format_size
from hf_finetune.preflight.plan import rules
from hf_finetune.preflight.plan.columns import Reading, Task
from hf_finetune.preflight.plan.lengths import Tokens
from hf_finetune.preflight.plan.machine import Machine
from hf_finetune.preflight.plan.memory import Memory, Shape, Step, count_adapter, estimate_memory
from hf_finetune.preflight.plan.models import ModelFound
from hf_finetune.preflight.plan.rows import RowsFound

FILLED = 0.6
"""The share of the memory that a run may take by the estimate: the system and what is beside it have the rest."""
LONGEST_ON_CPU, LONGEST_ON_GPU = 1_024, 4_096
LONGEST_BLOCK_ON_CPU, LONGEST_BLOCK = 512, 1_024
STEPS_A_LOOK = 2_000
"""Steps of a pass above which a run is evaluated more often than once a pass."""
LEAST_BLOCKS = 32
LONGEST_EAGER = 256
"""As `choose_attention` of `models.loading` has it, which would import torch."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the run file, and why it has its value."""

    key: str
    """With its section: `train.learning_rate`."""
    value: Any
    why: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """All that was looked at."""

    files: dict[str, list[str]]
    reading: Reading
    rows: RowsFound
    tokens: Tokens
    languages: dict[str, float]
    machine: Machine
    model: ModelFound | None
    """None for one from random weights, or one that is yet to be made."""
    model_path: str | None
    task: Task | None


@dataclass(frozen=True, slots=True)
class Fit:
    """A batch that fits the memory."""

    per_device: int
    accumulation: int
    length: int
    memory: Memory
    checkpointing: bool = False
    weight_bytes: float = 4.0


def choose_recipe(found: Found) -> tuple[RecipeName, str]:
    """The recipe, and why."""
    kind = found.reading.becomes
    if kind == "document":
        return "continued_pretraining", "the rows are texts, which a language model learns to continue"
    if kind == "labelled":
        return "classification", "the rows are texts with a label"
    if found.task == "sft":
        return "sft", "all parameters learn to answer, as --task sft asks"
    return (
        "lora",
        "the rows are conversations; an adapter learns them as well as all parameters do (LoRA Without Regret)",
    )


def shape_of(found: Found, preset: str) -> Shape:
    """The sizes of the model that is trained."""
    if found.model is not None:
        return found.model.shape
    if found.model_path is not None:  # SmolLM2-135M, yet to be made
        return Shape(134_515_008, 576, 30, 1_536, 9, 49_152)
    hidden, layers, heads = {"nano": (128, 4, 4), "tiny": (384, 6, 6), "small": (512, 12, 8)}[preset]
    vocabulary = rules.choose_vocabulary(found.rows.characters.total)
    logits = 0 if found.reading.becomes == "labelled" else vocabulary
    # 4 hidden**2 for attention and 8 for the feed-forward part, gated or not (arXiv:2001.08361, table 1), and the
    # embeddings once.
    return Shape(12 * layers * hidden**2 + vocabulary * hidden, hidden, layers, 4 * hidden, heads, logits)


def fit_batch(found: Found, recipe: RecipeName, shape: Shape, length: int, rows: int) -> Fit:
    """Choose how many rows a device reads at once: the largest power of two that fits. Raises ConfigError for none."""
    trained = count_adapter(shape, rules.LORA_RANK) if recipe == "lora" else shape.parameters
    room = FILLED * found.machine.memory
    # All sizes before the next saving: fewer rows at once, accumulated, are no more work.
    for weight_bytes, checkpointing in _list_savings(recipe, found):
        size = rows
        while size >= 1:
            bf16 = _uses_bf16(found, recipe)
            scored = length if shape.dropout or _is_eager(found, length, bf16=bf16) else 0
            step = Step(trained, size * length, weight_bytes, bf16, checkpointing, scored)
            memory = estimate_memory(shape, step)
            if memory.total <= room:
                return Fit(size, max(1, rows // size), length, memory, checkpointing, weight_bytes)
            size //= 2
    what = f"{found.model_path} needs about {format_size(memory.total)} for a step of one row by recipe {recipe}"
    remedy = f"name a smaller one ({format_size(round(room))} of {found.machine.describe()} may be used)"
    raise ConfigError(Problem(what, remedy, key="--model", code="HF703"))


def _uses_bf16(found: Found, recipe: RecipeName) -> bool:
    return found.machine.bf16 and recipe != "continued_pretraining"


def _is_eager(found: Found, length: int, *, bf16: bool) -> bool:
    """Whether a run will choose the kernel that keeps the scores of attention."""
    return found.machine.accelerator == "cpu" and bf16 and length <= LONGEST_EAGER


def _list_savings(recipe: RecipeName, found: Found) -> Iterator[tuple[float, bool]]:
    """Yield what can be saved, the cheapest first: bytes of a weight, and whether activations are computed again."""
    yield 4.0, False
    if found.model_path is not None:
        yield 4.0, True
    if recipe == "lora":
        yield 2.0, False
        yield 2.0, True


def choose_length(found: Found, recipe: RecipeName) -> tuple[int, str]:
    """The longest row in tokens, and why."""
    spread, own = found.tokens.spread, found.model.longest if found.model is not None else None
    limit = LONGEST_ON_GPU if found.machine.accelerator == "cuda" else LONGEST_ON_CPU
    limit = min(limit, own or limit)
    # One row of a book would have the others padded, or their batches made small, for its sake.
    wanted = spread.longest if spread.longest <= 4 * max(1, spread.p95) else spread.p99
    # A tenth more than was measured, as rows that were not drawn may be longer: 300 -> 352, a multiple of 32.
    length = min(limit, max(32, 32 * math.ceil(1.1 * wanted / 32)))
    how = found.tokens.describe_sample(found.rows.counts["train"])
    said = f"tokens, {how}: half of the rows up to {spread.median:,}, 99 % up to {spread.p99:,}, the longest"
    return length, f"{said} {spread.longest:,}"


def choose_block(tokens: int, most: int) -> int:
    """Tokens of a block: as many as the model takes, fewer where the text has not enough for some tens of blocks."""
    # Of 10,000 tokens and 1,024 at the most: 256, for 32 blocks of 512 would need 16,384.
    size = most
    while size > 32 and tokens < LEAST_BLOCKS * size:
        size //= 2
    return size


def describe_memory(fit: Fit, machine: Machine) -> str:
    """The estimate in words."""
    memory = fit.memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "AdamW": memory.optimizer,
        "activations": memory.activations,
        "attention": memory.scores,
        "logits": memory.logits,
    }
    listed = ", ".join(f"{name} {format_size(size)}" for name, size in parts.items() if size)
    return f"about {format_size(memory.total)} of {format_size(machine.memory)}: {listed}"
