"""A template that takes long over a text is asked for each text once, and how far rendering has come is said.

The same few conversations are rendered again and again: those that a template is tried with, neutral ones, a prompt
that is looked at before it is answered. A text of a fast template costs less than to look whether it is known.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hf_finetune.environment.progress_lines import INTERVAL_S

logger = logging.getLogger(__name__)

SLOW_SECONDS = 0.2
"""For one text. To start the worker takes half of it."""
MAX_KEPT_CHARACTERS = 20_000_000
PAUSE_SECONDS = 1.0
"""Without rendering: what follows begins anew."""

Results = list[Any]
"""What was rendered of a conversation, as `worker.render_row` has it: one for each of its asks."""


class SlowTexts:
    """What slow templates have written, or how they have refused; a limit that was exceeded is none of these."""

    def __init__(self) -> None:
        self.texts: dict[str, dict[bytes, Any]] = {}
        """By the template, then by what it was given."""
        self.size = 0

    def find(self, template: str, given: Mapping[str, Any], row: Mapping[str, Any]) -> dict[int, Any]:
        """Find what is known of a row, by the number of the ask."""
        texts = self.texts.get(template)
        if not texts:
            return {}
        # Only here is a key worth its time: of a template that has been slow before.
        keys = [_write_key(given, row, ask) for ask in row["asks"]]
        return {number: texts[key] for number, key in enumerate(keys) if key in texts}

    def keep(self, template: str, given: Mapping[str, Any], row: Mapping[str, Any], results: Results) -> None:
        """Keep the results of a row; all that is known is forgotten where it becomes too much."""
        if self.size > MAX_KEPT_CHARACTERS:
            self.texts, self.size = {}, 0
        texts = self.texts.setdefault(template, {})
        for ask, result in zip(row["asks"], results, strict=True):
            key = _write_key(given, row, ask)
            if key is not None:
                texts[key] = result
                self.size += len(str(result))


def _write_key(given: Mapping[str, Any], row: Mapping[str, Any], ask: list[Any]) -> bytes | None:
    """A digest of all that a template is given; None for what is not JSON."""
    count, prompt, tail = ask
    whole = [given, row.get("given"), [*row["messages"][:count], *tail], row["tools"], prompt, row.get("mark")]
    try:
        # In the order of the keys, which a template may show; 1, 1.0 and true stay three.
        written = json.dumps(whole, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).digest()


@dataclass
class _Progress:
    """Rendering in this process, since it began without a pause."""

    spent: float = 0.0
    """Seconds."""
    said: float = 0.0
    spent_when_said: float = 0.0
    entered: float = 0.0
    ended: float = 0.0
    part: tuple[int, int, str] | None = None
    """How many of how many are done, and what they are; None where nobody counts."""


_progress = _Progress()


@contextmanager
def count_rendered(done: int, total: int, what: str) -> Iterator[None]:
    """What is rendered inside the `with` comes behind `done` of `total`; `what` they are is a plural."""
    _progress.part = (done, total, what)
    try:
        yield
    finally:
        _progress.part = None


@contextmanager
def say_progress() -> Iterator[None]:
    """Log how far it has come every five seconds of rendering, by a thread: a template may take longer over a text."""
    # A line after each text would not do: one text of a trusted template may take a minute, in this very thread.
    _progress.entered = now = time.monotonic()
    if now - _progress.ended > PAUSE_SECONDS:
        _progress.said, _progress.spent, _progress.spent_when_said = now, 0.0, 0.0
    ended = threading.Event()
    thread = threading.Thread(target=_say_until, args=(ended,), name="rendering", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        _progress.ended = time.monotonic()
        _progress.spent += _progress.ended - _progress.entered


def _say_until(ended: threading.Event) -> None:
    while not ended.wait(max(0.0, _progress.said + INTERVAL_S - time.monotonic())):
        now = time.monotonic()
        seconds = _progress.spent + now - _progress.entered
        # Between the batches of a generation, say, it is not the template that takes the time.
        is_slow = 2 * (seconds - _progress.spent_when_said) > now - _progress.said
        _progress.said, _progress.spent_when_said = now, seconds
        if not is_slow:
            continue
        if _progress.part is None:
            logger.info("the chat template is slow: it has been rendered for %.0f s so far", seconds)
        else:
            done, total, what = _progress.part
            logger.info("%s of %s %s rendered, in %.0f s", f"{done:,}", f"{total:,}", what, seconds)
