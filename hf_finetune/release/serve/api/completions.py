"""POST /v1/completions and /generate."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hf_finetune.evaluation.generation.prompts import encode_beginning, format_unknown_pieces
from hf_finetune.release.serve.api.answers import Answer, Answers, closed_when_gone, count_usage, is_refused
from hf_finetune.release.serve.api.chat import encode_chat
from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.api.logprobs import write_text_logprobs
from hf_finetune.release.serve.api.schemas import CompletionRequest, GenerateRequest, read_request
from hf_finetune.release.serve.api.service import REFUSAL, Service, list_stops, vary_seed
from hf_finetune.release.serve.api.streams import AnswerStream
from hf_finetune.release.serve.engine.jobs import Asked, Piece, TokenScore
from hf_finetune.release.serve.engine.lanes import Lane

# OpenAI's own default of /v1/completions, and those of `hf-finetune generate`.
COMPLETION_TOKENS, GENERATED_TOKENS = 16, 100
GENERATE_DEFAULTS = {"temperature": 0.8, "top_k": 50, "seed": 0}


@dataclass(frozen=True, slots=True)
class _Completion:
    lane: Lane
    asked: CompletionRequest
    prompt_tokens: int
    id: str
    created: int

    def head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.lane.name}


async def complete_text(service: Service, request: Request) -> Response:
    """Continue texts. Raises `ApiError`."""
    asked = await read_request(request, CompletionRequest, service.highest)
    lane = service.find_lane(asked.model)
    prompts = _list_prompts(asked)
    wanted = asked.n or 1
    service.check_choices(wanted * len(prompts))
    most = service.check_max_tokens(asked.max_tokens, COMPLETION_TOKENS, "max_tokens")
    encoded = await service.prepare(lambda: [encode_text(lane, prompt) for prompt in prompts])
    rooms = [service.find_room(lane, ids) for ids in encoded]
    read = sum(map(len, encoded))
    completion = _Completion(lane, asked, read, f"cmpl-{secrets.token_hex(12)}", int(time.time()))
    if await is_refused(service, [_read_text(lane, prompt) for prompt in prompts]):
        return _respond(completion, [Answer(REFUSAL, [], 0, "content_filter")] * wanted * len(prompts))
    service.meter.count_prompt(lane.name, read)
    jobs = []
    for ids, room in zip(encoded, rooms, strict=True):
        settings, stops = service.read_settings(asked, most, room), list_stops(asked.stop)
        jobs += [
            Asked(lane.name, tuple(ids), vary_seed(settings, number), lane.text_ends, stops, asked.logprobs, True)
            for number in range(wanted)
        ]
    answers = Answers(service, jobs)
    if asked.stream and not service.filters:
        return AnswerStream(answers, _stream(completion, answers))
    with closed_when_gone(request, answers):
        return _respond(completion, await answers.collect())


def _list_prompts(asked: CompletionRequest) -> list[str | list[int]]:
    """The prompts of a request: texts, or tokens."""
    prompt: Any = asked.prompt
    # A list of numbers is one prompt, a list of texts or of such lists are several.
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


def encode_text(lane: Lane, prompt: str | list[int]) -> list[int]:
    """Tokenize a text that is to be continued, or look at its tokens. Raises `ApiError`."""
    if isinstance(prompt, str):
        unknown = format_unknown_pieces(lane.tokenizer, prompt)
        if unknown:
            raise ApiError(400, f"the tokenizer has never seen {unknown[:200]}", param="prompt")
        return encode_beginning(lane.tokenizer, prompt)
    known = len(lane.tokenizer)
    # Beyond the vocabulary an embedding would be read that is not there: an error of the whole batch.
    if max(prompt) >= known:
        raise ApiError(
            400, f"token {max(prompt):,} is none: those of the tokenizer are 0 to {known - 1:,}", param="prompt"
        )
    return prompt


def _read_text(lane: Lane, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else str(lane.decoder.decode(prompt))


def _respond(completion: _Completion, answers: Sequence[Answer]) -> Response:
    choices = [
        _write_choice(completion, number, answer.text, answer.scores, answer.reason)
        for number, answer in enumerate(answers)
    ]
    tokens = sum(answer.tokens for answer in answers)
    if completion.asked.stream:
        return AnswerStream(None, _stream_whole(completion, choices, tokens))
    return JSONResponse(
        {**completion.head(), "choices": choices, "usage": count_usage(completion.prompt_tokens, tokens)}
    )


def _write_choice(
    completion: _Completion, number: int, text: str, scores: Sequence[TokenScore], reason: str | None, offset: int = 0
) -> dict[str, Any]:
    wanted = completion.asked.logprobs is not None
    logprobs = write_text_logprobs(completion.lane.decoder, scores, offset) if wanted else None
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _write_usage(completion: _Completion, tokens: int) -> list[dict[str, Any]]:
    options = completion.asked.stream_options
    if not (options and options.include_usage):
        return []
    return [{**completion.head(), "choices": [], "usage": count_usage(completion.prompt_tokens, tokens)}]


async def _stream_whole(
    completion: _Completion, choices: Sequence[dict[str, Any]], tokens: int
) -> AsyncIterator[dict[str, Any]]:
    for choice in choices:
        yield {**completion.head(), "choices": [choice]}
    for chunk in _write_usage(completion, tokens):
        yield chunk


async def _stream(completion: _Completion, answers: Answers) -> AsyncIterator[dict[str, Any]]:
    tokens, offsets = 0, [0] * len(answers.jobs)
    async for number, event in answers.follow():
        if isinstance(event, Piece):
            choice = _write_choice(completion, number, event.text, event.scores, None, offsets[number])
            offsets[number] += len(event.text)
        else:
            tokens += event.tokens
            choice = _write_choice(completion, number, "", [], event.reason, offsets[number])
        yield {**completion.head(), "choices": [choice]}
    for chunk in _write_usage(completion, tokens):
        yield chunk


async def generate_text(service: Service, request: Request) -> Response:
    """Answer one message, or continue one text, as `hf-finetune generate` does. Raises `ApiError`."""
    asked = await read_request(request, GenerateRequest, service.highest)
    lane = service.find_lane(asked.model)
    chats = lane.chats and not asked.raw
    if asked.system is not None and not chats:
        raise ApiError(400, "a text that is continued takes no system message", param="system")
    most = service.check_max_tokens(asked.max_new_tokens, GENERATED_TOKENS, "max_new_tokens")
    opening = [] if asked.system is None else [{"role": "system", "content": asked.system}]
    messages = [*opening, {"role": "user", "content": asked.prompt}]
    if chats:
        ids, _ = await service.prepare(partial(encode_chat, lane, messages, []))
    else:
        ids = await service.prepare(partial(encode_text, lane, asked.prompt))
    room = service.find_room(lane, ids)
    if await is_refused(service, [asked.prompt]):
        return _respond_generated(lane, asked, Answer(REFUSAL, [], 0, "content_filter"))
    service.meter.count_prompt(lane.name, len(ids))
    settings = service.read_settings(asked, most, room, **GENERATE_DEFAULTS)
    ends = lane.turn_ends if chats else lane.text_ends
    job = Asked(lane.name, tuple(ids), settings, ends, list_stops(asked.stop), None, not chats)
    answers = Answers(service, [job])
    with closed_when_gone(request, answers):
        [answer] = await answers.collect()
    return _respond_generated(lane, asked, answer)


def _respond_generated(lane: Lane, asked: GenerateRequest, answer: Answer) -> Response:
    """The fields of `hf-finetune generate --json`, and the name of the model."""
    return JSONResponse(
        {
            "model": lane.name,
            "prompt": asked.prompt,
            "continuation": answer.text,
            "tokens": answer.tokens,
            "finished": answer.reason == "stop",
            "finish_reason": answer.reason,
        }
    )
