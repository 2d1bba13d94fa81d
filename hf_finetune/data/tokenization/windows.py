"""Documents -> windows that are evaluated: each document by itself, every token but the first predicted once."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerFast

from hf_finetune.data.cache import Batches, build_cached_dataset
from hf_finetune.data.tokenization.batches import iterate_batches
from hf_finetune.data.tokenization.text import IGNORE_INDEX, DocumentWork, Locate, count_rows, get_start_token_id
from hf_finetune.data.workers import count_processes, map_rows
from hf_finetune.errors import DataError, Problem
from hf_finetune.metric_info import say_count

# Of an example: its row in the split, counted from 0, and the length of the text that it predicts.
ROW_FEATURES = {"length": Value("int32"), "row": Value("int32"), "bytes": Value("int64"), "words": Value("int64")}
FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), **ROW_FEATURES})

Example = tuple[Sequence[int], Sequence[int], int, int, int, int]
"""The columns of an example. Of a row of megabytes ids and labels are arrays, a list takes eight times as much."""


@dataclass(frozen=True)
class WindowStats:
    """Counts of one split in windows; tokens include the one that a document starts after, and its EOS."""

    rows: int
    dropped: int
    """Documents without text."""
    tokens: int
    trained_tokens: int
    """Tokens that are predicted, each of them once."""
    truncated: int
    """Always 0: a long document continues in the next window."""
    windows: int
    text_bytes: int
    """UTF-8 bytes of the text."""
    unknown: int
    """Predicted tokens that stand for text which the tokenizer does not know."""

    @property
    def scored_bytes(self) -> int:
        """UTF-8 bytes of the text that is predicted: the denominator of bits per byte."""
        return self.text_bytes

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    def describe(self, size: int) -> str:
        empty = f" ({self.dropped:,} without text left out)" if self.dropped else ""
        return (
            f"{say_count(self.rows, 'document')}{empty}, {say_count(self.tokens, 'token')}, {self.trained_tokens:,} of "
            f"them predicted, each document by itself, in {say_count(self.windows, 'window')} of at most {size:,}"
        )


def cut_into_windows(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    size: int,
    locate: Locate = count_rows,
    num_proc: int | None = None,
) -> tuple[Dataset, WindowStats]:
    """Cut each document, behind its BOS (or an EOS) and with its EOS, into windows of at most `size` tokens.

    Windows overlap by one token, so that every token but the first is predicted once. Columns: `input_ids` and `labels`
    (tokens,), -100 at the first; `length`; `row`; `bytes` and `words`, those of the whole document in its first window
    and 0 in the others. `locate` is the place of a row in its file; `num_proc`: see `count_processes`. Raises
    `DataError` where no document has text, or the tokenizer gives up on one.
    """
    made_from = {
        "rows": rows._fingerprint,
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special_ids": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id],
        "size": size,
    }
    build = partial(_build_batches, rows, tokenizer, size, locate, num_proc)
    windows, counts = build_cached_dataset("windows", made_from, FEATURES, build)
    if not counts["windows"]:
        raise DataError(
            Problem(
                f"none of {say_count(len(rows), 'document')} has any text", "give at least one that has", code="HF121"
            )
        )
    return windows, WindowStats(**counts)


class _WindowWork(DocumentWork):
    """Documents -> record batches of their windows."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, size: int, locate: Locate) -> None:
        super().__init__(tokenizer, locate)
        self.size, self.begin = size, get_start_token_id(tokenizer)

    def build(self, encoded: tuple[dict[int, str], list[Sequence[int]]]) -> pa.RecordBatch:
        """Cut them into windows."""
        windows: list[Example] = []
        self.count_unknown(encoded[1])
        for (row, text), ids in zip(encoded[0].items(), encoded[1], strict=True):
            document = array("i", [self.begin])
            document.extend(ids)
            document.append(self.tokenizer.eos_token_id)
            self.counts["tokens"] += len(document)
            self.counts["trained_tokens"] += len(document) - 1
            windows += _cut(document, row, text, self.size)
        self.counts["windows"] += len(windows)
        return build_batch(windows)


def _build_batches(
    rows: Dataset, tokenizer: PreTrainedTokenizerFast, size: int, locate: Locate, num_proc: int | None
) -> Batches:
    """Yield record batches of windows, and return the counts of `WindowStats`."""
    work = _WindowWork(tokenizer, size, locate)
    yield from map_rows(work, iterate_batches(rows, ["text"]), count_processes(num_proc), len(rows))
    return {name: work.counts[name] for name in WindowStats.__dataclass_fields__} | {"rows": len(rows)}


def build_batch(examples: Sequence[Example]) -> pa.RecordBatch:
    """Put examples together: the columns of `FEATURES`."""
    # From numpy: pyarrow looks at every number of a list of Python's.
    ids, labels, *numbers = zip(*examples, strict=True) if examples else [()] * len(FEATURES)
    arrays = [_build_lists(ids), _build_lists(labels)]
    types = list(FEATURES.arrow_schema.types)[len(arrays) :]
    arrays += [pa.array(column, kind) for column, kind in zip(numbers, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=FEATURES.arrow_schema)


def _build_lists(rows: Sequence[Sequence[int]]) -> pa.ListArray:
    bounds = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return pa.ListArray.from_arrays(bounds, np.fromiter(chain.from_iterable(rows), np.int32, int(bounds[-1])))


def _cut(ids: array[int], row: int, text: str, size: int) -> Iterator[Example]:
    # ids [1, 2, 3, 4, 5, 6] of size 3: windows [1, 2, 3], [3, 4, 5], [5, 6] predict [2, 3], [4, 5], [6].
    sizes = (len(text.encode()), len(text.split()))
    for start in range(0, len(ids) - 1, size - 1):
        window = ids[start : start + size]
        in_bytes, in_words = sizes if start == 0 else (0, 0)
        yield window, array("i", [IGNORE_INDEX]) + window[1:], len(window), row, in_bytes, in_words
