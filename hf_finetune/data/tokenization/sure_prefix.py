"""The beginning of a long text whose tokens are the first tokens of the whole text, where that is sure.

Of a text of megabytes that is cut at 128 tokens nothing behind the first kilobytes needs to be tokenized: it takes
seconds.
"""

from __future__ import annotations

from hf_finetune.chat.long_texts.borders import BORDER

LONG = 50_000
"""Characters, below which a text costs nothing."""
PER_TOKEN = 32
"""Characters that are taken for each token of the limit; published tokenizers have four of English in one."""
LAST_PLACES = 4_096
"""Characters at the end of the beginning, among which a border is looked for."""


def find_sure_prefix(text: str, max_length: int) -> str | None:
    """The beginning of a long text, up to a place where tokens end; None for a short text, and for one without.

    For a tokenizer that takes both sides apart: `ControlTokens.in_pieces`.
    """
    size = max(LONG, PER_TOKEN * max_length)
    if len(text) <= size:
        return None
    borders = [border.start() for border in BORDER.finditer(text, size - LAST_PLACES, size)]
    return text[: borders[-1]] if borders else None
