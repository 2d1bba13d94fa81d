"""Tokens -> text that is certain, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from hf_finetune.evaluation.generation.streaming import IncrementalDetokenizer


class StopText:
    """Text in pieces, up to the first of some strings, of which nothing is shown; `found` says that one has come."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.longest = max(map(len, self.stops), default=0)
        self.held = ""
        self.found = False

    def add(self, piece: str) -> str:
        """Return what is certain now: an end that a stop string begins with is held back."""
        if not self.stops:
            return piece
        # Stop "END", pieces "an E", "N", "Dive": "an ", then "", then "" and it is found.
        text = self.held + piece
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            self.held, self.found = "", True
            return text[: min(places)]
        # "E" may begin "END": what could still become a stop string is not shown yet.
        kept = next((size for size in range(min(len(text), self.longest - 1), 0, -1) if self._begins(text[-size:])), 0)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def end(self) -> str:
        """Return what was held back, once nothing follows."""
        held, self.held = self.held, ""
        return held

    def _begins(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self.stops)


class AnswerText:
    """The text of an answer, as its tokens come."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, before: Sequence[int], stops: Sequence[str]) -> None:
        self.pieces = IncrementalDetokenizer(tokenizer, before)
        self.stops = StopText(stops)

    @property
    def stopped(self) -> bool:
        return self.stops.found

    def add(self, token: int) -> str:
        return self.stops.add(self.pieces.add(token))

    def end(self) -> str:
        """Return the rest, once no token follows."""
        rest = self.stops.add(self.pieces.flush())
        return rest if self.stopped else rest + self.stops.end()
