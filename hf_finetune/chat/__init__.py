"""Conversations -> text, and where in it the assistant's turns stand, under any chat template.

template            the chat template of a run: the tokenizer's own, TRL's training variant, ours, or a .jinja file
template_defaults   data.system and data.chat_template_kwargs, written into the template so that they travel with it
assistant_mask      the character spans that are trained, found by rendering the conversation turn by turn
thoughts            what stands between <think> tags in a content, told to templates that know it
dates               the day that a template is told, one for a run
text_check          whether a rendered turn holds its message's text, whatever the template trims or quotes
any_of              patterns for any of thousands of words
special_tokens      text of rows and special tokens told apart, so that no text becomes a control token
given_up            a text that the tokenizer gives up on, and its row
neutral             a row's control tokens are those of the same conversation with neutral texts
rendering           templates come from strangers: batches of conversations for the worker, and what becomes of them
slow_templates      texts of slow templates that are kept, and lines that say how far rendering has come
worker_process      the worker started, watched and ended
worker              the program that it runs: jinja2 within limits of memory and time
built_in            the templates of templates/, and the tokens that they add to a tokenizer
long_texts/         texts of megabytes, tokenized in pieces
shapes/             conversations of one shape are put together from its pieces, and not rendered
templates/          plain and alpaca, which add none, and those of six model families
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_finetune.lazy_imports import import_lazily

if TYPE_CHECKING:
    from hf_finetune.chat.dates import today
    from hf_finetune.chat.template import load_chat_template, trust_named_template

__all__ = ["load_chat_template", "today", "trust_named_template"]

__getattr__, __dir__ = import_lazily(__name__)
