"""A classifier for many requests: texts that wait are labelled together, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_finetune.data.tokenization.text import EncodedTexts, encode_texts
from hf_finetune.errors import FinetuneError
from hf_finetune.evaluation.prediction.added_fields import format_added_fields
from hf_finetune.evaluation.prediction.predict import Classifier, compute_logits
from hf_finetune.models.decision import Array
from hf_finetune.release.serve.faults import log_fault

TEXTS_AT_ONCE = 512
MOST_WAITING = 128


class LabellerFull(Exception):
    """More texts wait than may."""


@dataclass(slots=True)
class _Waiting:
    texts: list[str]
    pairs: list[str | None] | None
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[tuple[Array, int]]


class Labeller:
    """Labels texts as `hf-finetune predict` does."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def counts(self) -> tuple[int, int]:
        """How many requests wait; none is counted as running."""
        return self._queue.qsize(), 0

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    async def name_labels(self, texts: Sequence[str]) -> list[list[str]]:
        """Name the labels of each text."""
        if not texts or self.classifier.decision is None:
            return []
        rows = [each["label"] for each in (await self.label(texts))[0]]
        return [row if isinstance(row, list) else [row] for row in rows]

    async def label(
        self, texts: Sequence[str], pairs: Sequence[str | None] | None = None, top_k: int | None = None
    ) -> tuple[list[dict[str, Any]], int]:
        """Label texts: `label`, `score` and `scores` of each, and how many were cut.

        Raises `LabellerFull`, and as `encode_texts` and `compute_logits` do.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(list(texts), None if pairs is None else list(pairs), loop, loop.create_future())
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            # Told at once, as for answers: a request that waits for a place holds its connection.
            raise LabellerFull from None
        logits, truncated = await waiting.result
        fields = format_added_fields(logits, self.classifier.decision, "", top_k)
        return [json.loads(f"{{{each}}}") for each in fields], truncated

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, ends = [first], False
            # What came while the last batch was computed goes into this one.
            while sum(len(each.texts) for each in batch) < TEXTS_AT_ONCE and not self._queue.empty():
                if (more := self._queue.get()) is None:
                    ends = True
                    break
                batch.append(more)
            self._label_batch(batch)
            if ends:
                return

    def _label_batch(self, batch: Sequence[_Waiting]) -> None:
        encoded = [(each, found) for each in batch if (found := self._encode(each)) is not None]
        if not encoded:
            return
        try:
            logits = compute_logits(self.classifier, _join([found for _, found in encoded]))
        except Exception as failed:  # a thread that ends would leave everybody waiting
            for each, _ in encoded:
                _fail(each, failed)
            return
        first = 0
        for each, found in encoded:
            rows = len(found.input_ids)
            each.loop.call_soon_threadsafe(_give, each.result, (logits[first : first + rows], found.truncated))
            first += rows

    def _encode(self, waiting: _Waiting) -> EncodedTexts | None:
        try:
            return encode_texts(self.classifier.tokenizer, waiting.texts, waiting.pairs, self.classifier.max_length)
        except Exception as failed:
            _fail(waiting, failed)
            return None


def _join(parts: Sequence[EncodedTexts]) -> EncodedTexts:
    # Rows of one tokenizer: either all have types or none has.
    ids = [row for part in parts for row in part.input_ids]
    types = None if parts[0].token_type_ids is None else [row for part in parts for row in part.token_type_ids or ()]
    return EncodedTexts(ids, types, 0)


def _fail(waiting: _Waiting, failed: Exception) -> None:
    if not isinstance(failed, FinetuneError):
        log_fault("labelling has failed", failed)
    waiting.loop.call_soon_threadsafe(_give, waiting.result, failed)


def _give(result: asyncio.Future[Any], value: Any) -> None:
    if result.done():  # whoever asked has gone
        return
    if isinstance(value, Exception):
        result.set_exception(value)
    else:
        result.set_result(value)
