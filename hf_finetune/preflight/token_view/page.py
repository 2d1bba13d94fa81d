"""Views as a page: token by token, with the ids on hover; no script, and nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from hf_finetune.metric_info import say_count
from hf_finetune.pages import hash_style, make_environment, read_shared_style
from hf_finetune.preflight.token_view.spans import TokenSpan, TokenView
from hf_finetune.preflight.token_view.terminal import LINE_FEED

MOST_SHOWN = 20_000
"""Tokens of a view."""
MOST_IN_ALL = 100_000
"""Of all views of a page, beyond which the others are named alone."""
KINDS = {
    "trained": "predicted from all that stands before it",
    "context": "read, not predicted",
    "control": "a token of the template or the tokenizer; underlined where it is trained",
    "cut": "off, or left out: the trainer is not given it",
    "unknown": "to the tokenizer",
}


@dataclass(frozen=True, slots=True)
class ShownView:
    """A view as it is drawn."""

    view: TokenView
    tokens: tuple[tuple[str, str, str], ...]
    """The class of each, what it says on hover, and its text."""
    more: int
    """Tokens that are left out."""


def render_page(views: Sequence[TokenView], *, title: str, kind: str) -> str:
    """Render views as one HTML page under a title, `kind` standing above it. All text is escaped."""
    css = read_shared_style() + read_template("tokens.css")
    template = make_environment(read_template).get_template("tokens.html.j2")
    shown = draw_views(views)
    return str(template.render(title=title, kind=kind, shown=shown, kinds=KINDS, css=css, css_hash=hash_style(css)))


def draw_views(views: Sequence[TokenView]) -> list[ShownView]:
    """Draw views for `views.html.j2`, as far as a page can hold their tokens."""
    left, shown = MOST_IN_ALL, []
    for view in views:
        spans = view.spans[: min(MOST_SHOWN, left)]
        left -= len(spans)
        drawn = tuple((_classify(span), _describe(span), _write(span)) for span in spans)
        shown.append(ShownView(view, drawn, len(view.spans) - len(spans)))
    return shown


def _classify(span: TokenSpan) -> str:
    named = ((span.trained and span.kind == "control", "learned"), (span.unknown, "unknown"))
    return " ".join([span.kind, *(name for holds, name in named if holds)])


def _describe(span: TokenSpan) -> str:
    if span.kind == "border":
        return "a document begins, or goes on"
    what = "trained" if span.trained else {"cut": "cut off", "padding": "padding"}.get(span.kind, "not trained")
    part = "" if span.text or span.kind == "padding" else ", of the character before"
    return f"id {span.id}, {what}{', control token' if span.kind == 'control' else ''}{part}"


def _write(span: TokenSpan) -> str:
    if span.kind == "padding":
        return f"{say_count(span.count, 'token')} of padding"
    # Something to point at, where the text of a character stands with the first of its tokens.
    return (span.text or "·").replace("\n", f"{LINE_FEED}\n")


def read_template(name: str) -> str:
    """A template or style sheet of views."""
    return (files("hf_finetune.preflight.token_view") / "templates" / name).read_text(encoding="utf-8")
