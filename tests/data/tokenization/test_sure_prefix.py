"""Of a long text that is cut only its beginning is tokenized where that is sure, and nothing comes out otherwise."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.long_texts import pieces
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.data.tokenization import sure_prefix, text
from hf_finetune.data.tokenization.sure_prefix import find_sure_prefix
from hf_finetune.data.tokenization.text import encode_texts
from hf_finetune.models.tokenizer_training import train_tokenizer

BPE = train_tokenizer("bpe", ["some text to learn from, it's 12 or 345 abc ab a. \u00e9t\u00e9 " * 4], 320)


def changed(**parts: object) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(BPE)
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)])
TOKENIZERS = {
    "bpe": BPE,
    "digits": changed(pre_tokenizer=DIGITS),
    "normalized": changed(normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "bert": changed(normalizer=normalizers.BertNormalizer(), pre_tokenizer=pre_tokenizers.BertPreTokenizer()),
}
WORDS = [
    "some",
    "text",
    "learn",
    "from",
    "a",
    "b",
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
TEXTS = st.lists(st.sampled_from(WORDS), max_size=30).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), limit=st.integers(2, 6))
def test_what_is_cut_of_a_text_never_changes_what_is_kept(name, texts, limit):
    assert get_control_tokens(TOKENIZERS[name], only_special=True).in_pieces
    whole = encode_texts(TOKENIZERS[name], texts, None, limit)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"LONG": 12, "PER_TOKEN": 2, "LAST_PLACES": 8}.items():
            patch.setattr(sure_prefix, key, value)
        patch.setattr(text, "AT_ONCE", 40)
        assert encode_texts(TOKENIZERS[name], texts, None, limit) == whole


def test_of_a_text_of_megabytes_the_beginning_is_tokenized_alone(monkeypatch):
    given_texts: list[int] = []
    encode = pieces.encode_batch

    def note(twin, texts, **options):
        given_texts.extend(map(len, texts))
        return encode(twin, texts, **options)

    for module in ("long_texts.pieces", "special_tokens"):
        monkeypatch.setattr(f"hf_finetune.chat.{module}.encode_batch", note)
    found = encode_texts(BPE, ["some text " * 100_000], None, 128)
    assert (len(found.input_ids[0]), found.truncated) == (128, 1)
    assert max(given_texts) < 60_000


def test_a_text_without_such_a_blank_has_no_sure_beginning():
    for whole in ("a" * 100_000, " " * 100_000, "\u00e9 " * 50_000, "ab " * 100):
        assert find_sure_prefix(whole, 128) is None
