"""How many tokens a row or block may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from hf_finetune.config.sections import DataSection
from hf_finetune.errors import ConfigError, Problem

DEFAULT_BLOCK_SIZE = 1_024


def block_size(data: DataSection, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens per block: `data.block_size`, by default the most that model and tokenizer take, up to 1,024.

    Raises `ConfigError` where the model takes fewer than `data.block_size`.
    """
    longest = get_max_length(tokenizer, config)
    if data.block_size is None:
        return DEFAULT_BLOCK_SIZE if longest is None else min(longest, DEFAULT_BLOCK_SIZE)
    _check_taken(data.block_size, longest, "data.block_size")
    return data.block_size


def _check_taken(asked: int, longest: int | None, key: str) -> None:
    if longest is not None and asked > longest:
        what = f"{asked:,} tokens are more than the {longest:,} that the model takes"
        raise ConfigError(Problem(what, "lower it, or leave it out", key=key, code="HF113"))


# RoBERTa and its relatives number positions from pad_token_id + 1: of max_position_embeddings 514 they use 512.
COUNT_FROM_PADDING = (
    *("camembert", "data2vec-text", "ibert", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
)
DEFAULT_ROW_LENGTH = 1_024


def get_max_length(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> int | None:
    """Return the longest row, in tokens, that tokenizer and model accept; None where neither has a limit."""
    # Models without positions (Mamba, ALiBi) have no such field.
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in COUNT_FROM_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    limits = [tokenizer.model_max_length, positions]
    # A tokenizer without a limit has model_max_length 1e30.
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < 2**62]
    return min(known, default=None)


def row_length(train: Mapping[str, Any], config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens that the row of a conversation may have: `train.max_length`, by default 1,024 or the model's lower limit.

    Under `max_length: null` it is the model's limit. Raises `ConfigError` where the limit is less than `max_length`,
    or `max_length` is null and there is no limit.
    """
    longest = get_max_length(tokenizer, config)
    if "max_length" not in train:
        return DEFAULT_ROW_LENGTH if longest is None else min(longest, DEFAULT_ROW_LENGTH)
    asked: int | None = train["max_length"]
    if asked is None and longest is not None:
        return longest
    if asked is not None and (longest is None or asked <= longest):
        return asked
    what = "neither model nor tokenizer has a limit" if asked is None else f"{asked:,} tokens are too long"
    taken = "" if longest is None else f"; the model takes {longest:,}"
    raise ConfigError(Problem(what + taken, "set a number that the model takes", key="train.max_length", code="HF113"))


def text_length(data: DataSection, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Tokens at which a text to classify is truncated: `data.max_length`, else the limit of model and tokenizer.

    None where nothing sets a limit. Raises `ConfigError` where the model's limit is less than `data.max_length`.
    """
    longest = get_max_length(tokenizer, config)
    if not isinstance(data.max_length, int):
        return longest
    _check_taken(data.max_length, longest, "data.max_length")
    return data.max_length
