"""A server from its address to its end: SIGTERM finishes what runs, and takes nothing more."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from hf_finetune.errors import ConfigError, Problem
from hf_finetune.release.serve.api.application import Served, build_application
from hf_finetune.release.serve.api.guards import Guard, Rules
from hf_finetune.release.serve.api.service import Service
from hf_finetune.release.serve.engine.scheduler import Scheduler
from hf_finetune.release.serve.filters import Filters, load_filters
from hf_finetune.release.serve.labelling import Labeller
from hf_finetune.release.serve.loading import load_lanes, name_model
from hf_finetune.release.serve.meter import Meter
from hf_finetune.release.serve.options import Limits, ServeOptions, let_in
from hf_finetune.release.serve.page import render_page
from hf_finetune.release.serve.votes import Votes, format_summary, open_votes

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
MOST_CONNECTIONS = 1024
SECONDS_OF_A_CONNECTION = 5
SECONDS_FOR_LAST_WORDS = 2


@dataclass(slots=True)
class Ending:
    """Whether the server is to end, and whether at once."""

    asked: threading.Event = field(default_factory=threading.Event)
    at_once: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask for the end; asked twice, for one that waits for nobody."""
        (self.at_once if self.asked.is_set() else self.asked).set()


@dataclass(slots=True)
class Running:
    """A server with all that it has loaded."""

    application: Guard
    limits: Limits
    ending: Ending
    scheduler: Scheduler | None
    labeller: Labeller | None
    filters: Filters
    votes: Votes | None

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all threads; what still waits is told."""
        if self.scheduler is not None:
            self.scheduler.end()
        if self.labeller is not None:
            self.labeller.close()
        self.filters.close()


def load_server(options: ServeOptions, key: str | None) -> Running:
    """Load all models of a language model's server. Raises as `load_lanes` does."""
    votes = None if options.votes is None else open_votes(options.votes)
    name, lanes, limits = name_model(options), load_lanes(options), options.limits
    filters = load_filters(options.filters)
    scheduler = Scheduler(lanes, running=limits.running, waiting=limits.waiting)
    meter = Meter(lambda: scheduler.counts)
    service = Service(name, lanes, scheduler, limits, filters, meter)
    names = sorted(lanes, key=lambda each: each != name)
    page = render_page(names, needs_key=key is not None, keeps_votes=votes is not None)
    ending = Ending()
    served = Served(
        name, service.created, meter, lambda: scheduler.is_alive, ending.asked.is_set, service, None, votes, page
    )
    return Running(_guard(served, limits, key), limits, ending, scheduler, None, filters, votes)


def load_classifier_server(options: ServeOptions, key: str | None) -> Running:
    """Load the server of a classifier. Raises as `open_classifier` does."""
    from hf_finetune.evaluation.prediction.predict import PredictionOptions, open_classifier

    name = name_model(options)
    _refuse_idle(options)
    labeller = Labeller(open_classifier(options.model, PredictionOptions(base_path=options.base_path)))
    meter, ending = Meter(lambda: labeller.counts), Ending()
    served = Served(name, int(time.time()), meter, lambda: labeller.is_alive, ending.asked.is_set, labeller=labeller)
    return Running(_guard(served, options.limits, key), options.limits, ending, None, labeller, Filters(), None)


def _refuse_idle(options: ServeOptions) -> None:
    """Raise `ConfigError` naming each option that is of language models alone."""
    given = {"--adapters": options.adapters, "--base": options.base, "--filter": options.filters}
    idle = [name for name, value in {**given, "--votes": options.votes}.items() if value]
    if idle:
        what = "has no effect on a text classifier"
        raise ConfigError([Problem(what, "leave it out", options.model, key=name, code="HF607") for name in idle])


def _guard(served: Served, limits: Limits, key: str | None) -> Guard:
    application = build_application(served)
    paths = frozenset(str(getattr(route, "path", "")) for route in application.routes)
    return Guard(application, Rules(key, limits.body_bytes, served.is_ending, served.meter.count_request, paths))


def run_server(running: Running, listening: socket.socket, announce: Callable[[str, int], object]) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what runs within the time of grace. Closes `listening`.

    `announce` is called with host and port once requests are answered. A second signal waits for nobody.
    """
    config = uvicorn.Config(
        running.application,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=SECONDS_OF_A_CONNECTION,
        timeout_graceful_shutdown=SECONDS_FOR_LAST_WORDS,
    )
    # `log_config=None`: handlers of uvicorn would write addresses of clients to standard error.
    server = _Server(config)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with _signals_asked(running.ending), listening, running:
        let_in(listening)
        asyncio.run(_serve(server, running, listening, announce))
    for summary in running.votes.summarize() if running.votes is not None else ():
        logger.info("%s", format_summary(summary))


class _Server(uvicorn.Server):
    """A server whose signals are ours: uvicorn's (0.40) lets nobody in from the first one on, and raises it again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    server: uvicorn.Server, running: Running, listening: socket.socket, announce: Callable[[str, int], object]
) -> None:
    task = asyncio.ensure_future(server.serve(sockets=[listening]))
    while not server.started and not task.done():
        await asyncio.sleep(0.01)
    if server.started:
        announce(*listening.getsockname()[:2])
    while not running.ending.asked.is_set() and not task.done():
        await asyncio.sleep(0.05)
    await _finish(running)
    server.should_exit = True
    await task


async def _finish(running: Running) -> None:
    """Wait for what runs, as long as the time of grace; then tell those that wait, and end."""
    # The port stays open: who comes now is told that the server ends, and not left without an answer.
    until = time.monotonic() + running.limits.grace_seconds
    if running.scheduler is not None:
        running.scheduler.close()
        waiting, going_on = running.scheduler.counts
        logger.info("ending: %d answers are finished first, no more are taken", waiting + going_on)
        while time.monotonic() < until and not running.ending.at_once.is_set():
            if running.scheduler.wait_until_idle(0):
                break
            await asyncio.sleep(0.05)
    # In a thread: the loop still has to carry the last words to those who wait.
    await asyncio.to_thread(running.close)


@contextmanager
def _signals_asked(ending: Ending) -> Iterator[None]:
    """Take the signals that end a process as a wish to end, within the block, where this is the main thread."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, lambda *_: ending.ask()) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
