"""Named sizes of ScratchGPT, and the configuration for a run file's `model.scratch`."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

from hf_finetune.config.sections import ScratchSection
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.scratch_gpt.configuration_scratch_gpt import ArchitectureError, ScratchGPTConfig

# Parameters without embeddings and head: 0.8 M, 10.6 M, 37.7 M, 10.6 M, 85 M (124 M with GPT-2's vocabulary and
# positions). What each is exported as: docs/run-file.md.
PRESETS: dict[str, dict[str, Any]] = {
    "nano": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    },
    "tiny": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "max_position_embeddings": 512,
    },
    "small": {
        "hidden_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 1024,
    },
    "llama-like": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "max_position_embeddings": 512,
        "gated_mlp": True,
        "qk_norm": False,
    },
    "gpt2": {
        "family": "gpt2",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
    },
}


def build_scratch_config(
    section: ScratchSection,
    *,
    vocab_size: int,
    pad_token_id: int | None,
    bos_token_id: int | None,
    eos_token_id: int | None,
) -> ScratchGPTConfig:
    """Build the configuration of a preset, overridden by the section's own fields.

    Raises `ModelError` for values of the wrong type and for fields that contradict each other.
    """
    fields = {**PRESETS[section.preset], **section.model_dump(exclude={"preset"}, exclude_none=True)}
    try:
        return ScratchGPTConfig(
            **fields,
            vocab_size=vocab_size,
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
        )
    except (StrictDataclassClassValidationError, StrictDataclassFieldValidationError) as error:
        raise ModelError(_convert_error(error, section)) from error


def _convert_error(error: Exception, section: ScratchSection) -> list[Problem]:
    remedy = f"change it, or another field of model.scratch (preset {section.preset})"
    if isinstance(error.__cause__, ArchitectureError):
        return [
            Problem(what, remedy, key=f"model.scratch.{field}", code="HF571")
            for field, what in error.__cause__.problems
        ]
    return [Problem(" ".join(str(error).split()), remedy, key="model.scratch", code="HF571")]
