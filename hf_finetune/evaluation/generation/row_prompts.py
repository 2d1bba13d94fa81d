"""`eval.prompts: validation`: what a run asks are the first questions of its validation rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.rendering import TemplateLimitError
from hf_finetune.chat.template import encode_prompt
from hf_finetune.config.sections import EvalSection
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.errors import DataError
from hf_finetune.models.tokenizers import find_unknown_pieces

logger = logging.getLogger(__name__)

VALIDATION = "validation"
PROMPTS = 2
ROWS_LOOKED_AT = 1_000
MAX_CHARACTERS = 500
"""Of a question: it stands in the log at each evaluation."""


def fill_prompts(
    settings: EvalSection, splits: Splits, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> EvalSection:
    """Return `settings` with two questions of the validation rows, where `eval.prompts` is `validation`; logs so.

    `max_length`: the tokens of a row at most. A row is passed over that opens with anything but a user's message, has
    tools, or whose question is longer than 500 characters, does not fit or has a character that the tokenizer lacks.
    """
    if settings.prompts != VALIDATION:
        return settings
    prompts: list[str] = []
    rows = splits.rows.get(VALIDATION)
    for question in [] if rows is None else _iterate_questions(rows, tokenizer, max_length):
        prompts += [question] if question not in prompts else []
        if len(prompts) == PROMPTS:
            break
    what = "the first questions of the validation rows" if prompts else "no validation row is one short question"
    logger.info("samples: %s (eval.prompts: validation)", what)
    return settings.model_copy(update={"prompts": prompts})


def _iterate_questions(rows: Dataset, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Iterator[str]:
    for row in rows.select(range(min(len(rows), ROWS_LOOKED_AT))):
        turns = row.get("messages") or [{"role": "user", "content": row.get("prompt")}]
        question = turns[0]["content"]
        if turns[0]["role"] != "user" or row.get("tools") or not question or len(question) > MAX_CHARACTERS:
            continue
        if not find_unknown_pieces(tokenizer, question) and _fits(question, tokenizer, max_length):
            yield question


def _fits(question: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> bool:
    try:
        return len(encode_prompt(tokenizer, [{"role": "user", "content": question}])) < max_length
    except (DataError, TemplateLimitError):  # such as a template that wants a system message first
        return False
