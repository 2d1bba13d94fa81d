"""Rows of a file -> the tokens that a language model predicts, and the prompts that it answers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.given_up import TextGivenUp
from hf_finetune.chat.rendering import Message, TemplateLimitError
from hf_finetune.chat.slow_templates import count_rendered
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.chat.template import encode_prompt, load_chat_template, trust_named_template
from hf_finetune.config.sections import DataSection
from hf_finetune.data.reading.formats import restore_messages, restore_tools
from hf_finetune.data.splitting.one_split import SPLIT
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.rendered_rows import MAX_ROWS_AT_FAULT
from hf_finetune.data.tokenization.text import warn_of_unknown_tokens
from hf_finetune.data.tokenization.windows import cut_into_windows
from hf_finetune.errors import MAX_PROBLEMS_SHOWN, DataError, Problem
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A conversation up to its last answer."""

    row: int
    messages: list[Message]
    tools: list[dict[str, Any]] | None
    answer: str


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
    if not are_conversations(rows):
        # Documents are read without it, but where an answer ends is found by rendering it (`generate_batch`).
        trust_named_template(tokenizer, settings.data.trust_chat_template)
        tokens, windows = cut_into_windows(rows, tokenizer, longest, partial(splits.locate, SPLIT))
        warn_of_unknown_tokens(SPLIT, windows.unknown, windows.trained_tokens)
        facts = windows.as_dict()
    else:
        template = load_chat_template(settings.data, tokenizer, trains=False)
        by_split, counted = tokenize_conversations(splits, tokenizer, template, settings.trained, longest)
        tokens, facts = by_split[SPLIT], counted[SPLIT].as_dict()
    examples = [Example(row["row"], row["input_ids"], row["labels"]) for row in tokens]
    return TokenizedRows(examples, measure_texts(tokens, len(rows)), facts)


def build_prompts(splits: Splits, tokenizer: PreTrainedTokenizerFast, data: DataSection) -> list[Prompt]:
    """Split each conversation into the prompt, encoded, and its last answer; rows that do not end in one are left out.

    Documents have no prompts. Prompts with completions are encoded without a template unless `data.chat_template` names
    one. Raises `DataError` naming each row whose prompt the template rejects.
    """
    rows = splits.rows[SPLIT]
    if not are_conversations(rows):
        return []
    if "messages" in rows.column_names or data.chat_template is not None:
        return _encode_prompts(splits, tokenizer, _iterate_asked(rows))
    encoded = [_encode_plain_prompt(tokenizer, prompt) for prompt in rows["prompt"]]
    pairs = enumerate(zip(encoded, rows["completion"], strict=True))
    return [Prompt(number, ids, completion) for number, (ids, completion) in pairs if completion.strip()]


def _iterate_asked(rows: Dataset) -> Iterator[_Asked]:
    """Yield what is asked in each row that ends in an answer."""
    for number, row in enumerate(rows):
        if "messages" in row:
            *messages, last = restore_messages(row["messages"])
            tools = restore_tools(row["tools"])
        else:
            messages, last = [{"role": "user", "content": row["prompt"]}], {"content": row["completion"]}
            last, tools = {"role": "assistant", **last}, None
        answer = last["content"]
        if messages and last["role"] == "assistant" and isinstance(answer, str) and answer.strip():
            yield _Asked(number, messages, tools, answer)


def _encode_prompts(splits: Splits, tokenizer: PreTrainedTokenizerFast, asked: Iterable[_Asked]) -> list[Prompt]:
    prompts, problems, refused, limits = [], [], 0, 0
    for each in asked:
        try:
            with count_rendered(each.row, len(splits.rows[SPLIT]), "prompts"):
                ids = encode_prompt(tokenizer, each.messages, each.tools)
            prompts.append(Prompt(each.row, ids, each.answer))
            continue
        except TemplateLimitError as problem:
            limits += 1
            what, remedy, code = f"the chat template {problem.what} on its prompt", problem.remedy, problem.code
        except TextGivenUp as problem:
            [given_up] = problem.problems
            what, remedy, code = given_up.what, given_up.remedy, given_up.code
        except DataError as problem:
            [fault] = problem.problems
            what, remedy, code = f"{fault.what} (in its prompt)", "change the row", fault.code
        refused += 1
        if refused <= MAX_PROBLEMS_SHOWN:
            problems.append(Problem(what, remedy, *splits.locate(SPLIT, each.row), code=code))
        if limits == MAX_ROWS_AT_FAULT:
            break
    if problems:
        raise DataError(problems, total=refused)
    return prompts


def _encode_plain_prompt(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Encode a prompt as training does, in which control tokens in its text stay text; an empty one is an EOS."""
    control = get_control_tokens(tokenizer)
    begin = str(tokenizer.bos_token) if tokenizer.bos_token_id not in (None, tokenizer.eos_token_id) else ""
    return list(control.encode([begin + control.mark(prompt)], [[]])[0].ids) or [tokenizer.eos_token_id]
