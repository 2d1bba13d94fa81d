"""A refusal, in the form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from hf_finetune.release.serve.engine.jobs import Failure

# Seconds after which a client may come back: answers of a second or more end all the time.
RETRY_AFTER = "1"
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
FAILURES: dict[Failure, tuple[int, str]] = {
    "timeout": (503, "the answer took longer than this server allows"),
    "stopping": (503, "the server ends"),
    "memory": (503, "the server has no memory left for this answer"),
    "non_finite": (500, "the model's next token has NaN or infinite logits"),
    "fault": (500, "the server has failed at this answer; its log says where"),
    "cancelled": (499, "the client has gone"),
}


class ApiError(Exception):
    """A request that is refused, or has failed."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def respond(self) -> JSONResponse:
        headers = {"Retry-After": RETRY_AFTER} if self.status in (429, 503) else {}
        headers |= {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        headers |= {"Connection": "close"} if self.status in (408, 413) else {}
        return JSONResponse(self.body, self.status, headers)


def explain_failure(why: Failure) -> ApiError:
    """What a client is told of an answer that has failed."""
    status, message = FAILURES[why]
    return ApiError(status, message, code=why)
