from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_finetune.data.tokenization import encode_documents
from hf_finetune.models.tokenizers import train_tokenizer


def unigram() -> PreTrainedTokenizerFast:
    """As sentencepiece models have it: control tokens are entries of the vocabulary, and `</s>` is found in text."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), *((piece, -3.0) for piece in "abc</s>")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "[EOS]": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]")


TOKENIZERS = {
    "unigram": unigram(),
    "word_level": word_level(),
    "char": train_tokenizer("char", ["abc <|padboseunk>"], None),
    "bpe": train_tokenizer("bpe", ["some text to learn from " * 4], 300),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_special_token_comes_out_of_text_that_spells_it(name):
    tokenizer = TOKENIZERS[name]
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for token in tokenizer.all_special_tokens:
        for text in (token, f"a {token} a", f"{token}{token}"):
            (ids,) = encode_documents(tokenizer, [text])
            assert control.isdisjoint(ids), (text, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_harmless_text_is_encoded_as_the_library_does(name):
    tokenizer = TOKENIZERS[name]
    texts = ["a a", "a", ""]
    assert encode_documents(tokenizer, texts) == tokenizer(texts, add_special_tokens=False)["input_ids"]


def test_no_texts_give_no_rows():
    assert encode_documents(TOKENIZERS["char"], []) == []
