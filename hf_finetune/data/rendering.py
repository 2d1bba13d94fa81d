"""Chat templates come with models and are programs: whoever renders one in this process does so within bounds.

The sandbox of transformers keeps a template from files, attributes and other code, and leaves time and memory to it
(https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/utils/chat_template_utils.py).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from hf_finetune.data.overtime import MOST_GROWTH, TooLarge, TooLong, run_watched
from hf_finetune.errors import ModelError, Problem

KEY = "data.chat_template"
LONGEST_SECONDS = 1.0
LONGEST_TEXT = 1_000_000
"""Characters that a template may write of its own, beside `COPIES` of what it is given."""
COPIES = 4

# What one step may make of its operands: Python repeats and pads in one go, which nothing can stop.
LARGEST_NUMBER = 10_000
LARGEST_RESULT = 100_000_000
MOST_BITS = 100_000
AMPLIFYING_METHODS = {"center", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust", "zfill"}
AMPLIFYING_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "tojson", "wordwrap")
FORBIDDEN_METHODS = {"maketrans", "translate"}
_WIDE = re.compile(r"\d{5}")


class BoundedTemplate(Template):
    """A template that is stopped when it has run for a second, and refused when it writes without measure."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """As in jinja2; raises `ModelError` where a bound is reached."""
        text: str = _run_within_limits(functools.partial(super().render, *args, **kwargs))
        if len(text) > LONGEST_TEXT and len(text) > LONGEST_TEXT + COPIES * _count_characters(kwargs):
            raise _build_error(f"writes {len(text):,} characters")
        return text


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers in which no single step makes much of little."""

    template_class = BoundedTemplate
    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_operation([left, *(right if isinstance(right, tuple) else (right,))], formats=True)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() * right, MOST_BITS)
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() + right.bit_length(), MOST_BITS)
        elif operator == "*":
            _check_size(_measure_output(left) * _measure_output(right), LARGEST_RESULT)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """Every attribute that a template reads passes here before it is found safe: None leaves it as it is."""
        if type(value) is not BuiltinMethodType and type(value) is not MethodType:
            return None
        write = super().wrap_str_format(value)
        if write is None and (value.__name__ not in AMPLIFYING_METHODS or not isinstance(value.__self__, str)):
            return None
        return _bound_method(write or value, value.__name__, value.__self__)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in FORBIDDEN_METHODS and super().is_safe_attribute(obj, attr, value)


def _bound_method(method: Callable[..., Any], name: str, owner: Any) -> Callable[..., Any]:
    def bounded(*args: Any, **kwargs: Any) -> Any:
        if name == "join":
            args = tuple(map(list, args))
        _check_operation([owner, *args, *kwargs.values()], formats=name.startswith("format"))
        return method(*args, **kwargs)

    return bounded


def _bound_filter(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
    passed = 1 if hasattr(make, "jinja_pass_arg") else 0  # some want the environment first

    @functools.wraps(make)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        before, (value, *others) = args[:passed], args[passed:]
        value = list(value) if name == "join" else value
        _check_operation([value, *others, *kwargs.values()], formats=name == "format")
        return make(*before, value, *others, **kwargs)

    return bounded


def _check_operation(operands: list[Any], *, formats: bool = False) -> None:
    """The first operand is what is written, again and again; the others say how, or what stands in between."""
    first, *others = operands
    for value in others:
        if isinstance(value, int):
            _check_size(value, LARGEST_NUMBER)
    _check_size(_measure_output(first) * max(map(_measure_output, others), default=1), LARGEST_RESULT)
    if formats and isinstance(first, str) and _WIDE.search(first):
        raise _build_error("pads a text to a great width")


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise _build_error(
            f"makes something of size {size:,} in one step" if size < 10**15 else "makes too much in a step"
        )


def _measure_output(value: Any) -> int:
    """What a value is when it is written out, or how often it makes something be written."""
    if isinstance(value, int):
        return max(1, value)
    if isinstance(value, list | tuple):
        return len(value) + sum(len(each) for each in value if isinstance(each, str))
    return max(1, len(value)) if isinstance(value, str | dict) else 1


def _count_characters(value: Any) -> int:
    """Characters in what a template is given."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(str(key)) + _count_characters(inner) for key, inner in value.items())
    return sum(map(_count_characters, value)) if isinstance(value, list | tuple) else 1


def _run_within_limits(work: Callable[[], Any]) -> Any:
    try:
        return run_watched(work, LONGEST_SECONDS)
    except TooLong:
        raise _build_error(f"did not end within {LONGEST_SECONDS:g} s") from None
    except TooLarge:
        raise _build_error(f"took more than {MOST_GROWTH >> 20} MiB") from None
    except (RecursionError, MemoryError, OverflowError) as problem:
        raise _build_error(f"went beyond all bounds ({type(problem).__name__})") from None


def _build_error(what: str) -> ModelError:
    remedy = "a template is a program that came with the model: look into chat_template.jinja, or name another one"
    return ModelError(Problem(f"the chat template {what} on one conversation", remedy, key=KEY))


_original_compile = chat_template_utils._compile_jinja_template


@functools.cache
def _make_environment() -> BoundedEnvironment:
    given = _original_compile("").environment
    extensions: Iterable[Any] = [type(extension) for extension in given.extensions.values()]
    made = BoundedEnvironment(trim_blocks=given.trim_blocks, lstrip_blocks=given.lstrip_blocks, extensions=extensions)
    made.globals.update(given.globals)
    made.filters.update(given.filters)
    made.filters.update({name: _bound_filter(name, made.filters[name]) for name in AMPLIFYING_FILTERS})
    return made


@functools.lru_cache
def compile_template(source: str) -> Template:
    """Compile a chat template within bounds: what is constant in it is computed here already.

    Raises jinja2's `TemplateSyntaxError` for a mistake, `ModelError` where a bound is reached.
    """
    compiled: Template = _run_within_limits(lambda: _make_environment().from_string(source))
    return compiled


def bound_templates() -> None:
    """From now on transformers compiles every chat template by `compile_template`, whoever asks it to render one."""
    chat_template_utils._compile_jinja_template = compile_template
