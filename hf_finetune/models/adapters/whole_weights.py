"""What an adapter computes with whole weights, which DeepSpeed ZeRO-3 takes apart where no forward of theirs runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from peft import PeftModel
from peft.tuners.lora import Embedding, LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from hf_finetune.config.checks.launch.engine import NOT_UNDER_ZERO3, READS_WHOLE, engine_of_launch
from hf_finetune.errors import ConfigError, Problem


def check_engine(model: PeftModel) -> None:
    """Raise `ConfigError` where an adapter would fail in its first step under ZeRO-3; the settings may not say so.

    An embedding is known by the model, rows of new tokens by the chat template, DoRA of a saved adapter by its files.
    """
    # peft 0.21 reads these weights itself, and DeepSpeed gathers them for a module of their own that is called. To mark
    # the module around them as one (`set_z3_leaf_modules`) does for the forward pass alone: DeepSpeed 0.19.
    engine = engine_of_launch(os.environ)
    if not is_deepspeed_zero3_enabled() and (engine is None or engine.shown != "ZeRO-3"):
        return
    found = {what: name for name, module in model.named_modules() if (what := _name_kind(module)) is not None}
    if problems := list(_describe(found)):
        raise ConfigError(problems)


def _name_kind(module: nn.Module) -> str | None:
    if isinstance(module, TrainableTokensLayer):
        return "trainable_token_indices"
    if isinstance(module, Embedding):
        return "target_modules"
    return "use_dora" if isinstance(module, LoraLayer) and module.lora_magnitude_vector else None


def _describe(found: dict[str, str]) -> Iterator[Problem]:
    for key, name in found.items():
        what = f"{READS_WHOLE}, which ZeRO-3 takes apart: {name} is one"
        yield Problem(what, NOT_UNDER_ZERO3, key=f"lora.{key}", code="HF688")
