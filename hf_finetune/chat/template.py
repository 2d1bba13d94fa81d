"""Chat templates: which one a run trains with, and how conversations and prompts are rendered under it."""

from __future__ import annotations

import copy
import json
import logging
import re
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from hf_finetune.chat.assistant_mask import ChatTemplateError, RenderedChat, check_asked, find_assistant_spans
from hf_finetune.chat.built_in import TEMPLATE_TOKENS, add_template_tokens, read_built_in
from hf_finetune.chat.dates import forget_date, note_date, read_date, reads_date, set_date, today
from hf_finetune.chat.neutral import check_control_tokens
from hf_finetune.chat.rendering import (
    KEY,
    Message,
    TemplateLimitError,
    describe_template,
    hash_template,
    note_origin,
    trust_template,
)
from hf_finetune.chat.special_tokens import TokenizedText, get_control_tokens
from hf_finetune.chat.template_defaults import (
    KWARGS_KEY,
    SYSTEM_KEY,
    build_defaults,
    check_defaults,
    put_defaults,
    split_defaults,
)
from hf_finetune.chat.thoughts import split_thoughts
from hf_finetune.config.checks.paths import OUR_TEMPLATES, TEMPLATE_SUFFIXES
from hf_finetune.config.sections import DataSection
from hf_finetune.errors import ConfigError, DataError, ModelError, Problem

logger = logging.getLogger(__name__)

TRUST_KEY = "data.trust_chat_template"
FOLD_KEY = "data.fold_system"

# The shortest conversation: a template is probed with it.
SAMPLE_CHAT: tuple[Message, ...] = ({"role": "user", "content": "A"}, {"role": "assistant", "content": "b"})

# Control tokens as templates on the Hub spell them, such as <|im_end|>, <｜User｜> and [INST]: those that a tokenizer
# lacks are named in the error.
TOKEN_PATTERN = re.compile(r"<[|｜]?[\w▁/:.-]+[|｜]?>|\[/?[A-Z_]+\]")


def load_chat_template(data: DataSection, tokenizer: PreTrainedTokenizerFast, *, trains: bool = True) -> str:
    """Return the template to train with, and set `tokenizer.chat_template` to the one for inference.

    `data.chat_template` names a built-in template or a .jinja file; the default is the tokenizer's own, or `plain` for
    a tokenizer without one. The tokens that a built-in one needs and the tokenizer lacks are added to it if the run
    `trains`: their embeddings are. Where TRL has a prefix-preserving training variant of the tokenizer's template,
    training renders that. Both begin with the defaults that `data.chat_template_kwargs`, `data.system` and
    `data.fold_system` give, so that these are saved with the template. One that asks what day it is gets that of the
    run (`dates`); one whose hash `data.trust_chat_template` names is rendered without limits. Raises `ConfigError`
    where the file cannot be read or is not valid Jinja, a default or the day has no effect, or the hash is that of
    another template, and `ModelError` where the template ends assistant turns with no token.
    """
    if data.chat_template is not None or not tokenizer.chat_template:
        name = data.chat_template or "plain"
        own = get_default_template(tokenizer) if tokenizer.chat_template else None
        tokenizer.chat_template = read_built_in(name) if name in OUR_TEMPLATES else _read_template_file(name)
        if own is not None and name in TEMPLATE_TOKENS:
            _warn_of_another_family(tokenizer, own, name)
        if trains:
            add_template_tokens(tokenizer, name)
        logger.info("chat template: %s%s", name, "" if data.chat_template else ", since the tokenizer has none")
    trust_named_template(tokenizer, data.trust_chat_template)
    template = get_training_template(tokenizer)
    if template != get_default_template(tokenizer):
        logger.info("chat template: TRL's training variant of the tokenizer's own")
    _check_turn_end(tokenizer, template)
    return _fix_date(data, tokenizer, _add_defaults(data, tokenizer, template), trains=trains)


def trust_named_template(tokenizer: PreTrainedTokenizerFast, sha256: str | None) -> None:
    """Render the tokenizer's template without limits from now on, where `sha256` is its hash; None trusts nothing.

    The hash is named by whoever starts a run or a command, never by a model's folder: that may be anybody's. Raises
    `ConfigError` where the tokenizer has another template, or none.
    """
    if sha256 is None:
        return
    if not tokenizer.chat_template:
        what = "the model has no chat template that could be trusted"
        raise ConfigError(Problem(what, "leave it out: it would have no effect", key=TRUST_KEY, code="HF133"))
    own = get_default_template(tokenizer)
    if sha256.lower() != hash_template(own):
        what = f"the chat template is not the one that is trusted: its sha256 is {hash_template(own)}"
        raise ConfigError(Problem(what, "look into it, and name that, or leave it out", key=TRUST_KEY, code="HF134"))
    trust_template(own)


def _fix_date(data: DataSection, tokenizer: PreTrainedTokenizerFast, template: str, *, trains: bool) -> str:
    """Return `template` with the day of the run, where it asks for one; the tokenizer's says so and knows today's."""
    if not reads_date(template):
        if "template_date" in data.model_fields_set and data.template_date is not None:
            what = "the chat template does not ask what day it is"
            raise ConfigError(
                Problem(what, "leave it out: it would have no effect", key="data.template_date", code="HF133")
            )
        return template
    date = data.template_date or (None if trains else read_date(get_default_template(tokenizer))) or today()
    logger.info("chat template: it asks what day it is, which is %s here (data.template_date)", date)
    if trains:
        own: Any = tokenizer.chat_template
        bare = {name: forget_date(each) for name, each in own.items()} if isinstance(own, dict) else forget_date(own)
        tokenizer.chat_template = bare
        _put_before(tokenizer, note_date(date))
    return note_origin(put_defaults(forget_date(template), set_date(date)), template)


def _put_before(tokenizer: PreTrainedTokenizerFast, header: str) -> None:
    """Put a header before each of the tokenizer's own templates."""
    own: Any = tokenizer.chat_template
    if isinstance(own, dict):
        made = {name: note_origin(put_defaults(each, header), each) for name, each in own.items()}
        tokenizer.chat_template = made
    else:
        tokenizer.chat_template = note_origin(put_defaults(own, header), own)


def _add_defaults(data: DataSection, tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """Put the defaults of the run before the tokenizer's template, and before the one to train with: returned."""
    defaults = build_defaults(data.chat_template_kwargs, data.system, fold=data.fold_system)
    if not defaults:
        return template
    if data.fold_system and writes_system(tokenizer, template):
        what = "the chat template has a place for a system message"
        raise ConfigError(Problem(what, "leave it out: it would have no effect there", key=FOLD_KEY, code="HF133"))
    known = get_default_template(tokenizer) + split_defaults(template)[1]
    read = describe_template(known).variables
    check_defaults(data.chat_template_kwargs, data.system, read, get_control_tokens(tokenizer))
    _put_before(tokenizer, defaults)
    template = note_origin(put_defaults(template, defaults), template)
    _check_turn_end(tokenizer, template, SYSTEM_KEY if data.system is not None else KWARGS_KEY)
    return template


def writes_system(tokenizer: PreTrainedTokenizerFast, template: str) -> bool:
    """Whether a template, its defaults aside, writes what a system message says."""
    told: Message = {"role": "system", "content": "Speak."}
    return "Speak." in _render_or_empty(RenderedChat(tokenizer, split_defaults(template)[1], [told, *SAMPLE_CHAT]))


def _read_template_file(name: str) -> str:
    if not name.endswith(TEMPLATE_SUFFIXES) or not Path(name).is_file():
        remedy = f"name a .jinja file, or one of {', '.join(OUR_TEMPLATES)}"
        raise ConfigError(Problem(f"{name!r} is no chat template", remedy, key=KEY, code="HF135"))
    try:
        source = Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise ConfigError(Problem("is not UTF-8", "save it as UTF-8", name, key=KEY, code="HF003")) from problem
    try:
        describe_template(source)
    except TemplateSyntaxError as mistake:
        raise ConfigError(
            Problem(str(mistake.message), "fix the template", name, mistake.lineno, KEY, code="HF132")
        ) from mistake
    return source


def template_name(data: DataSection, template: str) -> str:
    """What to call a template of `load_chat_template` when speaking to the user."""
    if data.chat_template is not None:
        return data.chat_template
    return next(
        (name for name in OUR_TEMPLATES if read_built_in(name) == split_defaults(template)[1]),
        "the tokenizer's own chat template",
    )


def get_training_template(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return TRL's training variant of the tokenizer's template, or the template itself; with its own defaults."""
    whole = get_default_template(tokenizer)
    defaults, own = split_defaults(whole)
    note_origin(own, whole)
    # Imported here: trl is slow to import, and only a chat template needs it.
    from trl.chat_template_utils import get_training_chat_template

    # TRL compares the text of the template with those it knows, and takes no template by name.
    known = copy.copy(tokenizer)
    known.chat_template = own
    try:
        variant = get_training_chat_template(known)
    except (ValueError, TypeError, TemplateError):  # TRL knows no variant, and `{% generation %}` is not needed here
        variant = None
    return note_origin(defaults + (variant or own), whole)


def get_default_template(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the tokenizer's template; of several named ones, `default`."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default", next(iter(template.values())))
    return str(template)


def _warn_of_another_family(tokenizer: PreTrainedTokenizerFast, own: str, name: str) -> None:
    """Warn where the model's own template puts other tokens around turns than the template `name`."""
    # Qwen2.5 has a default system prompt and `chatml` has none: both are of <|im_start|> and <|im_end|>, one family.
    rendered = _render_or_empty(RenderedChat(tokenizer, own, list(SAMPLE_CHAT)))
    written = set(TOKEN_PATTERN.findall(rendered)) - {tokenizer.bos_token, tokenizer.eos_token}
    if not written & set(TEMPLATE_TOKENS[name]):
        family = ", ".join(sorted(written)) or "no tokens around turns"
        what = "chat template: %s replaces the tokenizer's own, of another family (%s): the model has learned that one"
        logger.warning(what, name, family, extra={"code": "HF137"})


def _check_turn_end(tokenizer: PreTrainedTokenizerFast, template: str, key: str = KEY) -> None:
    """Raise `ModelError` where assistant turns have no end token: a model trained so would never stop."""
    chat = RenderedChat(tokenizer, template, list(SAMPLE_CHAT))
    try:
        find_assistant_spans(chat, [True, True])
    except ChatTemplateError as problem:
        missing = sorted(
            set(TOKEN_PATTERN.findall(_render_or_empty(chat))) - get_control_tokens(tokenizer).names.keys()
        )
        foreign = f"; it writes {', '.join(missing)}, which the tokenizer does not have" if missing else ""
        remedy = f"name the template of this model, or one of {', '.join(OUR_TEMPLATES)}, in {KEY}"
        raise ModelError(Problem(f"{problem}{foreign}", remedy, key=key, code=problem.code)) from problem


def _render_or_empty(chat: RenderedChat) -> str:
    try:
        return chat.text()
    except (ChatTemplateError, TemplateLimitError):
        return ""


def prepare_chat(
    tokenizer: PreTrainedTokenizerFast, template: str, messages: list[Message], tools: list[dict[str, Any]] | None
) -> RenderedChat:
    """Prepare a conversation for rendering: mark its text, and put what it says into the form that the template takes.

    That is of the arguments of tool calls, and of thoughts inside a content. Raises `ChatTemplateError` where the
    template takes arguments as an object and they are not valid JSON, or more than Python reads.
    """
    control = get_control_tokens(tokenizer)
    messages = split_thoughts(tokenizer, template, messages)
    if any(message.get("tool_calls") for message in messages):
        form = _detect_arguments_form(tokenizer, template)
        messages = [_convert_arguments(message, form) for message in messages]
    return RenderedChat(tokenizer, template, control.mark(messages), control.mark(tools))


def _convert_arguments(message: Message, form: str) -> Message:
    """Copy a message with the arguments of its tool calls as `form` says: an object or a JSON string."""
    if form == "any" or not message.get("tool_calls"):
        return message
    calls = copy.deepcopy(message["tool_calls"])
    for call in calls:
        function = call.get("function", call)
        arguments = function.get("arguments")
        if form == "object" and isinstance(arguments, str):
            function["arguments"] = _read_arguments(arguments)
        elif form == "string" and isinstance(arguments, dict):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {**message, "tool_calls": calls}


def _read_arguments(written: str) -> Any:
    try:
        return json.loads(written)
    except json.JSONDecodeError as mistake:
        what = "are not valid JSON, which the template needs"
        raise ChatTemplateError(f"the arguments of a tool call {what}", code="HF145") from mistake
    except ValueError as mistake:  # Python reads integers of 4,300 digits at most
        raise ChatTemplateError(
            "the arguments of a tool call have a number of thousands of digits", code="HF145"
        ) from mistake
    except RecursionError as mistake:
        raise ChatTemplateError("the arguments of a tool call are nested too deep", code="HF145") from mistake


def _detect_arguments_form(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """Detect how the template takes the arguments of a tool call: `object`, `string` or `any`."""
    # The OpenAI format has a JSON string, which many templates would encode once more: "{\\"key\\": 1}". Can go once
    # transformers passes templates one form: https://github.com/huggingface/transformers/issues/45419

    def render(arguments: Any) -> str | None:
        call: Message = {"type": "function", "id": "call00001", "function": {"name": "probe", "arguments": arguments}}
        messages = [SAMPLE_CHAT[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
        try:
            return RenderedChat(tokenizer, template, messages).text()
        except ChatTemplateError:
            return None

    # A template that takes both writes the string as it is; one that wants an object quotes it, or leaves it out.
    as_object, as_string = render({"key": "probed"}), render('{"key": "probed"}')
    if as_object is None:
        return "any" if as_string is None else "string"
    return "object" if as_string is None or '\\"key' in as_string or "probed" not in as_string else "any"


def encode_prompt(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], tools: list[dict[str, Any]] | None = None
) -> list[int]:
    """Tokenize a conversation under the tokenizer's template, generation prompt included: (tokens,) ids.

    Raises `DataError` as `tokenize_prompt` does.
    """
    return list(tokenize_prompt(tokenizer, messages, tools).ids)


def tokenize_prompt(
    tokenizer: PreTrainedTokenizerFast, messages: list[Message], tools: list[dict[str, Any]] | None = None
) -> TokenizedText:
    """Tokenize a conversation as `encode_prompt` does, with the characters that each token stands for.

    Text in a message never becomes a control token. Raises `DataError` where the template refuses the messages, or
    leaves out what is asked.
    """
    try:
        chat = prepare_chat(tokenizer, get_default_template(tokenizer), messages, tools)
        text = chat.text(prompt=True)
        check_asked(chat, prompt=True)
        [fault] = check_control_tokens([chat], prompt=True)
        if fault is not None:
            raise fault
    except ChatTemplateError as problem:
        raise DataError(Problem(str(problem), code=problem.code)) from problem
    return get_control_tokens(tokenizer).encode([text], [[]])[0]


def find_end_token_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Find the ids that end generation, sorted: the tokenizer's EOS, and the end-of-turn token of its chat template."""
    # With <|endoftext|> as EOS alone, a ChatML model would go on behind <|im_end|> and write the user's next turn.
    end = _find_turn_end(tokenizer, get_default_template(tokenizer))
    if end is None:  # seconds of imports, for a template whose turns change when later ones follow
        end = _find_turn_end(tokenizer, get_training_template(tokenizer))
    # Neither: the template refuses this conversation, or marks no end.
    return sorted({tokenizer.eos_token_id, *([] if end is None else [tokenizer.convert_tokens_to_ids(end)])})


def _find_turn_end(tokenizer: PreTrainedTokenizerFast, template: str) -> str | None:
    chat = RenderedChat(tokenizer, template, list(SAMPLE_CHAT))
    try:
        [(start, stop)] = find_assistant_spans(chat, [False, True])
    except ChatTemplateError:
        return None
    *_, end = get_control_tokens(tokenizer).unmarked.finditer(chat.text(), start, stop)
    return str(end[0])
