"""A slow template is asked for each text once, a fast one is not slowed down, and rendering that lasts is said."""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter

import datasets
import pytest
from chat_models import LETTERS, parrot

from hf_finetune.chat import rendering, slow_templates, worker
from hf_finetune.chat.assistant_mask import RenderedChat
from hf_finetune.chat.rendering import hash_template
from hf_finetune.chat.template import find_end_token_ids, load_chat_template
from hf_finetune.config.sections import DataSection, EvalSection
from hf_finetune.data.splitting.one_split import load_rows
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.evaluation.generation.prompts import generate_responses
from hf_finetune.evaluation.scoring.rows import build_prompts
from hf_finetune.models.tokenizer_training import train_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] + ' ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)
TRUSTED = hash_template(TEMPLATE)


@pytest.fixture
def tokenizer():
    made = train_tokenizer("char", [LETTERS])
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)
    monkeypatch.setattr(rendering, "_slow_texts", slow_templates.SlowTexts())
    monkeypatch.setattr(rendering, "_trusted", set())


@pytest.fixture
def asked(monkeypatch):
    """How often each text was rendered, by what the template was given."""
    found: Counter = Counter()

    def note(template, given, rows):
        for row in rows:
            for count, prompt, tail in row["asks"]:
                found[json.dumps([template, row["messages"][:count] + tail, row["tools"], prompt])] += 1
        return render(template, given, rows)

    render = rendering._render_new
    monkeypatch.setattr(rendering, "_render_new", note)
    return found


def everything(tokenizer, folder, trusted=None) -> list[str]:
    """What training, scoring and generating have rendered of three rows and a prompt."""
    datasets.config.HF_DATASETS_CACHE = folder / f"cache {time.monotonic_ns()}"  # so that no tokens are taken from it
    rows = folder / "rows.jsonl"
    said = ["a cat", "a dog", "two cats"]
    rows.write_text("".join(json.dumps({"question": text, "answer": "it is."}) + "\n" for text in said))
    data = DataSection(train=str(rows), trust_chat_template=trusted)
    template = load_chat_template(data, tokenizer)
    splits = load_rows(str(rows), data, None)
    examples, _ = tokenize_conversations(splits, tokenizer, template, data, 512)
    prompts = build_prompts(splits, tokenizer, data)
    find_end_token_ids(tokenizer)
    answers = generate_responses(
        parrot(tokenizer, {"a": "b"}), tokenizer, ["what", "who"], EvalSection(max_new_tokens=2)
    )
    of_rows = [row["input_ids"] for rows in examples.values() for row in rows]
    return [*of_rows, *[prompt.input_ids for prompt in prompts], *answers]


@pytest.mark.parametrize("trusted", [None, TRUSTED])
def test_a_slow_template_is_asked_for_each_text_once_and_what_comes_of_it_is_the_same(
    tokenizer, tmp_path, asked, monkeypatch, trusted
):
    fast = everything(tokenizer, tmp_path, trusted)
    often = asked.total()
    assert max(asked.values()) > 3
    assert rendering._slow_texts.texts == {}
    asked.clear()
    monkeypatch.setattr(rendering, "SLOW_SECONDS", -1.0)
    assert everything(tokenizer, tmp_path, trusted) == fast
    assert set(asked.values()) == {1}
    assert asked.total() < 0.7 * often
    asked.clear()
    everything(tokenizer, tmp_path, trusted)
    assert not +asked


def test_a_limit_that_was_exceeded_is_tried_again_and_other_refusals_are_known(tokenizer, asked, monkeypatch):
    monkeypatch.setattr(rendering, "SLOW_SECONDS", -1.0)
    monkeypatch.setattr(worker, "MAX_OUTPUT_CHARACTERS", 0)
    for source, times in (("{{ 'a' * 2 ** 40 }}{{ messages|length }}", 2), ("{{ raise_exception('no') }}", 1)):
        for _ in range(2):
            with pytest.raises(Exception, match=r"no|MiB"):
                RenderedChat(tokenizer, source, [{"role": "user", "content": "a"}]).text()
        assert asked.total() == times
        asked.clear()


def test_what_a_template_is_given_is_told_apart(tokenizer, monkeypatch):
    """Texts are known by all that a template can see: messages, tools, prompt, special tokens, the order of keys."""
    monkeypatch.setattr(rendering, "SLOW_SECONDS", -1.0)
    source = "{{ messages }}{{ tools }}{{ add_generation_prompt }}{{ bos_token }}"
    message = {"role": "user", "content": "a"}
    given = [
        {"messages": [message]},
        {"messages": [message, message]},
        {"messages": [dict(reversed(message.items()))]},
        {"messages": [message], "tools": [{"a": 1}]},
        {"messages": [message], "tools": [{"a": True}]},
        {"messages": [message], "tools": [{"a": "1"}]},
        {"messages": [message], "bos_token": "<s>"},
        {"messages": [message], "add_generation_prompt": True},
    ]
    for _ in range(2):
        texts = [rendering.RemoteTemplate(source).render(**each) for each in given]
        assert len(set(texts)) == len(given)


def test_what_is_known_of_slow_templates_does_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(slow_templates, "MAX_KEPT_CHARACTERS", 1_000)
    texts = slow_templates.SlowTexts()
    for number in range(100):
        row = {"messages": [{"role": "user", "content": str(number)}], "tools": None, "asks": [[1, False, []]]}
        texts.keep(f"template {number}", {}, row, ["x" * 100])
    assert texts.size <= 1_100
    assert texts.find("template 99", {}, row) == {0: "x" * 100}


# With a look at a text: what is written around texts would else be found once, for all rows of a shape.
SLOW = "{% for i in range(99999) %}{% endfor %}" * 5 + "{% if messages[0].content[0] %}{% endif %}" + TEMPLATE


@pytest.mark.parametrize("trusted", [None, hash_template(SLOW)])
def test_rendering_that_lasts_is_said_with_the_rows_that_are_done(tokenizer, tmp_path, monkeypatch, caplog, trusted):
    monkeypatch.setattr(slow_templates, "INTERVAL_S", 0.002)
    tokenizer.chat_template = SLOW
    with caplog.at_level(logging.INFO):
        everything(tokenizer, tmp_path, trusted)
    assert "the chat template is slow: it has been rendered for" in caplog.text
    assert re.search(r"[12] of 3 conversations rendered, in \d+ s", caplog.text)
    assert re.search(r"[12] of 3 prompts rendered", caplog.text)
    caplog.clear()
    monkeypatch.setattr(slow_templates, "INTERVAL_S", 600.0)
    time.sleep(0.01)
    with caplog.at_level(logging.INFO):
        everything(tokenizer, tmp_path, trusted)
    assert "rendered" not in caplog.text


@pytest.mark.parametrize(("rendering_s", "other_s", "said"), [(0.002, 0.02, False), (0.02, 0.002, True)])
def test_a_fast_template_is_not_called_slow_where_other_work_comes_between(
    monkeypatch, caplog, rendering_s, other_s, said
):
    monkeypatch.setattr(slow_templates, "INTERVAL_S", 0.1)
    monkeypatch.setattr(slow_templates, "_progress", slow_templates._Progress())
    with caplog.at_level(logging.INFO):
        for _ in range(20):  # batches of a generation
            with slow_templates.say_progress():
                time.sleep(rendering_s)
            time.sleep(other_s)
    assert ("the chat template is slow" in caplog.text) == said
