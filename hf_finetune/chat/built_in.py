"""The chat templates that are built in: their text, and the tokens that they put around turns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.resources import files
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.special_tokens import add_control_tokens, get_control_tokens

logger = logging.getLogger(__name__)

# What a template writes besides the begin and end tokens that a tokenizer has anyway. `plain` and `alpaca` need none.
TEMPLATE_TOKENS: Mapping[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "mistral": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]"),
    "phi": ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    "qwen": ("<|im_start|>", "<|im_end|>"),
}

_added: WeakKeyDictionary[PreTrainedTokenizerFast, list[str]] = WeakKeyDictionary()


def read_built_in(name: str) -> str:
    """Read the Jinja source of a built-in template."""
    return files("hf_finetune.chat").joinpath("templates", f"{name}.jinja").read_text("utf-8")


def add_template_tokens(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Add to `tokenizer` the tokens of the built-in template `name` that it lacks, and log which.

    The model needs an embedding for each: `models.embeddings.fit_embeddings` reads them from `get_added_tokens`.
    """
    known = get_control_tokens(tokenizer).names
    missing = [token for token in TEMPLATE_TOKENS.get(name, ()) if token not in known]
    if not missing:
        return
    add_control_tokens(tokenizer, missing)
    logger.info("template %s adds %s to the tokenizer: their embeddings are trained", name, ", ".join(missing))
    _added[tokenizer] = [*_added.get(tokenizer, []), *missing]


def get_added_tokens(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the tokens that a template has added to this tokenizer in this process, in the order of their ids."""
    return _added.get(tokenizer, [])
