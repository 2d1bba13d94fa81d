"""Documents -> blocks of tokens for causal language modelling, without losing a token."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

from hf_finetune.data.cache import Batches, Facts, cached_dataset
from hf_finetune.data.tokenization import encode_documents
from hf_finetune.errors import DataError, Problem

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100
DOCUMENTS_PER_BATCH = 1_000

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PackingFacts:
    """What became of the documents of one split; tokens include the begin and end tokens."""

    rows: int
    dropped: int
    """Documents without text."""
    tokens: int
    trained_tokens: int
    """Tokens that are predicted, each exactly once."""
    truncated: int
    """Always 0: a long document goes on in the next block."""
    blocks: int
    padding: int
    text_bytes: int
    """UTF-8 bytes of the packed text: the denominator of bits per byte."""

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    def in_words(self, block_size: int) -> str:
        padding = 100 * self.padding / (self.blocks * block_size)
        empty = f" ({self.dropped:,} without text left out)" if self.dropped else ""
        return (
            f"{self.rows:,} documents{empty}, {self.tokens:,} tokens, {self.trained_tokens:,} of them predicted, "
            f"in {self.blocks:,} blocks of {block_size:,} ({padding:.1f}% padding)"
        )


def pack_splits(
    splits: Mapping[str, Dataset], tokenizer: PreTrainedTokenizerFast, block_size: int, *, isolate: bool
) -> tuple[dict[str, Dataset], dict[str, PackingFacts]]:
    """Pack each split as `pack_documents` does, and say in one line what became of it."""
    blocks, facts = {}, {}
    for name, rows in splits.items():
        blocks[name], facts[name] = pack_documents(rows, tokenizer, block_size, isolate=isolate)
        logger.info("%s: %s", name, facts[name].in_words(block_size))
    return blocks, facts


def pack_documents(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, block_size: int, *, isolate: bool
) -> tuple[Dataset, PackingFacts]:
    """Join documents by end tokens and cut the stream into blocks of `block_size` tokens.

    Each block begins with the last token of the one before, so that every token but the first is predicted exactly
    once; the last block is padded. Under `isolate`, `position_ids` restart at each document, which keeps documents
    from attending to each other, and no document predicts the first token of the next.
    Columns are lists of `block_size` integers: `input_ids`, `labels` (-100 where nothing is predicted) and, under
    `isolate`, `position_ids`. Raises `DataError` where no document has text.
    """
    names = ["input_ids", "labels", *(["position_ids"] if isolate else [])]
    features = Features({name: List(Value("int32"), length=block_size) for name in names})
    made_from = {
        "rows": rows._fingerprint,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special_ids": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "block_size": block_size,
        "isolate": isolate,
    }
    dataset, facts = cached_dataset(
        "blocks", made_from, features, lambda: _pack(rows, tokenizer, features, block_size, isolate)
    )
    if not facts["tokens"]:
        raise DataError(Problem(f"none of the {len(rows):,} documents has any text", "give at least one that has"))
    return dataset, PackingFacts(**facts)


def collate_blocks(blocks: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack blocks of equal length; each value becomes (batch, block) int64."""
    return {name: torch.from_numpy(np.array([block[name] for block in blocks], dtype=np.int64)) for name in blocks[0]}


def _pack(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, features: Features, block_size: int, isolate: bool
) -> Batches:
    counts: Facts = {"rows": len(rows), "dropped": 0, "tokens": 0, "trained_tokens": 0, "truncated": 0}
    counts |= {"blocks": 0, "padding": 0, "text_bytes": 0}
    carried = np.empty(0, np.int32), np.empty(0, np.bool_)
    for ids, starts in _token_stream(rows, tokenizer, counts):
        counts["tokens"] += len(ids)
        ids, starts = np.concatenate([carried[0], ids]), np.concatenate([carried[1], starts])
        # Windows overlap by one token, so that the last token of each is predicted from the first of the next.
        whole = max(len(ids) - 1, 0) // (block_size - 1)
        carried = ids[whole * (block_size - 1) :], starts[whole * (block_size - 1) :]
        if whole:
            windows = (np.arange(whole) * (block_size - 1))[:, None] + np.arange(block_size)
            yield _record_batch(ids[windows], starts[windows], features, counts)
    ids, starts = carried
    if len(ids) > 1 or (len(ids) and not counts["blocks"]):  # a lone token was predicted already
        counts["padding"] = block_size - len(ids)
        ids = np.pad(ids, (0, counts["padding"]), constant_values=tokenizer.pad_token_id)
        starts = np.pad(starts, (0, counts["padding"]))
        yield _record_batch(ids[None], starts[None], features, counts, real=block_size - counts["padding"])
    return counts


def _token_stream(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, counts: Facts
) -> Iterator[tuple[IntArray, npt.NDArray[np.bool_]]]:
    """Yield the tokens of some documents, [bos] text eos each, and where documents start."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for batch in rows.select_columns(["text"]).iter(DOCUMENTS_PER_BATCH):
        texts = [text for text in batch["text"] if text.strip()]
        counts["dropped"] += len(batch["text"]) - len(texts)
        counts["text_bytes"] += sum(len(text.encode()) for text in texts)
        documents = [[*bos, *ids, tokenizer.eos_token_id] for ids in encode_documents(tokenizer, texts)]
        lengths = np.array([len(document) for document in documents], np.int64)
        ids = np.fromiter((token for document in documents for token in document), np.int32, int(lengths.sum()))
        starts = np.zeros(len(ids), np.bool_)
        starts[np.cumsum(lengths) - lengths] = True
        yield ids, starts


def _record_batch(
    ids: IntArray, starts: npt.NDArray[np.bool_], features: Features, counts: Facts, real: int | None = None
) -> pa.RecordBatch:
    """Make the columns of `(blocks, block_size)` ids; positions from `real` on are padding."""
    labels = ids.copy()
    labels[:, 0] = IGNORE_INDEX  # the block before predicted it
    labels[:, real if real is not None else ids.shape[1] :] = IGNORE_INDEX
    columns = {"input_ids": ids, "labels": labels}
    if "position_ids" in features:
        labels[starts] = IGNORE_INDEX
        columns["position_ids"] = _positions(starts)
    counts["blocks"] += len(ids)
    counts["trained_tokens"] += int((labels != IGNORE_INDEX).sum())
    arrays = [
        pa.FixedSizeListArray.from_arrays(columns[name].astype(np.int32).ravel(), ids.shape[1]) for name in features
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=features.arrow_schema)


def _positions(starts: npt.NDArray[np.bool_]) -> IntArray:
    """Distance of each token from the start of its document within its block: (blocks, block_size)."""
    index = np.arange(starts.shape[1], dtype=np.int32)
    return index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
