"""Chat templates are untrusted programs that come with models: in this process they are rendered within limits.

The sandbox of transformers keeps a template from files, attributes and other code, but not from endless loops or huge
texts (https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/utils/chat_template_utils.py). This
module can go once transformers limits both.
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

from hf_finetune.chat.watchdog import MAX_MEMORY_GROWTH, MemoryLimitExceeded, TimeLimitExceeded, run_with_limits
from hf_finetune.errors import ModelError, Problem

KEY = "data.chat_template"
TIME_LIMIT_SECONDS = 1.0
MAX_OUTPUT_CHARACTERS = 1_000_000
"""Characters that a template may write, besides four times those that it is given."""
MAX_INPUT_COPIES = 4

# Limits of a single operation: the watchdog cannot interrupt C code such as `"a" * 10**12`, `2 ** 10**12` or
# `"%999999999d" % 1`, so the size of its result is estimated from the operands beforehand.
MAX_NUMBER = 10_000
MAX_RESULT_SIZE = 100_000_000
MAX_INTEGER_BITS = 100_000
AMPLIFYING_METHODS = {"center", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust", "zfill"}
AMPLIFYING_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "tojson", "wordwrap")
FORBIDDEN_METHODS = {"maketrans", "translate"}
_WIDE = re.compile(r"\d{5}")


class BoundedTemplate(Template):
    """A template that is stopped after a second, and refused when its output is too long."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """Render as in jinja2; raises `ModelError` where a limit is exceeded."""
        text: str = _run_within_limits(functools.partial(super().render, *args, **kwargs))
        if len(text) > MAX_OUTPUT_CHARACTERS and len(
            text
        ) > MAX_OUTPUT_CHARACTERS + MAX_INPUT_COPIES * _count_characters(kwargs):
            raise _build_error(f"writes {len(text):,} characters")
        return text


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """transformers' sandbox with a limit on what one operation may allocate."""

    template_class = BoundedTemplate
    # `+` and `~` are left alone: they make at most the sum of their operands, and the watchdog sees many of them.
    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Check the size of a product, power or formatted string, then compute it; raises `ModelError`."""
        if operator == "%" and isinstance(left, str):
            _check_operation([left, *(right if isinstance(right, tuple) else (right,))], formats=True)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() * right, MAX_INTEGER_BITS)
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() + right.bit_length(), MAX_INTEGER_BITS)
        elif operator == "*":
            _check_size(_measure_output(left) * _measure_output(right), MAX_RESULT_SIZE)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        """Return the method that a template reads with its size checked; None leaves the value as it is."""
        # jinja2 calls this for every attribute, not for `str.format` alone, and before `is_safe_attribute`.
        if type(value) is not BuiltinMethodType and type(value) is not MethodType:
            return None
        write = super().wrap_str_format(value)
        if write is None and (value.__name__ not in AMPLIFYING_METHODS or not isinstance(value.__self__, str)):
            return None
        return _bound_method(write or value, value.__name__, value.__self__)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse str.translate too: its table may map each character to a long text."""
        return attr not in FORBIDDEN_METHODS and super().is_safe_attribute(obj, attr, value)


def _bound_method(method: Callable[..., Any], name: str, owner: Any) -> Callable[..., Any]:
    """Wrap a method of `owner` such that its operands are checked first."""

    def bounded(*args: Any, **kwargs: Any) -> Any:
        if name == "join":
            args = tuple(map(list, args))  # a generator could be measured only once
        _check_operation([owner, *args, *kwargs.values()], formats=name.startswith("format"))
        return method(*args, **kwargs)

    return bounded


def _bound_filter(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter such that its operands are checked first."""
    passed = 1 if hasattr(make, "jinja_pass_arg") else 0  # such a filter takes the environment or context first

    @functools.wraps(make)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        before, (value, *others) = args[:passed], args[passed:]
        value = list(value) if name == "join" else value
        _check_operation([value, *others, *kwargs.values()], formats=name == "format")
        return make(*before, value, *others, **kwargs)

    return bounded


def _check_operation(operands: list[Any], *, formats: bool = False) -> None:
    """Raise `ModelError` where an operation may write too much: the first operand is repeated, padded or joined."""
    # "ab".center(9) is estimated as 2 * 9 characters, "-".join(["ab", "cd"]) as 1 * (2 + 4), "ab".replace("b", "cde")
    # as 2 * 3: the order of magnitude is enough, as the limit is far above what a conversation needs.
    first, *others = operands
    for value in others:
        if isinstance(value, int):
            _check_size(value, MAX_NUMBER)
    # A number that is written, as `1717171717 | tojson` does, has so many digits at most; it repeats nothing.
    size = first.bit_length() + 1 if isinstance(first, int) else _measure_output(first)
    _check_size(size * max(map(_measure_output, others), default=1), MAX_RESULT_SIZE)
    if formats and isinstance(first, str) and _WIDE.search(first):
        raise _build_error("pads a text to a great width")


def _check_size(size: int, most: int) -> None:
    """Raise `ModelError` where `size` is above `most`."""
    if size > most:
        raise _build_error(
            f"makes something of size {size:,} in one step" if size < 10**15 else "makes too much in a step"
        )


def _measure_output(value: Any) -> int:
    """Estimate the characters of a value when written, or, of a number, how often it repeats something."""
    if isinstance(value, int):
        return max(1, value)
    if isinstance(value, list | tuple):
        return len(value) + sum(len(each) for each in value if isinstance(each, str))
    return max(1, len(value)) if isinstance(value, str | dict) else 1


def _count_characters(value: Any) -> int:
    """Count the characters of the values that a template is given."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(str(key)) + _count_characters(inner) for key, inner in value.items())
    return sum(map(_count_characters, value)) if isinstance(value, list | tuple) else 1


def _run_within_limits(work: Callable[[], Any]) -> Any:
    """Return what `work` returns; raises `ModelError` where it exceeds a limit of time, memory or depth."""
    try:
        return run_with_limits(work, TIME_LIMIT_SECONDS)
    except TimeLimitExceeded:
        raise _build_error(f"did not end within {TIME_LIMIT_SECONDS:g} s") from None
    except MemoryLimitExceeded:
        raise _build_error(f"took more than {MAX_MEMORY_GROWTH >> 20} MiB") from None
    except (RecursionError, MemoryError, OverflowError) as problem:
        raise _build_error(f"exceeded the limits of Python ({type(problem).__name__})") from None


def _build_error(what: str) -> ModelError:
    remedy = "a template is a program that came with the model: look into chat_template.jinja, or name another one"
    return ModelError(Problem(f"the chat template {what} on one conversation", remedy, key=KEY))


_original_compile = chat_template_utils._compile_jinja_template


@functools.cache
def _make_environment() -> BoundedEnvironment:
    # transformers builds its environment inside the function: its filters, globals and extensions are taken over from
    # a template that it compiled.
    given = _original_compile("").environment
    extensions: Iterable[Any] = [type(extension) for extension in given.extensions.values()]
    made = BoundedEnvironment(trim_blocks=given.trim_blocks, lstrip_blocks=given.lstrip_blocks, extensions=extensions)
    made.globals.update(given.globals)
    made.filters.update(given.filters)
    made.filters.update({name: _bound_filter(name, made.filters[name]) for name in AMPLIFYING_FILTERS})
    return made


@functools.lru_cache
def compile_template(source: str) -> Template:
    """Compile a chat template within limits: jinja2 computes constant expressions here already.

    Raises jinja2's `TemplateSyntaxError` for invalid syntax, `ModelError` where a limit is exceeded.
    """
    compiled: Template = _run_within_limits(lambda: _make_environment().from_string(source))
    return compiled


def parse_template(source: str) -> Any:
    """Parse a chat template to jinja2's tree, to see what it reads. Raises as `compile_template` does."""
    return _run_within_limits(lambda: _make_environment().parse(source))


def install_sandbox() -> None:
    """Make transformers compile every chat template by `compile_template`, whoever renders one."""
    # A private name of transformers 5.23, looked up at each call (`render_jinja_template`); a test renders through it.
    chat_template_utils._compile_jinja_template = compile_template
