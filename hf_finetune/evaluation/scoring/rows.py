"""Rows of a file -> the tokens that a language model predicts, and the prompts that it answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.chat.template import encode_prompt, load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import restore_messages, restore_tools
from hf_finetune.data.splitting.one_split import SPLIT
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.documents import IGNORE_INDEX
from hf_finetune.data.tokenization.text import encode_documents
from hf_finetune.evaluation.generation.session import get_start_token_id
from hf_finetune.evaluation.statistics.bootstrap import Array

logger = logging.getLogger(__name__)

DOCUMENTS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Example:
    """The tokens of one forward pass, and which of them are predicted."""

    row: int
    input_ids: Sequence[int]
    labels: Sequence[int]
    """-100 at tokens that are not predicted, always at the first."""


@dataclass(frozen=True, slots=True)
class Prompt:
    row: int
    input_ids: Sequence[int]
    reference: str
    """The answer in the file."""


@dataclass(frozen=True)
class TextSizes:
    """The length of each row's predicted text: the denominators of metrics that do not depend on the tokenizer."""

    row_bytes: Array
    """(rows,), of its UTF-8 encoding."""
    row_words: Array
    """(rows,), separated by white space."""


def are_conversations(rows: Dataset) -> bool:
    """Whether `rows` are conversations or prompts with completions, and not documents."""
    return "text" not in rows.column_names


def read_examples(
    splits: Splits, tokenizer: PreTrainedTokenizerFast, data: DataSection, longest: int
) -> tuple[list[Example], dict[str, Any]]:
    """Tokenize the rows: the assistant's turns of a conversation are predicted, and every token of a document.

    A document starts after its BOS (or an EOS). One longer than `longest` becomes several windows, a longer
    conversation is truncated. Returns the examples and the counts of `data.test` of the report. Raises `DataError` as
    `tokenize_conversations` does.
    """
    if not are_conversations(splits.rows[SPLIT]):
        return _encode_documents(splits.rows[SPLIT]["text"], tokenizer, longest)
    template = load_chat_template(data, tokenizer, trains=False)
    whole = data.model_copy(update={"too_long": "cut", "max_dropped": 1.0})
    tokens, facts = tokenize_conversations(splits, tokenizer, template, whole, longest)
    examples = [Example(row["row"], row["input_ids"], row["labels"]) for row in tokens[SPLIT]]
    return examples, facts[SPLIT].as_dict()


def _encode_documents(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, longest: int
) -> tuple[list[Example], dict[str, Any]]:
    begin = get_start_token_id(tokenizer)
    examples = []
    for start in range(0, len(texts), DOCUMENTS_AT_ONCE):
        batch = list(texts[start : start + DOCUMENTS_AT_ONCE])
        for row, ids in enumerate(encode_documents(tokenizer, batch), start):
            if texts[row].strip():
                examples += _split_into_windows(row, [begin, *ids, tokenizer.eos_token_id], longest)
    predicted = sum(len(example.input_ids) - 1 for example in examples)
    tokens = predicted + len({example.row for example in examples})
    empty = sum(not text.strip() for text in texts)
    facts = {"rows": len(texts), "dropped": empty, "tokens": tokens, "trained_tokens": predicted, "truncated": 0}
    return examples, facts


def _split_into_windows(row: int, ids: list[int], longest: int) -> list[Example]:
    # ids [1, 2, 3, 4, 5, 6], longest 3: windows [1, 2, 3], [3, 4, 5], [5, 6] predict [2, 3], [4, 5], [6]. They overlap
    # by one token, so that every token but the first is predicted once.
    starts = range(0, len(ids) - 1, longest - 1)
    windows = [ids[start : start + longest] for start in starts]
    return [Example(row, window, [IGNORE_INDEX, *window[1:]]) for window in windows]


def measure_texts(examples: Sequence[Example], rows: int, tokenizer: PreTrainedTokenizerFast) -> TextSizes:
    """Count the bytes and words of the predicted text of each row."""
    predicted: dict[int, list[int]] = {}
    for example in examples:  # the windows of a row come in order, and may cut a word or a character in two
        predicted.setdefault(example.row, []).extend(label for label in example.labels if label != IGNORE_INDEX)
    sizes = np.zeros((2, rows))
    for row, ids in predicted.items():
        text = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
        sizes[:, row] = len(text.encode()), len(text.split())
    return TextSizes(*sizes)


def build_prompts(splits: Splits, tokenizer: PreTrainedTokenizerFast, data: DataSection) -> list[Prompt]:
    """Split each conversation into the prompt, encoded, and its last answer; rows that do not end in one are left out.

    Documents have no prompts. Prompts with completions are encoded without a template unless `data.chat_template` names
    one. Raises `DataError` if the template rejects a conversation.
    """
    rows = splits.rows[SPLIT]
    if not are_conversations(rows):
        return []
    if "messages" in rows.column_names:
        prompts = []
        for number, row in enumerate(rows):
            *messages, last = restore_messages(row["messages"])
            if (
                messages
                and last["role"] == "assistant"
                and isinstance(last["content"], str)
                and last["content"].strip()
            ):
                ids = encode_prompt(tokenizer, messages, restore_tools(row["tools"]))
                prompts.append(Prompt(number, ids, last["content"]))
        return prompts
    if data.chat_template is not None:
        chats = ([{"role": "user", "content": prompt}] for prompt in rows["prompt"])
        encoded = [encode_prompt(tokenizer, messages) for messages in chats]
    else:
        encoded = [_encode_plain_prompt(tokenizer, prompt) for prompt in rows["prompt"]]
    pairs = enumerate(zip(encoded, rows["completion"], strict=True))
    return [Prompt(number, ids, completion) for number, (ids, completion) in pairs if completion.strip()]


def _encode_plain_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Encode a prompt as training does, in which control tokens in its text stay text; an empty one is an EOS."""
    control = get_control_tokens(tokenizer)
    begin = str(tokenizer.bos_token) if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id) else ""
    return control.encode([begin + control.mark(prompt)], [[]])[0].ids or [tokenizer.eos_token_id]
