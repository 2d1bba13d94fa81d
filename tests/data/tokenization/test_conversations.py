"""Rows of conversations -> examples: what is trained, what is left out, and that all of it is counted."""

from __future__ import annotations

import functools
import json
import logging

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.data.tokenization.rendered_rows import ConversationRenderer
from hf_finetune.data.tokenization.text import measure_longest_token
from hf_finetune.errors import DataError, ModelError
from hf_finetune.models.tokenizer_training import train_tokenizer


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of characters: every mask can be read."""
    return train_tokenizer("char", ["".join(map(chr, range(32, 127))) + "\n"])


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


@pytest.fixture
def tokenized(tmp_path):
    """Rows through a file, the reader, the template and the mask: `(examples, facts, tokenizer)` of train."""

    def run(rows, max_length=1_000, tokenizer=None, **settings):
        rows = [row if isinstance(row, dict) else {"messages": row} for row in rows]
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = DataSection(train=str(file), **settings)
        tokenizer = tokenizer or letters()
        splits = load_splits(data, "conversation", seed=0)
        examples, facts = tokenize_conversations(
            splits, tokenizer, load_chat_template(data, tokenizer), data, max_length
        )
        return examples["train"], facts["train"], tokenizer

    return run


def trained_text(example, tokenizer) -> str:
    """The trained tokens as text, a gap as `…`."""
    marked = [(label if label != -100 else None) for label in example["labels"]]
    pieces = ["…" if label is None else tokenizer.convert_ids_to_tokens(label) for label in marked]
    return "".join(piece for i, piece in enumerate(pieces) if piece != "…" or pieces[i - 1 : i] != ["…"])


TWO = [user("a?"), assistant("b."), user("c?"), assistant("d.")]


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        ("assistant", "…b.<|eos|>…d.<|eos|>…"),
        ("last", "…d.<|eos|>…"),
        (
            "all",
            "<|bos|>User:\na?<|eos|>\nAssistant:\nb.<|eos|>\nUser:\nc?<|eos|>\nAssistant:\nd.<|eos|>\n",
        ),
    ],
)
def test_what_is_trained_is_what_loss_on_says(tokenized, loss_on, expected):
    examples, facts, tokenizer = tokenized([TWO], loss_on=loss_on)
    assert trained_text(examples[0], tokenizer) == expected
    assert facts.trained_tokens == sum(label != -100 for label in examples[0]["labels"][1:])


@pytest.mark.parametrize("left_out", [{"train": False}, {"weight": 0}])
def test_a_message_can_be_left_out_of_the_loss(tokenized, left_out):
    row = [user("a?"), assistant("b.", **left_out), user("c?"), assistant("d.", train=True, weight=1)]
    examples, _, tokenizer = tokenized([row])
    assert trained_text(examples[0], tokenizer) == "…d.<|eos|>…"
    examples, _, tokenizer = tokenized([row], loss_on="all")
    assert "b." not in trained_text(examples[0], tokenizer)
    assert "a?" in trained_text(examples[0], tokenizer)


def test_a_weight_between_is_refused_by_file_and_line(tokenized, tmp_path):
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the weight of a message is 0 or 1, not 0\.5"):
        tokenized([TWO, [user("a?"), assistant("b.", weight=0.5)]])


def test_prompt_and_completion_are_trained_as_they_stand(tokenized):
    row = {"prompt": "One two", "completion": " three"}
    examples, _, tokenizer = tokenized([row])
    assert tokenizer.decode(examples[0]["input_ids"]) == "<|bos|>One two three<|eos|>"
    assert trained_text(examples[0], tokenizer) == "… three<|eos|>"
    examples, _, _ = tokenized([row], loss_on="all")
    assert trained_text(examples[0], tokenizer) == "<|bos|>One two three<|eos|>"
    examples, _, _ = tokenized([row], chat_template="plain")
    assert trained_text(examples[0], tokenizer) == "…three<|eos|>…"


LONG = [user("a?"), assistant("b" * 50)]


@pytest.mark.parametrize(
    ("too_long", "examples", "dropped", "truncated", "without_end"),
    [("drop", 1, 1, 0, 0), ("cut", 2, 0, 1, 1), ("split", 3, 0, 1, 0)],
)
def test_a_row_that_is_too_long_is_counted(tokenized, too_long, examples, dropped, truncated, without_end):
    rows, facts, _ = tokenized([TWO, LONG], max_length=60, too_long=too_long, max_dropped=1.0)
    assert (facts.rows, facts.examples, facts.dropped) == (2, examples, dropped) == (2, len(rows), dropped)
    assert (facts.too_long, facts.truncated, facts.without_end) == (1, truncated, without_end)
    assert max(rows["length"]) <= 60
    assert facts.tokens == sum(rows["length"])


def test_a_split_row_loses_no_token(tokenized):
    whole, _, _ = tokenized([LONG])
    parts, _, _ = tokenized([LONG], max_length=20, too_long="split")
    trained = [label for row in parts["labels"] for label in row if label != -100]
    assert trained == [label for label in whole[0]["labels"] if label != -100]


def test_too_long_rows_are_named_where_they_are_an_error(tokenized):
    with pytest.raises(DataError, match=r"rows\.jsonl:2: 74 tokens, and train\.max_length is 60; .* \[HF112\]"):
        tokenized([TWO, LONG, TWO], max_length=60, too_long="error")


@pytest.mark.parametrize("too_long", ["drop", "error"])
def test_a_row_that_cannot_fit_is_left_out_before_it_is_rendered(tokenized, monkeypatch, too_long):
    rendered = []
    made = ConversationRenderer.render
    monkeypatch.setattr(ConversationRenderer, "render", lambda self, rows: rendered.extend(rows) or made(self, rows))
    tokenizer = train_tokenizer("bpe", ["a? b. word "] * 5, 300)
    endless = [user("a?"), assistant("b" * 5_000), user("word"), assistant("d.")]
    run = functools.partial(tokenized, [TWO, endless], 100, tokenizer, too_long=too_long, max_dropped=0.5)
    if too_long == "drop":
        _, facts, _ = run()
        assert (facts.rows, facts.too_long, facts.dropped, facts.examples) == (2, 1, 1, 1)
    else:
        with pytest.raises(DataError, match=r"rows\.jsonl:2: \d{3,} tokens or more, and train\.max_length is 100"):
            run()
    assert [row for row, _, _ in rendered] == [0]


def test_a_tokenizer_that_may_drop_text_has_no_longest_token():
    assert measure_longest_token(letters()) is None
    trained = train_tokenizer("bpe", ["a? b. word "] * 5, 300)
    longest = max(len(trained.decode([number]).encode()) for number in range(len(trained)))
    assert measure_longest_token(trained) == longest


def test_a_run_that_would_leave_out_more_than_a_share_of_its_rows_is_refused(tokenized):
    with pytest.raises(DataError, match=r"2 of 4 train rows \(50\.0%\) would be left out: 2 of more than 60 tokens"):
        tokenized([TWO, LONG, LONG, TWO], max_length=60, max_dropped=0.4)
    _, facts, _ = tokenized([TWO, LONG, LONG, TWO], max_length=60, max_dropped=0.5)
    assert facts.dropped == 2


def test_rows_whose_question_fills_the_window_have_nothing_to_train(tokenized):
    row = [user("q" * 80), assistant("b.")]
    with pytest.raises(DataError, match=r"1 without a trained token"):
        tokenized([row], max_length=60, too_long="cut", max_dropped=1.0)


def test_a_run_in_which_nothing_is_trained_is_refused(tokenized):
    row = [user("a?"), assistant("b."), user("c?"), assistant("d.", train=False)]
    with pytest.raises(DataError, match=r"1 of 1 train rows \(100\.0%\) would be left out.*1 without a trained token"):
        tokenized([row], loss_on="last", max_dropped=1.0)


def test_the_roles_are_named_where_the_template_refuses_a_row(tokenized, tmp_path):
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "{{ m.role + ': ' + m.content + eos_token }}{% endfor %}{{ 'assistant: ' if add_generation_prompt }}"
    )
    row = [user("a?"), assistant("b."), {"role": "tool", "content": "c"}, assistant("d.")]
    expected = r"rows\.jsonl:2: the chat template refuses it: no tools here \(roles: user, assistant, tool, assistant\)"
    with pytest.raises(DataError, match=expected):
        tokenized([TWO, row], chat_template=str(template))


# A typo: jinja writes nothing for `m.text`.
TYPO = (
    "{% for m in messages %}{{ m.role }}: {{ m.text }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
PARTS = TYPO.replace("m.text", "m.content | map(attribute='text') | join")
# As it should be, but for one role.
DEAF = TYPO.replace("m.text", "m.content if m.role == 'assistant' else m.text")
TALKING = TYPO.replace("m.text", "m.content")
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"in": ["A", 'b "c"'], "n": 1}}}


@pytest.mark.parametrize("template", [TYPO, PARTS], ids=["a typo", "content as a list"])
@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
def test_a_template_that_leaves_the_answer_out_is_refused_by_file_line_and_message(
    tokenized, tmp_path, template, loss_on
):
    file = tmp_path / "typo.jinja"
    file.write_text(template)
    rows = [TWO[:2], [{"role": "system", "content": "s"}, *TWO], [user("a?"), assistant("eos")]]
    with pytest.raises(DataError) as refused:
        tokenized(rows, chat_template=str(file), loss_on=loss_on)
    lines = [problem.line for problem in refused.value.problems]
    assert (lines, refused.value.total, refused.value.exit_code) == ([1, 2, 3], 3, 2)
    number = 5 if loss_on == "last" else 3
    what = f"the chat template leaves out the text of message {number} (assistant) (roles: system, user, assistant,"
    assert refused.value.problems[1].what.startswith(what)
    remedy = f"mend {file} (a message's text is `content`, a string), or name another data.chat_template"
    assert refused.value.problems[1].remedy == remedy


def test_only_the_rows_whose_text_is_left_out_are_named(tokenized, tmp_path):
    file = tmp_path / "cutting.jinja"
    file.write_text(TALKING.replace("m.content", "m.content[:9]"))
    rows = [TWO, [user("a?"), assistant("ten letters")], TWO]
    with pytest.raises(
        DataError, match=r"rows\.jsonl:2: the chat template leaves out the text of message 2"
    ) as refused:
        tokenized(rows, chat_template=str(file))
    assert refused.value.total == 1
    tokenized([[user("a?"), assistant("ten letters", train=False), *TWO]], chat_template=str(file))


def test_a_template_that_leaves_the_question_out_is_refused_too(tokenized, tmp_path):
    file = tmp_path / "deaf.jinja"
    file.write_text(DEAF)
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .* leaves out the text of message 1 \(user\)"):
        tokenized([TWO], chat_template=str(file))


@pytest.mark.parametrize("said", [{"tool_calls": [CALL]}, {"function_call": CALL["function"]}], ids=["new", "old"])
def test_a_template_that_leaves_a_tool_call_out_is_refused(tokenized, tmp_path, said):
    file = tmp_path / "silent.jinja"
    file.write_text(TALKING)
    row = [user("a?"), assistant("", **said), {"role": "tool", "content": "c"}, assistant("d.")]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .* leaves out a tool call of message 2 \(assistant\)"):
        tokenized([row], chat_template=str(file))


def test_a_template_in_which_nothing_depends_on_the_answer_is_refused(tokenized, tmp_path):
    file = tmp_path / "mute.jinja"
    file.write_text("{% for m in messages %}{{ m.text }}{{ eos_token }}{% endfor %}")
    with pytest.raises(ModelError, match="writes the same whatever the assistant says"):
        tokenized([TWO], chat_template=str(file))


@pytest.mark.parametrize(
    ("written", "trained"),
    [
        ("(m.content | trim)", "<think> Hm. </think>\n Yes,  no."),
        ("m.content.split('</think>')[-1]", "\n Yes,  no.\n"),
        ("(m.content.split('</think>') | join('|') | replace('<think>', '{'))", "{ Hm. |\n Yes,  no.\n"),
        ("(m.content | tojson)", r'"<think> Hm. </think>\n Yes,  no.\n"'),
        ("(m.content.split() | join(' '))", "<think> Hm. </think> Yes, no."),
    ],
)
def test_what_a_template_trims_splits_or_quotes_is_the_text_all_the_same(tokenized, tmp_path, written, trained):
    file = tmp_path / "its_way.jinja"
    file.write_text(TALKING.replace("m.content", f"{written} if m.role == 'assistant' else m.content"))
    row = [user("a?"), assistant("<think> Hm. </think>\n Yes,  no.\n")]
    examples, _, tokenizer = tokenized([row], chat_template=str(file))
    assert trained_text(examples[0], tokenizer) == f"…{trained}<|eos|>"


def test_a_thought_without_its_answer_is_not_the_text(tokenized, tmp_path):
    file = tmp_path / "thinking.jinja"
    file.write_text(TALKING.replace("m.content", "m.content.split('</think>')[0]"))
    with pytest.raises(DataError, match="leaves out the text of message 2"):
        tokenized([[user("a?"), assistant("<think>Hm.</think>Yes.")]], chat_template=str(file))


def test_thoughts_and_calls_of_tools_stand_where_the_template_puts_them(tokenized):
    row = [user("a?"), assistant("b.", reasoning_content="hm", tool_calls=[CALL]), user("c?"), assistant("d.")]
    examples, _, tokenizer = tokenized([row], chat_template="plain")
    said = 'hm\n\nb.\nCall: {"name": "look_up", "arguments": {"in": ["A", "b \\"c\\""], "n": 1}}<|eos|>'
    assert trained_text(examples[0], tokenizer) == f"…{said}…d.<|eos|>…"
    alone = [user("a?"), assistant("", reasoning_content="hm")]
    with pytest.raises(DataError, match=r"leaves out the thoughts of message 2 \(assistant\)"):
        tokenized([alone], chat_template="alpaca", allow_empty=True)


def test_text_that_spells_control_tokens_is_counted_and_stays_text(tokenized, caplog):
    with caplog.at_level(logging.WARNING):
        examples, facts, tokenizer = tokenized([[user("a<|eos|>"), assistant("b<|eos|>c")], TWO])
    assert facts.spelled == {"<|eos|>": 1}
    assert examples[0]["input_ids"].count(tokenizer.eos_token_id) == 2
    assert "text spells control tokens: <|eos|> (1 row)" in caplog.text


def test_a_tokenizer_that_changes_the_text_is_noticed(tokenized, caplog):
    with caplog.at_level(logging.WARNING):
        _, facts, _ = tokenized([TWO, [user("a?"), assistant("größer")]])
    assert facts.altered == 1
    assert "the tokenizer changes the text of 1 of the first 2 rows" in caplog.text


def test_answers_that_are_cut_before_their_end_are_counted(tokenized, caplog):
    with caplog.at_level(logging.WARNING):
        _, facts, _ = tokenized([LONG] * 2 + [TWO], max_length=60, too_long="cut")
    assert facts.without_end == 2
    assert "2 of 3 examples end before their turn does" in caplog.text


def test_the_facts_of_a_report_are_there(tokenized):
    _, facts, _ = tokenized([TWO])
    assert {"rows", "tokens", "trained_tokens", "truncated", "dropped"} <= facts.as_dict().keys()
    assert facts.trained_bytes == len("b.d.")


COMPLETIONS = [{"prompt": "q1", "completion": "a1"}, {"prompt": "q2", "completion": "a2"}]


def test_prompts_without_the_template_that_chat_asks_by_are_warned_of_once_with_the_remedy_that_works(
    tokenized, caplog
):
    tokenized(COMPLETIONS, validation_fraction=0.5)
    (said,) = [record.getMessage() for record in caplog.records if "as they stand" in record.getMessage()]
    columns = yaml.safe_load(said.split("data.columns=")[1].split(" puts")[0])
    caplog.clear()
    examples, _, tokenizer = tokenized(COMPLETIONS, columns=columns)
    assert trained_text(examples[0], tokenizer) == "…a1<|eos|>…"
    assert tokenizer.decode(examples[0]["input_ids"]).startswith("<|bos|>User:")
    tokenized(COMPLETIONS, chat_template="plain")
    assert "as they stand" not in caplog.text


def test_the_remedy_for_prompts_without_a_template_names_the_columns_of_the_file(tokenized, caplog):
    rows = [{"ask": "q1", "completion": "a1"}]
    tokenized(rows, columns={"prompt": "ask"})
    assert "data.columns={question: ask, answer: completion}" in caplog.text


HEAVY = (
    "{% for m in messages %}{% if 'heavy' in m.content %}{{ m.content * 10 ** 10 }}{% endif %}"
    "{{ m.content + eos_token }}{% endfor %}"
)


def test_rows_on_which_a_template_exceeds_a_limit_are_named_by_line_up_to_the_third(tmp_path):
    rows = tmp_path / "rows.jsonl"
    said = ["light", "heavy", "light", *["heavy"] * 6]
    turns = ([{"role": "user", "content": text}, {"role": "assistant", "content": text}] for text in said)
    rows.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    data = DataSection(train=str(rows))
    tokenizer = train_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz"])
    with pytest.raises(DataError) as refused:
        tokenize_conversations(load_splits(data, "conversation", seed=0), tokenizer, HEAVY, data, 512)
    assert [problem.line for problem in refused.value.problems] == [2, 4, 5]
    assert f"{rows}:2: the chat template took more than 256 MiB of memory on this row" in str(refused.value)
    assert len(str(refused.value).splitlines()) < 6


@pytest.mark.parametrize(
    "heavy",
    [
        "messages[0].content == 'x'",  # the conversation with neutral texts
        "messages[-1].tool_calls and not messages[0].content",  # the one that shows how it takes arguments
        "messages[0].role == 'system' and messages[0].content == 'Speak.'",  # the one that shows whether it takes one
    ],
)
def test_a_row_for_which_only_a_conversation_of_ours_exceeds_a_limit_is_named_too(tmp_path, heavy):
    rows = tmp_path / "rows.jsonl"
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": [call]}]
    system = [{"role": "system", "content": "c"}, *turns]
    rows.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": system}) + "\n")
    template = f"{{% if {heavy} %}}{{{{ 'a' * 10 ** 10 }}}}{{% endif %}}" + (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{{ m.content + (m.tool_calls|string if m.tool_calls else '') + eos_token }}{% endfor %}"
    )
    data = DataSection(train=str(rows))
    with pytest.raises(DataError) as refused:
        tokenize_conversations(load_splits(data, "conversation", seed=0), letters(), template, data, 512)
    assert str(refused.value).startswith(f"{rows}:"), str(refused.value)
