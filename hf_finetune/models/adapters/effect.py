"""Whether a saved adapter does anything: the model's logits with it and without it, on a few tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.classification_head import unwrap_adapter
from hf_finetune.models.verification import use_class_forward

ROWS, LENGTH = 2, 16


@torch.no_grad()
def check_effect(model: PeftModel, adapter: str) -> None:
    """Raise `ModelError` for a loaded adapter under which not one logit is another than without it.

    So it is with one that was never trained, and where what was trained is not in its files: the weights B of LoRA
    begin at zero. `adapter` is what to call it. The model is in evaluation mode.
    """
    config: Any = model.peft_config["default"]
    if config.bias != "none":  # tuned biases are those of the base itself, and stay when the adapter is switched off
        return
    ids = _draw_tokens(model)
    with use_class_forward(unwrap_adapter(model)):
        tuned: Tensor = model(ids).logits
        with model.disable_adapter():
            untuned: Tensor = model(ids).logits
    if torch.equal(tuned, untuned):
        what = "changes nothing: the model answers with this adapter exactly as it does without it"
        remedy = "it was never trained, or was saved without what was: name another folder or checkpoint"
        raise ModelError(Problem(what, remedy, path=adapter, code="HF538"))


def _draw_tokens(model: PeftModel) -> Tensor:
    """(rows, seq): the same for one model, and with the tokens whose rows alone an adapter may train."""
    size = unwrap_adapter(model).config.get_text_config().vocab_size
    ids = torch.randint(size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    trained = getattr(model.peft_config["default"], "trainable_token_indices", None) or []
    lists = trained.values() if isinstance(trained, Mapping) else [trained]
    tokens = sorted({index for each in lists for index in each})[: LENGTH // 2]
    ids[:, : len(tokens)] = torch.tensor(tokens, dtype=ids.dtype)
    return ids.to(model.device)
