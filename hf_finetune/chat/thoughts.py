"""Thoughts that stand inside a message's content, between <think> tags, where a template writes them by itself.

Templates of models that reason take thoughts from `reasoning_content`, and most of them look for the tags in `content`
too. Text of rows is marked before a template sees it, so that it finds none there: the thoughts are split off before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import ChatTemplateError, RenderedChat
from hf_finetune.chat.rendering import Message

# As Qwen3's template takes a content apart: all up to the first end of thoughts, line breaks around both parts aside.
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_PROBED = re.compile(r"<think>\s*probed\s*</think>")

_known: WeakKeyDictionary[PreTrainedTokenizerFast, dict[str, bool]] = WeakKeyDictionary()


def split_thoughts(tokenizer: PreTrainedTokenizerFast, template: str, messages: Sequence[Message]) -> list[Message]:
    """Move the thoughts that a content of the assistant begins with to `reasoning_content`, if `template` writes those.

    Messages that say there what was thought already stay as they are.
    """
    if not any(_holds_thought(message) for message in messages) or not _writes_thoughts(tokenizer, template):
        return list(messages)
    return [_split(message) if _holds_thought(message) else message for message in messages]


def _holds_thought(message: Message) -> bool:
    content = message.get("content")
    return (
        message["role"] == "assistant"
        and isinstance(content, str)
        and not message.get("reasoning_content")
        and _THOUGHT.match(content) is not None
    )


def _split(message: Message) -> Message:
    # "<think>\nhm\n</think>\n\nYes." -> reasoning_content "hm", content "Yes."
    found = _THOUGHT.match(message["content"])
    assert found is not None
    return {**message, "reasoning_content": found[1].strip("\n"), "content": found[2].lstrip("\n")}


def _writes_thoughts(tokenizer: PreTrainedTokenizerFast, template: str) -> bool:
    """Whether a template writes `reasoning_content` between <think> tags; tried once for each template."""
    known = _known.setdefault(tokenizer, {})
    if template not in known:
        answer: Message = {"role": "assistant", "content": "b", "reasoning_content": "probed"}
        try:
            written = RenderedChat(tokenizer, template, [{"role": "user", "content": "A"}, answer]).text()
        except ChatTemplateError:
            written = ""
        known[template] = _PROBED.search(written) is not None
    return known[template]
