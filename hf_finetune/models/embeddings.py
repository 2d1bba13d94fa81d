"""Rows of the embedding, and of the output head, for tokens that a chat template has added to the tokenizer."""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.built_in import get_added_tokens
from hf_finetune.environment.logs import hide_messages

logger = logging.getLogger(__name__)

ADDED_IDS = "added_ids"
"""Attribute under which a loaded model keeps the ids of the tokens that this run's chat template has added."""
STORED_ROWS = "stored_rows"
"""Attribute under which a model whose embedding has grown keeps the number of rows in its files."""
# Of two warnings of transformers 5.23, which explain how the rows of a grown embedding and head are drawn.
DRAWN = "initialized from a multivariate normal"


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give `model` a row for every token of `tokenizer`, and note those that the chat template has added."""
    grow_embeddings(model, _count_rows(tokenizer))
    object.__setattr__(model, ADDED_IDS, [tokenizer.vocab[token] for token in get_added_tokens(tokenizer)])


def get_added_ids(model: PreTrainedModel) -> list[int]:
    """Return the ids of the tokens that this run's chat template has added; [] where there are none."""
    added: list[int] = getattr(model, ADDED_IDS, [])
    return added


def has_grown(model: PreTrainedModel) -> bool:
    """Whether the embedding of a loaded model has more rows than its files."""
    return hasattr(model, STORED_ROWS)


def grow_embeddings(model: PreTrainedModel, rows: int) -> None:
    """Grow embedding and head to `rows` rows where they have fewer; the new ones are drawn around the others' mean.

    As in transformers (https://nlp.stanford.edu/~johnhew/vocab-expansion.html), and always the same for one model.
    """
    stored = _count_stored_rows(model)
    if rows <= stored:
        return
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), hide_messages("transformers.modeling_utils", DRAWN):
        # Rows that no file has are drawn again for scoring, merging and resuming: they have to come out the same.
        torch.manual_seed(0)
        model.resize_token_embeddings(rows)
    object.__setattr__(model, STORED_ROWS, stored)


def grow_for_added_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Grow the embedding of a base for the tokens that were added to its tokenizer later, and say so.

    Does nothing where one of the ids that it lacks is a word: then the tokenizer is of another model.
    """
    rows, added = _count_stored_rows(model), tokenizer.added_tokens_decoder
    lacking = [index for index in tokenizer.vocab.values() if index >= rows]
    if lacking and all(index in added for index in lacking):
        names = ", ".join(added[index].content for index in sorted(lacking))
        logger.info("the base has never seen %s: it gets embeddings around the mean of the others", names)
        grow_embeddings(model, _count_rows(tokenizer))


def _count_stored_rows(model: PreTrainedModel) -> int:
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def _count_rows(tokenizer: PreTrainedTokenizerFast) -> int:
    """Count the rows that the ids of `tokenizer` need; some vocabularies have gaps."""
    return int(max(tokenizer.vocab.values())) + 1
