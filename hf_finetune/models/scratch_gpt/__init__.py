"""ScratchGPT: a GPT written out from scratch that is an ordinary transformers model.

The files beside this one are saved with every model and imported from there by processes without hf_finetune: they
import torch, transformers, huggingface_hub, the standard library and each other, relatively.

configuration_scratch_gpt.py  its settings
modeling_scratch_gpt.py       the model
convert_gpt2.py               GPT-2's weights in it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_scratch_gpt import ScratchGPTConfig
    from .modeling_scratch_gpt import (
        ScratchGPTForCausalLM,
        ScratchGPTForSequenceClassification,
        ScratchGPTModel,
        ScratchGPTPreTrainedModel,
    )

_CONFIGURATION = ".configuration_scratch_gpt"
_MODELING = ".modeling_scratch_gpt"
_HOMES = {
    "ScratchGPTConfig": _CONFIGURATION,
    "ScratchGPTPreTrainedModel": _MODELING,
    "ScratchGPTModel": _MODELING,
    "ScratchGPTForCausalLM": _MODELING,
    "ScratchGPTForSequenceClassification": _MODELING,
}


def __getattr__(name: str) -> Any:
    """Import the public classes on first use: torch takes seconds to import, and the configuration does not need it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def register_config() -> None:
    """Make `AutoConfig` know ScratchGPT; imports no torch."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from .configuration_scratch_gpt import ScratchGPTConfig

    AutoConfig.register(ScratchGPTConfig.model_type, ScratchGPTConfig, exist_ok=True)
    ScratchGPTConfig.register_for_auto_class()


def register_models() -> None:
    """Make the Auto classes know ScratchGPT, and `save_pretrained` copy its code into the model folder."""
    from transformers.models.auto.modeling_auto import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
    )

    from .configuration_scratch_gpt import ScratchGPTConfig
    from .modeling_scratch_gpt import ScratchGPTForCausalLM, ScratchGPTForSequenceClassification, ScratchGPTModel

    for auto_class, model_class in (
        (AutoModel, ScratchGPTModel),
        (AutoModelForCausalLM, ScratchGPTForCausalLM),
        (AutoModelForSequenceClassification, ScratchGPTForSequenceClassification),
    ):
        auto_class.register(ScratchGPTConfig, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class.__name__)


__all__ = [
    "ScratchGPTConfig",
    "ScratchGPTForCausalLM",
    "ScratchGPTForSequenceClassification",
    "ScratchGPTModel",
    "ScratchGPTPreTrainedModel",
    "register_config",
    "register_models",
]
