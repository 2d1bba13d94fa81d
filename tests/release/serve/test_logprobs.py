"""The bytes of tokens, which clients put together where a character is made of several."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.release.serve.api.logprobs import write_chat_logprobs
from hf_finetune.release.serve.engine.jobs import TokenScore

TEXT = "5 \N{EURO SIGN} for \N{PARTY POPPER}, caf\N{LATIN SMALL LETTER E WITH ACUTE}"


def sentencepiece_bytes() -> PreTrainedTokenizerFast:
    pieces = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(pieces, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("make", [lambda: train_tokenizer("bpe", ["a plain text"], 300), sentencepiece_bytes])
def test_the_bytes_of_all_tokens_are_those_of_the_text(make):
    tokenizer = make()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    written = write_chat_logprobs(tokenizer, [TokenScore(token, -1.0, ((token, -1.0),)) for token in ids])["content"]
    assert b"".join(bytes(each["bytes"]) for each in written).decode() == TEXT
    assert [each["top_logprobs"][0]["bytes"] for each in written] == [each["bytes"] for each in written]
