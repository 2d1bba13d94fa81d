"""What is asked of a model, and what it sends back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from hf_finetune.config.sections import EvalSection

Reason = Literal["stop", "length"]
Failure = Literal["cancelled", "timeout", "stopping", "memory", "non_finite", "fault"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer that is wanted."""

    model: str
    """A name that is served."""
    ids: tuple[int, ...]
    settings: EvalSection
    """`max_new_tokens`, the sampling settings, and the seed."""
    ends: frozenset[int]
    """Tokens that end the answer."""
    stops: tuple[str, ...] = ()
    """Texts that end it, and are no part of it."""
    top_logprobs: int | None = None
    """How many likeliest tokens are told with each token; None tells none, not even its own probability."""
    penalize_prompt: bool = False
    """Whether the repetition penalty counts the tokens of the prompt."""


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A token, the logarithm of the model's own probability of it, and those of the likeliest ones."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has become certain, and the tokens since the last piece."""

    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    reason: Reason
    tokens: int
    """Generated, the token that ends the answer included."""


@dataclass(frozen=True, slots=True)
class Failed:
    why: Failure


Event = Piece | Finished | Failed


@dataclass(eq=False)
class Job:
    """An answer in the making."""

    asked: Asked
    send: Callable[[Event], object]
    """Called in the engine's thread, for each piece and once for the end."""
    deadline: float = float("inf")
    """In seconds of `time.monotonic`."""
    dropped: threading.Event = field(default_factory=threading.Event)
    """Set by whoever no longer wants the answer."""

    @property
    def failure(self) -> Failure | None:
        """Why it is to end before its end."""
        # Gone comes before late: nobody is there to be told that it was late.
        if self.dropped.is_set():
            return "cancelled"
        return "timeout" if time.monotonic() > self.deadline else None
