"""What a connection to the Hub may do: the token goes to the Hub alone, and an answer has an end."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import httpcore2
import httpx2
from httpcore2 import NetworkBackend, NetworkStream
from huggingface_hub import constants

LONGEST_ANSWER = 64 * 1024**2
"""Bytes. The list of a repository with 100,000 files has 30 MB."""


def guard_client(client: httpx2.Client, timeout: float) -> None:
    """Hold `client` to this at every request, also of a redirect; an answer has to be whole in `timeout` seconds.

    They run from the end of the request to that of the answer's head and body together, whatever drips; the body of a
    file that is downloaded may take as long as it likes while it comes.
    """
    client.timeout = httpx2.Timeout(timeout)
    hooks = client.event_hooks
    client.event_hooks = {"request": [*hooks["request"], _keep_token], "response": [*hooks["response"], _read_answer]}
    # httpx2 2.16 knows the time between two pieces alone, and passes no backend on to its pools: a server that sends a
    # byte a second, or a header a line, holds whoever waits for as long as it likes.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            pool = transport._pool
            pool._network_backend = _TimedBackend(pool._network_backend, timeout)


class _TimedStream(NetworkStream):
    """A connection on which all that is read between two requests has to come in `limit` seconds."""

    def __init__(self, stream: NetworkStream, limit: float) -> None:
        self._stream, self._limit = stream, limit
        self._end: float | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._end is None:
            self._end = time.monotonic() + self._limit
        if (left := self._end - time.monotonic()) <= 0:
            raise httpcore2.ReadTimeout(f"the answer has no end after {self._limit:.0f} s")
        return self._stream.read(max_bytes, min(left, self._limit if timeout is None else timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._end = None
        self._stream.write(buffer, timeout)

    def lift(self) -> None:
        """Let the rest of this answer take as long as it likes."""
        self._end = float("inf")

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._limit)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _TimedBackend(NetworkBackend):
    """Opens connections as `backend` does, and times their answers."""

    def __init__(self, backend: NetworkBackend, limit: float) -> None:
        self._backend, self._limit = backend, limit

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> NetworkStream:
        opened = self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return _TimedStream(opened, self._limit)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


def _keep_token(request: httpx2.Request) -> None:
    """Take the token out of a request to another host than the Hub; raise where one goes without https unasked."""
    # huggingface_hub 2.4 sends it wherever the Hub says that an upload is to be verified.
    hub, host = urlsplit(constants.ENDPOINT), request.url
    if hub.scheme == "https" and host.scheme != "https":
        raise httpx2.UnsupportedProtocol("the Hub names an address without https", request=request)
    if f"{host.scheme}://{host.netloc.decode('ascii')}" != f"{hub.scheme}://{hub.netloc}":
        request.headers.pop("Authorization", None)


def _read_answer(response: httpx2.Response) -> None:
    """Read the answer to a request of the API, within bounds; a file that is downloaded is left to its reader."""
    # httpx2 2.16 has no bound of bytes either: what never ends fills the memory.
    request, stream = response.request, response.extensions.get("network_stream")
    if request.method == "GET" and response.is_success and not request.url.path.startswith("/api/"):
        if isinstance(stream, _TimedStream):
            stream.lift()
        return
    pieces, size = [], 0
    for piece in response.iter_bytes():
        size += len(piece)
        if size > LONGEST_ANSWER:
            response.close()
            raise httpx2.DecodingError(f"an answer of more than {LONGEST_ANSWER:,} bytes", request=request)
        pieces.append(piece)
    response._content = b"".join(pieces)
