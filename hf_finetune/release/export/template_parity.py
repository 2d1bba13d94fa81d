"""One conversation is one prompt, whoever renders it: the run's tokenizer, the export, or what serves it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import ChatTemplateError, RenderedChat
from hf_finetune.chat.template import get_default_template
from hf_finetune.errors import ModelError, Problem
from hf_finetune.release.export.conversations import CONVERSATIONS, Conversation

AROUND = 30
"""Characters that are shown on each side of the first difference."""


class Refused(Exception):
    """A conversation is refused, for the reason given."""


Renderer = Callable[[Conversation], str]
"""Raises `Refused`."""


@dataclass(frozen=True, slots=True)
class TemplateParity:
    """How many conversations a renderer makes the same prompt of."""

    renderer: str
    conversations: int
    equal: int
    refused: int
    """By both."""
    not_offered: tuple[str, ...] = ()
    """Those that the renderer alone refuses, as its target has said that it does."""

    def as_dict(self) -> dict[str, Any]:
        """As it stands in export.json."""
        counts = {"conversations": self.conversations, "equal": self.equal, "refused_by_both": self.refused}
        return {**counts, "not_offered": list(self.not_offered)} if self.not_offered else {**counts}


def check_templates(
    tokenizer: PreTrainedTokenizerFast, renderers: Mapping[str, Renderer], not_offered: Collection[str] = ()
) -> list[TemplateParity]:
    """Render `CONVERSATIONS` by the tokenizer's template and by each of `renderers`, and compare them byte for byte.

    `not_offered` names conversations that a renderer may refuse though the tokenizer does not: refused is not rendered
    otherwise. Raises `ModelError` for the first difference, with both sides. A tokenizer without a template has none.
    """
    if not tokenizer.chat_template:
        return []
    # Once, for all of the others: a template of a stranger is rendered by a process of its own.
    reference = {name: _try(render_by(tokenizer), each) for name, each in CONVERSATIONS.items()}
    return [_compare(reference, name, renderer, not_offered) for name, renderer in renderers.items()]


def render_by(tokenizer: PreTrainedTokenizerFast) -> Renderer:
    """A renderer by the chat template of a tokenizer, within the limits of templates of strangers."""
    template = get_default_template(tokenizer)

    def render(conversation: Conversation) -> str:
        tools = list(conversation.tools) or None
        try:
            return RenderedChat(tokenizer, template, list(conversation.messages), tools).text(prompt=True)
        except ChatTemplateError as problem:
            raise Refused(str(problem)) from problem

    return render


def render_by_folder(folder: Path) -> Renderer:
    """A renderer by the tokenizer in an exported folder, loaded afresh."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return render_by(tokenizer)


def _try(renderer: Renderer, conversation: Conversation) -> str | Refused:
    try:
        return renderer(conversation)
    except Refused as refusal:
        return refusal


def _compare(
    reference: Mapping[str, str | Refused], who: str, renderer: Renderer, not_offered: Collection[str]
) -> TemplateParity:
    equal, refused, alone = 0, 0, []
    for name, expected in reference.items():
        found = _try(renderer, CONVERSATIONS[name])
        if isinstance(expected, Refused) and isinstance(found, Refused):
            refused += 1
        elif isinstance(found, Refused) and name in not_offered:
            alone.append(name)
        elif found == expected:
            equal += 1
        else:
            raise _explain(who, name, expected, found)
    return TemplateParity(who, len(reference), equal, refused, tuple(alone))


def _explain(who: str, name: str, expected: str | Refused, found: str | Refused) -> ModelError:
    if isinstance(expected, Refused) or isinstance(found, Refused):
        sides = [f"refuses it ({side})" if isinstance(side, Refused) else "renders it" for side in (found, expected)]
        what = f"{who} {sides[0]}, and the run's tokenizer {sides[1]}: the conversation {name!r}"
    else:
        place = find_difference(expected, found)
        ours, theirs = (repr(text[max(0, place - AROUND) : place + AROUND]) for text in (expected, found))
        what = (
            f"the conversation {name!r} is another prompt from character {place:,} on: {theirs} by {who}, {ours} by "
            "the run's tokenizer"
        )
    remedy = "the model would be asked otherwise than it was trained: export with another data.chat_template"
    return ModelError(Problem(what, remedy, code="HF979"))


def find_difference(one: str, other: str) -> int:
    """The first place at which two texts differ."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
