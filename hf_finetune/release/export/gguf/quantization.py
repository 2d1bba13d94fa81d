"""How weights are stored in a GGUF file: `--quant`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.quants import quantize
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from hf_finetune.errors import ModelError, Problem
from hf_finetune.release.export.values import check_quant_name

F32, F16, Q8_0 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0

QUANTS: Mapping[str, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "f32": (F32, LlamaFileType.ALL_F32),
    "f16": (F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q5_1": (GGMLQuantizationType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    "q5_0": (GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
FULL = ("f32", "f16", "bf16")
# Read by a row at each token, or by all rows at the end of each: with the fewest bits they would cost the most.
AT_THE_ENDS = ("token_embd.weight", "output.weight")
ALWAYS_WHOLE = ("position_embd.weight",)


def check_quant(quant: str, config: PreTrainedConfig | None = None) -> None:
    """Raise `ConfigError` for a name that is none, and `ModelError` where a model's rows do not divide into blocks."""
    check_quant_name(quant, QUANTS)
    if config is None or quant in FULL:
        return
    block, _ = GGML_QUANT_SIZES[QUANTS[quant][0]]
    size = config.hidden_size
    if size % block:
        what = f"{quant} takes weights in blocks of {block}, and the rows of this model have {size:,}"
        raise ModelError(Problem(what, f"use one of {', '.join(FULL)}", key="--quant", code="HF972"))


def choose_type(name: str, shape: tuple[int, ...], quant: str) -> GGMLQuantizationType:
    """How the weight `name` is stored: as llama.cpp's converter does it, norms and biases whole."""
    asked = QUANTS[quant][0]
    # llama.cpp adds these in float32, and would refuse to with another kind.
    if len(shape) < 2 or name in ALWAYS_WHOLE:
        return F32
    if quant not in FULL and name in AT_THE_ENDS:
        asked = Q8_0
    block, _ = GGML_QUANT_SIZES[asked]
    return F16 if shape[-1] % block else asked


def count_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """The bytes of a weight of `shape` in the file."""
    block, size = GGML_QUANT_SIZES[kind]
    return int(np.prod(shape, dtype=np.int64)) // block * size


def store(name: str, weight: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[np.generic]:
    """A weight as it stands in the file: (out, in) -> (out, bytes) of blocks.

    Raises `ModelError` for a number that float16 does not have.
    """
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    # `not a <= b`, so that a NaN is refused as well; numpy itself would write infinity.
    if kind == F16 and weight.size and not np.abs(weight).max() <= np.finfo(np.float16).max:
        what = f"{name} holds a number beyond the range of float16"
        raise ModelError(Problem(what, "use --quant bf16 or f32", key="--quant", code="HF972"))
    stored: NDArray[np.generic] = quantize(weight, kind)
    return stored
