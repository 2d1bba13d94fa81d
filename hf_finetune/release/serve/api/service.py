"""What all requests share: models, filters, counts; and what becomes of a request before it generates."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hf_finetune.config.sections import EvalSection
from hf_finetune.errors import FinetuneError
from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.api.schemas import _Sampled
from hf_finetune.release.serve.engine.lanes import Lane
from hf_finetune.release.serve.engine.scheduler import Scheduler
from hf_finetune.release.serve.filters import REFUSAL, Filters
from hf_finetune.release.serve.meter import Meter
from hf_finetune.release.serve.options import Limits

Result = TypeVar("Result")

# Below it the likeliest token is all but certain, and dividing by it leaves no numbers.
LOWEST_TEMPERATURE = 1e-4
LOWEST_TOP_P = 1e-6
__all__ = ["REFUSAL", "Service"]


@dataclass(slots=True)
class Service:
    """The models of a server and what it does with them."""

    name: str
    """Of the model that a request means that names none."""
    lanes: Mapping[str, Lane]
    scheduler: Scheduler
    limits: Limits
    filters: Filters
    meter: Meter
    created: int = field(default_factory=lambda: int(time.time()))
    preparing: int = 0
    # One thread: templates are rendered by one process, and tokenizers are not made for several.
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "prompts"))

    @property
    def highest(self) -> dict[str, int]:
        """The largest numbers that this server takes, by the field of a request."""
        named = ("max_tokens", "max_completion_tokens", "max_new_tokens")
        return {**dict.fromkeys(named, self.limits.max_tokens), "n": self.limits.choices}

    def find_lane(self, name: str | None) -> Lane:
        """Find what is served under a name. Raises `ApiError` as OpenAI has it."""
        lane = self.lanes.get(self.name if name is None else name)
        if lane is None:
            message = f"The model `{str(name)[:100]}` does not exist; /v1/models lists those that do"
            raise ApiError(404, message, param="model", code="model_not_found")
        return lane

    async def prepare(self, work: Callable[[], Result]) -> Result:
        """Do what a request needs before it generates, in the thread for it. Raises `ApiError`."""
        if self.preparing >= self.limits.running + self.limits.waiting:
            raise queue_full()
        self.preparing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, work)
        except FinetuneError as refused:
            raise ApiError(400, refused.problems[0].what, code="invalid_prompt") from None
        finally:
            self.preparing -= 1

    def read_settings(self, asked: _Sampled, most: int, room: int, **defaults: Any) -> EvalSection:
        """Read the settings of an answer of up to `most` tokens, of which `room` are left to the model."""
        given = {name: getattr(asked, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
        values = {"temperature": 1.0, "top_k": None, **defaults}
        values |= {name: value for name, value in given.items() if value is not None}
        if values["temperature"] < LOWEST_TEMPERATURE:
            values["temperature"] = 0.0
        if (top_p := values.get("top_p")) is not None:
            values["top_p"] = max(float(top_p), LOWEST_TOP_P)
        seed = secrets.randbits(32) if asked.seed is None else asked.seed % 2**32
        return EvalSection(**values | {"seed": values.get("seed", seed) if asked.seed is None else seed}).model_copy(
            update={"max_new_tokens": min(most, room)}
        )

    def find_room(self, lane: Lane, ids: Sequence[int]) -> int:
        """Find how many tokens may follow a prompt. Raises `ApiError`, with the numbers, where none may."""
        most = self.limits.prompt_tokens
        known = [each for each in (lane.positions and lane.positions - 1, most) if each is not None]
        if known and len(ids) > min(known):
            message = f"the prompt has {len(ids):,} tokens, and at most {min(known):,} are taken"
            if lane.positions is not None:
                message += f" (the model's context, with the answer, is of {lane.positions:,} tokens)"
            raise ApiError(400, message, code="context_length_exceeded")
        return self.limits.max_tokens if lane.positions is None else lane.positions - len(ids)

    def check_max_tokens(self, given: int | None, default: int, param: str) -> int:
        """Return how many tokens an answer may have. Raises `ApiError`, with the numbers, for more than is allowed."""
        if given is not None and given > self.limits.max_tokens:
            message = f"{param} is {given:,}, and this server takes 1 to {self.limits.max_tokens:,}"
            raise ApiError(400, message, param=param, code="max_tokens_exceeded")
        return min(default, self.limits.max_tokens) if given is None else given

    def check_choices(self, wanted: int) -> None:
        """Raise `ApiError`, with the numbers, for more answers than one request may have."""
        if wanted > self.limits.choices:
            message = f"{wanted:,} answers are asked for, and one request may have 1 to {self.limits.choices:,}"
            raise ApiError(400, message, param="n", code="too_many_choices")


def queue_full() -> ApiError:
    """What a client is told where too many wait already."""
    return ApiError(429, "the server has as many requests as it takes: come back in a moment", code="queue_full")


def vary_seed(settings: EvalSection, number: int) -> EvalSection:
    """The settings of answer number `number` to one prompt."""
    return settings.model_copy(update={"seed": (settings.seed + number) % 2**32})


def list_stops(stop: str | list[str] | None) -> tuple[str, ...]:
    """The texts that end an answer."""
    return () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
