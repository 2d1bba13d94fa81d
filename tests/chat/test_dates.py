"""Templates that know the date: one day for a run, the real one for who serves the model."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from chat.chat_families import FAMILIES, TEMPLATES, tokenizer_of
from transformers.utils import chat_template_utils

from hf_finetune.chat.dates import read_date, reads_date, set_date, today
from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.errors import ConfigError

LLAMA = (TEMPLATES / "llama3_2.jinja").read_text()
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]


def made(template: str = LLAMA):
    tokenizer = tokenizer_of(next(family for family in FAMILIES if family.name == "llama3_2"))
    tokenizer.chat_template = template
    return tokenizer


def render(tokenizer, template=None):
    return tokenizer.apply_chat_template(CHAT, chat_template=template, tokenize=False)


def test_rows_are_dated_by_the_setting_and_what_is_saved_knows_the_real_date():
    tokenizer = made()
    training = load_chat_template(DataSection(train="x", template_date="2024-07-06"), tokenizer)
    assert "Today Date: 06 Jul 2024\n" in render(tokenizer, training)
    now = datetime.now().strftime("%d %b %Y")
    assert f"Today Date: {now}\n" in render(tokenizer)
    assert render(tokenizer) == render(made())  # what is put before it writes nothing


def test_a_day_is_written_as_transformers_function_writes_it(monkeypatch):
    formats = ["%d %b %Y", "%Y-%m-%d", "%-d. %B %y", "%A, %j", "%a %w %u %U %W %V", "%H:%M:%S %I %p", "100 %d", "%F %D"]
    source = "".join(f"{{{{ strftime_now({json.dumps(each)}) }}}}|" for each in formats)
    assert reads_date(source)
    ours = chat_template_utils._compile_jinja_template(set_date("2024-02-03") + source).render()
    assert ours == "".join(f"{datetime(2024, 2, 3).strftime(each)}|" for each in formats)
    assert not reads_date(set_date("2024-02-03") + source)


def test_by_default_it_is_today_and_another_day_gives_other_tokens():
    one = load_chat_template(DataSection(train="x"), made())
    assert f"Today Date: {datetime.now():%d %b %Y}\n" in render(made(), one)
    assert one == load_chat_template(DataSection(train="x", template_date=today()), made())
    # The template is part of the key under which tokenized rows are cached.
    assert one != load_chat_template(DataSection(train="x", template_date="2024-07-06"), made())


def test_who_scores_a_trained_model_reads_rows_as_of_its_day():
    tokenizer = made()
    training = load_chat_template(DataSection(train="x", template_date="2024-07-06"), tokenizer)
    saved = tokenizer.chat_template
    assert read_date(saved) == "2024-07-06"
    scoring = load_chat_template(DataSection(train="x"), made(saved), trains=False)
    assert render(made(), scoring) == render(made(), training)


def test_a_run_that_goes_on_with_a_trained_model_has_its_own_day():
    first = made()
    load_chat_template(DataSection(train="x", template_date="2024-07-06"), first)
    second = made(first.chat_template)
    training = load_chat_template(DataSection(train="x", template_date="2025-01-31"), second)
    assert "31 Jan 2025" in render(second, training)
    assert read_date(second.chat_template) == "2025-01-31"
    assert second.chat_template.count("rows were dated") == 1


def test_defaults_of_the_run_and_its_day_stand_together():
    tokenizer = made()
    data = DataSection(train="x", template_date="2024-07-06", system="Be brief.")
    training = load_chat_template(data, tokenizer)
    for template in (training, None):
        assert "Be brief." in render(tokenizer, template)
    assert "06 Jul 2024" in render(tokenizer, training)


def test_a_template_that_asks_for_no_date_refuses_one():
    tokenizer = tokenizer_of(FAMILIES[0])
    with pytest.raises(ConfigError, match="does not ask what day it is") as refused:
        load_chat_template(DataSection(train="x", template_date="2024-07-06"), tokenizer)
    assert str(refused.value).startswith("data.template_date: ")
    assert load_chat_template(DataSection(train="x"), tokenizer)
