"""What became of the conversations of a split: counted, logged, and refused where too many would be left out."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

from hf_finetune.config.sections import DataSection
from hf_finetune.data.tokenization.text import warn_of_unknown_tokens
from hf_finetune.errors import DataError, Problem
from hf_finetune.metric_info import choose_verb, say_count

logger = logging.getLogger(__name__)

ROWS_DECODED = 1_000
"""Rows of each split whose trained tokens are decoded and compared with their text."""


@dataclass(frozen=True)
class ConversationStats:
    """Counts of one tokenized split."""

    rows: int
    examples: int
    """Examples to train on: a dropped row gives none, a split row several."""
    dropped: int
    too_long: int
    """Rows of more than `max_length` tokens: dropped, cut or split."""
    untrained: int
    """Rows that were dropped because no trained token was left."""
    truncated: int
    without_end: int
    """Examples whose last trained turn was cut before its end token."""
    tokens: int
    trained_tokens: int
    trained_bytes: int
    """UTF-8 bytes of the trained text as it was written: the denominator of bits per byte."""
    unknown: int
    """Trained tokens that stand for text which the tokenizer does not know."""
    longest: int
    """Tokens of the longest example; of a block with packing."""
    spelled: dict[str, int]
    """Rows whose text spells each control token; there it stays text."""
    altered: int
    """Of the first `ROWS_DECODED` rows, those whose trained tokens do not decode to their text."""
    filled: float = 1.0
    """With packing, the share of tokens in the blocks that are not padding."""

    @property
    def scored_bytes(self) -> int:
        """UTF-8 bytes of the text that is predicted."""
        return self.trained_bytes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self, split: str) -> str:
        """One line on the rows of a split."""
        use = "trained" if split == "train" else "scored"
        dropped = f" ({self.dropped:,} left out)" if self.dropped else ""
        share = self.trained_tokens / max(self.tokens, 1)
        return (
            f"{say_count(self.rows, 'conversation')}{dropped}, {say_count(self.tokens, 'token')}, "
            f"{self.trained_tokens:,} of them {use} ({share:.0%}), the longest {self.longest:,}"
        )


def check_dropped_share(split: str, facts: ConversationStats, data: DataSection, max_length: int) -> None:
    """Raise `DataError` where more than the share `data.max_dropped` of the rows gives no example, or none does."""
    share = facts.dropped / facts.rows
    if facts.examples and share <= data.max_dropped:
        return
    long = facts.dropped - facts.untrained
    what = (
        f"{facts.dropped:,} of {facts.rows:,} {split} rows ({share:.1%}) would be left out: {long:,} of more than "
        f"{max_length:,} tokens, {facts.untrained:,} without a trained token"
    )
    remedy = "raise train.max_length, set data.too_long to cut or split, or accept it with data.max_dropped"
    raise DataError(Problem(what, remedy, key="data.max_dropped", code="HF111"))


def log_warnings(split: str, facts: ConversationStats) -> None:
    """Warn of what the counts show: control tokens that are spelled, ends cut off, texts that the tokenizer changes."""
    if facts.spelled:
        tokens = ", ".join(f"{token} ({say_count(rows, 'row')})" for token, rows in facts.spelled.items())
        logger.warning(
            "%s: text spells control tokens: %s; they stay text (put reasoning in reasoning_content)",
            split,
            tokens,
            extra={"code": "HF107"},
        )
    # Above 5 %: an EOS that is cut off is never trained, and generation then runs on to max_new_tokens.
    if facts.without_end > 0.05 * facts.examples:
        logger.warning(
            "%s: %d of %s %s; a model that never sees the end does not learn to stop",
            *(split, facts.without_end, say_count(facts.examples, "example")),
            choose_verb(facts.without_end, "ends before its turn does", "end before their turn does"),
            extra={"code": "HF103"},
        )
    warn_of_unknown_tokens(split, facts.unknown, facts.trained_tokens)
    if facts.altered:
        logger.warning(
            "%s: the tokenizer changes the text of %d of the first %s; what is trained is not what they say",
            *(split, facts.altered, say_count(min(facts.rows, ROWS_DECODED), "row")),
            extra={"code": "HF123"},
        )
