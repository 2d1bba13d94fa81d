"""Labelled texts -> token ids and encoded labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.given_up import name_rows
from hf_finetune.config.sections import DataSection
from hf_finetune.data.cache import Batches, build_cached_dataset
from hf_finetune.data.labels.balance import compute_class_weights, select_balanced_rows
from hf_finetune.data.splitting.splits import Splits
from hf_finetune.data.tokenization.batches import iterate_batches
from hf_finetune.data.tokenization.text import EncodedTexts, Locate, encode_texts, separate_pairs
from hf_finetune.data.workers import count_processes, map_rows
from hf_finetune.label_set import Labels
from hf_finetune.metric_info import choose_verb, say_count

logger = logging.getLogger(__name__)

LONGEST_TRAIN = "longest_train"

Batch = tuple[int, dict[str, list[Any]]]
"""The number of the first row, and the columns."""


@dataclass(frozen=True, slots=True)
class LabelledStats:
    """Counts of one tokenized split; tokens include the special ones around a text."""

    rows: int
    dropped: int
    """Always 0: no row is dropped."""
    tokens: int
    trained_tokens: int
    """Equal to `tokens`: a label is learned from all of them."""
    truncated: int
    """Rows that were cut: longer than `data.max_length` or than the model takes."""
    longest: int
    labels: dict[str, int]
    """Rows of each label; empty for regression."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        return f"{say_count(self.rows, 'row')}, {say_count(self.tokens, 'token')}, the longest row {self.longest:,}"


def tokenize_labelled(
    splits: Splits, tokenizer: PreTrainedTokenizerFast, labels: Labels, data: DataSection, limit: int | None
) -> tuple[dict[str, Dataset], dict[str, LabelledStats]]:
    """Tokenize each split, rows in their order, and log its counts in one line.

    Columns: `input_ids` and, where the tokenizer makes them, `token_type_ids` (tokens,); `labels`, a class number, a
    target or 0.0 and 1.0 (labels,); `length`; `row`, its number in the split. Rows are cut at `limit` tokens, with
    `data.max_length: longest_train` at the longest training row; `tokenizer.model_max_length` is set to that, so that
    later texts are cut there too. Raises `DataError` for a label that is none of `labels`, and for a row that the
    tokenizer gives up on.
    """
    if any(has_pairs(rows) for rows in splits.rows.values()):
        separate_pairs(tokenizer)
    tokenized, facts = {}, {}
    # Train first: with `longest_train`, its longest row is the limit of the other splits.
    for name in sorted(splits.rows, key=lambda split: split != "train"):
        tokenized[name], facts[name] = _tokenize(splits, name, tokenizer, labels, data, limit)
        logger.info("%s: %s", name, facts[name].describe())
        if facts[name].truncated:
            cut = say_count(facts[name].truncated, "row"), limit, choose_verb(facts[name].truncated, "was", "were")
            logger.warning("%s: %s longer than %d tokens %s cut", name, *cut, extra={"code": "HF101"})
        if data.max_length == LONGEST_TRAIN:
            limit = facts["train"].longest
    if limit is not None:
        tokenizer.model_max_length = limit
    return tokenized, facts


def balance_classes(
    rows: dict[str, Dataset], facts: dict[str, LabelledStats], labels: Labels, balance: Any, seed: int
) -> tuple[dict[str, Dataset], dict[str, LabelledStats], npt.NDArray[np.float32] | None]:
    """Select the training rows, and compute the class weights, that `data.balance` asks for; other splits stay.

    Returns rows, counts, and the weights float32 (labels,) or None. Raises `ConfigError` where multi-label rows are to
    be sampled.
    """
    train = rows["train"]
    encoded = train.with_format("numpy")["labels"][:]
    chosen = select_balanced_rows(labels, encoded, balance, seed)
    weights = compute_class_weights(labels, encoded, balance)
    if np.array_equal(chosen, np.arange(len(train))):
        return rows, facts, weights
    train = train.select(chosen)
    columns = train.with_format("numpy")
    lengths = columns["length"][:]
    tokens = int(lengths.sum())
    balanced = replace(
        facts["train"],
        rows=len(train),
        tokens=tokens,
        trained_tokens=tokens,
        longest=int(lengths.max()),
        labels=_count_labels(labels, columns["labels"][:]),
    )
    return rows | {"train": train}, facts | {"train": balanced}, weights


def get_padded_width(data: DataSection, facts: Mapping[str, LabelledStats]) -> int | None:
    """Return the width to pad every batch to, with `data.max_length: longest_train`; else None, for its longest row."""
    return facts["train"].longest if data.max_length == LONGEST_TRAIN else None


def has_pairs(rows: Dataset) -> bool:
    """Whether any of the rows has a second text."""
    column = rows.data.column("text_pair")
    return bool(column.null_count < len(column))


def _tokenize(
    splits: Splits,
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    labels: Labels,
    data: DataSection,
    limit: int | None,
) -> tuple[Dataset, LabelledStats]:
    rows = splits.rows[name]
    typed = "token_type_ids" in tokenizer.model_input_names
    made_from = {
        "rows": rows._fingerprint,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special": [tokenizer.special_tokens_map, typed],
        "labels": [labels.kind, list(labels.names)],
        "limit": limit,
    }
    ids = List(Value("int32"))
    label = {"single": Value("int64"), "number": Value("float32"), "multi": List(Value("float32"))}[labels.kind]
    features = Features(
        {"input_ids": ids, **({"token_type_ids": ids} if typed else {}), "labels": label}
        | {"length": Value("int32"), "row": Value("int32")}
    )
    work = _LabelledWork(tokenizer, labels, limit, features, partial(splits.locate, name))
    build = partial(_build_batches, rows, work, data.num_proc)
    tokenized, counted = build_cached_dataset("labelled", made_from, features, build)
    return tokenized, LabelledStats(**counted)


class _LabelledWork:
    """Labelled rows -> record batches of their tokens and labels, counted; `workers.RowWork`."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, labels: Labels, limit: int | None, features: Features, locate: Locate
    ) -> None:
        self.tokenizer, self.labels, self.limit = tokenizer, labels, limit
        self.features, self.locate = features, locate
        self.tokens = self.truncated = self.longest = 0

    def read(self, first: int, table: pa.Table) -> Batch:
        """The columns of rows."""
        return first, table.to_pydict()

    def encode(self, some: Batch) -> tuple[Batch, EncodedTexts]:
        """Tokenize rows."""
        first, columns = some
        with name_rows(lambda number: self.locate(first + number)):
            return some, encode_texts(self.tokenizer, columns["text"], columns["text_pair"], self.limit)

    def build(self, both: tuple[Batch, EncodedTexts]) -> pa.RecordBatch:
        """Put tokens and labels together."""
        (first, given), encoded = both
        lengths = [len(ids) for ids in encoded.input_ids]
        self.merge((sum(lengths), encoded.truncated, max(lengths)))
        columns = {"input_ids": encoded.input_ids, "labels": self.labels.encode(given["label"]).tolist()}
        columns |= {"length": lengths, "row": list(range(first, first + len(lengths)))}
        if encoded.token_type_ids is not None:
            columns["token_type_ids"] = encoded.token_type_ids
        return pa.RecordBatch.from_pydict(columns, schema=self.features.arrow_schema)

    def collect(self) -> tuple[int, int, int]:
        """Tokens, rows that were cut, and the tokens of the longest."""
        return self.tokens, self.truncated, self.longest

    def merge(self, collected: tuple[int, int, int]) -> None:
        """Add these counts of other rows."""
        tokens, truncated, longest = collected
        self.tokens, self.truncated = self.tokens + tokens, self.truncated + truncated
        self.longest = max(self.longest, longest)


def _build_batches(rows: Dataset, work: _LabelledWork, num_proc: int | None) -> Batches:
    """Yield record batches of tokenized rows, and return the counts of `LabelledStats`."""
    batches = iterate_batches(rows, ["text", "text_pair", "label"])
    yield from map_rows(work, batches, count_processes(num_proc), len(rows))
    counts = _count_labels(work.labels, work.labels.encode(rows["label"]))
    return LabelledStats(len(rows), 0, work.tokens, work.tokens, work.truncated, work.longest, counts).as_dict()


def _count_labels(labels: Labels, encoded: npt.NDArray[Any]) -> dict[str, int]:
    """Count the rows of each label; `encoded`: (rows,), or (rows, labels) for multi-label rows."""
    if labels.kind == "number":
        return {}
    counts = encoded.sum(axis=0) if labels.kind == "multi" else np.bincount(encoded, minlength=len(labels.names))
    return {name: int(count) for name, count in zip(labels.names, counts, strict=True)}
