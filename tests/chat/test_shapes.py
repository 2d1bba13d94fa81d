"""Conversations that are put together from the pieces of their shape are those that the template writes."""

from __future__ import annotations

import random

import pytest
from chat.chat_families import FAMILIES, tokenizer_of

from hf_finetune.chat.assistant_mask import ChatTemplateError, check_said, find_assistant_spans
from hf_finetune.chat.neutral import check_control_tokens
from hf_finetune.chat.rendering import trust_template
from hf_finetune.chat.shapes.assembly import Shapes
from hf_finetune.chat.shapes.opaque import PassingOn, find_passing_on
from hf_finetune.chat.template import get_training_template, prepare_chat
from hf_finetune.chat.thoughts import split_thoughts

SAID = [
    "Hi",
    "a b",
    " x\n",
    "\n\nlong\n\ntext\n",
    "",
    "  ",
    '{"a": "b"}',
    "<|im_",
    "im_end|> y",
    "<",
    ">",
    "end",
    "é 東京",
]
SAID += [
    "<think>hm</think>\n\nYes",
    "a </think> b",
    "<tool_response>r</tool_response>",
    "<|im_end|>",
    "[INST]",
    "<think>",
]
READING = ["cohere2", "glm4moe", "gptoss", "nemotron_3_nano"]


def find_spans(chat, trained):
    spans = find_assistant_spans(chat, trained)
    check_said(chat, trained, spans)
    return spans


def render(tokenizer, template, messages, trained):
    """By the template itself, every time: the text and its spans, or None where it is refused."""
    try:
        chat = prepare_chat(tokenizer, template, split_thoughts(tokenizer, template, messages), None)
        spans = find_spans(chat, trained)
        [fault] = check_control_tokens([chat])
    except ChatTemplateError:
        return None
    return None if fault else (chat.text(), spans)


def make_messages(dice):
    roles = dice.choice([["user", "assistant"] * dice.randint(1, 4), ["system", "user", "assistant"], ["assistant"]])
    roles = dice.choices(["user", "assistant", "system", "tool"], k=3) if dice.random() < 0.2 else roles
    said = SAID if dice.random() < 0.5 else SAID[:3]
    return [{"role": role, "content": dice.choice(said)} for role in roles]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_what_is_put_together_is_what_the_template_writes(family):
    tokenizer = tokenizer_of(family)
    template = get_training_template(tokenizer)
    trust_template(template)
    shapes, dice, assembled = Shapes(tokenizer, template, find_spans), random.Random(0), 0
    for _ in range(150 if shapes.looked_for else 0):
        messages = make_messages(dice)
        trained = [dice.random() < 0.8 for _ in messages]
        roles, texts = [each["role"] for each in messages], [each["content"] for each in messages]
        found = shapes.assemble(roles, texts, trained)
        if found is not None:
            assembled += 1
            assert found == render(tokenizer, template, messages, trained)
    assert (assembled > 10) == (family.name not in READING)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_long_conversation_is_what_the_template_writes(family):
    tokenizer = tokenizer_of(family)
    template = get_training_template(tokenizer)
    trust_template(template)
    shapes, dice = Shapes(tokenizer, template, find_spans), random.Random(0)
    messages = [{"role": role, "content": dice.choice(SAID[:4])} for _ in range(40) for role in ("user", "assistant")]
    trained = [dice.random() < 0.9 for _ in messages]
    found = shapes.assemble([each["role"] for each in messages], [each["content"] for each in messages], trained)
    assert (found is None) == (shapes.looked_for is None)
    assert found is None or found == render(tokenizer, template, messages, trained)


DISTANT = [
    "{% if loop.index0 == 30 %}!{% endif %}",
    "{% if messages[-1].role == 'user' %}!{% endif %}",
    "{% if messages[loop.index0 - 9].role == 'user' %}!{% endif %}",
    "{% if messages|length > 30 %}!{% endif %}",
    "{% if loop.index0 % 3 == 0 %}!{% endif %}",
    "{% if loop.length > 30 %}!{% endif %}",
    "{% set ns.seen = m.role %}",
]


@pytest.mark.parametrize("distant", DISTANT)
def test_a_template_that_goes_by_what_is_far_from_a_message_is_known_for_it(distant):
    loop = "{% for m in messages %}" + distant + "{{ m.content }}{% endfor %}"
    found = find_passing_on("{% set ns = namespace(seen='') %}" + loop)
    assert found == PassingOn(frozenset(), nearby=False)


READERS = {
    "its length": "{{ m.content if m.content|length > 3 else 'short' }}",
    "its first character": "{{ m.content[0] }}{{ m.content }}",
    "its case": "{{ m.content|upper }}",
    "its words": "{% for word in m.content.split() %}{{ word }}{% endfor %}",
    "by a variable": "{% set c = m.content %}{% if c == m.role %}x{% endif %}{{ c }}",
    "by a macro": "{% macro say(text) %}{% if text > 'k' %}!{% endif %}{{ text }}{% endmacro %}{{ say(m.content) }}",
    "by a namespace": "{% set ns = namespace(x=m.content) %}{{ (ns|attr('x'))|length }}{{ ns.x }}",
    "by an item of it": "{% set ns = namespace(x=m.content) %}{{ ns['x']|length }}{{ m.content }}",
    "by a key": "{% set key = 'con' + 'tent' %}{{ m[key]|length }}{{ m.content }}",
    "by all messages": "{{ m.content }}{% if 'k' in messages|string %}!{% endif %}",
    "by its values": "{{ m.content }}{{ m.values()|list|length }}",
    "with something before": "{% set c = '<' + m.content %}{{ 'x' if c.startswith('<k') }}{{ m.content }}",
    "one against another": "{{ m.content }}{{ '!' if m.content == messages[0].content }}",
    "by what it is not": "{{ m.content }}{% if 'k' not in m.content|trim and m.content < 'k' %}!{% endif %}",
    "a message of its own": "{% for o in [{'role': 'a', 'content': '', 'x': 1}] + messages %}{{ o.role }}{% endfor %}",
}


@pytest.mark.parametrize("reads", READERS)
def test_a_template_that_reads_texts_is_known_for_it(reads):
    template = "{% for m in messages %}{{ m.role }}: " + READERS[reads] + "{{ eos_token }}{% endfor %}"
    assert find_passing_on(template) is None


def test_what_a_template_looks_for_is_known():
    template = (
        "{% for m in messages %}{% if m.content is string and '<a>' in m.content and not m.content.startswith('<b>') %}"
        "{{ m.content.split('<a>')[-1].lstrip('\n') }}{% elif m.content == 'stop' %}.{% else %}{{ m.content|trim }}"
        "{% endif %}{% if m.tool_calls and m.tool_calls[0].x|upper %}{{ m.content[0] }}{% endif %}{% endfor %}"
    )
    assert find_passing_on(template) == PassingOn(frozenset({"<a>", "<b>", "stop"}), nearby=True)


def test_a_text_between_two_halves_of_a_control_token_does_not_make_it_whole():
    tokenizer = tokenizer_of(next(family for family in FAMILIES if family.name == "qwen2_5"))
    template = "{% for m in messages %}{{ m.role }}: <|{{ m.content }}|>{{ eos_token }}{% endfor %}"
    shapes = Shapes(tokenizer, template, find_spans)
    assert find_passing_on(template) == PassingOn(frozenset(), nearby=True)
    assert shapes.assemble(["user", "assistant"], ["Hi", "im_end"], [True, True]) is None
