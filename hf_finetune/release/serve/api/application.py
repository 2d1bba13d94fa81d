"""What is answered at which path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from hf_finetune.environment.versions import __version__
from hf_finetune.release.serve.api.chat import answer_chat
from hf_finetune.release.serve.api.classify import classify_texts
from hf_finetune.release.serve.api.comparisons import compare_models, summarize_votes, take_vote
from hf_finetune.release.serve.api.completions import complete_text, generate_text
from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.api.field_messages import MOST_SHOWN, set_highest
from hf_finetune.release.serve.api.schemas import (
    REQUESTS,
    ChatRequest,
    ClassifyRequest,
    CompareRequest,
    CompletionRequest,
    GenerateRequest,
    VoteRequest,
)
from hf_finetune.release.serve.api.service import Service, queue_full
from hf_finetune.release.serve.labelling import Labeller, LabellerFull
from hf_finetune.release.serve.meter import Meter
from hf_finetune.release.serve.page import Page
from hf_finetune.release.serve.votes import Votes

REFUSALS = {
    400: "The request, or its prompt, cannot be taken",
    401: "The API key is missing or wrong",
    403: "Of a page of another site",
    404: "There is no such model",
    408: "The body has not come in time",
    413: "The body is too long",
    415: "The body is no JSON",
    429: "Too many requests wait",
    503: "The server ends, or the answer took too long",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


@dataclass(frozen=True, slots=True)
class Served:
    """What a server answers from: a language model with its adapters, or a classifier."""

    name: str
    created: int
    meter: Meter
    is_alive: Callable[[], bool]
    is_ending: Callable[[], bool]
    service: Service | None = None
    labeller: Labeller | None = None
    votes: Votes | None = None
    page: Page | None = None


def build_application(served: Served) -> FastAPI:
    """Build the application of a server; `Guard` stands in front of it."""
    # No pages of FastAPI's own, which would load scripts from other sites, and no spans, which hold words of errors.
    quiet: Any = dict.fromkeys(("tracing", "metrics", "logs", "auto_configure"), False)
    application = FastAPI(
        title="hf-finetune serve", version=__version__, docs_url=None, redoc_url=None, telemetry=quiet
    )
    _add_handlers(application, served)
    _add_watched(application, served)
    if served.service is not None:
        _add_models(application, served, served.service)
    if served.labeller is not None:
        classify = partial(classify_texts, served.labeller, served.name, count=served.meter.count_tokens)
        _post(application, "/classify", classify, ClassifyRequest)
    schemas = partial(_describe, application, served)
    application.openapi = schemas  # type: ignore[method-assign]
    return application


def _add_handlers(application: FastAPI, served: Served) -> None:
    def explain(_: Request, refused: Exception) -> Response:
        assert isinstance(refused, ApiError)
        return refused.respond()

    def explain_http(request: Request, refused: Exception) -> Response:
        assert isinstance(refused, HTTPException)
        response = ApiError(refused.status_code, _explain_path(served, request, refused)).respond()
        response.headers.update(refused.headers or {})
        return response

    application.add_exception_handler(ApiError, explain)
    application.add_exception_handler(HTTPException, explain_http)
    application.add_exception_handler(LabellerFull, lambda _, __: queue_full().respond())
    application.add_exception_handler(
        Exception, lambda _, __: ApiError(500, "the server has failed; its log says where", code="fault").respond()
    )


def _explain_path(served: Served, request: Request, refused: HTTPException) -> str:
    """Say what is served where, to who has asked at a path that is of no model, or of one of another kind."""
    if refused.status_code == 405:
        return f"{request.method} is not taken here, {(refused.headers or {}).get('Allow', 'POST')} is"
    if refused.status_code != 404:
        return str(refused.detail)
    kind, paths = "a classifier", "/classify"
    if served.service is not None:
        kind, paths = "a language model", "/v1/chat/completions, /v1/completions and /generate"
    path = request.url.path[:MOST_SHOWN]
    return f"{path} is no path of this server: `{served.name}` is {kind}, which is asked by POST at {paths}"


def _add_watched(application: FastAPI, served: Served) -> None:
    """What says how the server is, and what it has."""
    # Clients without a choice take the first model of the list: what the server was started with.
    names = [served.name] if served.service is None else list(served.service.lanes)
    models = [
        {"id": name, "object": "model", "created": served.created, "owned_by": "hf-finetune"}
        for name in sorted(names, key=lambda name: name != served.name)
    ]

    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": models})

    async def get_model(name: str) -> Response:
        found = next((each for each in models if each["id"] == name), None)
        if found is None:
            raise ApiError(404, f"The model `{name[:100]}` does not exist", param="model", code="model_not_found")
        return JSONResponse(found)

    async def report_health() -> Response:
        if served.is_ending():
            return JSONResponse({"status": "ending"}, 503)
        alive = served.is_alive()
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def report_counts() -> Response:
        return PlainTextResponse(served.meter.write(), media_type="text/plain; version=0.0.4; charset=utf-8")

    refusals = _list_refusals(401, 403, 404, 503)
    application.get("/v1/models", responses=refusals)(list_models)
    # Names may have a slash, as those of the Hub do.
    application.get("/v1/models/{name:path}", responses=refusals)(get_model)
    application.get("/health", responses=_list_refusals(403, 503))(report_health)
    application.get("/metrics", response_class=PlainTextResponse, responses=refusals)(report_counts)


def _add_models(application: FastAPI, served: Served, service: Service) -> None:
    votes = served.votes
    _post(application, "/v1/chat/completions", partial(answer_chat, service), ChatRequest)
    _post(application, "/v1/completions", partial(complete_text, service), CompletionRequest)
    _post(application, "/generate", partial(generate_text, service), GenerateRequest)
    if served.page is None:
        return
    _post(application, "/page/compare", partial(compare_models, service, votes), CompareRequest)
    _post(application, "/page/vote", partial(take_vote, votes), VoteRequest)
    page = served.page

    async def list_votes() -> Response:
        return JSONResponse({"kept": votes is not None, "summary": summarize_votes(votes)})

    async def show_page() -> Response:
        return HTMLResponse(page.html, headers=page.headers)

    application.get("/page/votes", responses=_list_refusals(401, 403, 503))(list_votes)
    application.get("/", response_class=HTMLResponse, include_in_schema=False)(show_page)


def _post(application: FastAPI, path: str, answer: Callable[..., Awaitable[Response]], kind: type[Any]) -> None:
    """Add a path whose body is read by `answer` itself: within bounds, and refused in OpenAI's form."""

    async def respond(request: Request) -> Response:
        return await answer(request=request)

    # FastAPI would read the body before any bound, and refuse it in a form that OpenAI's client does not know.
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    name = path.strip("/").replace("/", "_")
    application.post(path, name=name, openapi_extra=body, responses=_list_refusals(*REFUSALS))(respond)


def _list_refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"description": REFUSALS[status], "content": error} for status in statuses}


def _describe(application: FastAPI, served: Served) -> dict[str, Any]:
    """The OpenAPI description of all paths, with the names and limits of this server."""
    # Made once: the limits of a server do not change while it runs.
    if application.openapi_schema is None:
        described = get_openapi(title=application.title, version=application.version, routes=application.routes)
        described.setdefault("components", {}).setdefault("schemas", {}).update(_list_schemas(served))
        application.openapi_schema = described
    return application.openapi_schema


def _list_schemas(served: Served) -> Mapping[str, Any]:
    found: dict[str, Any] = {"Error": ERROR}
    for kind in REQUESTS:
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        if served.service is not None:
            _set_limits(schema["properties"], served.service)
        found[kind.__name__] = schema
    return found


def _set_limits(properties: dict[str, Any], service: Service) -> None:
    """Write the names that are served, and what this server allows, into the fields of a request."""
    set_highest(properties, service.highest)
    for name in {"model", "first", "second"} & set(properties):
        nothing = [{"type": "null"}] if name == "model" else []
        properties[name] = {"anyOf": [{"type": "string", "enum": list(service.lanes)}, *nothing]}
