"""Answers that are sent as they are made: server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hf_finetune.release.serve.api.answers import Answers
from hf_finetune.release.serve.api.errors import ApiError


class AnswerStream(StreamingResponse):
    """Events of JSON, `[DONE]` behind the last; the answers are stopped when it ends, however it does."""

    def __init__(self, answers: Answers | None, chunks: AsyncIterator[dict[str, Any]]) -> None:
        super().__init__(_write_events(chunks), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # A client that goes before the first event leaves an iterator that never begins, nor ends.
            if self.answers is not None:
                self.answers.close()


async def _write_events(chunks: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield _write_event(chunk)
    except ApiError as failed:
        yield _write_event(failed.body)
        return
    yield "data: [DONE]\n\n"


def _write_event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
