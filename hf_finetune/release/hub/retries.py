"""Hub requests: transient failures are retried, permanent ones stop at once, and both are explained.

huggingface_hub 2.4 retries uploads five times, 23 seconds in all, the commit and the look at a repository not at all,
and waits for an answer forever (https://github.com/huggingface/huggingface_hub/blob/v2.4.0/src/huggingface_hub/utils/_http.py).
`call_with_retries` can go with a version whose `create_commit` and `model_info` can be told how long to retry (its
private `_send_commit` takes `retry_on_error` already), and `_make_client` with one whose client has a timeout: asked
for in https://github.com/huggingface/huggingface_hub/pull/3931, which was closed.
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
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils.tqdm import disable_progress_bars

from hf_finetune.errors import HubError, Problem
from hf_finetune.release.hub.client import guard_client

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

TIMEOUT = 60.0
"""Seconds in which an answer has to be whole, and the longest wait for a connection or for a piece to be sent."""
PATIENCE = 300.0
"""Seconds for which one request is retried."""
SHORT_PATIENCE = 15.0
"""The same where the answer cannot be read: a proxy's page passes in seconds, or it stays."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0

_TRANSIENT = (408, 429)
# What huggingface_hub raises where a list, an object or a key of it is expected in an answer, and is not there.
NOT_UNDERSTOOD = (KeyError, TypeError, AttributeError, IndexError, RecursionError)
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
_TOKENS = "https://huggingface.co/settings/tokens"
_MESSAGES = {
    401: ("the Hub does not accept the token", "log in again with `hf auth login`, or set HF_TOKEN", "HF802"),
    403: ("the token may not do that", f"use one with write access, from {_TOKENS}", "HF802"),
    404: (
        "there is no such repository, or the token may not see it",
        "check its name, and the token's access",
        "HF806",
    ),
    409: ("others are writing to the repository", "push again when they are done", "HF808"),
    412: ("others have written to the repository meanwhile", "push again", "HF808"),
    413: ("the Hub takes no files as large as these", "save the model in smaller shards", "HF808"),
    429: ("the Hub asks for patience", "push again later", "HF808"),
}


@functools.cache
def set_up_client() -> None:
    """Give all connections of huggingface_hub in this process a timeout, and hide signed addresses in its messages."""
    set_client_factory(_make_client)
    logging.getLogger("huggingface_hub.utils._http").addFilter(_hide_queries)
    if not sys.stderr.isatty():
        disable_progress_bars()


class UnreadableAnswer(HubError):
    """The Hub, or what stands in its place, was reached and has answered what is no answer of the Hub."""


def call_with_retries(request: Callable[[], Answer], patience: float) -> Answer:
    """Make a request, and repeat it after transient failures for up to `patience` seconds.

    Raises what `request` raised last, and `UnreadableAnswer` for an answer of another form than the Hub's.
    """
    # Waits 1, 2, 4 ... 30, 30 seconds, or longer if the Hub says so (Retry-After).
    set_up_client()
    began, wait = time.monotonic(), FIRST_WAIT
    while True:
        try:
            return request()
        except Exception as problem:
            unreadable = is_unreadable(problem)
            pause = max(wait, _get_retry_after(problem))
            longest = min(patience, SHORT_PATIENCE) if unreadable else patience
            if not is_transient(problem) or time.monotonic() + pause > began + longest:
                if unreadable:
                    raise explain_answer(problem) from problem
                raise
            logger.info("%s; trying again in %.0f s", describe_error(problem).what, pause)
        time.sleep(pause)
        wait = min(2 * wait, LONGEST_WAIT)


def is_unreadable(problem: BaseException) -> bool:
    """Whether `problem` was raised for what the answer says: no JSON, or not what huggingface_hub expects in it."""
    if get_http_status(problem) is not None or isinstance(problem, HFValidationError):
        return False
    return isinstance(problem, (*NOT_UNDERSTOOD, httpx2.DecodingError)) or (
        isinstance(problem, ValueError) and not isinstance(problem, OSError)
    )


def explain_answer(problem: BaseException) -> UnreadableAnswer:
    """Explain what `is_unreadable`."""
    what = f"the Hub was reached, and its answer is none that is understood ({type(problem).__name__})"
    return UnreadableAnswer(Problem(what, f"look whether {constants.ENDPOINT} is the Hub", code="HF807"))


def is_transient(problem: BaseException) -> bool:
    """Whether the same request may succeed later."""
    for cause in _iterate_causes(problem):
        if (status := _parse_status(cause)) is not None:
            return status in _TRANSIENT or status >= 500
        # JSONDecodeError: a proxy answered with a page of its own. ConnectionError and TimeoutError come from hf_xet.
        if isinstance(cause, httpx2.UnsupportedProtocol):  # an address that is no web address stays one
            return False
        if isinstance(cause, httpx2.TransportError | json.JSONDecodeError | ConnectionError | TimeoutError):
            return True
    return False


def is_hub_error(problem: BaseException) -> bool:
    """Whether `problem` comes from a request to the Hub, rather than from a bug of this project."""
    kinds = (httpx2.HTTPError, OSError, ValueError, RuntimeError)
    return any(isinstance(cause, kinds) for cause in _iterate_causes(problem))


def get_http_status(problem: BaseException) -> int | None:
    """Return the HTTP status that caused `problem`, or None if the Hub did not answer."""
    return next((status for cause in _iterate_causes(problem) if (status := _parse_status(cause)) is not None), None)


def describe_error(problem: BaseException) -> Problem:
    """Describe what went wrong and what to do about it, without any token or address."""
    status = get_http_status(problem)
    if is_unreadable(problem):
        return explain_answer(problem).problems[0]
    if status is None:
        causes = list(_iterate_causes(problem))
        check = f"check the connection to {constants.ENDPOINT}"
        if any(isinstance(cause, httpx2.ReadTimeout) for cause in causes):
            what = f"the Hub was reached, and its answer was not whole in {TIMEOUT:.0f} s"
            return Problem(what, f"push again later, or {check}", code="HF801")
        detail = f": {problem}" if isinstance(problem, HFValidationError) else ""
        return Problem(f"the Hub cannot be reached ({type(causes[-1]).__name__}{detail})", check, code="HF801")
    if status >= 500:
        return Problem(f"the Hub has trouble of its own ({status})", "push again later", code="HF809")
    is_missing = any(isinstance(cause, RepositoryNotFoundError) for cause in _iterate_causes(problem))
    refused = ("the Hub refuses it", "push again when that is mended", "HF808")
    what, remedy, code = _MESSAGES.get(404 if is_missing else status, refused)
    reason = _get_server_message(problem)
    return Problem(f"{what} ({status}{f': {reason}' if reason else ''})", remedy, code=code)


def _parse_status(cause: BaseException) -> int | None:
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code
    # hf_xet 1.8 gives the status only as text: "... HTTP status client error (403 Forbidden) ...".
    found = _XET_STATUS.search(str(cause)) if isinstance(cause, ConnectionError) else None
    return int(found[1]) if found else None


def _get_server_message(problem: BaseException) -> str:
    """Return the reason that the Hub gave, as one line; "" if it gave none."""
    messages = [cause.server_message for cause in _iterate_causes(problem) if isinstance(cause, HfHubHTTPError)]
    return " ".join((messages[0] or "").split())[:200] if messages else ""


def _get_retry_after(problem: BaseException) -> float:
    """Return the seconds of the Hub's Retry-After header, or 0."""
    for cause in _iterate_causes(problem):
        if isinstance(cause, HfHubHTTPError):
            asked = cause.response.headers.get("Retry-After", "")
            return float(asked) if asked.isdigit() else 0.0
    return 0.0


def _iterate_causes(problem: BaseException) -> Iterator[BaseException]:
    """Iterate over `problem` and the exceptions that it was raised from."""
    # huggingface_hub wraps what fails in one of its upload threads in a RuntimeError.
    cause: BaseException | None = problem
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _hide_queries(record: logging.LogRecord) -> bool:
    """Cut the query from the addresses in a log record: with a signed one anybody could write to the storage."""
    record.msg, record.args = re.sub(r"\?\S*", "?...", record.getMessage()), ()
    return True


def _make_client() -> httpx2.Client:
    client = default_client_factory()
    guard_client(client, TIMEOUT)
    return client
