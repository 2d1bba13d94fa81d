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
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.data.reading.row_checks.conversations import SYSTEM_ROLES
from hf_finetune.data.splitting.assignment import Hashes, Rows, sort_distinct
from hf_finetune.data.splitting.batches import iterate_batches
from hf_finetune.data.splitting.signs import find_signs, join_signs, space_signs
from hf_finetune.data.splitting.spill import PARTS, Spill, find_places
from hf_finetune.data.workers import count_processes, map_batches
from hf_finetune.environment.progress_lines import show_progress

NGRAM_SIZE = 13

# Odd: the powers of an even number become 0 modulo 2**64.
_WORD_BASE, _TURN_BASE, _EXTRA_FACTOR, _NGRAM_BASE = (np.uint64(0x9E3779B97F4A7C15 + 2 * step) for step in (0, 1, 2, 3))

# At least 8 flags of each part; at most 16 MiB: of 8 million n-grams one in 16 is let through, of more some more.
_LEAST_FLAG_BITS, _MOST_FLAG_BITS = 11, 27

OFFERS_SETTLED = 2**22
"""N-grams of training rows that are written before they are looked up: 64 MiB."""

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
    num_proc: int | None = 1,
) -> dict[str, Overlap]:
    """Compare the rows of each split in `others` with the training rows.

    A split is a table and its row numbers there (rows,), ascending and distinct; the tables hold conversations, prompts
    with completions, or labelled texts, in the intermediate form. `collect` is given the prints of the training rows as
    `iterate_fingerprints` yields them. Of each row of `others` 9 bytes are held, of training rows nothing.
    """
    sides = {name: _HeldOut(*split, key) for name, split in others.items()}
    for start, prints in iterate_fingerprints(*train, key, num_proc):
        if collect is not None:
            collect(start, prints)
        for side in sides.values():
            side.compare(start, prints)
    return {name: side.build_overlap() for name, side in sides.items()}


class _HeldOut:
    """The rows and n-grams of one split, in which those of the training rows are looked up."""

    def __init__(self, table: Dataset, numbers: Rows, key: bytes) -> None:
        rows, runs = Spill(), Spill()
        for start, prints in iterate_fingerprints(table, numbers, key):
            rows.add(prints.rows, np.arange(start, start + len(prints.rows)))
            runs.add(prints.runs, start + prints.run_rows)
        self.rows, self.runs = _Join(rows), _Join(runs)
        self.shares = np.zeros(len(numbers), np.bool_)
        self.settled_at = OFFERS_SETTLED

    def compare(self, start: int, prints: Fingerprints) -> None:
        """Take the prints of consecutive training rows, from number `start` on."""
        self.rows.offer(prints.rows, np.arange(start, start + len(prints.rows)))
        self.runs.offer(prints.runs)
        if self.runs.offered.total >= self.settled_at:
            self._settle()

    def _settle(self) -> None:
        """Mark the rows that share an n-gram by now, and go on looking for those of the others alone.

        What all rows say would be offered as often as there are training rows.
        """
        for places, _ in self.runs.match():
            self.shares[places] = True
        before, left = self.runs.held_out, Spill()
        for part in range(PARTS):
            for hashes, numbers in before.read(part):
                open_ones = ~self.shares[numbers]
                left.add(hashes[open_ones], numbers[open_ones])
        if 2 * left.total > before.total:  # what is offered are other n-grams with the same flags
            self.settled_at *= 2
        self.runs = _Join(left)

    def build_overlap(self) -> Overlap:
        """Return what both have in common, in the order of the split's rows."""
        copy_of = np.full(len(self.shares), -1, np.int64)
        for places, firsts in self.rows.match():
            copy_of[places] = firsts
        for places, _ in self.runs.match():
            self.shares[places] = True
        return Overlap(copy_of, self.shares)


class _Join:
    """Hashes of one split on disk, and beside them those of training rows that may be among them.

    Nearly all n-grams of training rows are not: flags (a Bloom filter with one hash) rule most of them out before they
    are written.
    """

    def __init__(self, held_out: Spill) -> None:
        self.held_out, self.offered = held_out, Spill()
        bits = min(max((16 * held_out.total).bit_length(), _LEAST_FLAG_BITS), _MOST_FLAG_BITS)
        self.shift = np.uint64(64 - bits)
        self.flags = np.zeros(2**bits // 8, np.uint8)
        size = 2**bits // PARTS  # the flags of a part stand together
        for part in range(PARTS):
            some = np.zeros(size, np.bool_)
            for hashes, _ in held_out.read(part):
                some[(hashes >> self.shift) - np.uint64(part * size)] = True
            self.flags[part * size // 8 : (part + 1) * size // 8] = np.packbits(some, bitorder="little")

    def offer(self, hashes: Hashes, numbers: Rows | None = None) -> None:
        """Take hashes of training rows, (hashes,), and the numbers of these, ascending, where they are asked for."""
        flag = hashes >> self.shift
        chosen = np.flatnonzero((self.flags[flag >> np.uint64(3)] >> (flag & np.uint64(7)).astype(np.uint8)) & 1)
        if not len(chosen):
            return
        if numbers is not None:
            self.offered.add(hashes[chosen], numbers[chosen])
        else:  # of words that all rows begin with each n-gram is written once for some thousand of them
            distinct = sort_distinct(hashes[chosen])
            self.offered.add(distinct, np.zeros(len(distinct), np.int64))

    def match(self) -> Iterator[tuple[Rows, Rows]]:
        """Yield the numbers of the split whose hashes were offered, and the first that each was offered with."""
        for part in range(PARTS):
            known = self.offered.read_distinct(part)
            for hashes, numbers in self.held_out.read(part):
                found, places = find_places(hashes, known.hashes)
                yield numbers[found], known.firsts[places]


def iterate_fingerprints(
    table: Dataset, numbers: Rows, key: bytes = b"", num_proc: int | None = 1
) -> Iterator[tuple[int, Fingerprints]]:
    """Yield the hashes of a split's rows, some thousand at a time, with the place of the first of them in `numbers`.

    `numbers`, (rows,), are ascending and distinct. A table is of conversations, prompts with completions, labelled
    texts or documents. With `key`, of up to 64 bytes, the hashes of words are keyed, and all others follow from them.
    `num_proc`: see `count_processes`.
    """

    def compute(rows: pa.RecordBatch) -> Fingerprints:
        return _compute_fingerprints(*_flatten_messages(rows), key)

    with show_progress("rows compared", len(numbers)) as show:
        for start, prints in map_batches(compute, iterate_batches(table, numbers), count_processes(num_proc)):
            yield start, prints
            show(start + len(prints.rows))


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
    """Hash the words of some rows, those of system messages left out: hashes and rows, (words,) both.

    Of a script without blanks between words each sign is one, together with the two behind it.
    """
    turns_per_row, roles, texts, _ = _flatten_messages(rows)
    spaced = space_signs(texts)
    words_per_turn, flat = _split_words(spaced)
    words = _hash_texts(flat, b"")
    row_of_word = np.repeat(np.repeat(np.arange(len(turns_per_row)), turns_per_row), words_per_turn)
    spoken = np.repeat(np.array([role not in SYSTEM_ROLES for role in roles], dtype=bool), words_per_turn)
    if spaced is not texts:
        words = join_signs(words, find_signs(flat), np.repeat(np.arange(len(words_per_turn)), words_per_turn))
    return words[spoken], row_of_word[spoken]


def _hash_words(texts: Any, key: bytes) -> tuple[Rows, Hashes]:
    """Count the words of each text, (texts,), and hash all of them, (words,)."""
    words_per_text, words = _split_words(texts)
    return words_per_text, _hash_texts(words, key)


def _split_words(texts: Any) -> tuple[Rows, Any]:
    """Count the words of each text, (texts,), and list all of them, (words,)."""
    # Trimmed first: pyarrow 26 sometimes takes white space at the very end of its buffer for a part of the last word.
    split = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts)))
    flat = split.flatten()
    filled = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)  # an empty text is split into one empty word
    text_of = np.repeat(np.arange(len(texts)), split.value_lengths().to_numpy(zero_copy_only=False))
    return np.bincount(text_of[filled], minlength=len(texts)), flat if filled.all() else flat.filter(filled)


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
