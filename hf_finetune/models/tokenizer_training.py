"""Tokenizers trained on the run's own rows: characters, words, or byte-level BPE."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers import __version__ as tokenizers_version
from transformers import PreTrainedTokenizerFast

from hf_finetune.cache.entries import mark_used, read_entry, write_entry
from hf_finetune.cache.holding import find_or_make
from hf_finetune.cache.keys import compute_cache_key, place_in_cache
from hf_finetune.environment.versions import __version__
from hf_finetune.errors import DataError, ModelError, Problem
from hf_finetune.memory import format_size

if TYPE_CHECKING:
    from datasets import Dataset  # a second and a half, and a saved tokenizer needs no rows

logger = logging.getLogger(__name__)


TokenizerKind = Literal["char", "word", "bpe"]

# Ids 0, 1, 2 of every trained tokenizer; `char` and `word` have the unknown token as id 3.
SPECIAL = PAD, BOS, EOS, UNK = "<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>"

VOCAB_SIZE_KEY = "model.tokenizer.train.vocab_size"
BYTES = 256
ROWS_PER_BATCH = 1_000
BYTES_WORTH_SAYING = 2**23
"""Of texts, on which a tokenizer is trained in about a second."""


def train_tokenizer(
    kind: TokenizerKind, texts: Iterable[str], vocab_size: int | None = None
) -> PreTrainedTokenizerFast:
    """Train a tokenizer; the same texts give the same tokenizer.json, byte for byte.

    `char`: a token is a Unicode code point. `word`: a token is a word, a punctuation mark or a run of white space.
    `bpe`: byte-level BPE (GPT-2), so that every text can be encoded. Nothing is normalized, and decoding is exact
    unless a token is unknown. `vocab_size` is an upper bound that includes the special tokens; a warning states both
    numbers where the texts give fewer tokens, or `char` leaves characters out.
    Raises `DataError` where no text has a visible character, `ModelError` where `vocab_size` is missing or too small.
    """
    return _finish(kind, vocab_size, *_train(kind, texts, vocab_size))


def load_or_train(kind: TokenizerKind, rows: Dataset, vocab_size: int | None) -> PreTrainedTokenizerFast:
    """`train_tokenizer` on the `text` column of `rows`, by one process: the others, and later runs, load its file.

    A file that is not as it was written is made again. Raises OSError as well.
    """
    # The trainers of another version of tokenizers may choose other tokens.
    versions = [__version__, tokenizers_version]
    made_from = {"rows": rows._fingerprint, "kind": kind, "vocab_size": vocab_size, "versions": versions}
    path = place_in_cache(f"tokenizer-{compute_cache_key(made_from)}.tokenizer")

    def train() -> tuple[bytes, dict[str, Any]]:
        size = _count_bytes(rows)
        if size > BYTES_WORTH_SAYING:
            logger.info("training a %s tokenizer on %s of text", kind, format_size(size))
        trained, characters = _train(kind, _iterate_texts(rows), vocab_size)
        entry = trained.to_str().encode(), {"characters": characters}
        write_entry(path, *entry)
        return entry

    content, counts = find_or_make(path, lambda: read_entry(path), train)
    mark_used(path)
    return _finish(kind, vocab_size, Tokenizer.from_str(content.decode()), counts["characters"])


def _count_bytes(rows: Dataset) -> float:
    """The bytes of the texts of rows, about: those of their whole table, of which they may be a selection."""
    return float(rows.data.column("text").nbytes) * len(rows) / max(1, len(rows.data))


def _iterate_texts(rows: Dataset) -> Iterator[str]:
    for batch in rows.select_columns("text").iter(batch_size=ROWS_PER_BATCH):
        yield from batch["text"]


def _train(kind: TokenizerKind, texts: Iterable[str], vocab_size: int | None) -> tuple[Tokenizer, int]:
    """Train a tokenizer; also returns the number of distinct characters of the texts, which `char` alone counts."""
    least = {"char": 5, "word": 5, "bpe": BYTES + 3}[kind]
    if vocab_size is None and kind != "char":
        raise ModelError(
            Problem(f"a {kind} tokenizer needs a vocabulary size", "for example 4096", key=VOCAB_SIZE_KEY, code="HF556")
        )
    if vocab_size is not None and vocab_size < least:
        what = f"a {kind} tokenizer has at least {least} tokens, special tokens included; {vocab_size} were asked for"
        raise ModelError(Problem(what, f"set it to {least} or more", key=VOCAB_SIZE_KEY, code="HF603"))
    texts = _require_text(texts)
    if kind == "char":
        return _train_char(texts, vocab_size)
    return (_train_word if kind == "word" else _train_bpe)(texts, vocab_size or least), 0


def _finish(
    kind: TokenizerKind, vocab_size: int | None, trained: Tokenizer, characters: int
) -> PreTrainedTokenizerFast:
    """Wrap a trained tokenizer, and say where it is not of the size that was asked for."""
    reached = trained.get_vocab_size()
    if kind == "char" and (left_out := characters + len(SPECIAL) - reached):
        logger.warning(
            "%s: %d of %d characters become %s", VOCAB_SIZE_KEY, left_out, characters, UNK, extra={"code": "HF557"}
        )
    if vocab_size is not None and reached < vocab_size:
        logger.warning(
            "%s: %d tokens were asked for, the text gives %d",
            VOCAB_SIZE_KEY,
            vocab_size,
            reached,
            extra={"code": "HF557"},
        )
    return _wrap_tokenizer(trained)


def _require_text(texts: Iterable[str]) -> Iterator[str]:
    """Return the same texts. Raises `DataError` where all are blank, after reading up to the first that is not."""
    rest = iter(texts)
    blank = []
    for text in rest:
        blank.append(text)
        if text.strip():
            return chain(blank, rest)
    raise DataError(
        Problem("there is no text to train a tokenizer on", "look at the `text` fields", key="data.train", code="HF121")
    )


def _train_char(texts: Iterable[str], vocab_size: int | None) -> tuple[Tokenizer, int]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted(counts, key=lambda character: (-counts[character], character))
    if vocab_size is not None:
        kept = kept[: vocab_size - len(SPECIAL)]
    vocab = {token: index for index, token in enumerate([*SPECIAL, *sorted(kept)])}
    # BPE without merges splits a text into code points, faster than a pre-tokenizer with a regular expression does.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=UNK, fuse_unk=False))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer, len(counts)


def _train_word(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocab={}, unk_token=UNK))
    # "def f(x):\n" -> "def", " ", "f", "(", "x", ")", ":", "\n"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s+|[^\w\s]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), min_frequency=1, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _wrap_tokenizer(trained: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK if trained.token_to_id(UNK) is not None else None,
        clean_up_tokenization_spaces=False,
    )
