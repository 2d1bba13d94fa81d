"""Rendered conversations -> token ids and labels, counted."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Protocol

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import Span
from hf_finetune.chat.given_up import name_rows
from hf_finetune.chat.special_tokens import MARK, TokenizedText, get_control_tokens
from hf_finetune.data.tokenization.conversation_stats import ROWS_DECODED, ConversationStats
from hf_finetune.data.tokenization.rendered_rows import RenderedRow, RowOfTurns, count_bytes_written
from hf_finetune.data.tokenization.spans import clip_runs, find_token_ranges
from hf_finetune.data.tokenization.text import IGNORE_INDEX, measure_longest_token
from hf_finetune.data.tokenization.windows import Example, build_batch

TOKENS_DECODED = 2**16
"""Of a span, which may have millions."""
MOST_TOKENS_OF_A_CHARACTER = 8

Counted = tuple[Counter[str], Counter[str]]
"""The counts of examples, and of the control tokens that their texts spell."""


class Refuse(Protocol):
    """Records a problem of a row."""

    def __call__(self, row: int, what: str, remedy: str = "", *, code: str) -> None: ...


class ExampleBuilder:
    """Makes examples of conversations, and counts them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        too_long: str,
        max_length: int,
        where: Callable[[int], tuple[str, int]],
        refuse: Refuse,
    ) -> None:
        self.tokenizer, self.too_long, self.max_length = tokenizer, too_long, max_length
        self.where, self.refuse = where, refuse
        self.bytes_per_token = measure_longest_token(tokenizer)
        self.counts: Counter[str] = Counter()
        self.spelled: Counter[str] = Counter()

    def may_fit(self, row: RowOfTurns, loss_on: str) -> bool:
        """Whether a conversation may have few enough tokens; one that cannot is left out before it is rendered."""
        if self.bytes_per_token is None or self.too_long not in ("drop", "error"):
            return True
        # "ab" * 5_000 with tokens of at most four bytes is 2,500 tokens or more.
        fewest = count_bytes_written(row[1], loss_on) // self.bytes_per_token
        if fewest <= self.max_length:
            return True
        self.counts["too_long"] += 1
        self._leave_out(row[0], f"{fewest:,} tokens or more")
        return False

    def _leave_out(self, row: int, size: str) -> None:
        self.counts["dropped"] += 1
        if self.too_long == "error":
            what = f"{size}, and train.max_length is {self.max_length:,}"
            self.refuse(row, what, "shorten it, or raise that", code="HF112")

    def encode(self, rendered: Sequence[RenderedRow]) -> list[tuple[RenderedRow, TokenizedText]]:
        """Tokenize rendered conversations. Raises `DataError` for one that the tokenizer gives up on.

        Counts nothing: it may be called by another thread.
        """
        bounds = [sorted({position for span in row.spans for position in span}) for row in rendered]
        with name_rows(lambda number: self.where(rendered[number].row)):
            encoded = get_control_tokens(self.tokenizer).encode([row.text for row in rendered], bounds)
        return list(zip(rendered, encoded, strict=True))

    def build(self, encoded: Sequence[tuple[RenderedRow, TokenizedText]]) -> pa.RecordBatch:
        """Build the examples of tokenized conversations."""
        return build_batch([example for row, tokens in encoded for example in self._build_examples(row, tokens)])

    def collect(self) -> Counted:
        """What was counted so far."""
        return self.counts, self.spelled

    def merge(self, counted: Counted) -> None:
        """Add what another builder has counted of other rows."""
        counts, spelled = counted
        longest = max(self.counts["longest"], counts["longest"])
        self.counts.update(counts)
        self.counts["longest"] = longest
        self.spelled.update(spelled)

    def count(self, rows: int) -> dict[str, Any]:
        """The counts of `ConversationStats`, of so many rows in all."""
        self.counts["rows"] = rows
        counted: dict[str, Any] = {name.name: self.counts[name.name] for name in fields(ConversationStats)}
        return counted | {"filled": 1.0, "spelled": dict(sorted(self.spelled.items(), key=_by_count))}

    def _build_examples(self, row: RenderedRow, tokens: TokenizedText) -> Iterator[Example]:
        """Yield a row as one example, or as `data.too_long` says."""
        # 5 tokens with max_length 2 give the windows (0, 2) under `cut`, and (0, 2) (2, 4) (4, 5) under `split`.
        ranges = find_token_ranges(row.spans, tokens)
        self.spelled.update(row.spelled)
        if row.row < ROWS_DECODED:
            self.counts["altered"] += not self._decodes(row, tokens, ranges)
        size, limit = len(tokens.ids), self.max_length
        windows = [(0, size)]
        if size > limit:
            self.counts["too_long"] += 1
            if self.too_long in ("drop", "error"):
                self._leave_out(row.row, f"{size:,} tokens")
                return
            stop = limit if self.too_long == "cut" else size
            windows = [(start, min(start + limit, size)) for start in range(0, stop, limit)]
            self.counts["truncated"] += 1
        # Nothing predicts the first token of a window.
        predicted = [clip_runs(ranges, start + 1, stop) for start, stop in windows]
        if not any(predicted):
            self.counts["untrained"] += 1
            self.counts["dropped"] += 1
        ends = {stop for _, stop in ranges}
        for (start, stop), runs in zip(windows, predicted, strict=True):
            if runs:
                yield self._build_example(row.row, tokens, ranges, start, stop)
                cut = self.too_long == "cut" and stop < size
                self.counts["without_end"] += cut and runs[-1][1] == stop and stop not in ends

    def _build_example(self, row: int, tokens: TokenizedText, ranges: Sequence[Span], start: int, stop: int) -> Example:
        """Count the example of the tokens from `start` to `stop`; those in `ranges` are trained."""
        runs = clip_runs(ranges, start + 1, stop)
        ids, size = tokens.ids[start:stop], stop - start
        labels = array("i", [IGNORE_INDEX]) * size
        for begin, end in clip_runs(ranges, start, stop):
            labels[begin - start : end - start] = array("i", tokens.ids[begin:end])
        said = [tokens.read_text(*run) for run in runs]
        in_bytes, words = sum(len(text.encode()) for text in said), sum(len(text.split()) for text in said)
        self.counts["examples"] += 1
        self.counts["tokens"] += size
        self.counts["trained_tokens"] += sum(end - begin for begin, end in runs)
        self.counts["trained_bytes"] += in_bytes
        self.counts["unknown"] += self._count_unknown(tokens, runs)
        self.counts["longest"] = max(self.counts["longest"], size)
        return ids, labels, size, row, in_bytes, words

    def _count_unknown(self, tokens: TokenizedText, runs: Sequence[Span]) -> int:
        """Count the unknown tokens in `runs`: text alone, where one id is EOS too."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None:
            return 0
        return sum(
            tokens.ids[number] == unknown and not tokens.is_control(number)
            for run in runs
            if unknown in tokens.ids[slice(*run)]
            for number in range(*run)
        )

    def _decodes(self, row: RenderedRow, tokens: TokenizedText, ranges: Sequence[Span]) -> bool:
        """Whether the trained tokens say what the text says, white space aside; of a long span the first ones."""
        decode = self.tokenizer.backend_tokenizer.decode
        for (start, stop), (begin, end) in zip(row.spans, ranges, strict=True):
            if end - begin > TOKENS_DECODED:
                end = begin + TOKENS_DECODED
                stop = min(stop, start + TOKENS_DECODED // MOST_TOKENS_OF_A_CHARACTER)
            said = decode(list(tokens.ids[begin:end]), skip_special_tokens=False)
            if _strip_whitespace(row.text[start:stop].replace(MARK, "")) not in _strip_whitespace(said):
                return False
        return True


def _by_count(spelled: tuple[str, int]) -> tuple[int, str]:
    # Not by who has found it first.
    return -spelled[1], spelled[0]


def _strip_whitespace(text: str) -> str:
    return "".join(text.split())
