"""Generated conversations under the templates of many model families: exactly what the assistant says is trained."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
from chat.chat_families import FAMILIES, Family, tokenizer_of

from hf_finetune.chat.assistant_mask import find_assistant_spans
from hf_finetune.chat.neutral import check_control_tokens
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.chat.template import encode_prompt, get_training_template, prepare_chat
from hf_finetune.data.tokenization.spans import find_token_ranges

# `CONVERSATIONS=5000` for the long run.
CONVERSATIONS = int(os.environ.get("CONVERSATIONS", "80"))

HARMLESS = [
    *("yes", "Not at all.", "naïve café", "東京 Привет 🙂", "2 + 2 = 4", "def f(x):\n    return x", "a\n\nb"),
    *("tabs\t\t", "  spaces  ", "user", "assistant\n", "system: no", "{'a': 1}", '"quoted"', "<b>bold</b>"),
    *("a < b > c", "{{ x }}"),
]


def conversations(family: Family, seed: int, spelled: list[str]) -> Iterator[list[dict[str, str]]]:
    """Conversations of one to three exchanges, whose texts are made of harmless pieces and of `spelled`."""
    dice = random.Random(seed)

    def text() -> str:
        choices = HARMLESS + spelled if dice.random() < 0.5 else HARMLESS
        pieces = [dice.choice(choices) for _ in range(dice.randint(1, 4))]
        said = dice.choice(["", " ", "\n", "-"]).join(pieces).strip() or "x"
        # What begins with thoughts is taken apart where the template writes those: tests/chat/test_thoughts.py.
        return f"x{said}" if said.startswith("<think>") and "</think>" in said else said

    while True:
        messages = [{"role": "system", "content": text()}] if family.system and dice.random() < 0.3 else []
        for _ in range(dice.randint(1, 3)):
            messages += [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]
        yield messages


def expected_turns(family: Family, messages: list[dict[str, str]]) -> list[str]:
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    said = [text.strip() if family.strips else text for text in said]
    turns = [family.turn] * (len(said) - 1) + [family.last_turn or family.turn]
    return [turn.replace("{}", text) for turn, text in zip(turns, said, strict=True)]


def encoded(tokenizer, template, messages):
    chat = prepare_chat(tokenizer, template, messages, None)
    spans = find_assistant_spans(chat, [True] * len(messages))
    assert check_control_tokens([chat]) == [None]
    bounds = sorted({position for span in spans for position in span})
    (tokens,) = get_control_tokens(tokenizer).encode([chat.text()], [bounds])
    return tokens.ids, [tokens.ids[slice(*of_it)] for of_it in find_token_ranges(spans, tokens)]


def control_ids(tokenizer) -> set[int]:
    return set(tokenizer.convert_tokens_to_ids(list(get_control_tokens(tokenizer).names)))


def same(family: Family, one: str, other: str) -> bool:
    """Equal text; a tokenizer that puts spaces before words of its own is compared without white space."""
    if family.kind == "metaspace":
        return "".join(one.split()) == "".join(other.split())
    return one.lstrip() == other.lstrip()  # white space may be one token with the line end of the header


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_trained_tokens_are_what_the_assistant_says_whatever_the_text_spells(family):
    tokenizer = tokenizer_of(family)
    template = get_training_template(tokenizer)
    control = control_ids(tokenizer)
    decode = tokenizer.backend_tokenizer.decode
    spelled = [token.content for token in tokenizer.added_tokens_decoder.values()]
    spelled += [piece for token in spelled for piece in (token[:-2], token[2:], f"{token}{token}", token[0], token[-1])]
    for number, messages in zip(range(CONVERSATIONS), conversations(family, 1, spelled), strict=False):
        ids, turns = encoded(tokenizer, template, messages)
        for turn, expected in zip(turns, expected_turns(family, messages), strict=True):
            assert same(family, decode(turn, skip_special_tokens=False), expected), (number, messages)
        plain = [{**message, "content": "x"} for message in messages]
        scaffolding, _ = encoded(tokenizer, template, plain)
        assert [i for i in ids if i in control] == [i for i in scaffolding if i in control], (number, messages)
        begins = [position for position, index in enumerate(ids) if index == tokenizer.bos_token_id]
        assert begins == ([0] if family.bos is not None and family.writes_bos else [])
        if family.kind == "bytes":
            chat = tokenizer.apply_chat_template(plain, chat_template=template, tokenize=False)
            assert decode(scaffolding, skip_special_tokens=False) == chat


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_ids_of_harmless_text_are_those_of_the_template(family):
    tokenizer = tokenizer_of(family)
    template = get_training_template(tokenizer)
    for number, messages in zip(range(CONVERSATIONS), conversations(family, 2, []), strict=False):
        ids, _ = encoded(tokenizer, template, messages)
        reference = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=True)["input_ids"]
        assert ids == reference, (number, messages)
        asked = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=True)["input_ids"]
        assert encode_prompt(tokenizer, messages[:-1]) == asked, (number, messages)
