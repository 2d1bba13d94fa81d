"""Rows of a file -> the tokens that a language model predicts, and the prompts that it answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.given_up import name_row
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.chat.template import encode_prompt, load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import restore_messages, restore_tools
from hf_finetune.data.splitting.one_split import SPLIT
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.tokenization.conversation_stats import ConversationStats
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.text import warn_of_unknown_tokens
from hf_finetune.data.tokenization.windows import WindowStats, cut_into_windows
from hf_finetune.evaluation.language_modeling.by_row import TextSizes, measure_texts
from hf_finetune.evaluation.scoring.run_settings import TokenSettings

logger = logging.getLogger(__name__)


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
class TokenizedRows:
    """The rows of a split as examples."""

    examples: list[Example]
    sizes: TextSizes
    facts: dict[str, Any]
    """The counts of `data.test` of the report."""


def are_conversations(rows: Dataset) -> bool:
    """Whether `rows` are conversations or prompts with completions, and not documents."""
    return "text" not in rows.column_names


def read_examples(
    splits: Splits, tokenizer: PreTrainedTokenizerFast, settings: TokenSettings, longest: int
) -> TokenizedRows:
    """Tokenize the rows as the model's run has evaluated its own: every token of a document is predicted, and of a
    conversation what `data.loss_on` says.

    A document starts after its BOS (or an EOS). One longer than `longest` becomes several windows, and a longer
    conversation what `data.too_long` says. Raises `DataError` as `tokenize_conversations` and `cut_into_windows` do.
    """
    rows = splits.rows[SPLIT]
    facts: WindowStats | ConversationStats
    if not are_conversations(rows):
        tokens, facts = cut_into_windows(rows, tokenizer, longest, partial(splits.locate, SPLIT))
        warn_of_unknown_tokens(SPLIT, facts.unknown, facts.trained_tokens)
    else:
        template = load_chat_template(settings.data, tokenizer, trains=False)
        by_split, counted = tokenize_conversations(splits, tokenizer, template, settings.trained, longest)
        tokens, facts = by_split[SPLIT], counted[SPLIT]
    examples = [Example(row["row"], row["input_ids"], row["labels"]) for row in tokens]
    return TokenizedRows(examples, measure_texts(tokens, len(rows)), facts.as_dict())


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
                with name_row(*splits.locate(SPLIT, number)):
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
