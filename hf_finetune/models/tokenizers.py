"""Tokenizers: load one or train one on the run's text, and check that it fits the model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Literal

from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_finetune.config.sections import DataSection, ModelSection, TokenizerSection
from hf_finetune.data.chat import end_token_ids
from hf_finetune.errors import ConfigError, DataError, ModelError, Problem
from hf_finetune.models.foreign import check_folder

logger = logging.getLogger(__name__)

TokenizerKind = Literal["char", "word", "bpe"]

# Ids 0, 1, 2 of every trained tokenizer; `char` and `word` have the unknown token as id 3.
PAD, BOS, EOS, UNK = "<|pad|>", "<|bos|>", "<|eos|>", "<|unk|>"

# Padding tokens that published vocabularies contain while `pad_token` is not set.
PAD_NAMES = (PAD, "<pad>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")

# RoBERTa and its relatives number positions from pad_token_id + 1: of max_position_embeddings 514 they use 512.
COUNT_FROM_PADDING = (
    *("camembert", "data2vec-text", "ibert", "longformer", "luke", "markuplm", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
)

VOCAB_SIZE_KEY = "model.tokenizer.train.vocab_size"
BYTES = 256
DEFAULT_ROW_LENGTH = 1_024
ROWS_PER_BATCH = 1_000


def load_tokenizer(
    model: ModelSection, rows: Dataset | None = None, *, needs_end: bool = True
) -> PreTrainedTokenizerFast:
    """Load the tokenizer that the run names, or train it on the `text` column of `rows`; it has a padding token.

    `rows` is read only under `model.tokenizer.train`, in batches. Code in the tokenizer's folder is never run. Pass
    `needs_end=False` for classifiers: they need no end token, and encoders have none. Raises `ModelError` where there
    is no tokenizer, and for one without a fast implementation, one that would read files of other folders, or one
    without a required end token; `DataError` where there is no text to train on.
    """
    if isinstance(model.tokenizer, TokenizerSection):
        if rows is None or "text" not in rows.column_names:
            raise DataError(Problem("a tokenizer is trained on `text` rows", "name a tokenizer", key="model.tokenizer"))
        train = model.tokenizer.train
        return train_tokenizer(train.kind, _iterate_texts(rows), train.vocab_size)
    if model.tokenizer is not None:
        tokenizer = _load_fast(model.tokenizer, None, "model.tokenizer")
    elif model.path is not None:
        tokenizer = _load_fast(model.path, model.revision, "model.path")
    else:
        remedy = "name a folder or a Hub id, or `train: {kind: bpe, vocab_size: 4096}`"
        raise ModelError(Problem("a model from scratch needs a tokenizer", remedy, key="model.tokenizer"))
    ensure_special_tokens(tokenizer, needs_end=needs_end)
    return tokenizer


def _iterate_texts(rows: Dataset) -> Iterator[str]:
    for batch in rows.select_columns("text").iter(batch_size=ROWS_PER_BATCH):
        yield from batch["text"]


def _load_fast(name: str, revision: str | None, key: str) -> PreTrainedTokenizerFast:
    remedy = "name a folder that holds tokenizer.json, or a Hub id that is cached or can be reached"
    commit = check_folder(name, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=commit or revision or "main", trust_remote_code=False)
    except Exception as error:  # tokenizers 0.23 raises a plain `Exception` for a malformed file
        reason = str(error).strip().split("\n", 1)[0]
        raise ModelError(Problem(f"no tokenizer can be loaded from {name!r}: {reason}", remedy, key=key)) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        what = f"the tokenizer of {name!r} is a {type(tokenizer).__name__}, which has no fast implementation"
        raise ModelError(Problem(what, "convert it to a tokenizer.json first", key=key))
    # From a folder with a config.json and no tokenizer files, transformers 5.23 makes a tokenizer with an empty
    # vocabulary and raises nothing. Can go when it raises.
    if tokenizer.vocab.keys() <= tokenizer.added_tokens_encoder.keys():
        raise ModelError(Problem(f"the tokenizer of {name!r} has no vocabulary", remedy, key=key))
    return tokenizer


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
    least = {"char": 5, "word": 5, "bpe": BYTES + 3}[kind]
    if vocab_size is None and kind != "char":
        raise ModelError(Problem(f"a {kind} tokenizer needs a vocabulary size", "for example 4096", key=VOCAB_SIZE_KEY))
    if vocab_size is not None and vocab_size < least:
        what = f"a {kind} tokenizer has at least {least} tokens, special tokens included; {vocab_size} were asked for"
        raise ModelError(Problem(what, f"set it to {least} or more", key=VOCAB_SIZE_KEY))
    texts = _with_text(texts)
    if kind == "char":
        trained = _train_char(texts, vocab_size)
    elif kind == "word":
        trained = _train_word(texts, vocab_size or least)
    else:
        trained = _train_bpe(texts, vocab_size or least)
    reached = trained.get_vocab_size()
    if vocab_size is not None and reached < vocab_size:
        logger.warning("%s: %d tokens were asked for, the text gives %d", VOCAB_SIZE_KEY, vocab_size, reached)
    return _as_pretrained(trained)


def _with_text(texts: Iterable[str]) -> Iterator[str]:
    """Return the same texts. Raises `DataError` where all are blank, after reading up to the first that is not."""
    rest = iter(texts)
    blank = []
    for text in rest:
        blank.append(text)
        if text.strip():
            return chain(blank, rest)
    raise DataError(Problem("there is no text to train a tokenizer on", "look at the `text` fields", key="data.train"))


def _train_char(texts: Iterable[str], vocab_size: int | None) -> Tokenizer:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    special = [PAD, BOS, EOS, UNK]
    kept = sorted(counts, key=lambda character: (-counts[character], character))
    if vocab_size is not None and len(special) + len(kept) > vocab_size:
        kept = kept[: vocab_size - len(special)]
        left_out = len(counts) - len(kept)
        logger.warning("%s: %d of %d characters become %s", VOCAB_SIZE_KEY, left_out, len(counts), UNK)
    vocab = {token: index for index, token in enumerate([*special, *sorted(kept)])}
    # BPE without merges splits a text into code points, faster than a pre-tokenizer with a regular expression does.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token=UNK, fuse_unk=False))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _train_word(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocab={}, unk_token=UNK))
    # "def f(x):\n" -> "def", " ", "f", "(", "x", ")", ":", "\n"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s+|[^\w\s]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS, UNK], min_frequency=1, show_progress=False
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


def _as_pretrained(trained: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK if trained.token_to_id(UNK) is not None else None,
        clean_up_tokenization_spaces=False,
    )


def ensure_special_tokens(tokenizer: PreTrainedTokenizerFast, *, needs_end: bool = True) -> None:
    """Set a padding token where the tokenizer has none, and log which; the vocabulary never grows.

    It is a token of the vocabulary with one of the usual names, else the end token. A classifier that finds the pooled
    position by the padding id must then not append an end token to the text. Raises `ModelError` where there is no end
    token and `needs_end`, or nothing to pad with.
    """
    # Padding with the end token is safe here because labels are masked by length. transformers 5.23's language modeling
    # collator masks by id, so that no end token is learned: https://github.com/huggingface/transformers/issues/23530
    if tokenizer.eos_token_id is None and (needs_end or tokenizer.pad_token_id is None):
        remedy = "set `eos_token` in its tokenizer_config.json"
        raise ModelError(Problem("the tokenizer has no end token to end documents with", remedy, key="model.tokenizer"))
    if tokenizer.pad_token_id is not None:
        return
    usual = [name for name in PAD_NAMES if name in tokenizer.vocab]
    tokenizer.pad_token = usual[0] if usual else tokenizer.eos_token
    logger.info("the tokenizer has no padding token: %r (%d) is used", tokenizer.pad_token, tokenizer.pad_token_id)


def check_fits(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> None:
    """Raise `ModelError` where the tokenizer cannot belong to the model.

    Its ids must have rows in the embedding, and the model's begin and end ids must be special tokens of it.
    """
    # Which special token is not compared: an instruct model may end on <|im_end|> where its base's tokenizer has
    # <|endoftext|>. But where the id is an ordinary word, the tokenizer is one of another vocabulary.
    problems = []
    largest = max(tokenizer.vocab.values())
    if largest >= config.vocab_size:
        what = f"the tokenizer's largest id is {largest:,}, the model has embeddings for {config.vocab_size:,} tokens"
        problems.append(Problem(what, "use the tokenizer that the model was trained with", key="model.tokenizer"))
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for name, ids in (("begin", config.bos_token_id), ("end", config.eos_token_id)):
        for index in ids if isinstance(ids, list) else [ids]:
            # An id without an embedding is a default that nobody set: GPT2Config says 50256 for any vocabulary.
            if index is None or index >= config.vocab_size or index in special:
                continue
            what = f"the model's {name} token is id {index:,}, which is no special token of this tokenizer"
            problems.append(Problem(what, "use the tokenizer that the model was trained with", key="model.tokenizer"))
    if problems:
        raise ModelError(problems)


def effective_max_length(tokenizer: PreTrainedTokenizerFast, config: PreTrainedConfig) -> int | None:
    """Return the longest row, in tokens, that tokenizer and model accept; None where neither has a limit."""
    # Models without positions (Mamba, ALiBi) have no such field.
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and config.model_type in COUNT_FROM_PADDING:
        positions -= (config.pad_token_id or 0) + 1
    limits = [tokenizer.model_max_length, positions]
    # A tokenizer without a limit has model_max_length 1e30.
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < 2**62]
    return min(known, default=None)


def row_length(train: Mapping[str, Any], config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens that the row of a conversation may have: `train.max_length`, by default 1,024 or the model's lower limit.

    Under `max_length: null` it is the model's limit. Raises `ConfigError` where the limit is less than `max_length`,
    or `max_length` is null and there is no limit.
    """
    longest = effective_max_length(tokenizer, config)
    if "max_length" not in train:
        return DEFAULT_ROW_LENGTH if longest is None else min(longest, DEFAULT_ROW_LENGTH)
    asked: int | None = train["max_length"]
    if asked is None and longest is not None:
        return longest
    if asked is not None and (longest is None or asked <= longest):
        return asked
    what = "neither model nor tokenizer has a limit" if asked is None else f"{asked:,} tokens are too long"
    taken = "" if longest is None else f"; the model takes {longest:,}"
    raise ConfigError(Problem(what + taken, "set a number that the model takes", key="train.max_length"))


def text_length(data: DataSection, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Tokens at which a text to classify is truncated: `data.max_length`, else the limit of model and tokenizer.

    None where nothing sets a limit. Raises `ConfigError` where the model's limit is less than `data.max_length`.
    """
    longest = effective_max_length(tokenizer, config)
    if not isinstance(data.max_length, int):
        return longest
    if longest is not None and data.max_length > longest:
        what = f"{data.max_length:,} tokens are more than the {longest:,} that the model takes"
        raise ConfigError(Problem(what, "lower it, or leave it out", key="data.max_length"))
    return data.max_length


def stop_after_turns(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Set the end tokens of an answer in the model's generation config, so that a server stops where training did."""
    generation = model.generation_config or GenerationConfig()
    generation.eos_token_id = end_token_ids(tokenizer)
    # Into the model's config too, where batched inference looks for it; transformers 5.23 does not take it from the
    # tokenizer: https://github.com/huggingface/transformers/issues/34055
    generation.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = generation


def unknown_pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """List the distinct pieces of `text` (characters or words) that the tokenizer encodes as its unknown token."""
    if tokenizer.unk_token_id is None:
        return []
    encoded = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return list(dict.fromkeys(text[start:end] for index, (start, end) in spans if index == tokenizer.unk_token_id))
