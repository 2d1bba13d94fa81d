"""Templates that know the date: within a run it is one day, whenever its rows are tokenized.

Llama 3's templates write "Today Date: 26 Jul 2024" into every conversation, by `strftime_now` of transformers. Rows are
rendered as of the day on which the run began (`data.template_date`), so that a resume, and the cache, have the same
tokens. What is saved goes on asking for the real date, which a served model is told; a comment in it says on which day
it was trained, for who scores it.
"""

from __future__ import annotations

import re
from datetime import datetime

from hf_finetune.chat.rendering import describe_template
from hf_finetune.chat.template_defaults import BEGIN, END
from hf_finetune.chat.worker import DATE_FUNCTION as FUNCTION

_TRAINED = re.compile(r"\{#- rows were dated (\d{4}-\d{2}-\d{2}) #\}\n")
# All that a format may ask of a day; of the time there is midnight. Longer ones first: `%-d` holds no `%d`.
_DIRECTIVES = (
    *("%-d", "%-m", "%-j", "%-H", "%-I", "%-M", "%-S"),
    *("%d", "%m", "%Y", "%y", "%b", "%B", "%a", "%A", "%j", "%w", "%u", "%U", "%W", "%V", "%G"),
    *("%F", "%D", "%x", "%H", "%I", "%p", "%M", "%S", "%f", "%T", "%X", "%R", "%c", "%Z", "%z"),
)


def reads_date(template: str) -> bool:
    """Whether a template asks what day it is."""
    return FUNCTION in template and describe_template(template).asks_date


def today() -> str:
    """The day as `data.template_date` has it, in local time as transformers' function: 2026-01-31."""
    return datetime.now().astimezone().date().isoformat()


def set_date(date: str) -> str:
    """Lines to put before a template, for which it is then always this day."""
    day = datetime.fromisoformat(date)
    # A macro, for a template cannot define a function: each directive of the format is replaced by what it says.
    replaced = "".join(f' | replace("{each}", "{day.strftime(each)}")' for each in _DIRECTIVES)
    return f"{BEGIN}{{%- macro {FUNCTION}(format) -%}}{{{{- format{replaced} -}}}}{{%- endmacro -%}}\n{END}"


def note_date(date: str) -> str:
    """Lines to put before a template that only say with which day it was trained."""
    return f"{BEGIN}{{#- rows were dated {date} #}}\n{END}"


def read_date(template: str) -> str | None:
    """The day that `note_date` has left in a template, if any."""
    found = _TRAINED.search(template)
    return None if found is None else found[1]


def forget_date(template: str) -> str:
    """A template without what `note_date` has put before it."""
    return re.sub(re.escape(BEGIN) + _TRAINED.pattern + re.escape(END), "", template)
