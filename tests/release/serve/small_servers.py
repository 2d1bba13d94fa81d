"""Servers of tiny models, in this process: without a socket, or in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from accelerate.utils.other import get_free_port

from hf_finetune.release.serve.options import Limits, ServeOptions, bind
from hf_finetune.release.serve.server import Running, load_server, run_server

SAYS_HEY = {"\n": "h", "h": "e", "e": "y", "y": "."}
NEVER_ENDS = {"\n": "a", "a": "b", "b": "a"}


class Client:
    """Requests to an application, without a socket."""

    def __init__(self, running: Running, **headers: str) -> None:
        self.running = running
        self.headers = headers

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **given: Any) -> httpx.Response:
        sent = self.headers | (headers or {})

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.running.application, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
                return await client.request(method, path, headers=sent, **given)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.request("POST", path, json=body)

    def chat(self, said: str = "hi", **more: Any) -> httpx.Response:
        messages = [{"role": "user", "content": said}]
        return self.post("/v1/chat/completions", {"messages": messages, "temperature": 0, **more})

    def say(self, said: str = "hi", **more: Any) -> str:
        answer = self.chat(said, **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def count(self, line: str) -> float:
        """The value of a line of /metrics; 0 where it has none."""
        lines = dict(each.rsplit(" ", 1) for each in self.get("/metrics").text.splitlines() if each[0] != "#")
        return float(lines.get(line, 0))


@contextmanager
def served(model: str, key: str | None = None, **options: Any) -> Iterator[Running]:
    limits = Limits(**options.pop("limits", {}))
    with load_server(ServeOptions(model, limits=limits, **options), key) as running:
        yield running


@contextmanager
def listening_server(running: Running) -> Iterator[str]:
    """A server at a port of its own, in a thread; yields its address. It has ended behind the block."""
    port, begun = get_free_port(), threading.Event()
    thread = threading.Thread(target=run_server, args=(running, bind("127.0.0.1", port), lambda *_: begun.set()))
    thread.start()
    try:
        assert begun.wait(30)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.ending.ask()
        thread.join(60)
        assert not thread.is_alive()


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    waited = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if holds():
            return
        waited.wait(0.02)
    raise AssertionError("that has not come")
