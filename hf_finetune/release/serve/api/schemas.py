"""What may be asked: the fields of OpenAI's API that are honored, and of others only the value that changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.api.field_messages import explain_refused

UNUSED = "Not looked at, and kept nowhere."
MOST_STOPS, MOST_STOP_CHARACTERS = 16, 256
MOST_MESSAGES, MOST_PROMPTS, MOST_TEXTS = 2048, 64, 1024

Stop = Annotated[str, Field(min_length=1, max_length=MOST_STOP_CHARACTERS)]
# Numbers are numbers: `true` and "1" are not.
_STRICT = ConfigDict(extra="forbid", strict=True)


class _Sampled(BaseModel):
    """The fields that chat, completions and /generate share."""

    model_config = _STRICT

    model: str | None = Field(None, max_length=256, description="A name of /v1/models; by default the first.")
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    top_k: int | None = Field(None, ge=1, le=2**31 - 1)
    repetition_penalty: float | None = Field(None, gt=0.0, le=10.0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None


class _OpenAI(_Sampled):
    n: int | None = Field(None, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=256, description=UNUSED)
    store: bool | None = Field(None, description=UNUSED)
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = Field(None, description=UNUSED)
    service_tier: str | None = Field(None, max_length=256, description=UNUSED)
    # What would change an answer in a way that is not offered may be given only as what changes nothing.
    presence_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None


class StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool | None = None


class TextPart(BaseModel):
    model_config = _STRICT

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    model_config = _STRICT

    name: str = Field(min_length=1, max_length=256)
    arguments: str


class ToolCall(BaseModel):
    model_config = _STRICT

    id: str | None = Field(None, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = Field(None, max_length=256)
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = Field(None, max_length=256)
    refusal: None = None


class FunctionTool(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    function: dict[str, Any]


class ResponseFormat(BaseModel):
    model_config = _STRICT

    type: Literal["text"]


class ChatRequest(_OpenAI):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[FunctionTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    response_format: ResponseFormat | None = None


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]


class CompletionRequest(_OpenAI):
    """POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


class GenerateRequest(_Sampled):
    """POST /generate: one text from one prompt, with the defaults of `hf-finetune generate`."""

    prompt: str
    system: str | None = None
    raw: bool = Field(False, description="Continue the text, even if the model can chat.")
    max_new_tokens: int | None = Field(None, ge=1, le=2**31 - 1)


class ClassifyRequest(BaseModel):
    """POST /classify: what `hf-finetune predict` says of texts."""

    model_config = _STRICT

    text: str | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
    text_pair: str | Annotated[list[str | None], Field(min_length=1, max_length=MOST_TEXTS)] | None = None
    top_k: int | None = Field(None, ge=1, le=2**31 - 1)


class CompareRequest(BaseModel):
    """POST /page/compare: one message, answered by two models."""

    model_config = _STRICT

    prompt: str = Field(min_length=1)
    first: str = Field(max_length=256)
    second: str = Field(max_length=256)
    blind: bool = True
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0.0, le=2.0)


class VoteRequest(BaseModel):
    """POST /page/vote."""

    model_config = _STRICT

    comparison: str = Field(max_length=64)
    choice: Literal["left", "right", "tie"]


REQUESTS: tuple[type[BaseModel], ...] = (
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    ClassifyRequest,
    CompareRequest,
    VoteRequest,
)
Asked = TypeVar("Asked", bound=BaseModel)


async def read_request(request: Request, kind: type[Asked], highest: Mapping[str, int] | None = None) -> Asked:
    """Read the body of a request. Raises `ApiError` naming each field that cannot be taken, and no value.

    `highest`: see `explain_refused`.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body has to be JSON: Content-Type: application/json")
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as refused:
        raise explain_refused(kind, refused, highest) from None
