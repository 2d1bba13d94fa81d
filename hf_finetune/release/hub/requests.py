"""Requests to the Hub that outlast its bad moments, stop at once at what lasts, and are told in plain words.

huggingface_hub repeats uploads five times, 31 seconds in all, and its other requests not at all; and it waits for an
answer without end (https://github.com/huggingface/huggingface_hub/blob/v2.4.0/src/huggingface_hub/utils/_http.py).
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils.tqdm import disable_progress_bars

from hf_finetune.errors import Problem

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

TIMEOUT = 120.0
"""Seconds without a byte after which a connection counts as dead."""
PATIENCE = 300.0
"""Seconds that one request is repeated for."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0

_PASSES = (408, 429)
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
_TOKENS = "https://huggingface.co/settings/tokens"
_IN_WORDS = {
    401: ("the Hub does not accept the token", "log in again with `hf auth login`, or set HF_TOKEN"),
    403: ("the token may not do that", f"use one with write access, from {_TOKENS}"),
    404: ("there is no such repository, or the token may not see it", "check its name, and the token's access"),
    409: ("others are writing to the repository", "push again when they are done"),
    412: ("others have written to the repository meanwhile", "push again"),
    413: ("the Hub takes no files as large as these", "save the model in smaller shards"),
    429: ("the Hub asks for patience", "push again later"),
}


@functools.cache
def set_up_client() -> None:
    """For the rest of this process: connections of huggingface_hub have a timeout, its messages no signed address."""
    set_client_factory(_client)
    logging.getLogger("huggingface_hub.utils._http").addFilter(_without_queries)
    if not sys.stderr.isatty():
        disable_progress_bars()


def patiently(request: Callable[[], Answer], patience: float) -> Answer:
    """Make a request; while the Hub has a bad moment, make it again, for `patience` seconds."""
    set_up_client()
    deadline, wait = time.monotonic() + patience, FIRST_WAIT
    while True:
        try:
            return request()
        except Exception as problem:
            pause = max(wait, _asked_wait(problem))
            if not passes(problem) or time.monotonic() + pause > deadline:
                raise
            logger.info("%s; trying again in %.0f s", in_words(problem).what, pause)
        time.sleep(pause)
        wait = min(2 * wait, LONGEST_WAIT)


def passes(problem: BaseException) -> bool:
    """Whether a request that failed so may well succeed when it is made again."""
    for cause in _causes(problem):
        if isinstance(cause, OfflineModeIsEnabled):
            return False
        if (status := _status(cause)) is not None:
            return status in _PASSES or status >= 500
        # A proxy's page where JSON belongs is a JSONDecodeError; the last two are hf_xet's.
        if isinstance(cause, httpx2.TransportError | json.JSONDecodeError | ConnectionError | TimeoutError):
            return True
    return False


def is_of_the_hub(problem: BaseException) -> bool:
    """Whether `problem` is one of talking to the Hub, and not a mistake of ours."""
    kinds = (httpx2.HTTPError, OSError, ValueError, RuntimeError)
    return any(isinstance(cause, kinds) for cause in _causes(problem))


def status_of(problem: BaseException) -> int | None:
    """The HTTP status at the root of `problem`, if the Hub answered at all."""
    return next((status for cause in _causes(problem) if (status := _status(cause)) is not None), None)


def in_words(problem: BaseException) -> Problem:
    """What went wrong and what to do about it; no token is in it, and no address."""
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in _causes(problem)):
        return Problem("HF_HUB_OFFLINE is set, so the Hub is not asked", "unset it and push again")
    status = status_of(problem)
    if status is None:
        kind = type(list(_causes(problem))[-1]).__name__
        said = f": {problem}" if isinstance(problem, ValueError) and not isinstance(problem, OSError) else ""
        return Problem(f"the Hub cannot be reached ({kind}{said})", f"check the connection to {constants.ENDPOINT}")
    if status >= 500:
        return Problem(f"the Hub has trouble of its own ({status})", "push again later")
    is_missing = any(isinstance(cause, RepositoryNotFoundError) for cause in _causes(problem))
    what, remedy = _IN_WORDS.get(
        404 if is_missing else status, ("the Hub refuses it", "push again when that is mended")
    )
    said = _said(problem)
    return Problem(f"{what} ({status}{f': {said}' if said else ''})", remedy)


def _status(cause: BaseException) -> int | None:
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code
    # hf_xet 1.8 tells of an answer in words alone.
    found = _XET_STATUS.search(str(cause)) if isinstance(cause, ConnectionError) else None
    return int(found[1]) if found else None


def _said(problem: BaseException) -> str:
    """The Hub's own reason, in a line."""
    messages = [cause.server_message for cause in _causes(problem) if isinstance(cause, HfHubHTTPError)]
    return " ".join((messages[0] or "").split())[:200] if messages else ""


def _asked_wait(problem: BaseException) -> float:
    """Seconds that the Hub's Retry-After asks for; 0 where it asks for none."""
    for cause in _causes(problem):
        if isinstance(cause, HfHubHTTPError):
            asked = cause.response.headers.get("Retry-After", "")
            return float(asked) if asked.isdigit() else 0.0
    return 0.0


def _causes(problem: BaseException) -> Iterator[BaseException]:
    """`problem` and what it was raised from; huggingface_hub wraps what fails in a thread in a RuntimeError."""
    cause: BaseException | None = problem
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _without_queries(record: logging.LogRecord) -> bool:
    """What follows `?` in the address of an upload lets anybody write there."""
    record.msg, record.args = re.sub(r"\?\S*", "?...", record.getMessage()), ()
    return True


def _client() -> httpx2.Client:
    client = default_client_factory()
    client.timeout = httpx2.Timeout(TIMEOUT)
    return client
