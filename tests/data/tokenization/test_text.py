from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.data.tokenization.text import encode_documents, encode_texts, separate_pairs
from hf_finetune.models.tokenizer_training import train_tokenizer


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


def test_an_added_token_that_is_not_special_is_a_token_of_documents_and_text_in_conversations():
    tokenizer = copy.deepcopy(TOKENIZERS["bpe"])
    tokenizer.add_tokens(["<table>"])
    table = tokenizer.convert_tokens_to_ids("<table>")
    assert encode_documents(tokenizer, ["a <table>"])[0][-1] == table
    assert encode_texts(tokenizer, ["a <table>"], None, None).input_ids[0][-1] == table
    assert table not in get_control_tokens(tokenizer).encode_plain(["a <table>"])[0].ids


def test_no_texts_give_no_rows():
    assert encode_documents(TOKENIZERS["char"], []) == []


def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT's: begin, end and separating tokens around one text or two, and type ids."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "[", "]", "sep"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=names, **special)


WORDS = st.text(alphabet="abc ", max_size=12)


@given(rows=st.lists(st.tuples(WORDS, st.none() | WORDS), min_size=1, max_size=6), limit=st.none() | st.integers(4, 9))
def test_rows_of_a_classifier_are_those_of_the_library_each_with_its_pair_or_without(rows, limit):
    tokenizer = wordpiece()
    found = encode_texts(tokenizer, [text for text, _ in rows], [pair for _, pair in rows], limit)
    cut = 0
    for number, (text, pair) in enumerate(rows):
        expected = tokenizer(text, pair, truncation=limit is not None, max_length=limit)
        whole = tokenizer(text, pair)
        cut += len(whole["input_ids"]) > len(expected["input_ids"])
        assert found.input_ids[number] == expected["input_ids"]
        assert found.token_type_ids[number] == expected["token_type_ids"]
    assert found.truncated == cut


def test_text_that_spells_a_separator_does_not_separate():
    (ids,) = encode_texts(wordpiece(), ["a [SEP] b"], None, None).input_ids
    assert ids == [2, 5, 8, 10, 9, 6, 3]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("limit", [None, 2])
def test_texts_to_classify_hold_no_control_token_and_are_never_empty(name, limit):
    tokenizer = TOKENIZERS[name]
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    texts = [f"a {token} a" for token in tokenizer.all_special_tokens]
    found = encode_texts(tokenizer, [*texts, ""], None, limit)
    for ids in found.input_ids[:-1]:
        assert control.isdisjoint(ids)
        assert limit is None or len(ids) == limit
    assert len(found.input_ids[-1]) == 1
    assert found.token_type_ids is None


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_two_texts_of_a_row_are_told_apart_by_decoders_too_wherever_the_tokenizer_is_loaded(name, tmp_path):
    tokenizer = copy.deepcopy(TOKENIZERS[name])
    apart = encode_texts(tokenizer, ["a", "a a"], ["a", None], None)
    separate_pairs(tokenizer)
    separate_pairs(tokenizer)
    found = encode_texts(tokenizer, ["a", "a a"], ["a", None], None)
    assert found.input_ids[0].count(tokenizer.eos_token_id) == 1
    assert [index for index in found.input_ids[0] if index != tokenizer.eos_token_id] == apart.input_ids[0]
    assert found.input_ids[1] == apart.input_ids[1]
    tokenizer.save_pretrained(tmp_path)
    elsewhere = AutoTokenizer.from_pretrained(tmp_path)
    assert elsewhere("a", "a")["input_ids"] == found.input_ids[0]
    assert elsewhere("a a")["input_ids"] == found.input_ids[1]


def test_a_tokenizer_that_separates_pairs_stays_as_it_is():
    tokenizer = wordpiece()
    before = tokenizer.backend_tokenizer.to_str()
    separate_pairs(tokenizer)
    encode_texts(tokenizer, ["a"], ["b"], 4)
    assert tokenizer.backend_tokenizer.to_str() == before
