"""A saved language model and rows -> its figures, with intervals, beside those of its base and slice by slice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import DataSection, EvalSection
from hf_finetune.data.batches import RowCollator
from hf_finetune.data.splits import Splits
from hf_finetune.errors import NonFiniteError, Problem
from hf_finetune.evaluation.answer_figures import Answer, answer_figures, answer_statistic
from hf_finetune.evaluation.batched import generate_batched
from hf_finetune.evaluation.bootstrap import Array, Statistic
from hf_finetune.evaluation.language_figures import language_figures, language_statistic
from hf_finetune.evaluation.language_modeling import reduce_logits
from hf_finetune.evaluation.scoring.processes import shared_work
from hf_finetune.evaluation.scoring.rows import (
    SPLIT,
    Example,
    Prompt,
    Texts,
    prompts_of,
    read_examples,
    text_sizes,
)
from hf_finetune.models.tokenizers import DEFAULT_ROW_LENGTH, effective_max_length

logger = logging.getLogger(__name__)

# Logits of one batch, in single precision: 1 GiB.
MOST_LOGITS = 2**28


@dataclass(frozen=True)
class Measured:
    """What a model did with the rows of a split."""

    rows: int
    sums: Array
    """(rows, 3), as `reduce_logits` gives them."""
    texts: Texts
    answered: npt.NDArray[np.int64]
    """Numbers of the rows that were answered, in order."""
    answers: list[Answer]
    references: list[str]
    facts: dict[str, Any]

    def figures(self) -> dict[str, float]:
        """By name, through the metric modules."""
        found = language_figures(self.sums, self.texts.row_bytes, self.texts.row_words)
        return found | (answer_figures(self.answers, self.references) if self.answers else {})

    def statistic(self) -> Statistic:
        """The same figures of rows that count differently; an answer counts as its row does."""
        of_tokens = language_statistic(self.sums, self.texts.row_bytes, self.texts.row_words)
        if not self.answers:
            return of_tokens
        of_answers, answered = answer_statistic(self.answers, self.references), self.answered
        return lambda weights: {**of_tokens(weights), **of_answers(weights[answered])}

    def read_of(self, rows: npt.NDArray[np.int64]) -> Measured:
        """What was read of some of the rows, without the answers."""
        texts = Texts(self.texts.row_bytes[rows], self.texts.row_words[rows])
        return Measured(len(rows), self.sums[rows], texts, self.answered[:0], [], [], self.facts)


def joined(one: Measured, other: Measured) -> Measured:
    """Two models' results on the same rows, as if they were one's on twice as many: first those of `one`."""
    return Measured(
        rows=one.rows + other.rows,
        sums=np.concatenate([one.sums, other.sums]),
        texts=Texts(
            np.concatenate([one.texts.row_bytes, other.texts.row_bytes]),
            np.concatenate([one.texts.row_words, other.texts.row_words]),
        ),
        answered=np.concatenate([one.answered, other.answered + one.rows]),
        answers=[*one.answers, *other.answers],
        references=[*one.references, *other.references],
        facts=one.facts,
    )


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    splits: Splits,
    data: DataSection,
    settings: EvalSection,
) -> Measured:
    """Read every row, and answer those that ask something; every process calls it and gets all results."""
    longest = longest_row(model, tokenizer)
    examples, facts = read_examples(splits, tokenizer, data, longest)
    rows = len(splits.rows[SPLIT])
    sums = row_sums(model, tokenizer, examples, rows, settings.batch_size)
    prompts = some_prompts(prompts_of(splits, tokenizer, data), settings)
    answers = answer_all(model, tokenizer, prompts, settings)
    answered = np.array([prompt.row for prompt in prompts], dtype=np.int64)
    references = [prompt.reference for prompt in prompts]
    return Measured(rows, sums, text_sizes(examples, rows, tokenizer), answered, answers, references, facts)


def longest_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens that are read at once: what the model takes, 1,024 at most, as in training."""
    return min(effective_max_length(tokenizer, model.config) or DEFAULT_ROW_LENGTH, DEFAULT_ROW_LENGTH)


def some_prompts(prompts: list[Prompt], settings: EvalSection) -> list[Prompt]:
    """`eval.generate_rows` of them, drawn with `eval.seed`, in the order of the rows."""
    if settings.generate_rows is None or settings.generate_rows >= len(prompts):
        return prompts
    drawn = np.random.default_rng(settings.seed).choice(len(prompts), settings.generate_rows, replace=False)
    return [prompts[number] for number in sorted(drawn)]


def row_sums(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    rows: int,
    batch_size: int,
) -> Array:
    """For each of `rows` rows the sums over its predicted tokens, (rows, 3), as `reduce_logits` gives them.

    The same to the last bit for any number of processes that compute with the same number of threads. Raises
    `NonFiniteError` where the model gives no numbers.
    """
    collate, vocabulary = RowCollator(tokenizer.pad_token_id), model.config.get_text_config().vocab_size
    batches = []
    order = sorted(examples, key=lambda example: -len(example.input_ids))
    while order:
        size = max(1, min(batch_size, MOST_LOGITS // (vocabulary * len(order[0].input_ids))))
        batches.append(order[:size])
        order = order[size:]

    @torch.inference_mode()
    def read(batch: list[Example]) -> list[tuple[int, list[float]]]:
        inputs = collate([{"input_ids": example.input_ids, "labels": example.labels} for example in batch])
        inputs = {name: values.to(model.device) for name, values in inputs.items()}
        labels = inputs.pop("labels")
        sums = reduce_logits(model(**inputs, use_cache=False).logits, labels).double().cpu().tolist()
        return [(example.row, of_row) for example, of_row in zip(batch, sums, strict=True)]

    total = np.zeros((rows, 3))
    # A row of several windows is added up in an order that does not depend on who read which.
    for row, of_row in sorted(shared_work(batches, read)):
        total[row] += of_row
    broken = int((~np.isfinite(total)).any(axis=1).sum())
    if broken:
        remedy = "load it in another precision, or train it again with a lower train.learning_rate"
        raise NonFiniteError(Problem(f"the model's answer to {broken:,} of {rows:,} rows is no number", remedy))
    return total


def answer_all(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], settings: EvalSection
) -> list[Answer]:
    """The answer to each prompt, in their order."""
    by_length = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].input_ids))
    size = settings.batch_size
    batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]

    def generate(batch: list[int]) -> list[tuple[int, Answer]]:
        ids = [prompts[number].input_ids for number in batch]
        return list(zip(batch, generate_batched(model, tokenizer, ids, settings, batch_size=size), strict=True))

    answers = dict(shared_work(batches, generate))
    return [answers[number] for number in range(len(prompts))]
