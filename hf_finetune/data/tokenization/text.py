"""Texts -> token ids; a text that spells a special token stays text."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pyarrow as pa
from tokenizers import Encoding, Tokenizer
from tokenizers.processors import Sequence as Processors
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.given_up import TextGivenUp, name_rows
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.data.tokenization.sure_prefix import find_sure_prefix
from hf_finetune.metric_info import choose_verb

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100
"""The label of a token that is not predicted."""
# Above this share of unknown tokens it is said: what they stand for is neither learned nor measured.
UNKNOWN = 0.001
AT_ONCE = 1_000_000
"""Characters of texts of which only the beginning may be kept: more than a window of short rows has."""


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """Tokenized texts of a classifier: one list (tokens,) per row."""

    input_ids: list[list[int]]
    token_type_ids: list[list[int]] | None
    """0 for the first text of a row and 1 for its pair; None for tokenizers without such ids."""
    truncated: int
    """Number of rows that were cut."""


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[Sequence[int]]:
    """Tokenize plain texts without BOS or EOS: one list of ids (tokens,) per text; an array for a text of megabytes.

    A text that spells a special token stays ordinary text.
    """
    return get_control_tokens(tokenizer, only_special=True).encode_ids(texts)


Locate = Callable[[int], tuple[str, int | None]]
"""The path and the line of a row, by its number in its split."""


def count_rows(row: int) -> tuple[str, int | None]:
    """Where a row stands whose file is not known."""
    return f"row {row + 1:,}", None


def encode_rows(tokenizer: PreTrainedTokenizerFast, texts: Mapping[int, str], locate: Locate) -> list[Sequence[int]]:
    """Tokenize documents as `encode_documents` does; the keys of `texts` are the numbers of their rows.

    Raises `DataError` for a row that the tokenizer gives up on.
    """
    with name_rows(lambda number: locate([*texts][number])):
        return encode_documents(tokenizer, [*texts.values()])


class DocumentWork:
    """Documents -> what `build` makes of their tokens, counted: the beginning of a `workers.RowWork`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, locate: Locate) -> None:
        self.tokenizer, self.locate = tokenizer, locate
        self.counts: Counter[str] = Counter()

    def read(self, first: int, table: pa.Table) -> dict[int, str]:
        """The texts of documents by the numbers of their rows, without blank ones."""
        texts = {row: text for row, text in enumerate(table.column("text").to_pylist(), first) if text.strip()}
        self.counts["dropped"] += len(table) - len(texts)
        self.counts["text_bytes"] += sum(len(text.encode()) for text in texts.values())
        return texts

    def encode(self, texts: dict[int, str]) -> tuple[dict[int, str], list[Sequence[int]]]:
        """Tokenize them."""
        encoded = encode_rows(self.tokenizer, texts, self.locate)
        return texts, encoded

    def count_unknown(self, documents: Sequence[Sequence[int]]) -> None:
        """Count the tokens that stand for text which the tokenizer does not know."""
        if (unknown := self.tokenizer.unk_token_id) is not None:
            self.counts["unknown"] += sum(ids.count(unknown) for ids in documents)

    def collect(self) -> Counter[str]:
        """The counts so far."""
        return self.counts

    def merge(self, collected: Counter[str]) -> None:
        """Add the counts of another process."""
        self.counts.update(collected)


def measure_longest_token(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Count the bytes of text that one token stands for at most; None for a tokenizer that may drop or merge text."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    steps = spec["pre_tokenizer"] or {}
    kinds = {step["type"] for step in steps.get("pretokenizers", [steps] if steps else [])}
    normalizer = (spec["normalizer"] or {"type": None})["type"]
    if spec["model"]["type"] != "BPE" or "ByteLevel" not in kinds or normalizer not in (None, "NFC"):
        return None
    longest = max(map(len, spec["model"]["vocab"]), default=1)  # a character of a piece is a byte
    added = max((len(token["content"].encode()) for token in spec["added_tokens"]), default=1)
    # Three characters of Hangul, or a letter and its marks, are composed to one of a third of the bytes.
    return max(longest, added) * (3 if normalizer == "NFC" else 1)


def get_start_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the token that a document starts after: BOS, or the EOS of the document before it where there is no BOS.

    Llama: `<s>`. Qwen, which has no BOS: `<|endoftext|>`.
    """
    start: int = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return start


def encode_texts(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], pairs: Sequence[str | None] | None, max_length: int | None
) -> EncodedTexts:
    """Tokenize texts, each with its pair if it has one, with the special tokens that the tokenizer puts around them.

    Rows longer than `max_length` are cut (of two texts the longer one), but for their special tokens. A text that
    spells a special token stays text. A row has at least one token: an empty one becomes BOS, EOS or padding. Raises
    `TextGivenUp` with the number of a row.
    """
    typed = "token_type_ids" in tokenizer.model_input_names
    ids: list[list[int]] = []
    types: list[list[int]] = []
    truncated = 0
    both = _shorten(tokenizer, [*zip(texts, pairs or [None] * len(texts), strict=True)], max_length)
    for start, stop in _group_rows(both):
        try:
            encodings = encode_pairs(tokenizer, both[start:stop], max_length)
        except TextGivenUp as fault:
            fault.number += start
            raise
        # What is cut off has gone before the next group is tokenized: a long text takes 400 bytes a character.
        truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        ids += [encoding.ids or [find_placeholder(tokenizer)] for encoding in encodings]
        types += [encoding.type_ids or [0] for encoding in encodings] if typed else []
    return EncodedTexts(ids, types if typed else None, truncated)


def _shorten(
    tokenizer: PreTrainedTokenizerFast, rows: list[tuple[str, str | None]], max_length: int | None
) -> list[tuple[str, str | None]]:
    """The same rows, long texts without what is sure to be cut off."""
    if max_length is None:
        return rows
    # Of a pair, the lengths of both decide which of them is cut.
    begun = {
        number: begin
        for number, (text, pair) in enumerate(rows)
        if not pair and (begin := find_sure_prefix(text, max_length)) is not None
    }
    control = get_control_tokens(tokenizer, only_special=True)
    if not control.in_pieces:
        return rows
    for number, begin in begun.items():
        with suppress(TextGivenUp):  # said of the whole text, then, with its number
            # As many tokens as are kept, and one that is cut off: the special ones take of their room.
            if len(control.encode_ids([begin])[0]) > max_length:
                rows[number] = (begin, None)
    return rows


def _group_rows(rows: Sequence[tuple[str, str | None]]) -> Iterator[tuple[int, int]]:
    """Yield the (start, stop) of rows that are tokenized at once: of `AT_ONCE` characters, and a longer row alone."""
    start = size = 0
    for number, (text, pair) in enumerate(rows):
        own = len(text) + len(pair or "")
        if size and size + own > AT_ONCE:
            yield start, number
            start, size = number, 0
        size += own
    if start < len(rows):
        yield start, len(rows)


def encode_pairs(
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[tuple[str, str | None]],
    max_length: int | None,
    *,
    offsets: bool = False,
) -> list[Encoding]:
    """Tokenize the texts of rows, and their pairs, as `encode_texts` does: one encoding (tokens,) per row, maybe empty.

    With `offsets`, the characters of each token are known. Raises `TextGivenUp` with the number of a row.
    """
    control = get_control_tokens(tokenizer, only_special=True)
    paired = [number for number, (_, pair) in enumerate(rows) if pair]  # an empty pair is none
    try:
        second = iter(control.encode_plain([pair for _, pair in rows if pair], offsets=offsets))
    except TextGivenUp as fault:
        fault.number = paired[fault.number]
        raise
    plain = control.encode_plain([text for text, _ in rows], offsets=offsets)
    with _truncation(tokenizer.backend_tokenizer, max_length) as backend:
        return [
            backend.post_process(text, next(second) if pair else None)
            for text, (_, pair) in zip(plain, rows, strict=True)
        ]


def warn_of_unknown_tokens(split: str, unknown: int, tokens: int) -> None:
    """Warn where more than one in a thousand of the predicted `tokens` of a split are `unknown` to the tokenizer."""
    if unknown > UNKNOWN * tokens:
        share = f"{unknown / tokens:.1%}"
        what = "%s: %s of the predicted tokens (%s) %s unknown to the tokenizer, for which all of them are one"
        logger.warning(what, split, share, f"{unknown:,}", choose_verb(unknown, "is", "are"), extra={"code": "HF106"})


def separate_pairs(tokenizer: PreTrainedTokenizerFast) -> None:
    """Make the tokenizer put EOS between the two texts of a row, if it puts nothing there (decoders' do not).

    Changes `tokenizer` in place; the change is saved with it, so pairs are tokenized later as they were in training.
    """
    backend = tokenizer.backend_tokenizer
    # BERT's [CLS] a [SEP] a [SEP] has the sequence ids [None, 0, None, 1, None]: a None stands between the two.
    whose = backend.encode("a", "a").sequence_ids
    if None in whose[whose.index(0) : whose.index(1)] or tokenizer.eos_token is None:
        return
    template = TemplateProcessing(
        single="$A", pair=f"$A {tokenizer.eos_token} $B", special_tokens=[(tokenizer.eos_token, tokenizer.eos_token_id)]
    )
    before = backend.post_processor
    backend.post_processor = template if before is None else Processors([before, template])


@contextmanager
def _truncation(backend: Tokenizer, max_length: int | None) -> Iterator[Tokenizer]:
    """Make the tokenizer cut at `max_length`, and pad nothing."""
    if max_length is not None:
        backend.enable_truncation(max_length)
    backend.no_padding()
    try:
        yield backend
    finally:  # the setting would be saved with the tokenizer
        backend.no_truncation()


def find_placeholder(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id that stands for an empty text: BOS, EOS or padding."""
    candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    index: int = next(index for index in candidates if index is not None)
    return index
