"""A tokenizer as a GGUF file holds it: words, their kinds, and the order in which they are made of one another."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf.constants import TokenType
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import RenderedChat
from hf_finetune.chat.template import SAMPLE_CHAT, get_default_template
from hf_finetune.errors import ModelError, Problem
from hf_finetune.release.export.gguf.split_rules import IGNORE_MERGES, NAMES, find_split_name

BYTES, PIECES = "gpt2", "llama"
"""llama.cpp's names for BPE over bytes, and for SentencePiece's."""
SPACE = "\u2581"
NEVER = -1e9
"""The score of a word that is made of no others."""
REMEDY = "export another format, or train with the tokenizer of a model that llama.cpp has"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer."""

    kind: str
    split: str
    """llama.cpp's name for the rule by which text is split first."""
    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[str]
    scores: Sequence[float]
    """Of pieces alone: how early each is made; none of BPE over bytes."""
    add_bos: bool
    add_eos: bool
    add_space: bool
    notes: Sequence[str] = ()
    """What llama.cpp does otherwise."""


def describe_vocabulary(tokenizer: PreTrainedTokenizerFast, size: int) -> Vocabulary:
    """Describe a tokenizer for a model of `size` rows of embeddings.

    Raises `ModelError` for a vocabulary that GGUF cannot hold: llama.cpp would split texts otherwise.
    """
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    model = written["model"]
    if model["type"] != "BPE":
        raise _refuse(f"it is of the kind {model['type']}, and llama.cpp has BPE for such a model")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _refuse(f"it has {key}")
    described = _describe_pieces if model.get("byte_fallback") else _describe_bytes
    return described(tokenizer, written, size)


def _describe_bytes(tokenizer: PreTrainedTokenizerFast, written: Mapping[str, Any], size: int) -> Vocabulary:
    normalizer = written["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise _refuse(f"it changes texts first ({normalizer['type']})")
    split = find_split_name(written["pre_tokenizer"])
    if split is None:
        raise _refuse(f"it splits text by a rule that llama.cpp has no name for; it has {', '.join(NAMES.values())}")
    if written["model"].get("ignore_merges", False) != (split in IGNORE_MERGES) and not _reaches_all(written):
        raise _refuse("it has words that its merges never make, which llama.cpp takes otherwise")
    notes = [] if normalizer is None else ["llama.cpp takes letters with separate accents as they are written (no NFC)"]
    tokens, types = _list_tokens(tokenizer, size)
    bos, eos = writes_begin(tokenizer), _find_ends(tokenizer)[1]
    return Vocabulary(BYTES, split, tokens, types, list(_list_merges(written)), (), bos, eos, False, notes)


def _describe_pieces(tokenizer: PreTrainedTokenizerFast, written: Mapping[str, Any], size: int) -> Vocabulary:
    pairs = [tuple(merge.split(" ")) for merge in _list_merges(written)]
    _check_pieces(written["model"]["vocab"], pairs, {token["content"] for token in written["added_tokens"]})
    made: dict[str, float] = {}
    for left, right in pairs:
        made.setdefault(left + right, -float(len(made)))
    prefix = _find_prefix(written)
    notes = []
    # llama.cpp starts anew behind each control token, as the tokenizers of before transformers 4.34 did.
    if prefix == "first":
        notes = ["llama.cpp writes a space before the text behind each control token, not before the first alone"]
    tokens, types = _list_tokens(tokenizer, size)
    for number, name in enumerate(tokens):
        if name == tokenizer.unk_token:
            types[number] = TokenType.UNKNOWN
        elif len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            types[number] = TokenType.BYTE
    scores = [made.get(token, NEVER) for token in tokens]
    bos, eos = writes_begin(tokenizer), _find_ends(tokenizer)[1]
    merges = list(_list_merges(written))
    return Vocabulary(PIECES, "default", tokens, types, merges, scores, bos, eos, prefix != "never", notes)


def _check_pieces(vocab: Mapping[str, int], pairs: Sequence[tuple[str, ...]], added: set[str]) -> None:
    """Raise `ModelError` where joining by pairs is not joining by words: llama.cpp knows the words' order alone."""
    allowed, last = set(pairs), ""
    seen: set[str] = set()
    # Score -> order: SentencePiece has one of each word, in whichever way it is made.
    for left, right in pairs:
        if left + right != last and left + right in seen:
            raise _refuse(f"it makes the word of token {vocab[left + right]} early in one way and late in another")
        last = left + right
        seen.add(last)
    for word, number in vocab.items():
        if word in added or (word.startswith("<0x") and word.endswith(">")):
            continue
        for place in range(1, len(word)):
            pair = word[:place], word[place:]
            if pair not in allowed and pair[0] in vocab and pair[1] in vocab:
                raise _refuse(f"its merges do not make the word of token {number} in every way that llama.cpp does")


def _find_prefix(written: Mapping[str, Any]) -> str:
    """Before which texts a space is written: `always`, `first` or `never`."""
    normalizer, splitter = written["normalizer"], written["pre_tokenizer"]
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    kinds = [step["type"] for step in steps]
    if splitter is not None and splitter["type"] == "Metaspace" and not steps:
        if splitter.get("split", True):
            raise _refuse("it joins no pieces over the borders of words, and llama.cpp does")
        return str(splitter["prepend_scheme"])
    replaced = [step for step in steps if step["type"] == "Replace"]
    plain = [step for step in replaced if step["pattern"] == {"String": " "} and step["content"] == SPACE]
    if kinds not in (["Prepend", "Replace"], ["Replace"]) or len(plain) != 1:
        raise _refuse(f"it changes texts first ({', '.join(kinds) or 'not into pieces'})")
    # Gemma's: it would split at spaces, of which its normalizer leaves none.
    if splitter is not None and splitter.get("pattern") != {"String": " "}:
        raise _refuse(f"it splits text by the rule {splitter['type']}")
    return "always" if "Prepend" in kinds else "never"


def _list_tokens(tokenizer: PreTrainedTokenizerFast, size: int) -> tuple[list[str], list[int]]:
    """The words by their numbers, and what each is; numbers without a word get one that no text has."""
    if len(tokenizer) > size:
        raise _refuse(f"it has {len(tokenizer):,} tokens, and the model {size:,}")
    # Published models have rows for more tokens than their tokenizers, so that matrices divide well.
    names = {number: name for name, number in tokenizer.get_vocab().items()}
    tokens = [names.get(number, f"[PAD{number}]") for number in range(size)]
    types = [int(TokenType.NORMAL if number in names else TokenType.UNUSED) for number in range(size)]
    for number, token in tokenizer.added_tokens_decoder.items():
        types[number] = int(TokenType.CONTROL if token.special else TokenType.USER_DEFINED)
    return tokens, types


def _list_merges(written: Mapping[str, Any]) -> Iterator[str]:
    for merge in written["model"]["merges"]:
        yield merge if isinstance(merge, str) else " ".join(merge)


def _reaches_all(written: Mapping[str, Any]) -> bool:
    """Whether each word of the vocabulary is what its merges make of its own bytes."""
    alone = {**written, "pre_tokenizer": None, "normalizer": None, "post_processor": None, "added_tokens": []}
    alone["model"] = {**written["model"], "ignore_merges": False}
    backend = Tokenizer.from_str(json.dumps(alone))
    added = {token["content"] for token in written["added_tokens"]}
    # No splitting: a word of the vocabulary is never split by the rule that it was learned under.
    words = [word for word in written["model"]["vocab"] if word not in added]
    found = backend.encode_batch(words, add_special_tokens=False)
    return all(each.tokens == [word] for each, word in zip(found, words, strict=True))


def writes_begin(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether llama.cpp is to write the begin token before a text.

    It does so before a prompt as well: not where the chat template writes none.
    """
    begin, _ = _find_ends(tokenizer)
    if not begin or not tokenizer.chat_template:
        return begin
    chat = RenderedChat(tokenizer, get_default_template(tokenizer), list(SAMPLE_CHAT[:1]))
    return chat.text(prompt=True).startswith(str(tokenizer.bos_token))


def _find_ends(tokenizer: PreTrainedTokenizerFast) -> tuple[bool, bool]:
    """Whether the begin and the end token are written around a text."""
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    for bos in (False, True):
        for eos in (False, True):
            begin = [tokenizer.bos_token_id] if bos else []
            end = [tokenizer.eos_token_id] if eos else []
            if whole == [*begin, *plain, *end]:
                return bos, eos
    raise _refuse("it writes other tokens than its begin and end tokens around a text")


def _refuse(why: str) -> ModelError:
    return ModelError(Problem(f"the tokenizer is a vocabulary that GGUF cannot hold: {why}", REMEDY, code="HF972"))
