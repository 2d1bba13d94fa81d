"""The tokenizer that a GGUF file describes, split as the file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.ready_made.gguf_header import GgufHeader
from hf_finetune.models.tokenizers import ensure_special_tokens

# The names under which llama.cpp splits text as GPT-2 does, and those under which it takes digits one by one before:
# https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
AS_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "mellum", "a.x-4.0"}
DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"}

# Numbered lists, indented numbers, and what is not ASCII.
PROBE = "Two:\n\n1. caf\u00e9 \u65e5\u672c \U0001f600\n\n2.  12,345\t\u00bd\r\n    7 \u0627 "

# What transformers 5.23 leaves among the settings, and would save.
OF_THE_CALL = ("is_local", "local_files_only", "gguf_file", "name_or_path")


def load_gguf_tokenizer(folder: Path, name: str, header: GgufHeader) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Load the tokenizer of the GGUF file `name` in `folder`; also returns what its user should know of it.

    It has a padding token. Raises `ModelError` where the file has none that transformers can build, or no end token.
    """
    kind = header.text("tokenizer.ggml.model")
    if kind is None or not header.lengths.get("tokenizer.ggml.tokens"):
        remedy = "name a file of a whole model: some hold weights alone"
        raise ModelError(
            Problem("holds no tokenizer, and a model without its own cannot be used", remedy, code="HF551")
        )
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=name, trust_remote_code=False)
    notes = _split_as_the_file_says(tokenizer, kind, header.text("tokenizer.ggml.pre"))
    context = header.metadata.get(f"{header.architecture}.context_length")
    if isinstance(context, int):
        tokenizer.model_max_length = context
    for key in OF_THE_CALL:
        tokenizer.init_kwargs.pop(key, None)
    ensure_special_tokens(tokenizer)
    if tokenizer.decode(tokenizer(PROBE, add_special_tokens=False)["input_ids"]) != PROBE:
        notes.append("its tokenizer does not give every text back as it was")
    return tokenizer, notes


def _split_as_the_file_says(tokenizer: PreTrainedTokenizerFast, kind: str, split: str | None) -> list[str]:
    """Set the splitting that transformers does not know, or say that it may be another than the model's."""
    known = isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.Sequence)  # a rule, then bytes
    if kind != "gpt2" or split in AS_GPT2 or known:
        return []
    if split not in DIGITS_APART:
        named = "does not say how its tokenizer splits text" if split is None else f"splits text by the rule {split}"
        return [f"the file {named}; transformers splits it as GPT-2 does, so that some text may get other tokens"]
    # transformers 5.23 knows no rule of digits: "list:\n\n1." gets two tokens for its line ends, where the model has
    # learned one. Can go when its GGUF_PRE_TOKENIZER_SPLITS has these names.
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    return []
