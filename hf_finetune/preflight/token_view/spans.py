"""What a row or a block is made of, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.data.tokenization.text import IGNORE_INDEX
from hf_finetune.metric_info import say_count
from hf_finetune.preflight.findings import Place

Kind = Literal["trained", "context", "control", "border", "cut", "padding"]


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """A token; or a border between documents, which is none; or padding, so many times the same token."""

    text: str
    """What it stands for: the texts of all tokens of a row, one behind the other, are the row. Of the tokens of one
    character the first has it, and the others have ""; of a border, where the document stands."""
    id: int | None
    """None for a border."""
    kind: Kind
    """A control token, whether it is trained or not, is `control`; what the trainer is not given is `cut`."""
    trained: bool = False
    """Whether its label is not -100: it is predicted, from all that stands before it."""
    unknown: bool = False
    """Whether it stands for text that the tokenizer does not know."""
    count: int = 1

    @property
    def is_given(self) -> bool:
        """Whether it is a token that the trainer is given, padding aside."""
        return self.kind not in ("border", "cut", "padding")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without what is as it mostly is."""
        more: dict[str, Any] = {"unknown": True} if self.unknown else {}
        more |= {"count": self.count} if self.count != 1 else {}
        return {"text": self.text, "id": self.id, "kind": self.kind, "trained": self.trained, **more}


@dataclass(frozen=True, slots=True)
class TokenView:
    """An example or a block as the trainer is given it, and what it is not given of its rows."""

    title: str
    spans: tuple[TokenSpan, ...]
    split: str | None = None
    places: tuple[Place, ...] = ()
    """Of its rows."""
    notes: tuple[str, ...] = ()
    """What is to be said of it: its label, or why it is left out."""

    @property
    def input_ids(self) -> list[int]:
        """The ids that the trainer is given: (tokens,), none where the row is left out."""
        return [span.id for span in self.spans if span.is_given and span.id is not None]

    @property
    def labels(self) -> list[int]:
        """The labels that the loss is computed with: (tokens,), -100 where nothing is predicted."""
        given = (span for span in self.spans if span.is_given and span.id is not None)
        return [span.id if span.trained and span.id is not None else IGNORE_INDEX for span in given]

    def count_tokens(self) -> dict[str, int]:
        """Count the tokens that are given, trained, cut, unknown, and the padding."""
        spans = self.spans
        return {
            "tokens": sum(span.is_given for span in spans),
            "trained": sum(span.trained and span.is_given for span in spans),
            "cut": sum(span.kind == "cut" for span in spans),
            "unknown": sum(span.unknown for span in spans),
            "padding": sum(span.count for span in spans if span.kind == "padding"),
        }

    def describe_counts(self) -> str:
        """Those counts in a line, without what is 0."""
        counts = self.count_tokens()
        said = [say_count(counts["tokens"], "token"), f"{counts['trained']:,} of them trained"]
        named = {"cut": "cut off", "unknown": "unknown", "padding": "of padding"}
        return ", ".join([*said, *(f"{counts[name]:,} {what}" for name, what in named.items() if counts[name])])

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "title": self.title,
            "split": self.split,
            "places": [{"path": place.path, "line": place.line} for place in self.places],
            "notes": list(self.notes),
            **self.count_tokens(),
            "spans": [span.as_dict() for span in self.spans],
        }


def make_spans(
    ids: Sequence[int], texts: Sequence[str], labels: Sequence[int], control: Sequence[bool], unknown: int | None
) -> list[TokenSpan]:
    """The spans of tokens that the trainer is given, of (tokens,) each; `unknown` is the id of the unknown token."""
    # Nothing predicts the first token, whose label is set to -100 where a batch is collated.
    seen = [number > 0 and label != IGNORE_INDEX for number, label in enumerate(labels)]
    return [
        TokenSpan(text, index, "control" if special else "trained" if trained else "context", trained=trained,
                  unknown=index == unknown and not special)
        for index, text, trained, special in zip(ids, texts, seen, control, strict=True)
    ]  # fmt: skip


def cut_spans(ids: Sequence[int], texts: Sequence[str]) -> list[TokenSpan]:
    """The spans of tokens that the trainer is not given."""
    return [TokenSpan(text, index, "cut") for index, text in zip(ids, texts, strict=True)]
