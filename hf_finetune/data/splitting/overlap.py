"""Contamination: evaluation rows that duplicate a training row or share a 13-gram of words with one.

Text is compared in lower case, white space aside. A duplicate has the same messages by the same speakers, or the same
text and pair, whatever its label. N-grams are of 13 words, as in https://arxiv.org/abs/2005.14165 (appendix C); those
of system messages do not count, since many rows have the same. Words are hashed to 64 bits, and n-grams as polynomials
over these hashes, modulo 2**64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.data.reading.row_checks.conversations import SYSTEM_ROLES
from hf_finetune.data.splitting.assignment import Hashes, Rows, sort_distinct
from hf_finetune.data.splitting.batches import iterate_batches

NGRAM_SIZE = 13

# Odd: the powers of an even number become 0 modulo 2**64.
_WORD_BASE, _TURN_BASE, _EXTRA_FACTOR, _NGRAM_BASE = (np.uint64(0x9E3779B97F4A7C15 + 2 * step) for step in (0, 1, 2, 3))

# The table of flags is made in 2**7 parts.
_FLAG_BITS = 7

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Overlap:
    """The overlap of one split with the training rows."""

    copy_of: Rows
    """The number of the first training row that each row duplicates, or -1: int64 (rows,)."""
    shares_ngram: Flags
    """Whether each row shares a 13-gram with a training row: bool (rows,)."""


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Hashes of consecutive rows, (rows,), and of their n-grams with the row of each, (n-grams,)."""

    rows: Hashes
    runs: Hashes
    run_rows: Rows


def find_overlap(
    train: tuple[Dataset, Rows],
    others: Mapping[str, tuple[Dataset, Rows]],
    key: bytes = b"",
    collect: Callable[[int, Fingerprints], None] | None = None,
) -> dict[str, Overlap]:
    """Compare the rows of each split in `others` with the training rows.

    A split is a table and its row numbers there (rows,), ascending and distinct; the tables hold conversations, prompts
    with completions, or labelled texts, in the intermediate form. `collect` is given the prints of the training rows as
    `iterate_fingerprints` yields them. Memory grows with `others`, not with the training rows.
    """
    indexes = {name: _Index(*split, key) for name, split in others.items()}
    for start, prints in iterate_fingerprints(*train, key):
        if collect is not None:
            collect(start, prints)
        for index in indexes.values():
            index.compare(start, prints)
    return {name: index.build_overlap() for name, index in indexes.items()}


class _Index:
    """The rows and n-grams of one split, sorted: training rows are looked up in it. 12 bytes for each n-gram."""

    def __init__(self, table: Dataset, numbers: Rows, key: bytes) -> None:
        self.split, self.key = (table, numbers), key
        rows, runs = np.empty(len(numbers), np.uint64), [np.empty(0, np.uint64)]
        for start, prints in iterate_fingerprints(table, numbers, key):
            rows[start : start + len(prints.rows)] = prints.rows
            runs.append(sort_distinct(prints.runs))
        self.order = np.argsort(rows, kind="stable")
        self.rows = rows[self.order]
        self.first_copy = np.full(len(rows), -1, dtype=np.int64)  # by position in `order`
        self.runs = sort_distinct(np.concatenate(runs))
        self.run_seen = np.zeros(len(self.runs), dtype=bool)
        self.shift = np.uint64(64 - max(int(16 * len(self.runs)).bit_length(), _FLAG_BITS + 3))
        self.flags = _set_flags(self.runs, self.shift)

    def compare(self, start: int, prints: Fingerprints) -> None:
        """Mark the rows and n-grams that consecutive training rows, from number `start` on, have too."""
        # Equal rows stand together in `rows`: a training row with left < right duplicates those between the two.
        left = np.searchsorted(self.rows, prints.rows, "left")
        right = np.searchsorted(self.rows, prints.rows, "right")
        for number in np.flatnonzero(left < right):
            # A view: writing to it fills `first_copy`. Rows that an earlier training row claimed stay with that one.
            place = self.first_copy[left[number] : right[number]]
            place[place < 0] = start + number
        flag = prints.runs >> self.shift
        runs = prints.runs[(self.flags[flag >> np.uint64(3)] >> (flag & np.uint64(7)).astype(np.uint8)) & 1 == 1]
        runs.sort()  # neighbors are found near each other: eight times as fast in six million
        at = np.minimum(np.searchsorted(self.runs, runs), len(self.runs) - 1)
        self.run_seen[at[self.runs[at] == runs]] = True

    def build_overlap(self) -> Overlap:
        """Return what was marked, in the order of the split's rows, whose n-grams are computed once more for it."""
        copy_of, shares = np.empty_like(self.first_copy), np.zeros(len(self.rows), dtype=bool)
        copy_of[self.order] = self.first_copy
        seen = self.runs[self.run_seen]
        for start, prints in iterate_fingerprints(*self.split, self.key) if len(seen) else ():
            at = np.minimum(np.searchsorted(seen, prints.runs), len(seen) - 1)
            shares[start + prints.run_rows[seen[at] == prints.runs]] = True
        return Overlap(copy_of, shares)


def _set_flags(runs: Hashes, shift: np.uint64) -> npt.NDArray[np.uint8]:
    """Set the bits of the high bits of `runs`, (n-grams,) and sorted, in a table of `uint8`.

    Nearly all n-grams that are looked up are absent: this (a Bloom filter with one hash, at least 16 bits for each
    n-gram) rules most of them out before the binary search.
    """
    bits = runs >> shift
    size = 2 ** (64 - int(shift))
    part = size // 2**_FLAG_BITS  # so many flags at once: as whole bytes they take eight times the memory
    ends = np.searchsorted(bits, np.arange(0, size + 1, part, dtype=np.uint64))
    flags = np.empty(size // 8, np.uint8)
    for number, (start, stop) in enumerate(pairwise(ends)):
        some = np.zeros(part, np.bool_)
        some[bits[start:stop] - np.uint64(number * part)] = True
        flags[number * part // 8 : (number + 1) * part // 8] = np.packbits(some, bitorder="little")
    return flags


def iterate_fingerprints(table: Dataset, numbers: Rows, key: bytes = b"") -> Iterator[tuple[int, Fingerprints]]:
    """Yield the hashes of a split's rows, some thousand at a time, with the place of the first of them in `numbers`.

    `numbers`, (rows,), are ascending and distinct. A table is of conversations, prompts with completions, labelled
    texts or documents. With `key`, of up to 64 bytes, the hashes of words are keyed, and all others follow from them.
    """
    for start, rows in iterate_batches(table, numbers):
        yield start, _compute_fingerprints(*_flatten_messages(rows), key)


def _flatten_messages(rows: pa.RecordBatch) -> tuple[Rows, list[str], Any, Any]:
    """Flatten the messages of all rows: their number (rows,), and the roles, texts and free-form JSON (messages,)."""
    names = rows.schema.names
    if "messages" in names:
        column = rows.column("messages")
        turns = column.flatten()
        return (
            column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64),
            turns.field("role").to_pylist(),
            turns.field("content"),
            turns.field("extra"),
        )
    if "text_pair" not in names and "text" in names:  # documents, which nobody says
        texts = rows.column("text")
        return np.ones(len(rows), np.int64), ["text"] * len(rows), texts, pa.nulls(len(texts), pa.string())
    pairs = np.arange(2 * len(rows)).reshape(2, -1).T.ravel()  # first, second, first, second ...
    both = pa.concat_arrays([rows.column(name) for name in _name_pair(names)])
    texts = both.take(pa.array(pairs)).fill_null("")
    return np.full(len(rows), 2), ["user", "assistant"] * len(rows), texts, pa.nulls(len(texts), pa.string())


def _name_pair(names: list[str]) -> tuple[str, str]:
    return ("prompt", "completion") if "prompt" in names else ("text", "text_pair")


def _compute_fingerprints(turns_per_row: Rows, roles: list[str], texts: Any, extras: Any, key: bytes) -> Fingerprints:
    """Hash rows and their n-grams from flattened messages; shapes as `_flatten_messages` returns them."""
    # A message is hashed as (sum(word[i] * WORD**i) ^ role) + extra * EXTRA + number of words, and a row as
    # sum(message[j] * TURN**j): words in another order, by another speaker or cut into other messages differ.
    words_per_turn, words = _hash_words(texts, key)
    in_turns = _sum_groups(words * _compute_powers(_WORD_BASE, words_per_turn), words_per_turn)
    role_hashes = np.array(
        list(map({role: _hash_text(role, key) for role in set(roles)}.__getitem__, roles)), dtype=np.uint64
    )
    extra_hashes = _hash_texts(extras.fill_null(""), key)
    turns = (in_turns ^ role_hashes) + extra_hashes * _EXTRA_FACTOR + words_per_turn.astype(np.uint64)
    rows = _sum_groups(turns * _compute_powers(_TURN_BASE, turns_per_row), turns_per_row)
    row_of_turn = np.repeat(np.arange(len(turns_per_row)), turns_per_row)
    spoken = np.array([role not in SYSTEM_ROLES for role in roles], dtype=bool)
    in_runs = np.repeat(spoken, words_per_turn)
    row_of_word = np.repeat(row_of_turn, words_per_turn)[in_runs]
    return Fingerprints(rows, *hash_ngrams(words[in_runs], row_of_word))


def hash_spoken(rows: pa.RecordBatch) -> tuple[Hashes, Rows]:
    """Hash the words of some rows, those of system messages left out: hashes and rows, (words,) both."""
    turns_per_row, roles, texts, _ = _flatten_messages(rows)
    words_per_turn, words = _hash_words(texts, b"")
    row_of_word = np.repeat(np.repeat(np.arange(len(turns_per_row)), turns_per_row), words_per_turn)
    spoken = np.repeat(np.array([role not in SYSTEM_ROLES for role in roles], dtype=bool), words_per_turn)
    return words[spoken], row_of_word[spoken]


def _hash_words(texts: Any, key: bytes) -> tuple[Rows, Hashes]:
    """Count the words of each text, (texts,), and hash all of them, (words,)."""
    # Trimmed first: pyarrow 26 sometimes takes white space at the very end of its buffer for a part of the last word.
    split = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts)))
    flat = split.flatten()
    filled = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)  # an empty text is split into one empty word
    text_of = np.repeat(np.arange(len(texts)), split.value_lengths().to_numpy(zero_copy_only=False))
    return np.bincount(text_of[filled], minlength=len(texts)), _hash_texts(flat, key)[filled]


def _hash_texts(texts: Any, key: bytes) -> Hashes:
    """Hash each text of an Arrow array, equal ones once: uint64 (texts,)."""
    encoded = texts.dictionary_encode()
    hashes = np.array([_hash_text(text, key) for text in encoded.dictionary.to_pylist()], dtype=np.uint64)
    return np.asarray(hashes[encoded.indices.to_numpy(zero_copy_only=False)], dtype=np.uint64)


def _hash_text(text: str, key: bytes) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8, key=key).digest(), "big")


def _compute_powers(base: np.uint64, sizes: Rows) -> Hashes:
    """Compute base**0, base**1, ... anew for each group, modulo 2**64: `sizes` (groups,) -> (sum of sizes,)."""
    # base 3 and sizes [2, 3] -> [1, 3, 1, 3, 9]
    table = np.full(int(sizes.max(initial=0)) + 1, base, dtype=np.uint64)
    table[0] = 1
    starts = np.cumsum(sizes) - sizes
    within: Rows = np.arange(int(sizes.sum())) - np.repeat(starts, sizes)
    return np.asarray(np.cumprod(table)[within], dtype=np.uint64)


def _sum_groups(values: Hashes, sizes: Rows) -> Hashes:
    """Sum consecutive groups of `values` (sum of sizes,), modulo 2**64: `sizes` (groups,) -> (groups,)."""
    # values [1, 2, 3, 4, 5] and sizes [2, 0, 3] -> [3, 0, 12], by differences of running sums: these may wrap around.
    upto = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(values, dtype=np.uint64)])
    ends = np.cumsum(sizes)
    return np.asarray(upto[ends] - upto[ends - sizes], dtype=np.uint64)


def hash_ngrams(words: Hashes, row_of: Rows, size: int = NGRAM_SIZE) -> tuple[Hashes, Rows]:
    """Hash each n-gram of `size` words within a row: `words`, `row_of` (words,) -> hashes and rows (n-grams,)."""
    # Of the words [a b c d e] with `row_of` [0 0 0 1 1], the 2-grams are ab, bc and de: cd crosses two rows.
    count = len(words) - size + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    runs = np.zeros(count, dtype=np.uint64)
    for offset in range(size):
        runs = runs * _NGRAM_BASE + words[offset : offset + count]
    inside = row_of[:count] == row_of[size - 1 :]
    return runs[inside], row_of[:count][inside]
