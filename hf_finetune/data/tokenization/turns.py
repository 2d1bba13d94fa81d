"""The turns of a row that are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_finetune.chat.assistant_mask import ChatTemplateError
from hf_finetune.chat.rendering import Message


def build_exchange(prompt: str, completion: str) -> list[dict[str, Any]]:
    """The turns of a row of prompt and completion, for a template."""
    more: dict[str, Any] = {"train": None, "weight": None, "extra": None}
    return [{"role": "user", "content": prompt, **more}, {"role": "assistant", "content": completion, **more}]


def select_trained(turns: Sequence[Message], loss_on: str) -> list[bool]:
    """Flag the messages that may be trained: (messages,).

    `train: false` and `weight: 0` exclude one, `loss_on: last` all but the assistant's last. Raises `ChatTemplateError`
    for a weight between 0 and 1.
    """
    wrong = [turn["weight"] for turn in turns if turn["weight"] not in (None, 0.0, 1.0)]
    if wrong:
        raise ChatTemplateError(f"the weight of a message is 0 or 1, not {wrong[0]:g}", code="HF147")
    trained = [turn["train"] is not False and turn["weight"] != 0.0 for turn in turns]
    if loss_on == "last":
        last = max((index for index, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1)
        trained = [train and index == last for index, train in enumerate(trained)]
    return trained
