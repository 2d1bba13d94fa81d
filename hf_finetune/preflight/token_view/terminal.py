"""Views for a terminal, in colors; or for a pipe, where brackets say what colors would."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.text import Text

from hf_finetune.metric_info import say_count
from hf_finetune.preflight.token_view.spans import TokenSpan, TokenView
from hf_finetune.preflight.token_view.typed import measure_bytes
from hf_finetune.privacy import escape_control_characters

MOST_SHOWN = 4_000
"""Tokens of a view, and a tenth of them of a part that is cut off."""
STYLES = {
    "trained": "bold green",
    "context": "",
    "control": "cyan",
    "trained control": "bold cyan underline",
    "border": "dim",
    "cut": "red strike",
    "padding": "dim",
}
MARKS = {"control": ("«", "»"), "cut": ("{", "}")}
LINE_FEED = "↵"
LEGEND = ("[trained]", "context", "«control token»", "{cut off}", "--- a document ---")


def render_terminal(view: TokenView, *, color: bool) -> Text:
    """A view as lines of text, for a console of any width; of what rows say nothing is left that a terminal obeys.

    Without `color`, trained tokens stand in [ ], control tokens in « », and what is cut off in { }.
    """
    # A `Text`, in which rich reads no markup: rows may say [red].
    text = Text(f"{escape_control_characters(view.title)}: {view.describe_counts()}\n", style="")
    for note in view.notes:
        text.append(f"{escape_control_characters(note)}\n")
    inside = False
    for trained, kind, spans in _group(view):
        if not color and trained != inside:
            text.append("[" if trained else "]")
        inside = trained
        _append_run(text, kind, spans, trained=trained, color=color)
    text.append("" if color or not inside else "]")
    text.append("" if text.plain.endswith("\n") else "\n")
    return text


def render_legend(*, color: bool) -> Text:
    """What the colors, or the brackets, mean."""
    if not color:
        return Text("  ".join(LEGEND))
    said = {"trained": "trained", "context": "context", "control": "control token"}
    said |= {"trained control": "control token that is trained", "cut": "cut off", "border": "a document"}
    parts = [Text(what, style=STYLES[kind]) for kind, what in said.items()]
    return Text("  ").join(parts)


def list_tokens(view: TokenView) -> Iterator[str]:
    """A view as a list, a token a line: its id and the text that it stands for; then how many there are."""
    width = max([len(str(span.id)) for span in view.spans if span.id is not None] or [1])
    for span in view.spans:
        shown = escape_control_characters(span.text)
        name = f"«{shown}»" if span.kind == "control" else f'"{shown}"' if span.text else "(of the character before)"
        # Of what is typed there are no borders, whose id is None and has no width.
        yield f"{span.id:>{width}}  {name}{'  unknown' if span.unknown else ''}"
    yield from map(escape_control_characters, view.notes)
    size, count = measure_bytes(view)
    control = sum(span.kind == "control" for span in view.spans)
    unknown = sum(span.unknown for span in view.spans)
    said = f"{say_count(len(view.spans), 'token')}, {control:,} of them control tokens"
    said += f", {unknown:,} unknown" if unknown else ""
    yield said + (f"; {say_count(size, 'byte')} of text, {size / count:.2f} bytes per token" if count else "")


def _group(view: TokenView) -> Iterator[tuple[bool, str, list[TokenSpan]]]:
    """The runs of tokens of one kind, trained control tokens being one of their own."""
    for key, spans in groupby(view.spans, key=lambda span: (span.trained, span.kind)):
        yield *key, list(spans)


def _append_run(text: Text, kind: str, spans: list[TokenSpan], *, trained: bool, color: bool) -> None:
    if kind == "border":
        line = "" if not text.plain or text.plain.endswith("\n") else "\n"
        for span in spans:
            text.append(f"{line}--- {escape_control_characters(span.text)} ---\n", STYLES["border"])
        return
    if kind == "padding":
        text.append(f"\n({say_count(sum(span.count for span in spans), 'token')} of padding)", STYLES["padding"])
        return
    most = MOST_SHOWN // 10 if kind == "cut" else MOST_SHOWN
    said = _write(spans[:most]) + (f" … {say_count(len(spans) - most, 'more token')}" if len(spans) > most else "")
    style = "trained control" if trained and kind == "control" else kind
    if color:
        text.append(said, STYLES[style])
        return
    opening, closing = MARKS.get(kind, ("", ""))
    text.append(f"{opening}{said}{closing}")


def _write(spans: list[TokenSpan]) -> str:
    """The text of tokens; a line ends behind the sign of its line feed."""
    # Line by line, for a line feed would be escaped, too.
    lines = "".join(span.text for span in spans).split("\n")
    return f"{LINE_FEED}\n".join(map(escape_control_characters, lines))
