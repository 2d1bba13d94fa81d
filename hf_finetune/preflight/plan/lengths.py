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
    """That were measured: the sample."""
    beyond: tuple[int, ...] = ()
    """The lengths of the sample, sorted."""
    begins: tuple[int, ...] = ()
    """The tokens before the first that is trained, in each row of the sample, sorted."""

    def describe_sample(self, count: int) -> str:
        """Of how many of `count` rows lengths are known, and by what."""
        if not self.measured:
            return "guessed from the characters"
        return "measured" if self.rows >= count else f"measured of a sample of {self.rows:,} of {count:,} rows"

    def share_beyond(self, length: int) -> float:
        """The share of rows that are longer than `length` tokens."""
        return _share_above(self.beyond, length)

    def share_untrained(self, length: int) -> float:
        """The share of rows that have nothing left to train where they are cut at `length` tokens."""
        return _share_above(self.begins, length - 1)


def _share_above(numbers: tuple[int, ...], limit: int) -> float:
    place = int(np.searchsorted(np.array(numbers, np.int64), limit, side="right"))
    return (len(numbers) - place) / max(1, len(numbers))


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
    measured = np.array(list(_iterate_lengths(sample, tokenizer, data, format, rows)), np.int64).reshape(-1, 2)
    spread = measure(measured[:, 0])
    sampled = sum(len(text) for row in sample for text in get_texts(row))
    total = round(spread.total * rows.characters.total / max(1, sampled))
    lengths, begins = (tuple(sorted(column.tolist())) for column in measured.T)
    return Tokens(spread, total, measured=True, rows=len(sample), beyond=lengths, begins=begins)


def _iterate_lengths(
    sample: Dataset, tokenizer: PreTrainedTokenizerFast, data: DataSection, format: str, rows: RowsFound
) -> Iterator[tuple[int, int]]:
    """Yield of each row its tokens, and how many of them stand before the first that is trained."""
    if "messages" in sample.column_names:
        yield from _measure_conversations(sample, tokenizer, data, format, rows)
        return
    with _quiet(tokenizer):
        for row in sample:
            texts = get_texts(row)
            scale = [max(1.0, len(text) / MOST_CHARACTERS) for text in texts]
            counts = [len(tokenizer(text[:MOST_CHARACTERS])["input_ids"]) for text in texts]
            scaled = [round(count * factor) for count, factor in zip(counts, scale, strict=True)]
            yield sum(scaled), scaled[0] if "prompt" in row else 0


def _measure_conversations(
    sample: Dataset, tokenizer: PreTrainedTokenizerFast, data: DataSection, format: str, rows: RowsFound
) -> Iterator[tuple[int, int]]:
    from hf_finetune.chat import load_chat_template
    from hf_finetune.data.tokenization.conversations import tokenize_conversations
    from hf_finetune.data.tokenization.text import IGNORE_INDEX

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
    for example in examples["train"].select_columns(["length", "labels"]).with_format("numpy"):
        # What has no trained token at all is no example.
        yield int(example["length"]), int(np.argmax(example["labels"] != IGNORE_INDEX))


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
