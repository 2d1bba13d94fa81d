"""How a tokenizer of bytes splits text before it joins bytes, by the names that llama.cpp has for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

# What `ByteLevel` of tokenizers splits by, where it is not told otherwise.
GPT2 = "as GPT-2"
DIGITS = r"\p{N}"

# llama.cpp takes a word that is in the vocabulary as it is under these names, and joins its bytes under the others.
IGNORE_MERGES = {"llama-bpe", "tekken"}

# Of the names that mean one rule, the one of the model that had it first.
NAMES: Mapping[tuple[str, ...], str] = {
    (GPT2,): "gpt-2",
    (DIGITS, GPT2): "smollm",
    **{(GGUF_PRE_TOKENIZER_SPLITS[name],): name for name in ("llama-bpe", "qwen2", "tekken", "gpt-4o", "qwen35")},
}


def find_split_name(pre_tokenizer: Mapping[str, Any] | None) -> str | None:
    """llama.cpp's name for the rule of a `tokenizer.json`; None where it has none for it."""
    steps = _list_steps(pre_tokenizer)
    return None if steps is None else NAMES.get(steps)


def _list_steps(step: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The patterns that text is split by, one after the other; None for a step that is no pattern."""
    if step is None:
        return None
    match step["type"]:
        case "Sequence":
            listed = [_list_steps(each) for each in step["pretokenizers"]]
            known = [each for each in listed if each is not None]
            return sum(known, ()) if len(known) == len(listed) else None
        case "ByteLevel" if not step["add_prefix_space"]:
            return (GPT2,) if step.get("use_regex", True) else ()
        case "Digits" if step["individual_digits"]:
            return (DIGITS,)
        case "Split" if step["behavior"] == "Isolated" and not step["invert"] and "Regex" in step["pattern"]:
            return (step["pattern"]["Regex"],)
    return None
