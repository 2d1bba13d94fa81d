"""Thoughts inside a content, and what a template writes before an answer without any."""

from __future__ import annotations

import pytest
from chat.chat_families import FAMILIES, TEMPLATES, tokenizer_of

from hf_finetune.chat.assistant_mask import find_assistant_spans
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.chat.template import get_training_template, prepare_chat
from hf_finetune.chat.thoughts import split_thoughts

ASKED = {"role": "user", "content": "What is 2 + 2?"}
THOUGHT = {"role": "assistant", "content": "<think>\n2+2 equals 4.\n</think>\n\nThe answer is 4."}
THANKED = {"role": "user", "content": "Thanks."}
PLAIN = {"role": "assistant", "content": "No worries."}


def family(name: str):
    return next(each for each in FAMILIES if each.name == name)


def encode(tokenizer, template, messages, **options):
    chat = prepare_chat(tokenizer, template, messages, None)
    spans = find_assistant_spans(chat, [True] * len(messages), **options)
    (tokens,) = get_control_tokens(tokenizer).encode([chat.text()], [[]])
    return tokens.ids, [chat.text()[slice(*span)] for span in spans]


@pytest.mark.parametrize("name", ["qwen3", "glm4moe"])
@pytest.mark.parametrize("messages", [[ASKED, THOUGHT], [ASKED, PLAIN, THANKED, THOUGHT]], ids=["one", "two"])
def test_thoughts_in_a_content_give_the_tokens_of_apply_chat_template(name, messages):
    tokenizer = tokenizer_of(family(name))
    template = (TEMPLATES / f"{name}.jinja").read_text()
    tokenizer.chat_template = template
    # Without masking here: an earlier turn of Qwen3 loses its block, which is why TRL has a variant for training.
    chat = prepare_chat(tokenizer, template, messages, None)
    (ours,) = get_control_tokens(tokenizer).encode([chat.text()], [[]])
    theirs = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert ours.ids == theirs
    assert tokenizer.convert_tokens_to_ids("</think>") in ours.ids


def test_they_are_trained_with_their_tags_as_tokens():
    tokenizer = tokenizer_of(family("qwen3"))
    _, [said] = encode(tokenizer, get_training_template(tokenizer), [ASKED, THOUGHT])
    assert said == "<think>\n2+2 equals 4.\n</think>\n\nThe answer is 4.<|im_end|>"


def test_a_template_that_writes_no_thoughts_has_them_as_text():
    tokenizer = tokenizer_of(family("qwen2_5"))
    template = get_training_template(tokenizer)
    assert split_thoughts(tokenizer, template, [ASKED, THOUGHT]) == [ASKED, THOUGHT]


def test_what_says_its_thoughts_already_or_only_speaks_of_the_tag_stays():
    tokenizer = tokenizer_of(family("qwen3"))
    template = get_training_template(tokenizer)
    said = {**THOUGHT, "reasoning_content": "hm"}
    spoken = {"role": "assistant", "content": "Write <think> and </think> around thoughts."}
    asked = {"role": "user", "content": THOUGHT["content"]}
    messages = [asked, said, THANKED, spoken]
    assert split_thoughts(tokenizer, template, messages) == messages


def test_an_empty_block_of_thoughts_is_trained_only_where_it_is_asked_for():
    tokenizer = tokenizer_of(family("qwen3"))
    template = get_training_template(tokenizer)
    messages = [ASKED, PLAIN, THANKED, PLAIN]
    _, without = encode(tokenizer, template, messages)
    assert without == ["No worries.<|im_end|>"] * 2
    _, with_it = encode(tokenizer, template, messages, prefill=True)
    assert with_it == ["<think>\n\n</think>\n\nNo worries.<|im_end|>"] * 2


def test_it_is_what_a_server_that_wants_no_thoughts_writes_there():
    tokenizer = tokenizer_of(family("qwen3"))
    template = (TEMPLATES / "qwen3.jinja").read_text()
    asked = tokenizer.apply_chat_template(
        [ASKED], chat_template=template, add_generation_prompt=True, enable_thinking=False, tokenize=False
    )
    whole = prepare_chat(tokenizer, get_training_template(tokenizer), [ASKED, PLAIN], None)
    [(start, _)] = find_assistant_spans(whole, [True, True])
    assert whole.text()[:start] == asked


def test_what_else_stands_before_an_answer_is_for_the_model_to_say():
    tokenizer = tokenizer_of(family("gptoss"))
    _, [said] = encode(tokenizer, get_training_template(tokenizer), [ASKED, PLAIN])
    assert said == "<|channel|>final<|message|>No worries.<|return|>"
