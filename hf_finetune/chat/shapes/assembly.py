"""Conversations of one shape are written alike: what a template puts around their texts is found once for all of them.

Under a template that passes texts on unread (`opaque`), the roles of a conversation, which of its texts are blank, and
the white space at their ends decide about all but the texts themselves. So one conversation with stand-ins for texts is
rendered turn by turn, masked and checked in every way; the others of its shape are put together from its pieces. Texts
that hold what could be taken for something else (a control token, a part of one, what the template looks for) are not.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jinja2.exceptions import TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.any_of import find_any
from hf_finetune.chat.assistant_mask import ChatTemplateError, RenderedChat, Span
from hf_finetune.chat.neutral import check_control_tokens
from hf_finetune.chat.rendering import Message, TemplateLimitError, describe_template
from hf_finetune.chat.shapes.nearby import NEARBY
from hf_finetune.chat.shapes.opaque import find_passing_on
from hf_finetune.chat.special_tokens import ControlTokens, get_control_tokens
from hf_finetune.errors import ModelError

MAX_SHAPES = 10_000
MANY_TURNS = 12
MAX_BLANK = 20
"""Characters of white space at an end of a text."""
# With a quote, which a template that writes JSON would write otherwise.
STAND_IN = f'x"{secrets.token_hex(8)}' + "{:07}y"
THOUGHTS = ("<think>", "</think>")
"""These are moved about before a template sees them."""

FindSpans = Callable[[RenderedChat, Sequence[bool]], list[Span]]
Place = tuple[int, int]
"""The number of a piece, and a character in it."""
Key = tuple[tuple[bool, ...], tuple[str, ...], tuple[str, ...]]
"""Which messages are trained, their roles, and the white space of their texts."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is written around the texts of conversations of one shape, and what of them is trained."""

    pieces: list[str]
    """Before each text that is not blank, and behind the last."""
    spans: list[tuple[Place, Place]]

    def fill(self, texts: Sequence[str]) -> tuple[str, list[Span]]:
        """Put texts between the pieces: the conversation, and the (start, stop) characters of it that are trained."""
        # Pieces ["<u>", "<a>", "<e>"] and texts ["Hi", "Yes"] are "<u>Hi<a>Yes<e>"; piece 2 begins behind "Yes".
        written, starts, size = [self.pieces[0]], [0], len(self.pieces[0])
        for text, piece in zip(texts, self.pieces[1:], strict=True):
            written += [text, piece]
            starts.append(size + len(text))
            size = starts[-1] + len(piece)
        spans = [(starts[one] + start, starts[other] + stop) for (one, start), (other, stop) in self.spans]
        return "".join(written), spans


@dataclass
class Shapes:
    """The shapes of a template that were found so far."""

    tokenizer: PreTrainedTokenizerFast
    template: str
    find_spans: FindSpans
    """Finds what is trained of a conversation, and raises where its texts are not all written."""
    known: dict[Key, Shape | None] = field(default_factory=dict)
    by_turns: bool = True
    """There is one span for each trained turn of the assistant."""
    nearby: bool = False
    """What is written around a text follows from the messages near to it."""
    control: ControlTokens = field(init=False)
    looked_for: re.Pattern[str] | None = None
    """Matches what the template looks for; None where it may read every text."""

    def __post_init__(self) -> None:
        # Once: with thousands of added tokens it takes as long to look for them as to tokenize a text.
        self.control = get_control_tokens(self.tokenizer)
        try:
            describe_template(self.template)
        except (ModelError, TemplateSyntaxError):  # said where a conversation is rendered
            return
        found = find_passing_on(self.template)
        if found is not None and not any(each in STAND_IN.format(0) for each in found.looked_for):
            self.looked_for = find_any([*found.looked_for, *THOUGHTS])
            self.nearby = found.nearby

    def assemble(
        self, roles: Sequence[str], texts: Sequence[str | None], trained: Sequence[bool]
    ) -> tuple[str, list[Span]] | None:
        """Write a conversation, and find its characters that are trained; None if it has to be rendered."""
        if self.looked_for is None:
            return None
        said, blanks = [], []
        for text in texts:
            if text is None:
                return None
            # "\n Hi.\n" is "\n " and "\n" around "Hi.": a template may trim it, and no more.
            bare = text.strip()
            if bare:
                start = text.index(bare[0]) if len(bare) < len(text) else 0
                before, behind = text[:start], text[start + len(bare) :]
                if len(before) + len(behind) > MAX_BLANK or not self._is_harmless(bare):
                    return None
                said.append(bare)
                blanks += [before, behind]
            else:
                blanks += [text[: MAX_BLANK + 1], "blank"]
        key = tuple(trained), tuple(roles), tuple(blanks)
        if key not in self.known:
            if len(self.known) > MAX_SHAPES:
                self.known.clear()
            self.known[key] = self._find_shape(key)
        shape = self.known[key]
        return None if shape is None else shape.fill(said)

    def _is_harmless(self, text: str) -> bool:
        assert self.looked_for is not None
        return not self.looked_for.search(text) and self.control.is_free(text)

    def _find_shape(self, key: Key) -> Shape | None:
        trained, roles, blanks = key
        control = self.control
        messages: list[Message] = []
        stand_ins = []
        for number, role in enumerate(roles):
            before, behind = blanks[2 * number : 2 * number + 2]
            if control.find_spelled(role) or len(before) > MAX_BLANK:
                return None
            if behind == "blank":
                messages.append({"role": role, "content": before})
            else:
                stand_ins.append(STAND_IN.format(number))
                messages.append({"role": role, "content": before + stand_ins[-1] + behind})
        chat = RenderedChat(self.tokenizer, self.template, messages)
        try:
            spans = self._find_like(chat, key) or self.find_spans(chat, trained)
            [fault] = check_control_tokens([chat])
        except (ChatTemplateError, TemplateLimitError):  # it will be said of the conversation itself
            return None
        # A text between two parts of a control token would make it whole.
        shape = None if fault is not None else _cut(chat.text(), stand_ins, spans)
        return None if shape is None or any(map(control.find_begun, shape.pieces[:-1])) else shape

    def _find_like(self, chat: RenderedChat, key: Key) -> list[Span]:
        """Find the spans of a long conversation by a few of its turns, if the others are like these; else nothing."""
        trained, roles, _ = key
        turns = [number for number, role in enumerate(roles) if role == "assistant" and trained[number]]
        if len(turns) < MANY_TURNS or not self.nearby or not self.by_turns:
            return []
        # 3 renders a turn are 1,200 of 800 turns; of the turns that are alike one is rendered.
        # User, assistant, user, assistant...: all turns but those near the two ends are alike.
        like = {number: _see_nearby(key, number) for number in turns}
        first = {seen: number for number, seen in reversed(like.items())}
        found = self.find_spans(chat, [number in first.values() for number in range(len(roles))])
        text, spans = chat.text(), []
        span_of = dict(zip(sorted(first.values()), found, strict=True))
        for number in turns:
            example = first[like[number]]
            here, there = (text.find(STAND_IN.format(each)) for each in (number, example))
            start, stop = (position + here - there for position in span_of[example])
            as_there = text[slice(*span_of[example])].replace(STAND_IN.format(example), STAND_IN.format(number))
            if min(here, there) < 0 or text[start:stop] != as_there:
                return []
            spans.append((start, stop))
        return spans


def _see_nearby(key: Key, number: int) -> tuple[object, ...]:
    """What is near to a message: all that a template may go by there."""
    trained, roles, blanks = key
    places = range(number - NEARBY, number + NEARBY + 1)
    seen = [
        (trained[each], roles[each], blanks[2 * each : 2 * each + 2]) if 0 <= each < len(roles) else None
        for each in places
    ]
    return (number % 2, *seen)


def _cut(text: str, stand_ins: Sequence[str], spans: Sequence[Span]) -> Shape | None:
    """Cut a text at its stand-ins; None where one is not there once, in its place, or a span begins or ends inside."""
    if any(text.count(each) != 1 for each in stand_ins):
        return None
    starts = [text.index(each) for each in stand_ins]
    if starts != sorted(starts):
        return None
    ends = [0, *(start + len(each) for start, each in zip(starts, stand_ins, strict=True))]
    bounds = list(zip(ends, [*starts, len(text)], strict=True))
    places = [[_place(bounds, position) for position in span] for span in spans]
    if any(place is None for pair in places for place in pair):
        return None
    return Shape([text[start:stop] for start, stop in bounds], [(one, other) for one, other in places])  # type: ignore[misc]


def _place(bounds: Sequence[Span], position: int) -> Place | None:
    """The piece in which a position is, and its character there; of two that touch it, the first."""
    return next(
        ((number, position - start) for number, (start, stop) in enumerate(bounds) if start <= position <= stop), None
    )
