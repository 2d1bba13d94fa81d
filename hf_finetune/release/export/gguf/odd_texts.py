"""Texts on which tokenizers differ that are nearly alike; llama.cpp has to take them as the run did."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from hf_finetune.errors import ModelError, Problem
from hf_finetune.release.export.gguf.llama_cpp import LlamaCpp

PARTS = (
    "Hello",
    " world",
    "\n\n1. ",
    "\t\tif x:\r\n",
    "   ",
    "I'll we'VE don't",
    "12,345.67",
    "²½ 3D",
    "caf\u00e9 na\u00efve",
    "日本語、中文",
    "\U0001f600\U0001f468\u200d\U0001f469",
    "مرحبا",
    "<b>&amp;</b>",
    "_snake::Case#!",
)
TEXTS = (*(one + other for one in PARTS for other in PARTS), "", " ", "\n", "a")
"""200 of them."""


def check_tokens(theirs: LlamaCpp, tokenizer: PreTrainedTokenizerFast) -> int:
    """Compare the tokens of `TEXTS`, and return how many texts there were.

    Raises `ModelError` for the first that differs.
    """
    ours = tokenizer(list(TEXTS), add_special_tokens=False)["input_ids"]
    for text, expected in zip(TEXTS, ours, strict=True):
        found = theirs.tokenize(text)
        if found != list(expected):
            what = (
                f"the tokenizer is a vocabulary that GGUF cannot hold: llama.cpp takes {text!r} for the tokens "
                f"{found[:20]}, and the run for {expected[:20]}"
            )
            raise ModelError(Problem(what, "export another format, and please report it", code="HF972"))
    return len(TEXTS)
