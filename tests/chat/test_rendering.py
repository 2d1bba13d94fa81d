"""Chat templates are programs of others: bounded in time, size and reach; honest ones notice nothing."""

from __future__ import annotations

import contextlib
import copy
import re
import time
from pathlib import Path

import pytest
from chat.chat_families import FAMILIES, TEMPLATES, tokenizer_of
from chat_models import talking_tokenizer
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError
from transformers.utils import chat_template_utils

from hf_finetune.chat import rendering, worker_process
from hf_finetune.chat.assistant_mask import RenderedChat, render_chats
from hf_finetune.chat.neutral import check_control_tokens
from hf_finetune.chat.rendering import Ask, RemoteTemplate, describe_template
from hf_finetune.chat.template import encode_prompt, get_training_template, load_chat_template, prepare_chat
from hf_finetune.config.sections import DataSection
from hf_finetune.errors import ModelError

TOKENIZER = talking_tokenizer()
MESSAGES = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": "An answer."}]


def rendered(template: str, messages: list = MESSAGES) -> str:
    return RenderedChat(TOKENIZER, template, messages).text()


def refusal(template: str) -> str:
    with pytest.raises(ModelError) as refused:
        rendered(template)
    assert refused.value.problems[0].key == "data.chat_template"
    return str(refused.value)


ENDLESS = {
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(100) }}",
    "filters": "{{ ([range(100000)] * 100000)|map('sum')|list }}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_without_an_end_is_stopped(kind, monkeypatch):
    monkeypatch.setattr(worker_process, "TIME_LIMIT_SECONDS", 0.2)
    started = time.monotonic()
    assert "the chat template did not end within 0.2 s" in refusal(ENDLESS[kind])
    assert time.monotonic() - started < 10.0  # on a machine with other work


def test_the_bound_of_time_is_a_second():
    rendered("{{ 1 }}")  # the worker has started
    started = time.monotonic()
    assert "did not end within 1 s" in refusal(ENDLESS["loops"])
    # On a machine that does other work it is half a second of processor time, however long that takes.
    assert 1.0 < time.monotonic() - started < 10.0


LARGE = {
    "output": "{% for i in range(99999) %}" + "x" * 50 + "{% endfor %}",
    "repeated": "{{ 'a' * 10000000000 }}",
    "repeated text of a message": "{{ messages[0]['content'] * 10000000000 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "squared": "{% set n = namespace(x=99) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "padded": "{{ 'a'.ljust(10000000000) }}",
    "centered": "{{ 'a'|center(10000000000) }}",
    "printed": "{{ '%10000000000d' % 1 }}",
    "printed by a star": "{{ '%*d' % (10000000000, 1) }}",
    "formatted": "{{ '{:10000000000}'.format(1) }}",
    "formatted by an argument": "{{ '{:{}}'.format(1, 10000000000) }}",
    "replaced": "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}",
    "replaced by a filter": "{% set x = 'a' * 1000000 %}{{ x|replace('a', x) }}",
    "joined": "{% set x = 'a' * 1000000 %}{{ x.join(range(100000)|map('string')) }}",
    "joined by a filter": "{% set x = 'a' * 1000000 %}{{ range(100000)|join(x) }}",
    "a list of one text": "{% set x = 'a' * 1000000 %}{{ ([x] * 100000)|join }}",
    "indented": "{{ [[1] * 100000]|tojson(indent=10000000) }}",
    "wrapped": "{{ ('a b ' * 100000)|wordwrap(1, wrapstring='b' * 100000) }}",
    "quoted": "{% set n = namespace(x='\"') %}{% for i in range(40) %}{% set n.x = n.x|tojson %}{% endfor %}",
    "by a filter of attributes": "{{ ('a'|attr('ljust'))(10000000000) }}",
    "escaped": "{{ ('a'|e).ljust(10000000000) }}",
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_template_that_makes_much_of_little_is_refused_at_once(kind):
    started = time.monotonic()
    assert "the chat template" in refusal(LARGE[kind])
    assert time.monotonic() - started < 5.0


OF_PYTHON = {
    "without an end": ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "RecursionError: maximum recursion"),
    "deep": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError: maximum recursion"),
    "too large": ("{{ messages|length * 2.0 ** 5000 }}", "OverflowError: (34, 'Numerical result out of range')"),
    "divided": ("{{ 1 // (messages|length - messages|length) }}", "ZeroDivisionError: "),
}


@pytest.mark.parametrize("kind", OF_PYTHON)
@pytest.mark.parametrize("trusted", [False, True])
def test_an_error_of_python_itself_is_said_by_its_name_and_trust_is_no_remedy(kind, trusted, monkeypatch):
    template, said = OF_PYTHON[kind]
    tokenizer = talking_tokenizer()
    tokenizer.chat_template = template
    monkeypatch.setattr(rendering, "_trusted", set())
    digest = rendering.hash_template(template) if trusted else None
    with pytest.raises(ModelError) as refused:
        load_chat_template(DataSection(train="x", trust_chat_template=digest), tokenizer)
    assert f"data.chat_template: the chat template fails on it: {said}" in str(refused.value)
    assert "; name the template of this model, or one of plain" in str(refused.value)
    assert "trust" not in str(refused.value)


def test_a_template_of_the_run_file_that_is_nested_too_deep_is_refused(tmp_path):
    file = tmp_path / "deep.jinja"
    file.write_text(OF_PYTHON["deep"][0])
    with pytest.raises(ModelError, match=r"cannot be compiled \(RecursionError.*\); mend it"):
        load_chat_template(DataSection(train="x", chat_template=str(file)), talking_tokenizer())


def test_who_exceeds_a_limit_is_told_which_and_its_number():
    said = refusal("{% for i in range(30000) %}" + "x" * 50 + "{% endfor %}")
    assert re.search(r"writes 1,500,000 characters \(1,000,\d{3} at most\) on one conversation; look into it", said)


def test_a_trusted_template_has_no_limit_of_characters_and_running_out_of_memory_is_said_without_trust(monkeypatch):
    long, large = "{% for i in range(99999) %}" + "x" * 50 + "{% endfor %}", "{{ 'a' * 10 ** 18 }}"
    monkeypatch.setattr(rendering, "_trusted", {rendering.hash_template(each) for each in (long, large)})
    assert rendered(long) == "x" * 50 * 99999
    said = refusal(large)
    assert "takes more memory than this machine gives" in said
    assert "trust" not in said


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages|map(attribute='__class__')|list|first }}",
    ],
)
def test_a_template_cannot_walk_to_what_it_is_not_given(template):
    given = copy.deepcopy(MESSAGES)
    with contextlib.suppress(SecurityError, UndefinedError):
        assert RemoteTemplate(template).render(messages=given) == ""
    assert given == MESSAGES


def test_whoever_renders_does_so_within_bounds(monkeypatch):
    monkeypatch.setattr(worker_process, "TIME_LIMIT_SECONDS", 0.2)
    for source in (ENDLESS["loops"], LARGE["repeated"]):
        with pytest.raises(ModelError):
            TOKENIZER.apply_chat_template(MESSAGES, chat_template=source, tokenize=False)
    tokenizer = talking_tokenizer()
    tokenizer.chat_template = ENDLESS["loops"]
    with pytest.raises(ModelError):
        encode_prompt(tokenizer, MESSAGES[:1])
    with pytest.raises(ModelError):
        load_chat_template(DataSection(train="x"), tokenizer)


def test_a_template_of_the_run_file_is_bounded_while_it_is_compiled(tmp_path):
    file = tmp_path / "bomb.jinja"
    file.write_text("{{ 'a' * 10000000000 }}")
    with pytest.raises(ModelError, match="took more than 256 MiB"):
        load_chat_template(DataSection(train="x", chat_template=str(file)), talking_tokenizer())


def test_long_conversations_are_rendered_whole():
    messages = [{"role": "user", "content": "word " * 400_000}, {"role": "assistant", "content": "b"}]
    template = "{% for m in messages %}{{ m['role'] + ': ' + m.content.strip() + '\n' }}{% endfor %}"
    assert rendered(template, messages) == f"user: {('word ' * 400_000).strip()}\nassistant: b\n"


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  What is it?\n"},
    {"role": "assistant", "content": "Nothing.", "tool_calls": [{"function": {"name": "f", "arguments": {"x": "é"}}}]},
    {"role": "tool", "name": "f", "content": "[1, 2]"},
    {"role": "assistant", "content": "<think>So.</think>It is [1, 2]."},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"properties": {"x": {}}}}}]


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.jinja")), ids=lambda path: path.stem)
def test_templates_of_the_hub_are_rendered_as_transformers_renders_them(path):
    source = path.read_text(encoding="utf-8")
    templates = (RemoteTemplate(source), chat_template_utils._cached_compile_jinja_template(source))
    for messages, tools in (
        (CONVERSATION, TOOLS),
        (CONVERSATION[:2], None),
        (CONVERSATION[1:2], None),
        (MESSAGES, None),
    ):
        for prompt in (True, False):
            given = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": prompt}
            given |= {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
            ours, theirs = (written(template, given) for template in templates)
            assert ours == theirs


MARKED = (
    "{% for m in messages %}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[>]{% endif %}"
)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("source", [MARKED, "{{ messages|length }}", MARKED.replace("m.content }}</s>", "'' }}")])
def test_what_a_template_has_for_generated_is_where_transformers_finds_it(source, prompt, trusted, monkeypatch):
    if trusted:
        monkeypatch.setattr(rendering, "is_trusted", lambda template: True)
    ours, theirs = (
        chat_template_utils._render_with_assistant_indices(
            template, messages=CONVERSATION, tools=None, documents=None, add_generation_prompt=prompt
        )
        for template in (RemoteTemplate(source), chat_template_utils._cached_compile_jinja_template(source))
    )
    assert ours == theirs


def test_a_slow_text_with_marks_is_not_the_text_without(monkeypatch):
    monkeypatch.setattr(rendering, "SLOW_SECONDS", 0.0)  # of every template the texts are kept
    template = RemoteTemplate(MARKED + "{# of this test alone #}")
    generated: list[tuple[int, int]] = []
    texts = [template.render(messages=CONVERSATION)]
    with template.activate_tracker([], generated):
        texts += ["".join(template.generate(messages=CONVERSATION)), template.render(messages=CONVERSATION)]
    assert texts[0] == texts[1] == texts[2]
    assert [texts[0][start:end].endswith("</s>") for start, end in generated] == [True] * 2


def written(template, given: dict) -> str:
    """What a template writes, or by what it refuses."""
    try:
        return template.render(**given)
    except (TemplateError, TypeError) as refused:
        return f"{type(refused).__name__}: {refused}"


def test_a_mistake_in_a_template_is_still_one_of_its_lines():
    with pytest.raises(TemplateSyntaxError):
        describe_template("{% for %}")


def test_no_template_of_this_project_is_compiled_elsewhere():
    package = Path(rendering.__file__).parent.parent
    users = [path.name for path in package.rglob("*.py") if "compile_jinja" in path.read_text(encoding="utf-8")]
    assert users == ["rendering.py"]


@pytest.mark.parametrize("number", [1_717_171_717_000, -(10**15), 2**63])
def test_a_large_number_among_the_arguments_of_a_tool_is_written(number):
    """It repeats nothing: several templates write each argument by `tojson`."""
    source = "{{ number | tojson }} {{ number | tojson(indent=2) }}"
    assert RemoteTemplate(source).render(number=number) == f"{number} {number}"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_honest_conversation_with_tools_is_taken_for_one_with_other_control_tokens(family):
    tokenizer = tokenizer_of(family)
    template = get_training_template(tokenizer)
    for messages, tools in (
        (CONVERSATION, TOOLS),
        (CONVERSATION[:2], None),
        (CONVERSATION[1:], TOOLS),
        (MESSAGES, None),
    ):
        chat = prepare_chat(tokenizer, template, messages, tools)
        render_chats([chat], [[Ask(len(messages))]])
        assert check_control_tokens([chat]) == [None]
