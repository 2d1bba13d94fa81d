"""A text that is typed, token by token."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.special_tokens import get_control_tokens
from hf_finetune.chat.template import tokenize_prompt
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.preflight.token_view.labelled import encode_spans
from hf_finetune.preflight.token_view.pieces import read_rendered
from hf_finetune.preflight.token_view.spans import TokenView, make_spans

MOST_CHARACTERS = 1_000_000
"""Of a text that is shown token by token."""


def view_text(tokenizer: PreTrainedTokenizerFast, text: str, *, chat: bool = False) -> TokenView:
    """View a text with the special tokens that the tokenizer puts around it; with `chat`, as a question.

    Raises `ConfigError` for a text that is too long, and with `chat` where there is no template; `DataError` where that
    refuses the question, `ModelError` where the tokenizer gives up.
    """
    if len(text) > MOST_CHARACTERS:
        what = f"a text of {len(text):,} characters is too long to be shown token by token"
        raise ConfigError(Problem(what, f"show a part of it, of {MOST_CHARACTERS:,} at most"))
    spelled = sorted(get_control_tokens(tokenizer, only_special=not chat).find_spelled(text))
    notes = (f"it spells {', '.join(spelled)}, which stays text",) if spelled else ()
    if not chat:
        return TokenView("text", tuple(encode_spans(tokenizer, (text, None))), notes=notes)
    if not tokenizer.chat_template:
        what = "the tokenizer has no chat template"
        raise ConfigError(Problem(what, "leave it out, or name a model that can chat", key="--chat"))
    tokens = tokenize_prompt(tokenizer, [{"role": "user", "content": text}])
    pieces = read_rendered(tokenizer, tokens)
    untrained = [-100] * len(pieces.ids)
    spans = make_spans(pieces.ids, pieces.texts, untrained, pieces.control, tokenizer.unk_token_id)
    return TokenView("question", tuple(spans), notes=notes)


def measure_bytes(view: TokenView) -> tuple[int, int]:
    """The bytes of what a view says in UTF-8, and the tokens that say it: without control tokens."""
    said = [span for span in view.spans if span.is_given and span.kind != "control"]
    return sum(len(span.text.encode("utf-8", "surrogatepass")) for span in said), len(said)
