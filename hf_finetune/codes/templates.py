"""HF13x to HF19x, of HF1xx (lengths, tokens and chat templates): chat templates."""

from __future__ import annotations

from hf_finetune.codes.code import Code

TEMPLATES: dict[str, Code] = {
    "HF131": Code(
        "a chat template exceeds a limit",
        "error",
        "A template is a program that comes with a model: one that takes too long, or writes too much, stops a run.",
        "look into it, and trust it by its hash in data.trust_chat_template if it is yours",
    ),
}
