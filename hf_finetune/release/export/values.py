"""Values of options that can be told to be none before torch is imported."""

from __future__ import annotations

from collections.abc import Collection

from hf_finetune.errors import ConfigError, Problem, suggest

# torch's exporter writes operators of 18; what is newer is converted.
OPSETS = range(18, 24)
GGUF_QUANTS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
VLLM_QUANTS = ("fp8", "int8", "int4")


def check_opset(opset: int) -> None:
    """Raise `ConfigError` for a version of ONNX' operators that torch does not write."""
    if opset not in OPSETS:
        what = f"torch writes no operators of version {opset}"
        remedy = f"name one from {OPSETS[0]} to {OPSETS[-1]}, or leave it out"
        raise ConfigError(Problem(what, remedy, key="--opset", code="HF603"))


def check_quant_name(quant: str, known: Collection[str]) -> None:
    """Raise `ConfigError` for a quantization that is none of a target's."""
    if quant in known:
        return
    begun = [name for name in known if name.startswith(quant.lower())]
    remedy = suggest(begun[0] if begun else quant, known, f"it may be {', '.join(known)}")
    if "f16" in known and quant.lower() in _list_mixed():
        remedy = f"export f16, and then: llama-quantize model.gguf OUTPUT {quant.upper()} (of llama.cpp)"
    what = f"no such quantization is written here: {quant!r}"
    raise ConfigError(Problem(what, remedy, key="--quant", code="HF604"))


def _list_mixed() -> set[str]:
    """`q4_k_m` and the like: several kinds in one file, which the package gguf reads and does not write."""
    from gguf.constants import LlamaFileType

    return {kind.name.removeprefix("MOSTLY_").lower() for kind in LlamaFileType}
