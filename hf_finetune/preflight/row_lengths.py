"""The tokens of each row before anything is cut, and what of them other limits would leave: counted in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hf_finetune.chat.given_up import name_rows
from hf_finetune.chat.special_tokens import TokenizedText
from hf_finetune.data.tokenization.conversations import ConversationWork
from hf_finetune.data.tokenization.examples import ExampleBuilder
from hf_finetune.data.tokenization.rendered_rows import ConversationRenderer, RenderedRow
from hf_finetune.data.tokenization.spans import clip_runs, find_token_ranges
from hf_finetune.data.tokenization.text import encode_rows, encode_texts
from hf_finetune.preflight.findings import MAX_PLACES
from hf_finetune.preflight.token_view.conversations import WHOLE
from hf_finetune.preflight.token_view.settings import TokenSettings

Sizes = npt.NDArray[np.int32]
"""Of each row its tokens, whole, and those of them that are trained: (rows, 2)."""
Locate = Callable[[int], tuple[str, int]]


class Tally:
    """Counts, and the first rows of each kind; those of several processes are added up."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.rows: dict[str, list[int]] = {}

    def add(self, kind: str, row: int) -> None:
        """Count a row of this kind."""
        self.counts[kind] += 1
        found = self.rows.setdefault(kind, [])
        if len(found) < MAX_PLACES:
            found.append(row)

    def add_unknown(self, tokens: int, row: int) -> None:
        """Count unknown tokens of a row, which is one of those that are named."""
        if tokens:
            self.add("unknown", row)
            self.counts["unknown"] += tokens - 1

    def merge(self, other: Tally) -> None:
        """Add what was counted of other rows."""
        # The `update` of a Counter adds. Processes end in any order, hence the sorting.
        self.counts.update(other.counts)
        for kind, rows in other.rows.items():
            self.rows[kind] = sorted([*self.rows.get(kind, ()), *rows])[:MAX_PLACES]


class ConversationLengths:
    """Conversations -> the sizes of each, and counts; `workers.RowWork`. The template's refusals are its renderer's."""

    def __init__(self, rows: Any, where: Locate, settings: TokenSettings, limits: Sequence[int]) -> None:
        template, data, tokenizer = settings.get_template(rows), settings.data, settings.tokenizer
        self.renderer = ConversationRenderer(where, len(rows), tokenizer, template or "", data)
        # By "cut" no row is left out before it is rendered, as one that is much too long is by "drop".
        builder = ExampleBuilder(tokenizer, "cut", WHOLE, where, self.renderer.refuse)
        self.work = ConversationWork(self.renderer, builder)
        self.limits, self.too_long = tuple(limits), data.too_long
        self.by_turns, self.unknown = data.loss_on != "all", tokenizer.unk_token_id
        self.tally = Tally()
        self.read, self.encode = self.work.read, self.work.encode

    def build(self, encoded: Sequence[tuple[RenderedRow, TokenizedText]]) -> Sizes:
        """The sizes of some rows."""
        return np.array([self._measure(row, tokens) for row, tokens in encoded], np.int32).reshape(-1, 2)

    def _measure(self, row: RenderedRow, tokens: TokenizedText) -> tuple[int, int]:
        ranges, size = find_token_ranges(row.spans, tokens), len(tokens.ids)
        trained = sum(stop - start for start, stop in clip_runs(ranges, 1, size))
        for limit in self.limits:
            self._count_at(limit, row.row, ranges, size, trained)
        if not trained:
            self.tally.add("untrained", row.row)
        if row.spelled:
            self.tally.add("spelled", row.row)
        if self.by_turns:
            self._look_at_answers(row.row, tokens, ranges)
        self.tally.add_unknown(self._count_unknown(tokens, ranges), row.row)
        return size, trained

    def _count_at(self, limit: int, row: int, ranges: Sequence[tuple[int, int]], size: int, trained: int) -> None:
        """Count what is left of a row at a limit, as `ExampleBuilder` leaves it."""
        if size <= limit:
            self.tally.counts[f"kept {limit}"] += size if trained else 0
            self.tally.counts[f"trained {limit}"] += trained
            return
        self.tally.counts[f"too_long {limit}"] += 1
        # 5 tokens at a limit of 2 are (0, 2) by `cut`, (0, 2) (2, 4) (4, 5) by `split`, and none by `drop` or `error`.
        stop = {"cut": limit, "split": size}.get(self.too_long, 0)
        parts = [(start, min(start + limit, size)) for start in range(0, stop, limit)]
        runs = [sum(end - start for start, end in clip_runs(ranges, first + 1, last)) for first, last in parts]
        counts = self.tally.counts
        counts[f"kept {limit}"] += sum(last - first for (first, last), run in zip(parts, runs, strict=True) if run)
        counts[f"trained {limit}"] += sum(runs)
        # Where a row is split, nothing but the first token of each part is not predicted.
        if self.too_long != "split" and sum(runs) < trained:
            self.tally.add(f"lost {limit}", row)
            counts[f"whole_lost {limit}"] += not any(runs)
            if any(runs) and any(start < limit < stop for start, stop in ranges):
                self.tally.add(f"without_end {limit}", row)

    def _look_at_answers(self, row: int, tokens: TokenizedText, ranges: Sequence[tuple[int, int]]) -> None:
        """Look for answers that say nothing."""
        whole = [(start, stop) for start, stop in ranges if start < stop]
        said = [tokens.read_text(start, stop) for start, stop in whole]
        # Letters of all scripts are alphanumeric, and an emoji is not: an answer of a thumb alone is `near_empty`.
        if any(not text.strip() for text in said):
            self.tally.add("empty", row)
        elif not all(any(map(str.isalnum, text)) for text in said):
            self.tally.add("near_empty", row)

    def _count_unknown(self, tokens: TokenizedText, ranges: Sequence[tuple[int, int]]) -> int:
        if self.unknown is None or self.unknown not in tokens.ids:
            return 0
        # Where one id is EOS and unknown, as GPT-2 has it, EOS is no unknown text; nothing predicts token 0.
        numbers = (number for start, stop in ranges for number in range(max(1, start), stop))
        return sum(tokens.ids[number] == self.unknown and not tokens.is_control(number) for number in numbers)

    def collect(self) -> tuple[Any, Tally]:
        """The problems of rows, and what was counted."""
        return self.renderer.collect(), self.tally

    def merge(self, collected: tuple[Any, Tally]) -> None:
        """Add those of another process."""
        self.renderer.merge(collected[0])
        self.tally.merge(collected[1])


class DocumentLengths:
    """Documents -> the sizes of each, [bos] text eos, and counts; `workers.RowWork`."""

    def __init__(self, where: Locate, settings: TokenSettings, *, in_windows: bool) -> None:
        self.where, self.tokenizer = where, settings.tokenizer
        # Without BOS a window begins with EOS; in a block the EOS of the document before stands there already.
        self.around = 2 if in_windows or self.tokenizer.bos_token_id is not None else 1
        self.tally = Tally()

    def read(self, first: int, table: pa.Table) -> dict[int, str]:
        """The texts of documents that have one, by their rows."""
        texts = dict(enumerate(table.column("text").to_pylist(), first))
        for row in [row for row, text in texts.items() if not text.strip()]:
            self.tally.add("untrained", row)
            del texts[row]
        return texts

    def encode(self, texts: dict[int, str]) -> list[tuple[int, Sequence[int]]]:
        """Tokenize them."""
        return list(zip(texts, encode_rows(self.tokenizer, texts, self.where), strict=True))

    def build(self, documents: list[tuple[int, Sequence[int]]]) -> Sizes:
        """The sizes of documents: of each every token but the first is trained."""
        unknown = self.tokenizer.unk_token_id
        for row, ids in documents:
            self.tally.add_unknown(0 if unknown is None else ids.count(unknown), row)
        sizes = np.array([len(ids) + self.around for _, ids in documents], np.int32)
        return np.stack([sizes, sizes - 1], axis=1)

    def collect(self) -> Tally:
        """What was counted."""
        return self.tally

    def merge(self, collected: Tally) -> None:
        """Add what another process has counted."""
        self.tally.merge(collected)


class TextLengths:
    """Texts to classify -> the sizes of each, and counts; `workers.RowWork`."""

    def __init__(self, where: Locate, settings: TokenSettings, limits: Sequence[int]) -> None:
        self.where, self.tokenizer, self.limits = where, settings.tokenizer, tuple(limits)
        self.tally = Tally()

    def read(self, first: int, table: pa.Table) -> tuple[int, list[str], list[str | None]]:
        """The texts of rows."""
        return first, table.column("text").to_pylist(), table.column("text_pair").to_pylist()

    def encode(self, read: tuple[int, list[str], list[str | None]]) -> tuple[int, list[str], list[list[int]]]:
        """Tokenize them."""
        first, texts, pairs = read
        with name_rows(lambda number: self.where(first + number)):
            return first, texts, encode_texts(self.tokenizer, texts, pairs, None).input_ids

    def build(self, encoded: tuple[int, list[str], list[list[int]]]) -> Sizes:
        """The sizes of rows; a label is learned from all tokens."""
        first, texts, rows = encoded
        unknown = self.tokenizer.unk_token_id
        for row, (text, ids) in enumerate(zip(texts, rows, strict=True), first):
            for limit in [limit for limit in self.limits if len(ids) > limit]:
                self.tally.add(f"lost {limit}", row)
                self.tally.counts[f"too_long {limit}"] += 1
            if not any(map(str.isalnum, text)):
                self.tally.add("near_empty" if text.strip() else "empty", row)
            self.tally.add_unknown(0 if unknown is None else ids.count(unknown), row)
        sizes = np.array([len(ids) for ids in rows], np.int32)
        return np.stack([sizes, sizes], axis=1)

    def collect(self) -> Tally:
        """What was counted."""
        return self.tally

    def merge(self, collected: Tally) -> None:
        """Add what another process has counted."""
        self.tally.merge(collected)
