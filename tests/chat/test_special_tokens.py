from __future__ import annotations

import pytest
from chat_families import make_backend
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.special_tokens import get_control_tokens

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CONVERSATION = [
    {"role": "user", "content": "moon\nwater é😀 !"},
    {"role": "assistant", "content": "two\n\nlines, and no more: 🙂"},
]


@pytest.mark.parametrize("special", [True, False], ids=["special", "added"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_bytes_of_a_text_keep_their_ids_where_they_are_added_tokens_too(kind, special):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_backend(kind), unk_token="<unk>")
    pieces = [AddedToken(f"<0x{byte:02X}>", special=special, normalized=False) for byte in range(256)]
    tokenizer.add_tokens(pieces, special_tokens=special)
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)], True)
    tokenizer.add_tokens([AddedToken("!", normalized=False)])  # a word of one character, not a mark of structure
    tokenizer.chat_template = TEMPLATE
    control = get_control_tokens(tokenizer)
    (whole,) = control.encode([tokenizer.apply_chat_template(CONVERSATION, tokenize=False)], [[]])
    assert whole.ids == tokenizer.apply_chat_template(CONVERSATION)["input_ids"]
    assert tokenizer.unk_token_id not in whole.ids
    (document,) = get_control_tokens(tokenizer, only_special=True).encode_plain(["é 😀\n!"])
    assert document.ids == tokenizer("é 😀\n!", add_special_tokens=False)["input_ids"]
    assert control.names.keys() == {"<unk>", "<|im_start|>", "<|im_end|>"}
