"""Who is let in, and with how much: the first that a request meets."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.faults import log_fault
from hf_finetune.release.serve.options import is_loopback

SECONDS_FOR_BODY, SECONDS_BETWEEN = 30.0, 0.5
# What says nothing of a model, for who watches over the server and for the page that asks for the key.
OPEN_PATHS = ("/", "/health")
WATCHED_PATHS = ("/health", "/metrics")


@dataclass(frozen=True, slots=True)
class Rules:
    key: str | None
    body_bytes: int
    is_ending: Callable[[], bool]
    count: Callable[[str, int, float], object]
    """Called with path, status and seconds of each request."""
    paths: frozenset[str]
    """Those that are counted by their names: any other is one for all, whatever clients think of."""


class Guard:
    """ASGI in front of the application: key, origin, size and time of what comes in."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Nobody was there to take an answer.
        began, status = time.monotonic(), 499

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            body = await self._read(scope, receive)
        except ApiError as refused:
            await refused.respond()(scope, receive, note_status)
        else:
            if body is not None:
                await self._answer(scope, _replay(body, receive), note_status)
        finally:
            # A label for each path that a client thinks of would fill the memory.
            path = scope["path"] if scope["path"] in self.rules.paths else "other"
            self.rules.count(path, status, time.monotonic() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:  # of which the client is told: uvicorn would log it with its words
            log_fault(f"{scope['method']} of a request has failed", error)

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        if self.rules.is_ending() and path not in WATCHED_PATHS:
            raise _ends()
        _check_origin(headers, has_key=self.rules.key is not None)
        if self.rules.key is None or path in OPEN_PATHS:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # In constant time: how long it takes would tell how much of a guess is right.
        right = hmac.compare_digest(given.strip().encode(), self.rules.key.encode())
        if scheme.lower() != "bearer" or not right:
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Read the whole body; None where the client is gone. Raises `ApiError` for one too long, or too slow."""
        most = self.rules.body_bytes
        # Who says beforehand that it is too long need not send it.
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length[:20]) > most:
            raise _too_long(most)
        body = bytearray()
        try:
            async with asyncio.timeout(SECONDS_FOR_BODY):
                while True:
                    message = await self._wait_for(receive)
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_long(most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, f"the body has not come within {SECONDS_FOR_BODY:.0f} seconds") from None

    async def _wait_for(self, receive: Receive) -> Message:
        """The next message. Raises `ApiError` once the server ends: who stays silent would keep it until it is cut."""
        coming = asyncio.ensure_future(receive())
        try:
            while True:
                done, _ = await asyncio.wait({coming}, timeout=SECONDS_BETWEEN)
                if done:
                    return coming.result()
                if self.rules.is_ending():
                    raise _ends()
        finally:
            coming.cancel()


def _ends() -> ApiError:
    return ApiError(503, "the server ends, and takes no more requests", code="stopping")


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"the body is longer than {most:,} bytes", code="body_too_long")


def _check_origin(headers: Headers, *, has_key: bool) -> None:
    """Refuse what a page of another site has a browser send here: it must not use a model of this machine."""
    host, origin = headers.get("host", ""), headers.get("origin")
    # A browser says of which page a request is; other clients send no origin.
    if origin is not None and _read_host(origin) != host.lower():
        raise ApiError(403, "requests of pages of other sites are refused", code="cross_origin")
    # By a name of its own that leads here (DNS rebinding) such a page would be of one site with us.
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = "?"
    if host and not has_key and not is_loopback(name):
        raise ApiError(403, "without a key this server answers to its own address alone", code="host_not_allowed")


def _read_host(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` of an application that has not read the body yet."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
