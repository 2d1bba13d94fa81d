"""llama.cpp takes a text for the same tokens as the run did, or the export is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from release.export.gguf_models import chat_tokenizer, tiny
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from hf_finetune.errors import ModelError
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.release.export.gguf.llama_cpp import LlamaCpp
from hf_finetune.release.export.gguf.odd_texts import PARTS, TEXTS, check_tokens
from hf_finetune.release.export.gguf.split_rules import GPT2, NAMES, find_split_name
from hf_finetune.release.export.gguf.vocabulary import describe_vocabulary
from hf_finetune.release.export.gguf.writing import About, write_model

pytest.importorskip("xllamacpp")

SPECIAL = ["<|end|>", "<s>"]
LEARNED = [*PARTS, "the things that the others bring don't I'll 1,234 5678"] * 3


def by_bytes(split: Any, **more: Any) -> PreTrainedTokenizerFast:
    """BPE over bytes behind a rule of splitting; with a special and an ordinary added token."""
    backend = Tokenizer(models.BPE(ignore_merges=more.get("ignore_merges", False)))
    backend.pre_tokenizer, backend.normalizer = split, more.get("normalizer")
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        LEARNED,
        trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", bos_token="<s>")


def by_pieces(prepend: str = "always", **changes: Any) -> PreTrainedTokenizerFast:
    """SentencePiece's kind, as Llama 2 and Mistral have it: each word is made of any two others."""
    words = ["▁", *"Helowrdthingsab.,1", "he", "th", "in", "the", "▁the", "▁th", "ing", "lo", "hel", "ar"]
    words += [word for word in ("▁h", "hell", "hello", "▁hello", "or", "wor", "▁w", "▁wor") if word not in words]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(words)]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [
        (word[:place], word[place:])
        for word in tokens[259:]
        for place in range(1, len(word))
        if word[:place] in vocab and word[place:] in vocab
    ]
    backend = Tokenizer(
        models.BPE(vocab, changes.get("merges", merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if prepend == "first":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        start = [normalizers.Prepend("▁")] if prepend == "always" else []
        backend.normalizer = normalizers.Sequence([*start, normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in tokens[:3]])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def split_of(name: str) -> Any:
    rule = next(rule for rule, each in NAMES.items() if each == name)
    if GPT2 in rule:
        digits = [pre_tokenizers.Digits(individual_digits=True)] if len(rule) == 2 else []
        return pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(Regex(rule[0]), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def count_alike(tokenizer: PreTrainedTokenizerFast, folder: Path) -> int:
    path = folder / "model.gguf"
    write_model(path, tiny(vocab_size=len(tokenizer) + 3), tokenizer, "f32", About("tiny"))
    with LlamaCpp(path, context=64) as theirs:
        whole = "<s>a<think> b</think><|end|></s>"
        assert theirs.tokenize(whole, special=True) == tokenizer(whole, add_special_tokens=False)["input_ids"]
        return check_tokens(theirs, tokenizer)


@pytest.mark.parametrize("name", NAMES.values())
def test_every_rule_of_splitting_gives_llama_cpp_the_tokens_of_the_run(name: str, tmp_path: Path) -> None:
    tokenizer = by_bytes(split_of(name), ignore_merges=name in ("llama-bpe", "tekken"))
    assert find_split_name(json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]) == name
    assert count_alike(tokenizer, tmp_path) == 200 == len(set(TEXTS))


@pytest.mark.parametrize("prepend", ["always", "never"])
def test_pieces_are_joined_in_the_order_of_their_scores(prepend: str, tmp_path: Path) -> None:
    tokenizer = by_pieces(prepend)
    assert len(tokenizer.tokenize("hello the thing")) <= 5
    path = tmp_path / "model.gguf"
    write_model(path, tiny(vocab_size=len(tokenizer)), tokenizer, "f32", About("tiny"))
    with LlamaCpp(path, context=64) as theirs:
        check_tokens(theirs, tokenizer)
        for text in ("hello the thing", "  world", "wor the heart", "thehello"):
            assert theirs.tokenize(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_what_llama_cpp_does_otherwise_is_said() -> None:
    assert "behind each control token" in describe_vocabulary(by_pieces("first"), 400).notes[0]
    normal = by_bytes(split_of("qwen2"), normalizer=normalizers.NFC())
    assert "separate accents" in describe_vocabulary(normal, 500).notes[0]
    assert not describe_vocabulary(chat_tokenizer(), 400).notes


def test_our_own_bpe_is_one_that_llama_cpp_has(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bpe", LEARNED, 400)
    assert describe_vocabulary(tokenizer, 400).split == "gpt-2"
    path = tmp_path / "model.gguf"
    write_model(path, tiny(vocab_size=len(tokenizer)), tokenizer, "f32", About("tiny"))
    with LlamaCpp(path, context=64) as theirs:
        assert check_tokens(theirs, tokenizer) == 200


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: train_tokenizer("char", LEARNED, None), "a rule that llama.cpp has no name for"),
        (lambda: by_bytes(pre_tokenizers.ByteLevel(add_prefix_space=True)), "a rule that llama.cpp has no name for"),
        (
            lambda: by_bytes(split_of("gpt-2"), normalizer=normalizers.Lowercase()),
            "it changes texts first (Lowercase)",
        ),
        (lambda: by_pieces(merges=[("h", "e"), ("t", "h")]), "in every way that llama.cpp does"),
    ],
)
def test_a_vocabulary_that_gguf_cannot_hold_is_refused_with_the_reason(made: Any, said: str) -> None:
    with pytest.raises(ModelError, match="a vocabulary that GGUF cannot hold") as refused:
        describe_vocabulary(made(), 500)
    assert said in str(refused.value)


def test_more_tokens_than_embeddings_are_refused() -> None:
    with pytest.raises(ModelError, match="it has 291 tokens, and the model 290"):
        describe_vocabulary(chat_tokenizer(), 290)


def test_a_difference_that_only_llama_cpp_shows_is_refused_with_both_sides(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, tiny(), chat_tokenizer(), "f32", About("tiny"))
    other = by_bytes(split_of("gpt-2"))
    with (
        LlamaCpp(path, context=64) as theirs,
        pytest.raises(ModelError, match=r"llama\.cpp takes 'HelloHello' for the tokens \[.*and the run for \["),
    ):
        check_tokens(theirs, other)


def test_the_names_of_rules_are_those_that_transformers_reads() -> None:
    for rule, name in NAMES.items():
        assert GPT2 in rule or GGUF_PRE_TOKENIZER_SPLITS[name] == rule[0]
