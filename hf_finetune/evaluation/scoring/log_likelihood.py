"""A saved language model and rows -> the log-likelihood of every row and its answers, and their metrics."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import EvalSection
from hf_finetune.data.splitting.one_split import SPLIT
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.tokenization.collators import RowCollator
from hf_finetune.evaluation.generation.batch import generate_batch
from hf_finetune.evaluation.language_modeling.answers import Answer, compute_answer_metrics, make_answer_statistic
from hf_finetune.evaluation.language_modeling.by_row import TextSizes
from hf_finetune.evaluation.language_modeling.metrics import compute_language_metrics, make_language_statistic
from hf_finetune.evaluation.language_modeling.trainer_metrics import reduce_logits
from hf_finetune.evaluation.metrics.answer_functions import normalize_answer
from hf_finetune.evaluation.scoring.distributed import distribute_work
from hf_finetune.evaluation.scoring.precision import Precision
from hf_finetune.evaluation.scoring.result import check_finite
from hf_finetune.evaluation.scoring.rows import (
    Example,
    Prompt,
    build_prompts,
    read_examples,
)
from hf_finetune.evaluation.scoring.run_settings import TokenSettings
from hf_finetune.evaluation.statistics.bootstrap import Array, Groups, Statistic, number_groups
from hf_finetune.evaluation.statistics.intervals import compute_intervals

logger = logging.getLogger(__name__)

# Logits of one batch: 1 GiB in float32.
MAX_LOGITS = 2**28


@dataclass(frozen=True)
class LanguageModelScores:
    """Log-likelihood sums of the rows of a split, and the answers to those with a prompt."""

    rows: int
    sums: Array
    """(rows, 3): negative log-likelihood in nats, correct predictions, predicted tokens."""
    texts: TextSizes
    answered: npt.NDArray[np.int64]
    """Indices of the rows that were answered, ascending: (answers,)."""
    answers: list[Answer]
    references: list[str]
    facts: dict[str, Any]
    groups: Groups | None = None
    """The group of each row by `data.group_by`, (rows,); None where rows are on their own."""

    def compute_metrics(self) -> dict[str, float]:
        """Compute the metrics by name, through the metric modules."""
        found = compute_language_metrics(self.sums, self.texts.row_bytes, self.texts.row_words)
        return found | (compute_answer_metrics(self.answers, self.references) if self.answers else {})

    def compute_intervals(self) -> dict[str, dict[str, Any]]:
        """Compute `intervals` and `no_interval`, those of the answers over the rows that were answered."""
        of_tokens = make_language_statistic(self.sums, self.texts.row_bytes, self.texts.row_words)
        found = compute_intervals(of_tokens, self.rows, groups=self.groups)
        if not self.answers:
            return found
        groups = None if self.groups is None else number_groups(self.groups[self.answered])
        statistic = make_answer_statistic(self.answers, self.references)
        of_answers = compute_intervals(statistic, len(self.answers), groups=groups)
        return {part: found.get(part, {}) | of_answers.get(part, {}) for part in {*found, *of_answers}}

    def make_statistic(self) -> Statistic:
        """Make the same metrics a function of row weights, (rows, resamples); an answer has the weight of its row."""
        of_tokens = make_language_statistic(self.sums, self.texts.row_bytes, self.texts.row_words)
        if not self.answers:
            return of_tokens
        of_answers, answered = make_answer_statistic(self.answers, self.references), self.answered
        return lambda weights: {**of_tokens(weights), **of_answers(weights[answered])}

    def select_rows(self, rows: npt.NDArray[np.int64]) -> LanguageModelScores:
        """Return the sums of the rows with the indices `rows`, (selected,), without any answers."""
        texts = TextSizes(self.texts.row_bytes[rows], self.texts.row_words[rows])
        groups = None if self.groups is None else number_groups(self.groups[rows])
        return LanguageModelScores(len(rows), self.sums[rows], texts, self.answered[:0], [], [], self.facts, groups)


def concatenate_scores(one: LanguageModelScores, other: LanguageModelScores) -> LanguageModelScores:
    """Concatenate two models' results on the same rows into those of twice as many rows, first those of `one`."""
    return LanguageModelScores(
        rows=one.rows + other.rows,
        sums=np.concatenate([one.sums, other.sums]),
        texts=TextSizes(
            np.concatenate([one.texts.row_bytes, other.texts.row_bytes]),
            np.concatenate([one.texts.row_words, other.texts.row_words]),
        ),
        # Row i of `other` is row `one.rows` + i of both.
        answered=np.concatenate([one.answered, other.answered + one.rows]),
        answers=[*one.answers, *other.answers],
        references=[*one.references, *other.references],
        facts=one.facts,
    )


def evaluate_language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    splits: Splits,
    tokens: TokenSettings,
    settings: EvalSection,
) -> LanguageModelScores:
    """Compute the log-likelihood of every row and answer those with a prompt; every process calls it and gets all.

    Raises `NonFiniteError` for NaN or infinite logits, `DataError` as `read_examples` and `build_prompts` do, and
    `ModelError` as `generate_batch` does.
    """
    read = read_examples(splits, tokenizer, tokens, tokens.limit_length(model, tokenizer))
    # Before the rows are read, which may take an hour: what is refused is refused at once.
    prompts = sample_prompts(build_prompts(splits, tokenizer, tokens.trained), settings)
    rows = len(splits.rows[SPLIT])
    logger.info("reading %s rows", f"{rows:,}")
    with tokens.precision.of_model(model):
        sums = compute_row_sums(model, tokenizer, read.examples, rows, settings.batch_size, tokens.precision)
    if prompts:
        logger.info("answering %s questions", f"{len(prompts):,}")
    answers = generate_answers(model, tokenizer, prompts, settings)
    answered = np.array([prompt.row for prompt in prompts], dtype=np.int64)
    references = [prompt.reference for prompt in prompts]
    groups = splits.groups.get(SPLIT)
    return LanguageModelScores(rows, sums, read.sizes, answered, answers, references, read.facts, groups)


def sample_prompts(prompts: list[Prompt], settings: EvalSection) -> list[Prompt]:
    """Sample `eval.generate_rows` of the prompts with `eval.seed`; they stay in the order of the rows."""
    if settings.generate_rows is None or settings.generate_rows >= len(prompts):
        return prompts
    drawn = np.random.default_rng(settings.seed).choice(len(prompts), settings.generate_rows, replace=False)
    return [prompts[number] for number in sorted(drawn)]


def count_longer_references(references: Sequence[str], tokenizer: PreTrainedTokenizerFast, most: int) -> int:
    """Count the references that have more than `most` tokens, as they stand and as exact match compares them."""
    # "It's 9:30!" matches "its 930", which may be fewer tokens.
    bare = [" ".join(normalize_answer(reference)) for reference in references]
    lengths = [
        [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        for texts in (list(references), bare)
    ]
    return sum(min(pair) > most for pair in zip(*lengths, strict=True))


def compute_row_sums(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    rows: int,
    batch_size: int,
    precision: Precision,
) -> Array:
    """Sum the predicted tokens of each row: (rows, 3), float64, the columns of `reduce_logits`.

    Bit-identical for any number of processes with the same number of threads. Raises `NonFiniteError` for NaN or
    infinite logits.
    """
    collate, vocabulary = RowCollator(tokenizer.pad_token_id), model.config.get_text_config().vocab_size
    # Longest first, so that memory runs out at once or not at all; the longest of a batch decides how many rows fit.
    batches = []
    order = sorted(examples, key=lambda example: -len(example.input_ids))
    while order:
        size = max(1, min(batch_size, MAX_LOGITS // (vocabulary * len(order[0].input_ids))))
        batches.append(order[:size])
        order = order[size:]

    @torch.inference_mode()
    def read(batch: list[Example]) -> list[tuple[int, list[float]]]:
        inputs = collate([{"input_ids": example.input_ids, "labels": example.labels} for example in batch])
        inputs = {name: values.to(model.device) for name, values in inputs.items()}
        labels = inputs.pop("labels")
        with precision.of_forward(model):
            logits = model(**inputs, use_cache=False).logits
        sums = reduce_logits(logits, labels).cpu().double().tolist()
        return [(example.row, of_row) for example, of_row in zip(batch, sums, strict=True)]

    total = np.zeros((rows, 3))
    # Sorted, since addition is not associative: the windows of a long row add up the same whoever computed them.
    for row, of_row in sorted(distribute_work(batches, read, "rows read")):
        total[row] += of_row
    check_finite(total)
    return total


def generate_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], settings: EvalSection
) -> list[Answer]:
    """Generate the answer to each prompt, in their order; raises as `generate_batch` does."""
    by_length = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].input_ids))
    size = settings.batch_size
    batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]

    def generate(batch: list[int]) -> list[tuple[int, Answer]]:
        ids, rows = [prompts[number].input_ids for number in batch], [prompts[number].row for number in batch]
        answers = generate_batch(model, tokenizer, ids, settings, batch_size=size, numbers=rows)
        return list(zip(batch, answers, strict=True))

    answers = dict(distribute_work(batches, generate, "questions answered"))
    return [answers[number] for number in range(len(prompts))]
