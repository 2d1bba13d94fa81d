"""The text that each token stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.special_tokens import MARK, TokenizedText, get_control_tokens


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tokens with their texts: (tokens,) each."""

    ids: list[int]
    texts: list[str]
    control: list[bool]


def split_text(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """Split a text at its tokens, of which `offsets` are the (start, stop): (tokens,) texts, which joined are the text.

    Of the tokens of one character the first has it. What no token stands for, such as the blanks between words under
    BERT, stands before the next token.
    """
    # "né!" with the offsets (0, 1) (1, 2) (1, 2) (2, 3), é being two tokens of a byte -> ["n", "é", "", "!"]
    texts: list[str] = []
    done = 0
    for _, stop in offsets:
        texts.append(text[done:stop])
        done = max(done, stop)
    if texts:
        texts[-1] += text[done:]
    return texts


def read_rendered(tokenizer: PreTrainedTokenizerFast, tokens: TokenizedText) -> Pieces:
    """The tokens of a conversation, its control tokens under the names that they have in the vocabulary."""
    names = get_control_tokens(tokenizer).names
    contents = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    texts = split_text(tokens.text, [tokens.find_characters(number) for number in range(len(tokens.ids))])
    # The names of the twin are of noncharacters: a row that spells <|im_end|> has none in its text.
    control = [MARK[0] in text for text in texts]
    for number, (index, special) in enumerate(zip(tokens.ids, control, strict=True)):
        if special:
            content = contents[index]
            texts[number] = texts[number].replace(names[content], content)
    return Pieces(list(tokens.ids), texts, control)


def read_ids(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> Pieces:
    """The tokens of documents as they are decoded, by their ids alone."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Decoded one by one, parts of a character would be U+FFFD each: the stream gives it with its last token, and None
    # before.
    stream = DecodeStream(skip_special_tokens=False)
    texts = [stream.step(tokenizer.backend_tokenizer, index) or "" for index in ids]
    return Pieces(list(ids), texts, [index in special for index in ids])
