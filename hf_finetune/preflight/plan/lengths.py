"""How long rows are in tokens: a sample, as a run would tokenize it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from hf_finetune.config.sections import DataSection
from hf_finetune.data.early_check import hide_messages
from hf_finetune.data.splitting.leakage import RowLocations
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.preflight.plan.rows import RowsFound, Spread, get_texts, measure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_CHARACTERS = 100_000
"""Of one row: what is behind them is taken to be as dense."""
NO_LIMIT = 2**24
CHARACTERS_PER_TOKEN = 3
"""Of a tokenizer that is yet to be trained or fetched: fewer than the four of English under a large vocabulary."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Lengths in tokens."""

    spread: Spread
    total: int
    """Of all training rows."""
    measured: bool
    """By the tokenizer of the model, not by the characters."""
    rows: int
    """That were measured."""
    beyond: tuple[int, ...] = ()
    """The lengths of the sample, sorted."""

    def share_beyond(self, length: int) -> float:
        """The share of rows that are longer than `length` tokens."""
        if not self.beyond:
            return 0.0
        place = int(np.searchsorted(np.array(self.beyond), length, side="right"))
        return (len(self.beyond) - place) / len(self.beyond)


def guess_tokens(rows: RowsFound) -> Tokens:
    """Guess lengths from the characters, where no tokenizer is at hand."""
    spread = rows.characters
    guessed = Spread(*(-(-each // CHARACTERS_PER_TOKEN) for each in (
        spread.median, spread.p95, spread.p99, spread.longest, spread.total)))  # fmt: skip
    return Tokens(guessed, guessed.total, measured=False, rows=0)


def measure_tokens(rows: RowsFound, tokenizer: PreTrainedTokenizerFast, data: DataSection, format: str) -> Tokens:
    """Measure a sample: conversations under their chat template. Raises DataError as a run would."""
    sample = rows.sample
    assert sample is not None
    lengths = np.array(list(_iterate_lengths(sample, tokenizer, data, format, rows)), np.int64)
    spread = measure(lengths)
    sampled = sum(len(text) for row in sample for text in get_texts(row))
    total = round(spread.total * rows.characters.total / max(1, sampled))
    return Tokens(spread, total, measured=True, rows=len(lengths), beyond=tuple(sorted(lengths.tolist())))


def _iterate_lengths(
    sample: Dataset, tokenizer: PreTrainedTokenizerFast, data: DataSection, format: str, rows: RowsFound
) -> Iterator[int]:
    if "messages" in sample.column_names:
        yield from _measure_conversations(sample, tokenizer, data, format, rows)
        return
    with _quiet(tokenizer):
        for row in sample:
            texts = get_texts(row)
            scale = [max(1.0, len(text) / MOST_CHARACTERS) for text in texts]
            counts = [len(tokenizer(text[:MOST_CHARACTERS])["input_ids"]) for text in texts]
            yield round(sum(count * factor for count, factor in zip(counts, scale, strict=True)))


def _measure_conversations(
    sample: Dataset, tokenizer: PreTrainedTokenizerFast, data: DataSection, format: str, rows: RowsFound
) -> Iterator[int]:
    from hf_finetune.chat import load_chat_template
    from hf_finetune.data.tokenization.conversations import tokenize_conversations

    assert rows.sampled is not None
    count = len(sample)
    files = tuple(str(each) for each in data.train) if isinstance(data.train, list) else (str(data.train),)
    # Near enough for a message: the line of a row of the first file, where none above it is blank or rejected.
    places = RowLocations(files[:1], np.zeros(count, np.int32), rows.sampled.astype(np.int32) + 1)
    own = sample.select_columns([name for name in sample.column_names if not name.startswith("_")])
    splits = Splits({"train": own}, format, (), (), {}, {"train": places}, {})
    # What is left out of a sample is no reason to refuse it: whether it is too much of all, the run itself will say.
    asked = data.model_copy(update={"max_dropped": 1.0})
    with hide_messages():
        template = load_chat_template(asked, tokenizer)
        examples, _ = tokenize_conversations(splits, tokenizer, template, asked, NO_LIMIT)
    yield from (int(length) for length in examples["train"].with_format("numpy")["length"][:])


@contextmanager
def _quiet(tokenizer: PreTrainedTokenizerFast) -> Iterator[None]:
    """Keep back the warning for a text that is longer than a model takes, which is what is measured."""
    # transformers notes here which warnings it has given, so as to give each once.
    before, tokenizer.deprecation_warnings = (
        tokenizer.deprecation_warnings,
        {"sequence-length-is-longer-than-the-specified-maximum": True},
    )
    try:
        yield
    finally:
        tokenizer.deprecation_warnings = before
