"""Rows of a file -> what a language model reads of them, and what it is asked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_finetune.config.sections import DataSection, Sources
from hf_finetune.data.chat import encode_prompt, load_chat_template
from hf_finetune.data.control_tokens import control_tokens
from hf_finetune.data.conversations import tokenize_splits
from hf_finetune.data.formats import FORMATS, Kind, chat_messages, chat_tools
from hf_finetune.data.packing import IGNORE_INDEX
from hf_finetune.data.splits import Splits, load_splits
from hf_finetune.data.tokenization import encode_documents
from hf_finetune.errors import FinetuneError
from hf_finetune.evaluation.bootstrap import Array

logger = logging.getLogger(__name__)

SPLIT = "test"
DOCUMENTS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens that a model reads at once, and which of them it is to predict."""

    row: int
    input_ids: Sequence[int]
    labels: Sequence[int]
    """-100 where nothing is predicted; the first is never."""


@dataclass(frozen=True, slots=True)
class Prompt:
    row: int
    input_ids: Sequence[int]
    reference: str
    """What was answered in the file."""


@dataclass(frozen=True)
class Texts:
    """How much text the predicted tokens of each row are: the denominators of figures that compare tokenizers."""

    row_bytes: Array
    """UTF-8, (rows,)"""
    row_words: Array
    """Separated by white space, (rows,)"""


def rows_to_score(sources: Sources, data: DataSection, becomes: Kind | None) -> Splits:
    """Read `sources` as `data` says, as one split `test`: all rows, in the order of the files.

    Without `becomes`, the first rows decide whether they are conversations (prompts with completions among them) or
    documents. Raises `DataError` as `load_splits` does.
    """
    taken = {"allow_empty": True, "too_long": "cut", "max_dropped": 1.0}  # what a run may have been trained on
    whole = data.model_copy(update={"train": sources, "test": None, **taken})
    splits = _load(whole, becomes)
    (rows,), (hashes,), (places,) = splits.rows.values(), splits.hashes.values(), splits.places.values()
    return replace(splits, rows={SPLIT: rows}, hashes={SPLIT: hashes}, places={SPLIT: places}, overlap={})


def _load(data: DataSection, becomes: Kind | None) -> Splits:
    if becomes is None and data.format != "auto":
        becomes = FORMATS[data.format].becomes
    if becomes is not None:
        return load_splits(data, "conversation" if becomes == "prompt_completion" else becomes, seed=0)
    try:
        return load_splits(data, "conversation", seed=0)
    except FinetuneError as no_conversations:
        try:
            return load_splits(data, "document", seed=0)
        except FinetuneError as no_documents:
            raise (no_documents if "are documents" in str(no_conversations) else no_conversations) from None


def are_conversations(rows: Dataset) -> bool:
    return "text" not in rows.column_names


def read_examples(
    splits: Splits, tokenizer: PreTrainedTokenizerFast, data: DataSection, longest: int
) -> tuple[list[Example], dict[str, Any]]:
    """What of each row is predicted: the assistant's turns of a conversation, every token of a document.

    A document is read alone, from its begin token (or behind an end token) on; where it is longer than `longest`, in
    windows that overlap by the token before the first predicted one. A conversation is cut there. Returns the facts of
    the data beside the examples, as a report has them.
    """
    if not are_conversations(splits.rows[SPLIT]):
        return _documents(splits.rows[SPLIT]["text"], tokenizer, longest)
    template = load_chat_template(data, tokenizer)
    whole = data.model_copy(update={"too_long": "cut", "max_dropped": 1.0})
    tokens, facts = tokenize_splits(splits, tokenizer, template, whole, longest)
    examples = [Example(row["row"], row["input_ids"], row["labels"]) for row in tokens[SPLIT]]
    return examples, facts[SPLIT].as_dict()


def _documents(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, longest: int
) -> tuple[list[Example], dict[str, Any]]:
    # Without a begin token a document follows the end of another.
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    examples = []
    for start in range(0, len(texts), DOCUMENTS_AT_ONCE):
        some = list(texts[start : start + DOCUMENTS_AT_ONCE])
        for row, ids in enumerate(encode_documents(tokenizer, some), start):
            if texts[row].strip():
                examples += _windows(row, [begin, *ids, tokenizer.eos_token_id], longest)
    predicted = sum(len(example.input_ids) - 1 for example in examples)
    tokens = predicted + len({example.row for example in examples})
    empty = sum(not text.strip() for text in texts)
    facts = {"rows": len(texts), "dropped": empty, "tokens": tokens, "trained_tokens": predicted, "truncated": 0}
    return examples, facts


def _windows(row: int, ids: list[int], longest: int) -> list[Example]:
    starts = range(0, len(ids) - 1, longest - 1)
    windows = [ids[start : start + longest] for start in starts]
    return [Example(row, window, [IGNORE_INDEX, *window[1:]]) for window in windows]


def text_sizes(examples: Sequence[Example], rows: int, tokenizer: PreTrainedTokenizerFast) -> Texts:
    """Bytes and words of what is predicted in each row."""
    predicted: dict[int, list[int]] = {}
    for example in examples:  # the windows of a row come in order, and may cut a word or a character in two
        predicted.setdefault(example.row, []).extend(label for label in example.labels if label != IGNORE_INDEX)
    sizes = np.zeros((2, rows))
    for row, ids in predicted.items():
        text = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
        sizes[:, row] = len(text.encode()), len(text.split())
    return Texts(*sizes)


def prompts_of(splits: Splits, tokenizer: PreTrainedTokenizerFast, data: DataSection) -> list[Prompt]:
    """Each conversation up to its last answer, and that answer; rows that do not end in one are left out.

    Documents ask nothing. Prompts with completions are not rendered unless `data.chat_template` names a template.
    """
    rows = splits.rows[SPLIT]
    if not are_conversations(rows):
        return []
    if "messages" in rows.column_names:
        prompts = []
        for number, row in enumerate(rows):
            *messages, last = chat_messages(row["messages"])
            if (
                messages
                and last["role"] == "assistant"
                and isinstance(last["content"], str)
                and last["content"].strip()
            ):
                ids = encode_prompt(tokenizer, messages, chat_tools(row["tools"]))
                prompts.append(Prompt(number, ids, last["content"]))
        return prompts
    if data.chat_template is not None:
        asked = ([{"role": "user", "content": prompt}] for prompt in rows["prompt"])
        encoded = [encode_prompt(tokenizer, messages) for messages in asked]
    else:
        encoded = [_plain_prompt(tokenizer, prompt) for prompt in rows["prompt"]]
    pairs = enumerate(zip(encoded, rows["completion"], strict=True))
    return [Prompt(number, ids, completion) for number, (ids, completion) in pairs if completion.strip()]


def _plain_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    control = control_tokens(tokenizer)
    begin = str(tokenizer.bos_token) if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id) else ""
    return control.encode([begin + control.mark(prompt)], [[]])[0].ids or [tokenizer.eos_token_id]
