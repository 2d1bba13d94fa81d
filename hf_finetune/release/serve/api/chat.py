"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hf_finetune.chat.rendering import Message
from hf_finetune.chat.template import encode_prompt
from hf_finetune.evaluation.generation.prompts import format_unknown_pieces
from hf_finetune.release.serve.api.answers import Answer, Answers, closed_when_gone, count_usage, is_refused
from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.api.logprobs import write_chat_logprobs
from hf_finetune.release.serve.api.schemas import ChatMessage, ChatRequest, read_request
from hf_finetune.release.serve.api.service import REFUSAL, Service, list_stops, vary_seed
from hf_finetune.release.serve.api.streams import AnswerStream
from hf_finetune.release.serve.engine.jobs import Asked, Piece
from hf_finetune.release.serve.engine.lanes import Lane
from hf_finetune.release.serve.engine.text import StopText
from hf_finetune.release.serve.engine.tools import ToolForm, parse_answer


@dataclass(frozen=True, slots=True)
class _Chat:
    """A request that is understood."""

    service: Service
    lane: Lane
    asked: ChatRequest
    prompt_tokens: int
    tools: ToolForm | None
    """How calls are written, where functions were given that may be called."""
    id: str
    created: int

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.lane.name}


async def answer_chat(service: Service, request: Request) -> Response:
    """Answer a conversation. Raises `ApiError`."""
    asked = await read_request(request, ChatRequest, service.highest)
    lane = service.find_lane(asked.model)
    if not lane.chats:
        raise ApiError(400, f"{lane.name} has no chat template; POST /v1/completions continues texts", param="model")
    if asked.top_logprobs and not asked.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    wanted = asked.n or 1
    service.check_choices(wanted)
    given, param = asked.max_tokens, "max_tokens"
    if given is None:
        given, param = asked.max_completion_tokens, "max_completion_tokens"
    most = service.check_max_tokens(given, service.limits.max_tokens, param)
    messages = [_read_message(number, each) for number, each in enumerate(asked.messages)]
    tools = [each.model_dump() for each in asked.tools or ()] if asked.tool_choice != "none" else []
    ids, form = await service.prepare(partial(encode_chat, lane, messages, tools))
    room = service.find_room(lane, ids)
    chat = _Chat(service, lane, asked, len(ids), form, f"chatcmpl-{secrets.token_hex(12)}", int(time.time()))
    # What a client says of itself as the assistant is filtered when it is answered, not here.
    if await is_refused(service, [str(each["content"]) for each in messages if each["role"] in ("user", "tool")]):
        return _respond(chat, [Answer(REFUSAL, [], 0, "content_filter")] * wanted)
    service.meter.count_prompt(lane.name, len(ids))
    settings = service.read_settings(asked, most, room)
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    stops = list_stops(asked.stop)
    jobs = [
        Asked(lane.name, tuple(ids), vary_seed(settings, number), lane.turn_ends, stops, logprobs)
        for number in range(wanted)
    ]
    answers = Answers(service, jobs)
    if asked.stream and not service.filters:
        return AnswerStream(answers, _stream(chat, answers))
    with closed_when_gone(request, answers):
        return _respond(chat, await answers.collect())


def encode_chat(lane: Lane, messages: list[Message], tools: list[dict[str, Any]]) -> tuple[list[int], ToolForm | None]:
    """Tokenize a conversation, and say how calls would be written. Raises `ApiError` and `FinetuneError`."""
    for number, message in enumerate(messages):
        unknown = format_unknown_pieces(lane.tokenizer, str(message["content"]))
        if unknown:
            raise ApiError(400, f"the tokenizer has never seen {unknown[:200]}", param=f"messages.{number}.content")
    if tools and not lane.tools.taken:
        raise ApiError(400, f"{lane.name} takes no tools: its chat template writes none", param="tools")
    return encode_prompt(lane.tokenizer, messages, tools or None), lane.tools.form if tools else None


def _read_message(number: int, message: ChatMessage) -> Message:
    content = message.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    if content is None and not message.tool_calls:
        raise ApiError(400, "has no content", param=f"messages.{number}.content")
    # OpenAI's newer name for what templates know as a system message.
    role = "system" if message.role == "developer" else message.role
    others = message.model_dump(exclude={"role", "content", "refusal"}, exclude_none=True)
    return {"role": role, "content": content or "", **others}


def _respond(chat: _Chat, answers: Sequence[Answer]) -> Response:
    """Respond with answers that are whole; to a client that wants a stream, as one."""
    tokens = sum(answer.tokens for answer in answers)
    choices = [_write_choice(chat, number, answer) for number, answer in enumerate(answers)]
    if chat.asked.stream:
        return AnswerStream(None, _stream_whole(chat, choices, tokens))
    usage = count_usage(chat.prompt_tokens, tokens)
    return JSONResponse({**chat.head("chat.completion"), "choices": choices, "usage": usage})


def _write_choice(chat: _Chat, number: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    reason = answer.reason
    if chat.tools is not None and reason != "content_filter":
        parsed = parse_answer(chat.tools, answer.text)
        if parsed.calls:
            message |= {"content": parsed.content or None, "tool_calls": parsed.calls}
            reason = "tool_calls"
    logprobs = write_chat_logprobs(chat.lane.decoder, answer.scores) if chat.asked.logprobs else None
    return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _write_chunk(
    chat: _Chat, number: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None
) -> dict[str, Any]:
    choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
    counted = {"usage": None} if _wants_usage(chat) else {}
    return {**chat.head("chat.completion.chunk"), "choices": [choice], **counted}


def _wants_usage(chat: _Chat) -> bool:
    return bool(chat.asked.stream_options and chat.asked.stream_options.include_usage)


def _write_usage(chat: _Chat, tokens: int) -> list[dict[str, Any]]:
    if not _wants_usage(chat):
        return []
    usage = count_usage(chat.prompt_tokens, tokens)
    return [{**chat.head("chat.completion.chunk"), "choices": [], "usage": usage}]


async def _stream_whole(chat: _Chat, choices: Sequence[dict[str, Any]], tokens: int) -> AsyncIterator[dict[str, Any]]:
    for choice in choices:
        message, number = choice["message"], choice["index"]
        # In a stream OpenAI numbers the calls, which come whole without.
        calls = _number_calls(message.get("tool_calls", []))
        delta = {"role": "assistant", "content": message["content"], **calls}
        yield _write_chunk(chat, number, delta, None, choice["logprobs"])
        yield _write_chunk(chat, number, {}, choice["finish_reason"])
    for chunk in _write_usage(chat, tokens):
        yield chunk


def _number_calls(calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"tool_calls": [{"index": number, **call} for number, call in enumerate(calls)]} if calls else {}


async def _stream(chat: _Chat, answers: Answers) -> AsyncIterator[dict[str, Any]]:
    wanted = len(answers.jobs)
    shown = [_Shown(chat.tools) for _ in range(wanted)]
    tokens = 0
    for number in range(wanted):
        yield _write_chunk(chat, number, {"role": "assistant", "content": ""})
    async for number, event in answers.follow():
        if isinstance(event, Piece):
            text = shown[number].add(event.text)
            scores = write_chat_logprobs(chat.lane.decoder, event.scores) if chat.asked.logprobs else None
            if text or scores:
                yield _write_chunk(chat, number, {"content": text}, None, scores)
            continue
        tokens += event.tokens
        rest, calls = shown[number].end()
        if rest or calls:
            yield _write_chunk(chat, number, ({"content": rest} if rest else {}) | _number_calls(calls))
        yield _write_chunk(chat, number, {}, "tool_calls" if calls else event.reason)
    for chunk in _write_usage(chat, tokens):
        yield chunk


class _Shown:
    """What of an answer is shown while it comes: a call is held back until it is whole."""

    def __init__(self, form: ToolForm | None) -> None:
        self.form, self.text, self.shown = form, "", 0
        self.before = StopText([form.start] if form is not None and form.start else [])

    def add(self, piece: str) -> str:
        self.text += piece
        if self.form is None:
            return piece
        begins = self.text.lstrip()[:1]
        if self.before.found or (not self.form.start and (not begins or begins in "[{")):
            return ""
        certain = self.before.add(piece)
        self.shown += len(certain)
        return certain

    def end(self) -> tuple[str, list[dict[str, Any]]]:
        """Return what is still to be shown: text, or calls."""
        if self.form is None:
            return "", []
        # Half a call, or none: what was held back is shown as the text that it is.
        parsed = parse_answer(self.form, self.text)
        return ("" if parsed.calls else self.text[self.shown :]), parsed.calls
