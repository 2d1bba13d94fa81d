"""Chat templates: which one a run trains with, and conversations and prompts under it."""

from __future__ import annotations

import copy
import json
import logging
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from hf_finetune.config.sections import DataSection
from hf_finetune.data.control_tokens import control_tokens
from hf_finetune.data.rendering import compile_template
from hf_finetune.data.turns import ChatProblem, Message, Renderer, check_asked, trained_spans
from hf_finetune.errors import ConfigError, DataError, ModelError, Problem

logger = logging.getLogger(__name__)

OURS = ("plain", "alpaca")
KEY = "data.chat_template"

# The shortest conversation, to see what a template does.
EXCHANGE: tuple[Message, ...] = ({"role": "user", "content": "A"}, {"role": "assistant", "content": "b"})

# Tokens as templates of the Hub write them, to name those that a tokenizer lacks.
TOKEN_LIKE = re.compile(r"<[|｜]?[\w▁/:.-]+[|｜]?>|\[/?[A-Z_]+\]")


def load_chat_template(data: DataSection, tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the template that training renders; `tokenizer.chat_template` becomes the one to talk with.

    `data.chat_template` names one of ours or a .jinja file. By default the tokenizer's own holds; where TRL has a
    training variant of it, whose earlier turns stay as they were when later ones follow, that is rendered. A tokenizer
    without one gets `plain`. Raises `ConfigError` where the file cannot be read or has a mistake, and `ModelError`
    where the template writes assistant turns that have no end.
    """
    if data.chat_template is not None or not tokenizer.chat_template:
        name = data.chat_template or "plain"
        tokenizer.chat_template = _ours(name) if name in OURS else _read(name)
        logger.info("chat template: %s%s", name, "" if data.chat_template else ", since the tokenizer has none")
    template = training_template(tokenizer)
    if template != default_template(tokenizer):
        logger.info("chat template: TRL's training variant of the tokenizer's own")
    _check_end(tokenizer, template)
    return template


def _ours(name: str) -> str:
    return files("hf_finetune.data").joinpath("templates", f"{name}.jinja").read_text("utf-8")


def _read(name: str) -> str:
    if not name.endswith((".jinja", ".j2")) or not Path(name).is_file():
        remedy = f"name a .jinja file, or one of {', '.join(OURS)}"
        raise ConfigError(Problem(f"{name!r} is no chat template", remedy, key=KEY))
    source = Path(name).read_text(encoding="utf-8")
    try:
        compile_template(source)
    except TemplateSyntaxError as mistake:
        raise ConfigError(Problem(str(mistake.message), "mend the template", name, mistake.lineno, KEY)) from mistake
    return source


def template_name(data: DataSection, template: str) -> str:
    """What to call a template of `load_chat_template` when speaking to the user."""
    if data.chat_template is not None:
        return data.chat_template
    return next((name for name in OURS if _ours(name) == template), "the tokenizer's own chat template")


def training_template(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokenizer's template, or TRL's training variant of it."""
    own = default_template(tokenizer)
    from trl.chat_template_utils import get_training_chat_template

    known = copy.copy(tokenizer)
    known.chat_template = own
    try:
        variant = get_training_chat_template(known)
    except (ValueError, TypeError, TemplateError):  # a template that TRL does not know: it needs no markers here
        return own
    return variant or own


def default_template(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokenizer's template; the `default` one where it has several by name."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default", next(iter(template.values())))
    return str(template)


def _check_end(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    """Refuse a template whose assistant turns have no end token: a model trained with it would never stop."""
    chat = Renderer(tokenizer, template, list(EXCHANGE))
    try:
        trained_spans(chat, [True, True])
    except ChatProblem as problem:
        missing = sorted(set(TOKEN_LIKE.findall(_or_nothing(chat))) - control_tokens(tokenizer).names.keys())
        foreign = f"; it writes {', '.join(missing)}, which the tokenizer does not have" if missing else ""
        remedy = f"name the template of this model, or one of {', '.join(OURS)}, in {KEY}"
        raise ModelError(Problem(f"{problem}{foreign}", remedy, key=KEY)) from problem


def _or_nothing(chat: Renderer) -> str:
    try:
        return chat.text()
    except ChatProblem:
        return ""


def prepared(
    tokenizer: PreTrainedTokenizerFast, template: str, messages: list[Message], tools: list[dict[str, Any]] | None
) -> Renderer:
    """A conversation ready to be rendered: text marked, and the arguments of tool calls as the template takes them."""
    control = control_tokens(tokenizer)
    if any(message.get("tool_calls") for message in messages):
        form = _arguments_form(tokenizer, template)
        messages = [_with_arguments(message, form) for message in messages]
    return Renderer(tokenizer, template, control.mark(messages), control.mark(tools))


def _with_arguments(message: Message, form: str) -> Message:
    if form == "any" or not message.get("tool_calls"):
        return message
    calls = copy.deepcopy(message["tool_calls"])
    for call in calls:
        function = call.get("function", call)
        arguments = function.get("arguments")
        if form == "object" and isinstance(arguments, str):
            try:
                function["arguments"] = json.loads(arguments)
            except json.JSONDecodeError as mistake:
                raise ChatProblem("the arguments of a tool call are no JSON, which the template needs") from mistake
        elif form == "string" and isinstance(arguments, dict):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {**message, "tool_calls": calls}


def _arguments_form(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """How the template takes arguments: `object`, `string` or `any`.

    The OpenAI form has JSON text, which many templates would quote once more (https://github.com/huggingface/transformers/issues/45419).
    """

    def shown(arguments: Any) -> str | None:
        call: Message = {"type": "function", "id": "call00001", "function": {"name": "probe", "arguments": arguments}}
        messages = [EXCHANGE[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
        try:
            return Renderer(tokenizer, template, messages).text()
        except ChatProblem:
            return None

    as_object, as_string = shown({"key": "probed"}), shown('{"key": "probed"}')
    if as_object is None:
        return "any" if as_string is None else "string"
    return "object" if as_string is None or '\\"key' in as_string or "probed" not in as_string else "any"


def encode_prompt(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], tools: list[dict[str, Any]] | None = None
) -> list[int]:
    """Ids of a conversation under the tokenizer's template, with the header of the answer that comes next.

    Text in a message never becomes a control token. Raises `DataError` where the template refuses the messages, or
    leaves out what is asked.
    """
    try:
        chat = prepared(tokenizer, default_template(tokenizer), messages, tools)
        text = chat.text(prompt=True)
        check_asked(chat, prompt=True)
    except ChatProblem as problem:
        raise DataError(str(problem)) from problem
    return control_tokens(tokenizer).encode([text], [[]])[0].ids


def end_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The token that ends an assistant's turn under the tokenizer's template, and the end token of a text, sorted."""
    chat = Renderer(tokenizer, training_template(tokenizer), list(EXCHANGE))
    ends = {tokenizer.eos_token_id}
    try:
        [(start, stop)] = trained_spans(chat, [False, True])
    except ChatProblem:  # such as one that takes no conversation of two
        return sorted(ends)
    *_, end = control_tokens(tokenizer).unmarked.finditer(chat.text(), start, stop)
    return sorted({*ends, tokenizer.convert_tokens_to_ids(end[0])})
