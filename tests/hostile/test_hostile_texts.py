"""Texts that spell control tokens, or become them by what a template does to text: no row gains one.

`control_tokens.jsonl` has texts, and what a template may do to the content `c` of a message; each is tried with each.
What is right is said by plain transformers: the control tokens of the same conversation where everybody says "x".
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat.chat_families import make_backend
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import ChatTemplateError, list_asks, render_chats
from hf_finetune.chat.neutral import TextBecomesControl, check_control_tokens
from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.chat.template import encode_prompt, prepare_chat
from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.text import encode_documents, encode_texts
from hf_finetune.errors import DataError

LINES = [json.loads(line) for line in Path(__file__).with_name("control_tokens.jsonl").read_text("utf-8").splitlines()]
FILTERS = [line["filter"] for line in LINES if "filter" in line]
TEXTS = [line["text"] for line in LINES if "text" in line]
TEMPLATE = (
    "{% for m in messages %}{% set c = m.content %}<|im_start|>{{ m.role }}\n{{ FILTER }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=make_backend("bytes"), eos_token="<|im_end|>", pad_token="<|pad|>")
    special = [AddedToken(token, special=True, normalized=False) for token in ("<|im_start|>", "[INST]")]
    made.add_tokens(special, special_tokens=True)
    made.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return made


TOKENIZER = make_tokenizer()
CONTROL = {
    *TOKENIZER.all_special_ids,
    *TOKENIZER.convert_tokens_to_ids(["<|im_start|>", "[INST]", "<think>", "</think>"]),
}


def say(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": text}]


def control_of(ids: list[int]) -> list[int]:
    return [index for index in ids if index in CONTROL]


def expected(template: str, *, prompt: bool = False) -> list[int]:
    messages = say("x")[:1] if prompt else say("x")
    text = TOKENIZER.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=prompt)
    return control_of(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def tokenized(template: str, texts: list[str]) -> list[list[int] | None]:
    """The ids of a conversation for each of `texts`; None for those that are refused."""
    chats = [prepare_chat(TOKENIZER, template, say(text), None) for text in texts]
    render_chats(chats, [list_asks(chat, [True, True]) for chat in chats])
    found: list[list[int] | None] = []
    for chat, fault in zip(chats, check_control_tokens(chats), strict=True):
        assert fault is None or isinstance(fault, TextBecomesControl)
        try:
            text = chat.text()
        except ChatTemplateError:
            fault = fault or ChatTemplateError("the template refuses it", code="HF141")
        found.append(None if fault else get_control_tokens(TOKENIZER).encode([text], [[]])[0].ids)
    return found


def test_a_template_that_looks_for_a_word_may_write_tokens_there_and_the_word_is_said(caplog):
    filter_ = "c + ('<|im_end|>' if 'magic\\n' in c else '')"
    template = TEMPLATE.replace("FILTER", filter_)
    assert None not in tokenized(template, ["no such word", "magic\nat last", "magic\n", "is magic\n"])
    assert caplog.messages == [
        'the chat template writes other control tokens where a text has "magic\\n", which it looks for'
    ]


@pytest.mark.parametrize("number", range(len(FILTERS)))
def test_no_text_becomes_a_control_token_whatever_a_template_does_to_it(number):
    template = TEMPLATE.replace("FILTER", FILTERS[number])
    right = expected(template)
    for text, ids in zip(TEXTS, tokenized(template, TEXTS), strict=True):
        assert ids is None or control_of(ids) == right, text
    if FILTERS[number] == "c":
        assert None not in tokenized(template, TEXTS)
    assert tokenized(template, ["a normal text"])[0] is not None


def test_the_cases_are_such_that_text_becomes_control_tokens():
    """By marks alone, as they are put into texts before a template sees them, some of the rows would gain one."""
    gained = 0
    for each in FILTERS:
        template = TEMPLATE.replace("FILTER", each)
        chats = [prepare_chat(TOKENIZER, template, say(text), None) for text in TEXTS]
        render_chats(chats, [list_asks(chat, [True, True]) for chat in chats])
        right = expected(template)
        for chat in chats:
            try:
                ids = get_control_tokens(TOKENIZER).encode([chat.text()], [[]])[0].ids
            except ChatTemplateError:
                continue
            gained += control_of(ids) != right
    assert gained >= 30


PROMPTS = ["c|lower", "c|replace('\\n', '')", "c.encode('ascii', 'ignore').decode()", "c|striptags"]


@pytest.mark.parametrize("each", PROMPTS)
def test_a_prompt_is_held_to_the_same(each):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("FILTER", each)
    right = expected(tokenizer.chat_template, prompt=True)
    for text in TEXTS:
        try:
            assert control_of(encode_prompt(tokenizer, say(text)[:1])) == right, text
        except DataError:
            continue
    assert control_of(encode_prompt(tokenizer, say("a normal text")[:1])) == right


def test_documents_and_labelled_texts_hold_no_control_token():
    special = set(TOKENIZER.all_special_ids)
    for ids in [*encode_documents(TOKENIZER, TEXTS), *encode_texts(TOKENIZER, TEXTS, TEXTS[::-1], None).input_ids]:
        assert special.isdisjoint(ids)


def test_the_row_is_refused_by_its_line_and_the_message_says_which_token_it_gains(tmp_path):
    rows = tmp_path / "rows.jsonl"
    texts = ["fine", "<|IM_END|>", "fine, too"]
    rows.write_text("".join(json.dumps({"messages": say(text)}) + "\n" for text in texts))
    data = DataSection(train=str(rows))
    splits = load_splits(data, "conversation", seed=0)
    with pytest.raises(DataError) as refused:
        tokenize_conversations(splits, make_tokenizer(), TEMPLATE.replace("FILTER", "c|lower"), data, 512)
    assert f"{rows}:2: the chat template makes a control token of text: <|im_end|> 4 times instead of 2" in str(
        refused.value
    )
    assert [problem.code for problem in refused.value.problems] == ["HF146"]


def call(name: str, arguments: object) -> list[dict]:
    called = {"type": "function", "id": "call00001", "function": {"name": name, "arguments": arguments}}
    return [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [called]}]


# As MiniMax's template writes arguments, each under a tag of its name.
TAGS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.name }}{% for key, value in call.function.arguments|items %}<{{ key }}>{{ value }}</{{ key }}>"
    "{% endfor %}{% endfor %}<|im_end|>\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("name", "arguments", "refused"),
    [
        ("f", {"query": "x", "days": 3, "deep": {"a": [1, "b"]}}, False),
        ("f", {}, False),
        ("f", {"think": "x"}, True),
        ("<|im_end|>", {"query": "<|im_end|>"}, False),
        ("f", {"<|im_end|>": "x"}, False),
    ],
)
def test_names_that_a_row_gives_become_no_control_token(name, arguments, refused):
    chat = prepare_chat(TOKENIZER, TAGS, call(name, arguments), None)
    text = chat.text()
    [fault] = check_control_tokens([chat])
    assert isinstance(fault, TextBecomesControl) == refused
    control = control_of(get_control_tokens(TOKENIZER).encode([text], [[]])[0].ids)
    assert (len(control) > 4) == refused  # two tokens around each of two turns


def test_a_template_may_look_into_texts_by_design():
    """As Qwen3's does, which writes no thoughts before the last question, and takes no answer of a tool for one."""
    looking = TEMPLATE.replace("{{ FILTER }}", "{% if '<answer>' in c %}<think>{% endif %}{{ c }}")
    chat = prepare_chat(TOKENIZER, looking, say("<answer> 4"), None)
    assert "<think>" in chat.text()
    assert check_control_tokens([chat]) == [None]
    counting = TEMPLATE.replace("{{ FILTER }}", "{% if c|length > 9 %}<think>{% endif %}{{ c }}")
    long = prepare_chat(TOKENIZER, counting, say("more than nine"), None)
    assert long.text()
    [fault] = check_control_tokens([long])
    assert "the chat template makes a control token of text: <think> 2 times instead of 0" in str(fault)


def test_a_row_that_cannot_be_compared_is_refused():
    wanting = TEMPLATE.replace("{{ FILTER }}", "{% if c == 'x' %}{{ raise_exception('no') }}{% endif %}{{ c }}")
    chat = prepare_chat(TOKENIZER, wanting, say("a text"), None)
    assert chat.text()
    [fault] = check_control_tokens([chat])
    assert "the chat template refuses it with neutral texts" in str(fault)


def test_an_added_token_that_a_normalizer_would_take_apart_is_kept_out_of_texts():
    """One for ASCII alone drops what the names of control tokens are made of, and leaves their number."""
    letters = "abc0123456789"
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, **{letter: 1 + n for n, letter in enumerate(letters)}}))
    backend.normalizer = normalizers.Replace(Regex(r"[^\x00-\x7f]"), "")
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    tokenizer.add_tokens([AddedToken("<x>", normalized=True), AddedToken("<y>", normalized=True)])
    added = set(tokenizer.convert_tokens_to_ids(["<x>", "<y>"]))
    for encoding in get_control_tokens(tokenizer).encode_plain([str(number) for number in range(10)]):
        assert added.isdisjoint(encoding.ids)


PIECES = st.sampled_from(
    [
        *("<|", "|>", "im_end", "IM_END", "im_", "end", "<|im_end|>", "<think>", "think", "<", ">", "|", "[", "INST"),
        *("]", "é", "\n", " ", "&lt;", "&gt;", "<b>", "{}", "%", "x", "0", "/", "_", "\u200b"),
    ]
)
STEPS = st.lists(st.sampled_from([each for each in FILTERS if each.startswith("c")]), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(texts=st.lists(st.lists(PIECES, min_size=1, max_size=8).map("".join), min_size=20, max_size=20), steps=STEPS)
def test_no_text_becomes_a_control_token_by_any_chain_of_filters(texts, steps):
    body = "".join(f"{{% set c = {step} %}}" for step in steps)
    template = TEMPLATE.replace("{{ FILTER }}", body + "{{ c }}")
    texts = [text for text in texts if text.strip()]
    try:
        right = expected(template)
    except Exception:  # `'x' % ()` and the like
        right = None
    for text, ids in zip(texts, tokenized(template, texts), strict=True):
        assert ids is None or control_of(ids) == right, text
