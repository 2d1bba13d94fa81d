"""docs/data-formats.md: every example is read, and what it says is trained is what is trained."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection, RowFormatName
from hf_finetune.data.labels.freeze import freeze_labels
from hf_finetune.data.reading.formats import FORMATS
from hf_finetune.data.splitting.splits import load_splits
from hf_finetune.data.tokenization.conversations import tokenize_conversations
from hf_finetune.errors import DataError
from hf_finetune.models.tokenizer_training import train_tokenizer

BLOCK = re.compile(r"^```(jsonl|text)(?: (\w+))?((?: \w+=\w+)*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLASSES = {
    "labelled": ("question", "statement"),
    "input": ("question", "statement"),
    "pairs": ("0", "1"),
    "several": ("damage", "delivery"),
    "numbers": ("value",),
}
KINDS = {"text": "document"} | dict.fromkeys(CLASSES, "labelled")
SAME = ("instruction", "input_output", "user_assistant", "question_answer")


@pytest.fixture
def page(project_root) -> str:
    return (project_root / "docs" / "data-formats.md").read_text(encoding="utf-8")


def examples(page):
    """The rows of each example with the settings that it is read with."""
    return {
        name: (rows, {key: value == "true" or value for key, value in (each.split("=") for each in settings.split())})
        for language, name, settings, rows in BLOCK.findall(page)
        if language == "jsonl"
    }


def letters():
    return train_tokenizer("char", ["".join(map(chr, range(32, 127))) + "\n"])


def tokens(rows, tmp_path, **settings):
    """Each token of the only example with whether it is trained."""
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    data = DataSection(train=str(tmp_path / "rows.jsonl"), **settings)
    tokenizer = letters()
    template = load_chat_template(data, tokenizer)
    splits = load_splits(data, "conversation", seed=0)
    (example,) = tokenize_conversations(splits, tokenizer, template, data, 1_000)[0]["train"]
    texts = tokenizer.convert_ids_to_tokens(example["input_ids"])
    return list(zip(texts, [label != -100 for label in example["labels"]], strict=True))


def marked(pairs) -> str:
    """The text of tokens with ⟦ and ⟧ around what is trained, without the line break at its end."""
    text, inside = "", False
    for token, trained in [*pairs, ("", False)]:
        if trained != inside:
            text += "⟦" if trained else "⟧"
            inside = trained
        text += token
    return text.rstrip("\n")


def test_every_example_is_read_in_full(page, tmp_path):
    for name, (rows, settings) in examples(page).items():
        (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
        data = DataSection(train=str(tmp_path / "rows.jsonl"), **settings)
        splits = load_splits(data, KINDS.get(name, "conversation"), seed=0)
        assert splits.files[0].rows == splits.files[0].accepted == rows.count("\n")
        assert splits.format == name or name not in FORMATS
        assert not splits.unused_keys


def test_every_row_format_has_an_example(page):
    shown = examples(page).keys()
    for name, row_format in FORMATS.items():
        assert f"`{name}`" in page, name
        assert name in shown or row_format.in_text_file
    assert set(RowFormatName.__args__) == {*FORMATS, "auto"}


def test_labelled_examples_have_the_classes_that_the_page_says(page, tmp_path):
    for name, classes in CLASSES.items():
        rows, settings = examples(page)[name]
        (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
        data = DataSection(train=str(tmp_path / "rows.jsonl"), **settings)
        labels = freeze_labels(load_splits(data, "labelled", seed=0), data)
        assert labels.names == classes
        if name != "numbers":
            (row,) = [line for line in page.splitlines() if re.match(rf"\| .*`{name}`", line) and "data." not in line]
            assert tuple(re.findall(r"`(\w+)`", row.split("|")[2])) == classes


def test_what_the_page_marks_as_trained_is_what_is_trained(page, tmp_path):
    rendered = {name: text for language, name, _, text in BLOCK.findall(page) if language == "text" and name}
    assert len(rendered) >= 11
    for name, text in rendered.items():
        rows, settings = examples(page)[name]
        assert marked(tokens(rows, tmp_path, **settings)) == text.removesuffix("\n"), name


def test_the_four_formats_of_one_exchange_become_the_same(page, tmp_path):
    assert len({marked(tokens(examples(page)[name][0], tmp_path)) for name in SAME}) == 1


def test_a_control_token_in_text_is_its_letters(page, tmp_path):
    pairs = tokens(examples(page)["spelled"][0], tmp_path)
    assert "".join(text for text, _ in pairs).count("<|eos|>") == 4
    assert Counter(text for text, _ in pairs)["<|eos|>"] == 2
    assert pairs[-2] == ("<|eos|>", True)


def test_the_messages_on_the_page_are_the_real_ones(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    (tmp_path / "rows.jsonl").write_text(good + good.replace("assistant", "asistant"), encoding="utf-8")
    with pytest.raises(DataError) as first:
        load_splits(DataSection(train="rows.jsonl"), "conversation", seed=0)
    rows = '{"instruction": "a", "output": "b"}\n' * 2 + '{"instruction": "a", "output": ""}\n'
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(DataError) as second:
        load_splits(DataSection(train="rows.jsonl"), "conversation", seed=0)
    (text,) = [text for language, name, _, text in BLOCK.findall(page) if language == "text" and not name]
    assert text == f"{first.value}\n{second.value}\n"
