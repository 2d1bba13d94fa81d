"""A text on which the tokenizer gives up is named by its file and line, whatever becomes of the row."""

from __future__ import annotations

import json

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.given_up import TextGivenUp, encode_batch
from hf_finetune.config.sections import DataSection
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.documents import pack_splits
from hf_finetune.data.tokenization.labelled import tokenize_labelled
from hf_finetune.errors import DataError

ENDLESS = "a" * 40 + "b"
AT = 5
SAID = (
    r"rows\.jsonl:6: the tokenizer gives up on a text \(Onig: .*; shorten what repeats in it, or use another tokenizer"
    r" \[HF122\]"
)
TEMPLATE = "{% for m in messages %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% endfor %}"


@pytest.fixture(autouse=True)
def quiet(capfd, monkeypatch):
    monkeypatch.setenv("RUST_BACKTRACE", "0")  # to name the places of a stack can take a minute
    yield
    capfd.readouterr()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordLevel({"?": 0, "</s>": 1}, unk_token="?"))
    backend.pre_tokenizer = Split(Regex(r"(a+)+$"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>", unk_token="?")


def load(tmp_path, becomes, row):
    texts = [ENDLESS if number == AT else f"text {number}" for number in range(8)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row(text)) + "\n" for text in texts))
    return load_splits(DataSection(train=[str(file)]), becomes, seed=0)


def test_the_one_among_many_is_found(tokenizer):
    texts = ["a b"] * 20
    assert [one.ids for one in encode_batch(tokenizer.backend_tokenizer, texts)] == [[0]] * 20
    texts[13] = ENDLESS
    with pytest.raises(TextGivenUp) as raised:
        encode_batch(tokenizer.backend_tokenizer, texts)
    assert raised.value.number == 13
    with pytest.raises(TypeError):
        encode_batch(tokenizer.backend_tokenizer, [1, 2])


def test_a_document_is_named(tmp_path, tokenizer):
    splits = load(tmp_path, "document", lambda text: {"text": text})
    with pytest.raises(DataError, match=SAID):
        pack_splits(splits.rows, tokenizer, 8, isolate=False, locate=splits.locate)
    rows = {"validation": splits.rows["train"]}
    with pytest.raises(DataError, match=SAID):
        pack_splits(rows, tokenizer, 8, isolate=False, locate=lambda _, row: splits.locate("train", row))
    with pytest.raises(DataError, match="row 6: the tokenizer gives up"):
        pack_splits(splits.rows, tokenizer, 8, isolate=False)


@pytest.mark.parametrize("pair", [True, False])
def test_a_labelled_text_or_its_pair_is_named(tmp_path, tokenizer, pair):
    def row(text):
        texts = {"text": f"a {text[:6]}", "text_pair": text} if pair else {"text": text}
        return {**texts, "label": "yes" if text[-1] in "0123" else "no"}

    splits = load(tmp_path, "labelled", row)
    with pytest.raises(DataError, match=SAID):
        tokenize_labelled(splits, tokenizer, freeze_labels(splits, DataSection()), DataSection(), 16)


def test_a_conversation_is_named(tmp_path, tokenizer):
    splits = load(tmp_path, "conversation", lambda text: {"prompt": "a", "completion": text})
    with pytest.raises(DataError, match=SAID):
        tokenize_conversations(splits, tokenizer, TEMPLATE, DataSection(), 64)
