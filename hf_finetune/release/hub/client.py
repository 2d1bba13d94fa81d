"""What a connection to the Hub may do: the token goes to the Hub alone, and an answer has an end."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants

LONGEST_ANSWER = 64 * 1024**2
"""Bytes. The list of a repository with 100,000 files has 30 MB."""


def guard_client(client: httpx2.Client, timeout: float) -> None:
    """Hold `client` to this at every request, also of a redirect; an answer has to be whole in `timeout` seconds."""
    client.timeout = httpx2.Timeout(timeout)
    hooks = client.event_hooks
    read = [*hooks["response"], lambda response: _read_answer(response, timeout)]
    client.event_hooks = {"request": [*hooks["request"], _keep_token], "response": read}


def _keep_token(request: httpx2.Request) -> None:
    """Take the token out of a request to another host than the Hub; raise where one goes without https unasked."""
    # huggingface_hub 2.4 sends it wherever the Hub says that an upload is to be verified.
    hub, host = urlsplit(constants.ENDPOINT), request.url
    if hub.scheme == "https" and host.scheme != "https":
        raise httpx2.UnsupportedProtocol("the Hub names an address without https", request=request)
    if f"{host.scheme}://{host.netloc.decode('ascii')}" != f"{hub.scheme}://{hub.netloc}":
        request.headers.pop("Authorization", None)


def _read_answer(response: httpx2.Response, timeout: float) -> None:
    """Read the answer to a request of the API, within bounds; a file that is downloaded is left to its reader."""
    # httpx2 2.0 knows the time between two pieces alone, and has no bound of bytes: what never ends fills the memory.
    request = response.request
    if request.method == "GET" and response.is_success and not request.url.path.startswith("/api/"):
        return
    pieces, size, deadline = [], 0, time.monotonic() + timeout
    for piece in response.iter_bytes():
        size += len(piece)
        if size > LONGEST_ANSWER:
            response.close()
            raise httpx2.DecodingError(f"an answer of more than {LONGEST_ANSWER:,} bytes", request=request)
        if time.monotonic() > deadline:
            response.close()
            raise httpx2.ReadTimeout(f"the answer has no end after {timeout:.0f} s", request=request)
        pieces.append(piece)
    response._content = b"".join(pieces)
