"""Models whose files hold quantized weights: loaded, and tried once, before anything is asked of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedModel

from hf_finetune.config.model_files.description import CONFIG
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.files.foreign_errors import ForeignError, foreign_errors

KEY = "quantization_config"


def load_quantized(auto_class: Any, name: str, options: Mapping[str, Any]) -> Any:
    """Call `auto_class.from_pretrained` on a folder or Hub id whose config.json has a `quantization_config`.

    Raises `ModelError`, naming that, where a library is missing, the method is unknown, or nothing can be computed.
    """
    try:
        with foreign_errors(), _hide_bars():
            loaded = auto_class.from_pretrained(name, **options)
            model: PreTrainedModel = loaded[0] if isinstance(loaded, tuple) else loaded
            disable_4bit_repacking(model)
            _compute_once(model)
    except ForeignError as refused:
        what = f"its weights are quantized in a way that cannot be computed here ({refused})"
        remedy = "install what it names, or name a copy of the model that is not quantized"
        raise ModelError(Problem(what, remedy, path=str(Path(name, CONFIG)), key=KEY, code="HF505")) from refused
    return loaded


@contextmanager
def _hide_bars() -> Iterator[None]:
    """Hide the progress bars of compressed-tensors (0.20), four for each model, which can be left out by no setting."""
    shown: Any = tqdm.__init__
    tqdm.__init__ = partialmethod(shown, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = shown


@torch.no_grad()
def _compute_once(model: PreTrainedModel) -> None:
    """Compute the logits of one token: what does not fit together is seen at the first forward pass alone."""
    end = model.config.get_text_config().eos_token_id  # without which BART's classifier reads nothing
    ids = [[end if isinstance(end, int) else 0]]
    model.eval()(input_ids=torch.tensor(ids, device=model.device))


def disable_4bit_repacking(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU with AVX512-BF16 in the first forward in eval mode."""
    # bitsandbytes 0.50 packs for that kernel for good: it rounds the scales to bfloat16, stops gradients when training
    # goes on, makes `dequantize` return garbage, and fails on sizes that are not multiples of 32 and 64. Can go when
    # `Linear4bit` unpacks for training: https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1804
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.__dict__["support_avx512bf16_for_cpu"] = False
