"""Which models can be trained to write: decoders, told from encoders and encoder-decoders by their config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.files.locate import find_file

# Its language model predicts the tokens of a row in any order, and sees those behind unless it is given a mask.
SEES_BEHIND = ("xlnet",)


def check_language_model(name: str, revision: str | None) -> None:
    """Raise `ModelError` where a folder or Hub id holds an encoder, an encoder-decoder, or no language model.

    transformers loads BERT, and the second half of BART, as a causal language model all the same: an encoder sees the
    tokens that it is to predict, so that its loss falls to nothing, and writes nonsense. A config.json that is not
    there, cannot be read or is of an unknown type is left to those who load it.
    """
    path = find_file(name, "config.json", revision)
    values = {} if path is None else read_object(Path(path)) or {}
    kind = values.get("model_type")
    known = CONFIG_MAPPING[kind] if isinstance(kind, str) and kind in CONFIG_MAPPING else None
    if not isinstance(kind, str) or known is None:
        return
    if what := _describe_unfit(kind, known, values):
        remedy = "name a decoder, such as a Llama or Qwen; recipe: classification trains encoders"
        raise ModelError(Problem(f"{name!r} {what}", remedy, key="model.path", code="HF523"))


def _describe_unfit(kind: str, known: Any, values: Mapping[str, Any]) -> str | None:
    decodes = values.get("is_decoder") or values.get("causal")  # XLM has another name for it
    if values.get("is_encoder_decoder"):
        return f"is an encoder-decoder ({kind}), which writes with a second stack that no recipe trains"
    if kind in SEES_BEHIND or (known in MODEL_FOR_MASKED_LM_MAPPING and not decodes):
        return f"is an encoder ({kind}), which sees the tokens that it would have to predict"
    if known not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return f"is a {kind}, for which transformers has no causal language model"
    return None
