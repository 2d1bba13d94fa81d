"""Documents -> blocks of tokens to train on, and windows to evaluate, without losing a token."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

from hf_finetune.data.cache import Batches, build_cached_dataset
from hf_finetune.data.streaming.chunks import Chunk
from hf_finetune.data.streaming.facts import StreamFacts
from hf_finetune.data.streaming.position import Carried
from hf_finetune.data.streaming.stream import RowStream
from hf_finetune.data.tokenization.batches import iterate_batches
from hf_finetune.data.tokenization.text import IGNORE_INDEX, DocumentWork, Locate, count_rows, warn_of_unknown_tokens
from hf_finetune.data.tokenization.windows import WindowStats, cut_into_windows
from hf_finetune.data.workers import count_processes, map_rows
from hf_finetune.errors import DataError, Problem
from hf_finetune.metric_info import say_count

logger = logging.getLogger(__name__)

BYTES_PER_TOKEN = 4
"""Of text, about."""
COLUMNS = ("input_ids", "labels", "position_ids")

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PackingStats:
    """Counts of one split in blocks; tokens include BOS and EOS."""

    rows: int
    dropped: int
    """Documents without text."""
    tokens: int
    trained_tokens: int
    """Tokens that are predicted, each of them once."""
    truncated: int
    """Always 0: a long document continues in the next block."""
    blocks: int
    padding: int
    text_bytes: int
    """UTF-8 bytes of the packed text."""
    unknown: int
    """Tokens that stand for text which the tokenizer does not know."""

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    def describe(self, block_size: int) -> str:
        padding = 100 * self.padding / (self.blocks * block_size)
        empty = f" ({self.dropped:,} without text left out)" if self.dropped else ""
        return (
            f"{say_count(self.rows, 'document')}{empty}, {say_count(self.tokens, 'token')}, {self.trained_tokens:,} of "
            f"them predicted, in {say_count(self.blocks, 'block')} of {block_size:,} ({padding:.1f}% padding)"
        )


def pack_splits(
    splits: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerFast,
    block_size: int,
    *,
    isolate: bool,
    locate: Callable[[str, int], tuple[str, int | None]] | None = None,
    num_proc: int | None = None,
    stream: RowStream | None = None,
) -> tuple[dict[str, Dataset], dict[str, PackingStats | WindowStats | StreamFacts]]:
    """Group the training documents into blocks, and cut those of the other splits into windows; log counts in a line.

    See `group_into_blocks` and `cut_into_windows`: what is evaluated is not packed, so that the end of a run gives the
    figures that `score` gives. `locate`: the place of a row of a split. `num_proc`: see `count_processes`. `stream`:
    the training documents, where they are read on the way to the trainer. Raises `DataError` where no document of a
    split has text, or the tokenizer gives up on one.
    """
    tokens: dict[str, Dataset] = {}
    facts: dict[str, PackingStats | WindowStats | StreamFacts] = {}
    if stream is not None:
        tokens["train"], facts["train"] = stream.open(BlockMaker(tokenizer, block_size, isolate), block_size)
    counted: PackingStats | WindowStats
    for name, rows in splits.items():
        place = count_rows if locate is None else partial(locate, name)
        if name == "train":
            blocks = group_into_blocks(rows, tokenizer, block_size, isolate=isolate, locate=place, num_proc=num_proc)
            tokens[name], counted = blocks
        else:
            tokens[name], counted = cut_into_windows(rows, tokenizer, block_size, place, num_proc)
        facts[name] = counted
        logger.info("%s: %s", name, counted.describe(block_size))
        warn_of_unknown_tokens(name, counted.unknown, counted.trained_tokens)
    return tokens, facts


def group_into_blocks(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    block_size: int,
    *,
    isolate: bool,
    locate: Locate = count_rows,
    num_proc: int | None = None,
) -> tuple[Dataset, PackingStats]:
    """Concatenate documents, EOS after each, and cut the stream into blocks of `block_size` tokens.

    Each block begins with the last token of the one before, so that every token but the first is predicted exactly
    once; the last block may be shorter. With `isolate`, `position_ids` restart at each document, which keeps documents
    from attending to each other, and no document predicts the first token of the next.
    Columns are int32 lists (tokens,): `input_ids`, `labels` (-100 where nothing is predicted) and, with `isolate`,
    `position_ids`; and `rows` (documents,), the rows that a block has tokens of. Raises `DataError` where no document
    has text.
    """
    # The stream [a b c d e f] in blocks of 3 is [a b c] [c d e] [e f pad], with the labels [- b c] [- d e] [- f -].
    features = _name_features(isolate, "int32")
    made_from = {"rows": rows._fingerprint} | _describe(tokenizer, block_size, isolate)
    dataset, facts = build_cached_dataset(
        "blocks", made_from, features, lambda: _build_batches(rows, tokenizer, features, block_size, locate, num_proc)
    )
    if not facts["tokens"]:
        raise DataError(
            Problem(
                f"none of {say_count(len(rows), 'document')} has any text", "give at least one that has", code="HF121"
            )
        )
    return dataset, PackingStats(**facts)


def _name_features(isolate: bool, row: str) -> Features:
    """The columns of blocks, whose rows have numbers of the type `row`."""
    names = ["input_ids", "labels", *(["position_ids"] if isolate else [])]
    return Features({name: List(Value("int32")) for name in names} | {"rows": List(Value(row))})


def _describe(tokenizer: PreTrainedTokenizerFast, block_size: int, isolate: bool) -> dict[str, Any]:
    """What decides the blocks of documents, JSON-ready."""
    return {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special_ids": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "block_size": block_size,
        "isolate": isolate,
    }


class BlockMaker:
    """Makes the blocks of a stream, as `group_into_blocks` does of a data set; `streaming.examples.ExampleMaker`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, block_size: int, isolate: bool) -> None:
        self.tokenizer, self.block_size = tokenizer, block_size
        self.features = _name_features(isolate, "int64")
        self.made_from = _describe(tokenizer, block_size, isolate)
        self.bytes_per_example = BYTES_PER_TOKEN * (block_size - 1)

    def begin(self, locate: Callable[[int], tuple[str, int]]) -> BlockMaker:
        """The maker of a part: it keeps nothing of the parts before."""
        self._locate = locate
        return self

    def make(self, chunk: Chunk, carried: Carried) -> tuple[pa.RecordBatch, Carried, Counter[str]]:
        """The whole blocks of what is carried and a chunk, the tokens that are left over, and counts of the chunk."""
        pieces: list[tuple[Any, Any, Any]] = [(carried.ids, carried.starts, carried.rows)]
        work = _BlockWork(self.tokenizer, lambda row: self._locate(int(chunk.ids[row])))
        counts = work.counts
        for ids, starts, rows in map_rows(work, iterate_batches(chunk.rows, ["text"])):
            pieces.append((ids, starts, chunk.ids[rows]))
        ids, starts, numbers = (np.concatenate(each) for each in zip(*pieces, strict=True))
        # Blocks overlap by one token, as in `_build_batches`; the last one is carried as well.
        whole = max(len(ids) - 1, 0) // (self.block_size - 1)
        rest = whole * (self.block_size - 1)
        windows = (np.arange(whole) * (self.block_size - 1))[:, None] + np.arange(self.block_size)
        blocks = _build_record_batch(ids[windows], starts[windows], numbers[windows], self.features, counts)
        # Copied: a view would keep the tokens of the whole chunk.
        behind = Carried(ids[rest:].copy(), starts[rest:].copy(), numbers[rest:].copy())
        return blocks, behind, counts

    def check(self, counts: Counter[str]) -> None:
        """Every document with text gives tokens."""


@dataclass(frozen=True)
class BlockCollator:
    """Stack blocks or windows, padded at their end to the longest: int64 tensors (batch, longest).

    No mask: in a causal model no token sees what comes after it, and padding has the label -100.
    """

    bounds: bool = False
    """Whether documents are given by their bounds too: flash attention looks for restarts of `position_ids` in a batch
    of one row only, and takes a batch of several as one long row where it is given bounds (transformers 5.23)."""

    def __call__(self, blocks: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate `blocks`; with `bounds`, and of isolated documents, also `cu_seq_lens_*`: (documents + 1,) int32."""
        width = max(len(block["input_ids"]) for block in blocks)
        batch: dict[str, Any] = {name: _stack(blocks, name, width) for name in COLUMNS if name in blocks[0]}
        if not (self.bounds and "position_ids" in batch):
            return batch
        # positions [[0 1 2 0], [0 1 0 1]] -> bounds [0 3 4 6 8], of documents of at most 3 tokens
        positions = batch["position_ids"].numpy()
        ends = np.append(np.flatnonzero(positions.ravel() == 0), positions.size)
        bounds, longest = torch.from_numpy(ends.astype(np.int32)), int(np.diff(ends).max())
        return batch | {
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": longest,
            "max_length_k": longest,
        }


def _stack(blocks: list[dict[str, Any]], name: str, width: int) -> torch.Tensor:
    stacked = np.full((len(blocks), width), IGNORE_INDEX if name == "labels" else 0, np.int64)
    for row, block in zip(stacked, blocks, strict=True):
        row[: len(block[name])] = block[name]
    return torch.from_numpy(stacked)


def _build_batches(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    features: Features,
    block_size: int,
    locate: Locate,
    num_proc: int | None,
) -> Batches:
    """Yield record batches of blocks, and return the counts of `PackingStats`."""
    work = _BlockWork(tokenizer, locate)
    counts = work.counts
    # The tokens that fill no block yet, True where a document starts, and its row: (carried,)
    carried = np.empty(0, np.int32), np.empty(0, np.bool_), np.empty(0, np.int32)
    batches = iterate_batches(rows, ["text"])
    for found in map_rows(work, batches, count_processes(num_proc), len(rows)):
        ids, starts, sources = (np.concatenate(pair) for pair in zip(carried, found, strict=True))
        # Windows overlap by one token, so that the last token of each is predicted from the first of the next.
        whole = max(len(ids) - 1, 0) // (block_size - 1)
        rest = whole * (block_size - 1)
        carried = ids[rest:], starts[rest:], sources[rest:]
        if whole:
            windows = (np.arange(whole) * (block_size - 1))[:, None] + np.arange(block_size)  # (blocks, block_size)
            yield _build_record_batch(ids[windows], starts[windows], sources[windows], features, counts)
    ids, starts, sources = carried
    if len(ids) > 1 or (len(ids) and not counts["blocks"]):  # a single carried token was predicted in the block before
        counts["padding"] = block_size - len(ids)
        yield _build_record_batch(ids[None], starts[None], sources[None], features, counts)
    return {name: counts[name] for name in PackingStats.__dataclass_fields__} | {"rows": len(rows)}


Tokens = tuple[IntArray, npt.NDArray[np.bool_], IntArray]
"""The ids of some documents, [bos] text eos each, True where one starts, and its row: each (tokens,)."""


class _BlockWork(DocumentWork):
    """Documents -> their tokens, joined."""

    def build(self, encoded: tuple[dict[int, str], list[Sequence[int]]]) -> Tokens:
        """Join them."""
        texts, documents = encoded
        self.count_unknown(documents)
        bos = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        lengths = np.array([len(bos) + len(ids) + 1 for ids in documents], np.int64)
        pieces = chain.from_iterable((bos, ids, (self.tokenizer.eos_token_id,)) for ids in documents)
        ids = np.fromiter(chain.from_iterable(pieces), np.int32, int(lengths.sum()))
        starts = np.zeros(len(ids), np.bool_)
        starts[np.cumsum(lengths) - lengths] = True
        self.counts["tokens"] += len(ids)
        return ids, starts, np.repeat(np.array([*texts], np.int32), lengths)


def _build_record_batch(
    ids: IntArray, starts: npt.NDArray[np.bool_], sources: IntArray, features: Features, counts: Counter[str]
) -> pa.RecordBatch:
    """Build the columns of blocks; `ids`, `starts` and `sources`: (blocks, tokens)."""
    labels = ids.copy()
    labels[:, 0] = IGNORE_INDEX  # the block before predicted it
    columns = {"input_ids": ids, "labels": labels}
    if "position_ids" in features:
        labels[starts] = IGNORE_INDEX  # the EOS of one document does not predict the first token of the next
        columns["position_ids"] = _compute_positions(starts)
    counts["blocks"] += len(ids)
    counts["trained_tokens"] += int((labels != IGNORE_INDEX).sum())
    bounds = np.arange(len(ids) + 1, dtype=np.int32) * ids.shape[1]
    arrays = [pa.ListArray.from_arrays(bounds, values.astype(np.int32).ravel()) for values in columns.values()]
    arrays.append(_list_runs(sources))
    return pa.RecordBatch.from_arrays(arrays, schema=features.arrow_schema)


def _list_runs(numbers: IntArray) -> pa.ListArray:
    """List the runs of equal numbers of each row: [[3 3 4], [4 5 5]] -> [[3 4], [4 5]]."""
    first = np.ones(numbers.shape, np.bool_)
    first[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    bounds = np.append(0, np.cumsum(first.sum(axis=1))).astype(np.int32)
    return pa.ListArray.from_arrays(bounds, numbers[first])


def _compute_positions(starts: npt.NDArray[np.bool_]) -> IntArray:
    """Count the tokens of each document from 0 within its block; `starts` and result: (blocks, block_size)."""
    # starts [1 0 0 1 0] -> positions [0 1 2 0 1]: the index minus that of the latest start.
    index = np.arange(starts.shape[1], dtype=np.int32)
    return index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
