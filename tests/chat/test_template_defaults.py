"""data.system and data.chat_template_kwargs stand in the saved template, are trained, and give way to the caller's."""

from __future__ import annotations

import json

import pytest
from chat_models import talking_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.template import load_chat_template, template_name
from hf_finetune.chat.template_defaults import put_defaults, split_defaults, write_literal
from hf_finetune.chat.worker import compile_template
from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.errors import ConfigError, DataError

ASKED = [{"role": "user", "content": "Hi"}]
TOLD = [{"role": "system", "content": "Own."}, *ASKED]
THINKING = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% if enable_thinking %}(thinks){% endif %}{% endif %}"
)


def load(tokenizer, **settings):
    return load_chat_template(DataSection(train="x", **settings), tokenizer)


def ask(tokenizer, messages, **variables):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)


def thinking_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = talking_tokenizer()
    tokenizer.chat_template = THINKING
    return tokenizer


def test_a_system_message_is_put_where_there_is_none_and_saved_with_the_tokenizer(tmp_path):
    tokenizer = talking_tokenizer()
    load(tokenizer, system="Be brief.")
    tokenizer.save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert "System:\nBe brief." in ask(saved, ASKED)
    assert "Be brief." not in ask(saved, TOLD)
    assert "Be brief." not in ask(saved, [{**TOLD[0], "role": "developer"}, *ASKED])


def test_a_variable_holds_unless_the_caller_gives_another():
    tokenizer = thinking_tokenizer()
    load(tokenizer, chat_template_kwargs={"enable_thinking": True})
    assert ask(tokenizer, ASKED).endswith("(thinks)")
    assert not ask(tokenizer, ASKED, enable_thinking=False).endswith("(thinks)")


def test_what_is_trained_has_them_and_only_the_answer_is_trained(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "Hi", "answer": "Yes."}\n')
    data = DataSection(train=str(tmp_path / "rows.jsonl"), system="Be brief.")
    tokenizer = talking_tokenizer()
    template = load_chat_template(data, tokenizer)
    splits = load_splits(data, "conversation", seed=0)
    (example,) = tokenize_conversations(splits, tokenizer, template, data, 1_000)[0]["train"]
    assert "Be brief." in tokenizer.decode(example["input_ids"])
    assert tokenizer.decode([label for label in example["labels"] if label != -100]) == "Yes.<|eos|>"


def test_a_run_on_such_a_model_keeps_them_and_another_value_goes_first():
    tokenizer = talking_tokenizer()
    load(tokenizer, system="Be brief.")
    once = tokenizer.chat_template
    load(tokenizer)
    assert tokenizer.chat_template == once
    load(tokenizer, system="Be brief.")
    assert tokenizer.chat_template == once
    template = load(tokenizer, system="Be kind.")
    assert "Be kind." in ask(tokenizer, ASKED)
    assert "Be brief." not in ask(tokenizer, ASKED)
    assert template_name(DataSection(train="x"), template) == "plain"


def test_defaults_are_split_off_as_they_were_put():
    tokenizer = thinking_tokenizer()
    load(tokenizer, system="Be brief.", chat_template_kwargs={"enable_thinking": True})
    defaults, rest = split_defaults(tokenizer.chat_template)
    assert rest == THINKING
    assert put_defaults(tokenizer.chat_template, defaults) == tokenizer.chat_template
    assert split_defaults(THINKING) == ("", THINKING)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**40) | st.floats(0, 1e6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(value=JSON)
def test_any_value_is_read_by_jinja_as_what_it_was(value):
    written = compile_template("{{ " + write_literal(value) + " | tojson }}").render()
    assert json.loads(written) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"chat_template_kwargs": {"enable_thinkng": True}},
            "data.chat_template_kwargs: the chat template reads no `enable_thinkng`; did you mean `enable_thinking`?",
        ),
        ({"chat_template_kwargs": {"zzz": 1}}, "reads no `zzz`; it reads add_generation_prompt, enable_thinking"),
        ({"system": "Say <|eos|>."}, "data.system: spells the control token <|eos|>; write it otherwise"),
        (
            {"chat_template_kwargs": {"enable_thinking": ["<|eos|>"]}},
            "data.chat_template_kwargs: spells the control token <|eos|>",
        ),
    ],
)
def test_what_would_have_no_effect_or_write_a_control_token_is_refused(settings, message):
    with pytest.raises(ConfigError) as refused:
        load(thinking_tokenizer(), **settings)
    assert message in str(refused.value)
    assert len(refused.value.problems) == 1


@pytest.mark.parametrize("settings", [{"system": "Be brief."}, {"chat_template_kwargs": {"tools": 1}}])
def test_rows_that_no_template_writes_are_refused_with_them(tmp_path, settings):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "completion": "Yes."}\n')
    data = DataSection(train=str(tmp_path / "rows.jsonl"), **settings)
    splits = load_splits(data, "conversation", seed=0)
    tokenizer = talking_tokenizer()
    with pytest.raises(DataError, match=f"data.{next(iter(settings))}: rows of prompt and completion are trained as"):
        tokenize_conversations(splits, tokenizer, tokenizer.chat_template, data, 1_000)


def strict_tokenizer() -> PreTrainedTokenizerFast:
    """One whose template, as that of Gemma 2, has no place for a system message."""
    tokenizer = talking_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return tokenizer


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_a_system_message_is_folded_into_the_first_question_where_the_template_has_no_place_for_it(tmp_path, loss_on):
    answer = {"role": "assistant", "content": "Yes."}
    told = [*TOLD, answer, {"role": "user", "content": "So?"}, {"role": "assistant", "content": "No."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": told}) + "\n")
    data = DataSection(train=str(tmp_path / "rows.jsonl"), fold_system=True, loss_on=loss_on)
    tokenizer = strict_tokenizer()
    template = load_chat_template(data, tokenizer)
    splits = load_splits(data, "conversation", seed=0)
    (example,) = tokenize_conversations(splits, tokenizer, template, data, 1_000)[0]["train"]
    by_hand = [{"role": "user", "content": "Own.\n\nHi"}, *told[2:]]
    plain = strict_tokenizer().apply_chat_template(by_hand, return_dict=True)["input_ids"]
    assert example["input_ids"] == plain
    trained = tokenizer.decode([label for label in example["labels"] if label != -100])
    assert trained == ("Yes.<|eos|>No.<|eos|>" if loss_on == "assistant" else tokenizer.decode(plain))
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    assert ask(saved, TOLD) == ask(strict_tokenizer(), by_hand[:1])
    assert ask(saved, ASKED) == ask(strict_tokenizer(), ASKED)


def test_the_system_message_of_the_run_is_folded_too():
    tokenizer = strict_tokenizer()
    load(tokenizer, system="Be brief.", fold_system=True)
    assert ask(tokenizer, ASKED).startswith("user:Be brief.\n\nHi")
    again = strict_tokenizer()
    for _ in range(2):  # a run, and one that goes on with it
        load(again, fold_system=True)
        assert ask(again, TOLD).startswith("user:Own.\n\nHi")


def test_a_row_with_a_system_message_that_its_template_refuses_is_named_with_the_setting(tmp_path):
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"messages": [*TOLD, {"role": "assistant", "content": "Y"}]}) + "\n"
    )
    data = DataSection(train=str(tmp_path / "rows.jsonl"))
    tokenizer = strict_tokenizer()
    template = load_chat_template(data, tokenizer)
    splits = load_splits(data, "conversation", seed=0)
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*no system role.*set data\.fold_system: true"):
        tokenize_conversations(splits, tokenizer, template, data, 1_000)


def test_folding_is_refused_where_the_template_has_a_place_for_system_messages():
    with pytest.raises(ConfigError, match=r"data\.fold_system: the chat template has a place for a system message"):
        load(talking_tokenizer(), fold_system=True)
