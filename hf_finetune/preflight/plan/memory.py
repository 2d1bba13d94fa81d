"""What a training step takes of the memory, by a formula.

weights       4 bytes a parameter, 2 in bfloat16, 0.55 in 4 bits (NF4 with its scales)
gradients     4 bytes a trained parameter
optimizer     8 bytes a trained parameter: the two moments of AdamW in float32
activations   tokens of a batch x layers x (16 hidden + 4 intermediate) values: what the backward pass needs of a block
              (Korthikanti et al. 2022, arXiv:2205.05198); with checkpointing the input of each block, and one whole
scores        tokens x length x heads x layers x 3 values in float32, where attention keeps them: with dropout, as
              encoders have it, and by the eager kernel, which is the fastest for short rows in bf16 on a CPU
logits        tokens x vocabulary x 3 values in float32: themselves, their softmax, their gradient
"""

from __future__ import annotations

from dataclasses import dataclass

QUANTIZED = 0.55
WITHIN = 2.0
"""The factor that the estimate is within, of the measured peak of a run above the imports."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    parameters: int
    hidden: int
    layers: int
    intermediate: int
    heads: int
    vocabulary: int
    """0 for a classifier, which has no logits of tokens."""
    dropout: bool = False
    """Attention has dropout."""


@dataclass(frozen=True, slots=True)
class Step:
    """What of a run decides the memory of its steps."""

    trained: int
    """Parameters."""
    tokens: int
    """Of one batch on one device."""
    weight_bytes: float = 4.0
    bf16: bool = False
    checkpointing: bool = False
    scored: int = 0
    """The length of rows whose attention scores are kept; 0 where no kernel keeps them."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    scores: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.scores + self.logits


def estimate_memory(shape: Shape, step: Step) -> Memory:
    """Estimate the peak memory of a training step."""
    adapter = step.trained if step.trained < shape.parameters else 0
    value = 2.5 if step.bf16 else 4.0  # under autocast norms and their inputs stay in float32
    block = step.tokens * (16 * shape.hidden + 4 * shape.intermediate) * value
    inputs = step.tokens * shape.hidden * shape.layers * value
    return Memory(
        weights=round(shape.parameters * step.weight_bytes) + 4 * adapter,
        gradients=4 * step.trained,
        optimizer=8 * step.trained,
        activations=round(inputs + block if step.checkpointing else block * shape.layers),
        scores=step.tokens * step.scored * shape.heads * (1 if step.checkpointing else shape.layers) * 12,
        logits=step.tokens * shape.vocabulary * 4 * 3,
    )


def count_adapter(shape: Shape, rank: int) -> int:
    """Count the parameters of LoRA on all linear layers of a block: seven matrices, with the sizes of a Llama's."""
    # rank x (in + out) of q, k, v and o, and of gate, up and down. Where queries share keys, k and v are smaller.
    attention = 4 * 2 * shape.hidden
    feed_forward = 3 * (shape.hidden + shape.intermediate)
    return rank * shape.layers * (attention + feed_forward)
