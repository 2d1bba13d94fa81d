"""A text of megabytes is tokenized in pieces where these have the tokens of the whole, and as a whole otherwise."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.given_up import TextGivenUp
from hf_finetune.chat.long_texts import borders, pieces
from hf_finetune.chat.long_texts.borders import cut_at_borders, splits_at_borders
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.data.tokenization.text import encode_documents
from hf_finetune.models.tokenizer_training import train_tokenizer

BPE = train_tokenizer("bpe", ["some text to learn from, it's 12 or 345 abc ab a. \u00e9t\u00e9 " * 4], 320)
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT_4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(False, use_regex=False)


def changed(**parts: object) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(BPE)
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def splitting(pattern: str) -> PreTrainedTokenizerFast:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return changed(pre_tokenizer=pre_tokenizers.Sequence([split, BYTES]))


DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
TOKENIZERS = {
    "bpe": BPE,
    "digits": changed(pre_tokenizer=DIGITS),
    "stripped": changed(normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])),
    "normalized": changed(normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "bert": changed(normalizer=normalizers.BertNormalizer(), pre_tokenizer=pre_tokenizers.BertPreTokenizer()),
    "llama 3": splitting(LLAMA_3),
    "qwen 2": splitting(QWEN_2),
    "gpt 4o": splitting(GPT_4O),
}
WORDS = [
    "some",
    "text",
    "from",
    "a",
    "B",
    "12",
    "345",
    " ",
    " ",
    "  ",
    "\n",
    "'s",
    ".",
    "\u00e9",
    "\u0301",
    "\u03a3",
    "<|",
]
TEXTS = st.lists(st.sampled_from([*WORDS, "<|eos|>"]), max_size=40).map("".join)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(borders, "PIECE", 6)
    monkeypatch.setattr(pieces, "LONG", 12)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), cut=st.integers(0, 30))
def test_pieces_have_the_tokens_of_the_whole_at_the_same_characters(name, texts, cut, short):
    control = get_control_tokens(TOKENIZERS[name])
    assert control.in_pieces
    bounds = [[] if cut > len(text) or "<" in text else [cut] for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "LONG", 10**9)
        whole, documents = control.encode(texts, bounds), encode_documents(TOKENIZERS[name], texts)
    for one, other in zip(control.encode(texts, bounds), whole, strict=True):
        assert (list(one.ids), one.bounds) == (list(other.ids), other.bounds)
        numbers = range(len(one.ids))
        assert [*map(one.find_characters, numbers)] == [*map(other.find_characters, numbers)]
    assert [list(ids) for ids in encode_documents(TOKENIZERS[name], texts)] == documents


def test_a_tokenizer_is_given_no_more_than_about_a_piece(monkeypatch):
    sizes: list[int] = []
    encode = pieces.encode_batch

    def note(twin, texts, **options):
        sizes.append(sum(map(len, texts)))
        return encode(twin, texts, **options)

    monkeypatch.setattr(pieces, "encode_batch", note)
    get_control_tokens(BPE).encode(["some text " * 100_000], [[10]])
    assert len(sizes) == 4
    assert max(sizes) <= borders.PIECE + 10
    assert sum(sizes) == 1_000_000


@pytest.mark.parametrize(
    "tokenizer",
    [changed(pre_tokenizer=None), changed(pre_tokenizer=pre_tokenizers.ByteLevel(True)),
     changed(pre_tokenizer=pre_tokenizers.Metaspace()), changed(pre_tokenizer=BYTES),
     changed(pre_tokenizer=pre_tokenizers.Sequence([BYTES, pre_tokenizers.Whitespace()])),
     changed(normalizer=normalizers.Replace(" ", "")), train_tokenizer("char", ["ab"]),
     splitting(r"\S+ \S+|\s+"), splitting(LLAMA_3.replace(r"|\s+(?!\S)|\s+", ""))],
)  # fmt: skip
def test_a_tokenizer_that_may_look_across_a_blank_gets_the_whole_text(tokenizer, short):
    text = "ab cd " * 10
    assert not get_control_tokens(tokenizer).in_pieces
    (encoded,) = get_control_tokens(tokenizer).encode([text], [[]])
    assert not isinstance(encoded.encoding, pieces.JoinedEncoding)


@pytest.mark.parametrize("token", ["a b", AddedToken("word", rstrip=True), AddedToken("word", lstrip=True)])
def test_an_added_token_that_takes_a_blank_is_looked_for_in_the_whole_text(token):
    tokenizer = changed()
    tokenizer.add_tokens([token])
    assert not splits_at_borders(json.loads(tokenizer.backend_tokenizer.to_str()))
    assert not get_control_tokens(tokenizer).in_pieces


@pytest.mark.parametrize("text", ["ab" * 20, "\u00e9 " * 20, " \n" * 40, "_\n/\n" * 40, ""])
def test_a_text_without_a_border_is_one_piece(text, short):
    assert list(cut_at_borders(text)) == [(0, len(text))]


def test_a_long_text_that_is_given_up_has_its_number(monkeypatch, short):
    encode = pieces.encode_batch

    def give_up(twin, texts, **options):
        for number, text in enumerate(texts):
            if "12" in text:
                raise TextGivenUp(number, "no")
        return encode(twin, texts, **options)

    monkeypatch.setattr(pieces, "encode_batch", give_up)
    for texts, at in ((["a", "a", "12"], 2), (["a", "a b " * 9, "some text 12 " * 3], 2), (["ab " * 9, "12", "a"], 1)):
        with pytest.raises(TextGivenUp) as raised:
            encode_documents(BPE, texts)
        assert raised.value.number == at
