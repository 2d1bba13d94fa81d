"""How views are shown: in a pipe, in colors, and as a page."""

from __future__ import annotations

import re

import pytest
from preflight.token_view.test_views import LETTERS, TWO, conversation, set_up

from hf_finetune.chat.template import encode_prompt, load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.errors import ConfigError
from hf_finetune.models.tokenizer_training import train_tokenizer
from hf_finetune.preflight import list_tokens, render_legend, render_page, render_terminal, view_rows, view_text

HOSTILE = '<script>document.title = "taken"</script>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shown")


def view_one(folder, turns=TWO, limit=1_000, **settings):
    splits, made = set_up(folder, "conversation", [conversation(turns)], limit, **settings)
    [view] = view_rows(splits, "train", made, [0])
    return view


def test_a_pipe_gets_brackets(folder):
    lines = render_terminal(view_one(folder), color=False).plain.splitlines()
    place = f"{folder / 'train.jsonl'}:1"
    assert lines[0] == f"{place}: 51 tokens, 6 of them trained"
    assert lines[1:] == [
        *("«<|bos|>»User:↵", "a?«<|eos|>»↵", "Assistant:↵", "[b.«<|eos|>»]↵"),
        *("User:↵", "c?«<|eos|>»↵", "Assistant:↵", "[d.«<|eos|>»]↵"),
    ]
    assert render_legend(color=False).plain.startswith("[trained]")


def test_what_is_cut_stands_in_braces_and_long_parts_are_shortened(folder):
    shown = render_terminal(view_one(folder, [("a", "b" * 900, True)], 40, too_long="cut"), color=False).plain
    assert re.search(r"\[b+\]\{b{400} … \d+ more tokens", shown)


def test_a_terminal_gets_colors_and_no_brackets(folder):
    text = render_terminal(view_one(folder), color=True)
    styled = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styled["b."] == "bold green"
    assert "underline" in styled["<|eos|>"]
    assert "[" not in text.plain
    assert "trained" in render_legend(color=True).plain


def test_nothing_that_a_terminal_obeys_is_left(folder):
    tokenizer = train_tokenizer("char", [LETTERS + "\x1b\x07\u202e"])
    view = view_text(tokenizer, "a\x1b[31m\x07\u202e\nb")
    shown = [render_terminal(view, color=color).plain for color in (True, False)] + ["".join(list_tokens(view))]
    assert all(each.isprintable() for each in "".join(shown).split("\n"))
    assert "\\x1b[31m\\x07\\u202e" in shown[0]


def test_a_typed_text_is_listed_with_ids_and_bytes():
    tokenizer = train_tokenizer("char", ["ab"])
    ids = tokenizer.get_vocab()
    assert [*list_tokens(view_text(tokenizer, "ab?"))] == [
        f'{ids["a"]}  "a"',
        f'{ids["b"]}  "b"',
        f'{tokenizer.unk_token_id}  "?"  unknown',
        "3 tokens, 0 of them control tokens, 1 unknown; 3 bytes of text, 1.00 bytes per token",
    ]


def test_one_token_is_said_as_one():
    tokenizer = train_tokenizer("char", ["ab"])
    *_, said = list_tokens(view_text(tokenizer, "a"))
    assert said == "1 token, 0 of them control tokens; 1 byte of text, 1.00 bytes per token"
    assert view_text(tokenizer, "a").describe_counts().startswith("1 token, ")


def test_a_question_is_tokenized_as_a_chat_model_is_asked():
    tokenizer = train_tokenizer("char", [LETTERS])
    with pytest.raises(ConfigError, match="the tokenizer has no chat template"):
        view_text(tokenizer, "a", chat=True)
    load_chat_template(DataSection(train="x"), tokenizer)
    view = view_text(tokenizer, "say <|eos|>", chat=True)
    assert view.input_ids == encode_prompt(tokenizer, [{"role": "user", "content": "say <|eos|>"}])
    assert view.notes == ("it spells <|eos|>, which stays text",)
    assert "".join(each.text for each in view.spans) == "<|bos|>User:\nsay <|eos|><|eos|>\nAssistant:\n"


def test_a_text_too_long_to_be_read_is_refused():
    with pytest.raises(ConfigError, match="too long to be shown token by token"):
        view_text(train_tokenizer("char", ["a"]), "a" * 1_000_001)


def test_a_page_has_each_token_with_its_id_and_no_markup_of_a_row(folder):
    view = view_one(folder, [(HOSTILE, "b.", True)])
    page = render_page([view], title="rows.jsonl:1", kind="run.yaml")
    assert "<script" not in page
    tokens = re.findall(r'<span class="t ([a-z ]+)" title="id (\d+), [a-z, ]+">', page)
    assert [int(index) for _, index in tokens] == view.input_ids
    assert [("learned" in kind or kind == "trained") for kind, _ in tokens] == [label != -100 for label in view.labels]
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_browser_shows_the_page_without_a_word_on_the_console(folder, browser):
    views = [view_one(folder, [(HOSTILE, "b" * 300, True)], 120, too_long="cut")]
    path = folder / "page.html"
    path.write_text(render_page(views, title="rows", kind="run"), encoding="utf-8")
    said = []
    shown = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    shown.on("console", lambda message: said.append(message.text))
    shown.on("request", lambda request: said.append(request.url) if request.url != path.as_uri() else None)
    shown.goto(path.as_uri(), wait_until="load")
    assert shown.title() == "rows"
    assert shown.evaluate("document.documentElement.scrollWidth") <= 360
    grounds = "[...new Set([...document.querySelectorAll('.tokens .t')].map(e => getComputedStyle(e).backgroundColor))]"
    assert len(shown.evaluate(grounds)) > 1  # the style sheet is allowed by its hash
    shown.close()
    assert [each for each in said if each != "data:,"] == []
