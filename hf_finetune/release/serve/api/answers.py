"""The events of the answers to one request, as they come from the engine's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from hf_finetune.release.serve.api.errors import explain_failure
from hf_finetune.release.serve.api.service import REFUSAL, Service, queue_full
from hf_finetune.release.serve.engine.jobs import Asked, Event, Failed, Finished, Job, Piece, TokenScore
from hf_finetune.release.serve.engine.scheduler import NotServing, QueueFull


@dataclass(slots=True)
class Answer:
    """One answer, when it is whole."""

    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)
    tokens: int = 0
    reason: str = "length"
    """Or `stop`, `content_filter`."""


class Answers:
    """The answers that one request waits for; closed, those that still run are stopped."""

    def __init__(self, service: Service, asked: Sequence[Asked]) -> None:
        """Raises `ApiError` where the queue is full or the server ends."""
        self.service, self.asked = service, asked
        self.events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + service.limits.seconds

        def make_job(number: int, each: Asked) -> Job:
            send = self.events.put_nowait
            return Job(each, lambda event: loop.call_soon_threadsafe(send, (number, event)), deadline)

        # All of a request are submitted at once, so that they are read in one step.
        self.jobs = [make_job(number, each) for number, each in enumerate(asked)]
        try:
            service.scheduler.submit(self.jobs)
        except QueueFull:
            raise queue_full() from None
        except NotServing:
            raise explain_failure("stopping") from None

    def close(self) -> None:
        for job in self.jobs:
            job.dropped.set()

    async def follow(self) -> AsyncIterator[tuple[int, Piece | Finished]]:
        """Yield what comes, with the number of its answer, until all are finished. Raises `ApiError`."""
        try:
            left = len(self.jobs)
            # The queue holds no more than the tokens of these answers, of which there is a bound.
            while left:
                number, event = await self.events.get()
                if isinstance(event, Failed):
                    raise explain_failure(event.why)
                if isinstance(event, Finished):
                    left -= 1
                    self.service.meter.count_tokens(self.asked[number].model, event.tokens)
                yield number, event
        finally:
            self.close()

    async def collect(self) -> list[Answer]:
        """Wait for all answers; each passes the filters. Raises `ApiError`."""
        found = [Answer() for _ in self.jobs]
        async for number, event in self.follow():
            answer = found[number]
            if isinstance(event, Piece):
                answer.text += event.text
                answer.scores += event.scores
            else:
                answer.tokens, answer.reason = event.tokens, event.reason
        return [await filter_answer(self.service, answer) for answer in found]


async def filter_answer(service: Service, answer: Answer) -> Answer:
    """The answer, or the fixed refusal in its place."""
    if not service.filters or not await service.filters.refuse([answer.text]):
        return answer
    service.meter.count_refusal("answer")
    return Answer(REFUSAL, [], answer.tokens, "content_filter")


async def is_refused(service: Service, texts: Sequence[str]) -> bool:
    """Whether what is asked does not pass the filters; it is counted then."""
    refused = bool(service.filters) and await service.filters.refuse(texts)
    if refused:
        service.meter.count_refusal("prompt")
    return refused


@contextmanager
def closed_when_gone(request: Request, answers: Answers) -> Iterator[None]:
    """Stop the answers within the block as soon as the client is gone."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        # Seen while nothing is sent: a plain answer would be computed to its end for nobody.
        answers.close()

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
        answers.close()


def count_usage(prompt_tokens: int, tokens: int) -> dict[str, Any]:
    """The field `usage` of OpenAI's API."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }
