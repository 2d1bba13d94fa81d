"""`data.chat_template_kwargs`, `data.system` and `data.fold_system`, written into the chat template itself.

So they travel with the model: whoever renders its template, we or transformers or a server, renders what was trained,
unless the caller gives another value or another system message. A file of ours beside the model would be read by us
alone, and transformers takes such arguments from its caller only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hf_finetune.chat.special_tokens import ControlTokens
from hf_finetune.errors import ConfigError, Problem, suggest

BEGIN = "{#- what hf-finetune trained with: defaults of the template's variables -#}\n"
# The line break behind a comment is no output under `trim_blocks`, which all chat templates are rendered with.
END = "{#- end of the defaults #}\n"
_HEADER = re.compile(f"(?:{re.escape(BEGIN)}.*?{re.escape(END)})*", re.DOTALL)

# As templates do that have such a place: https://huggingface.co/google/gemma-3-1b-it. A system message alone stays: the
# template says what it takes.
FOLD = """\
{%- if messages and messages|length > 1 and messages[0]['role'] in ['system', 'developer'] \
and messages[1]['role'] == 'user' and messages[0]['content'] is string and messages[1]['content'] is string %}\
{%- set told = messages[0]['content'] + '\\n\\n' + messages[1]['content'] %}\
{%- set messages = [dict(messages[1], content=told)] + messages[2:] %}{%- endif %}
"""

KWARGS_KEY, SYSTEM_KEY = "data.chat_template_kwargs", "data.system"


def build_defaults(kwargs: Mapping[str, Any], system: str | None, *, fold: bool = False) -> str:
    """Build the lines that stand before a template; "" without any default."""
    # A variable that the caller sets is left as it is; a conversation with a system message too.
    lines = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {write_literal(value)} %}}{{%- endif %}}\n"
        for name, value in kwargs.items()
    ]
    if system is not None:
        message = write_literal({"role": "system", "content": system})
        condition = "not messages or messages[0]['role'] not in ['system', 'developer']"
        lines.append(f"{{%- if {condition} %}}{{%- set messages = [{message}] + messages %}}{{%- endif %}}\n")
    lines += [FOLD] if fold else []
    return f"{BEGIN}{''.join(lines)}{END}" if lines else ""


def write_literal(value: Any) -> str:
    """Write a JSON-like value as Jinja does, which decodes a string as Python does: JSON's escapes among others."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{write_literal(str(key))}: {write_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(write_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def split_defaults(template: str) -> tuple[str, str]:
    """Split a template into the defaults that were written before it, and the rest."""
    found = _HEADER.match(template)
    end = found.end() if found else 0
    return template[:end], template[end:]


def put_defaults(template: str, defaults: str) -> str:
    """Put defaults before a template; those that stand there already come second, and give way."""
    return template if template.startswith(defaults) else defaults + template


def check_defaults(kwargs: Mapping[str, Any], system: str | None, read: Sequence[str], control: ControlTokens) -> None:
    """Raise ConfigError for a variable that is not `read`, or a text that spells a control token."""
    problems = []
    for name in kwargs:
        if name not in read:
            remedy = suggest(name, read, f"it reads {', '.join(read)}", show="`{}`".format)
            problems.append(Problem(f"the chat template reads no `{name}`", remedy, key=KWARGS_KEY, code="HF133"))
    # Text of rows is kept apart from control tokens; this one becomes a part of the template, which writes them.
    for key, value in ((KWARGS_KEY, dict(kwargs)), (SYSTEM_KEY, system or "")):
        for token in sorted(control.find_spelled(value)):
            problems.append(Problem(f"spells the control token {token}", "write it otherwise", key=key, code="HF136"))
    if problems:
        raise ConfigError(problems)
