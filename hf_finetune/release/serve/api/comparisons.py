"""The page's own requests: two models side by side, and votes."""

from __future__ import annotations

import secrets
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hf_finetune.release.serve.api.answers import Answers, closed_when_gone, is_refused
from hf_finetune.release.serve.api.chat import encode_chat
from hf_finetune.release.serve.api.completions import encode_text
from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.api.schemas import CompareRequest, GenerateRequest, VoteRequest, read_request
from hf_finetune.release.serve.api.service import REFUSAL, Service
from hf_finetune.release.serve.engine.jobs import Asked
from hf_finetune.release.serve.engine.lanes import Lane
from hf_finetune.release.serve.votes import Comparison, Votes

SAMPLED = {"temperature": 0.8, "top_k": 50}


async def compare_models(service: Service, votes: Votes | None, request: Request) -> Response:
    """Answer a message by two models, at sides that are drawn. Raises `ApiError`.

    Under `blind` nothing in the response says which is which: a vote does.
    """
    asked = await read_request(request, CompareRequest, service.highest)
    lanes = [service.find_lane(asked.first), service.find_lane(asked.second)]
    # Not by the seed of a request, which a client chooses: nobody is to know the side.
    if secrets.randbits(1):
        lanes.reverse()
    if await is_refused(service, [asked.prompt]):
        answers = [REFUSAL, REFUSAL]
    else:
        jobs = [await _make_job(service, lane, asked) for lane in lanes]
        waiting = Answers(service, jobs)
        with closed_when_gone(request, waiting):
            answers = [answer.text for answer in await waiting.collect()]
    left, right = lanes
    texts = dict(zip(("left", "right"), answers, strict=True))
    comparison = Comparison(asked.prompt, left.name, right.name, texts, asked.blind)
    names = {} if asked.blind else {"models": {"left": left.name, "right": right.name}}
    # A model against itself has no winner.
    number = None if votes is None or left.name == right.name else votes.add(comparison)
    return JSONResponse({"comparison": number, "answers": texts, **names})


async def _make_job(service: Service, lane: Lane, asked: CompareRequest) -> Asked:
    message = {"role": "user", "content": asked.prompt}
    if lane.chats:
        ids, _ = await service.prepare(partial(encode_chat, lane, [message], []))
    else:
        ids = await service.prepare(partial(encode_text, lane, asked.prompt))
    most = service.check_max_tokens(asked.max_tokens, 256, "max_tokens")
    sampled = GenerateRequest(prompt="", temperature=asked.temperature)
    settings = service.read_settings(sampled, most, service.find_room(lane, ids), **SAMPLED)
    return Asked(lane.name, tuple(ids), settings, lane.turn_ends or lane.text_ends, penalize_prompt=not lane.chats)


async def take_vote(votes: Votes | None, request: Request) -> Response:
    """Write down which answer is better, and say which model it was of. Raises `ApiError`."""
    asked = await read_request(request, VoteRequest)
    if votes is None:
        raise ApiError(404, "votes are kept where the server is started with --votes FILE", code="no_votes")
    try:
        comparison = votes.vote(asked.comparison, asked.choice)
    except OSError as problem:
        raise ApiError(503, f"the vote cannot be written ({problem.strerror})", code="not_written") from None
    if comparison is None:
        raise ApiError(404, "there is no such comparison, or it has been judged", param="comparison")
    models = {"left": comparison.left, "right": comparison.right}
    return JSONResponse({"models": models, "summary": summarize_votes(votes)})


def summarize_votes(votes: Votes | None) -> list[dict[str, Any]]:
    """The votes so far, for each two models."""
    return [] if votes is None else votes.summarize()
