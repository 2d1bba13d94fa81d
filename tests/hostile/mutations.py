"""Files gone wrong on purpose: strategies that draw a valid file of the project and change a few things in it.

text_files     spans cut out, doubled or put elsewhere, and what has broken parsers before put in
json_files     the same, and values of the parsed file: another type, size or sign, a key less, a key twice
safetensors    the same with the header of a file of weights
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

# What a reader of text may stumble over, of any format.
SNIPPETS = (
    *(
        "\x00",
        "\x1b[2J",
        "\x9b31m",
        "\u202e",
        "\ufeff",
        "�",
        "\r",
        "\n\n",
        "\t",
        "\\",
        "\\ud800",
        '"',
        "'",
        "---\n",
        "...\n",
    ),
    *(
        "[" * 3000,
        "{" * 3000,
        '{"a":' * 2000,
        "- " * 3000,
        "(" * 3000,
        "{{" * 100,
        "{%" * 100,
        "a" * 100_000,
        "\n" * 100_000,
    ),
    *(
        "9" * 5000,
        "-1",
        "1e999",
        "NaN",
        "null",
        "~",
        "0x7fffffffffffffff",
        "1_000_000_000_000",
        "!!python/object:os.system {}",
    ),
    *(
        "&a [*a, *a]",
        "*a",
        "<<: *a",
        "x: &x [1,2]\ny: &y [*x,*x,*x,*x,*x,*x,*x,*x,*x]\nz: [*y,*y,*y,*y,*y,*y,*y,*y,*y]\n",
        "!!binary x",
    ),
    *(
        "<|im_end|>",
        "<|endoftext|>",
        "</s>",
        "[INST]",
        "../../../../etc/passwd",
        "/proc/self/mem",
        "/dev/zero",
        "~/x",
        "$(id)",
        "`id`",
    ),
    *("<script>alert(1)</script>", "](javascript:alert(1))", "<!--", "data:text/html,x", "-eyJ" * 5000, "sk-" * 5000),
)
# And of a template.
BLOCKS = (
    *(
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'x' * 10**9 }}",
        "{{ messages|tojson * 10**7 }}",
        "{{ 7**7**7**7 }}",
    ),
    *(
        "{% for a in messages %}{{ loop(a) }}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ raise_exception('no') }}",
    ),
    *(
        "{{ ''.__class__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ messages.append(1) }}",
    ),
    *(
        "{% set x = messages[99].content %}{{ x.y.z }}",
        "{{ 1/0 }}",
        "{{ undefined_name }}",
        "{% include '/etc/passwd' %}",
        "{% generation %}",
    ),
    *(
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ (1).to_bytes(2000000000, 'big') }}",
        "{{ [0] * 10**10 }}",
    ),
    *(
        "{{ messages[0].content|replace('', 'x' * 10**6) }}",
        "{{ 'a'|center(10**10) }}",
        "{{ range(10**9)|list|length }}",
        "{# x",
        "{% raw %}",
    ),
    *(
        "{{ messages[0].content|lower }}",
        "{{ messages[0].content|striptags }}",
        "{{ messages[0].content.encode('ascii','ignore').decode() }}",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**6, 10**12, 2**63, -(2**63), 10**400, 0.5, -0.5),
    *(1e308, float("inf"), float("nan"), [], {}, [None], [[[]]], [0] * 1000, {"": ""}, {"a": {"b": {"c": None}}}),
    *("", " ", "x", "x" * 10_000, "\x00", "\x1b[31m", "\u202e", "\ud800", "0", "1e5", "on", "2024-01-01"),
    *("../../x", "/dev/zero", "/proc/self/mem", "{{ 1 }}", "a.b.c", "([a-z]+)+!", "auto_map", "modeling.py--x"),
)


@st.composite
def text_files(draw: st.DrawFn, texts: Sequence[str], snippets: Sequence[str] = SNIPPETS) -> bytes:
    """A text of `texts`, changed in one to four places; sometimes in bytes that are no UTF-8."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        end = min(end, start + 80)
        change = draw(st.sampled_from(("insert", "replace", "cut", "double", "move")))
        middle = {
            "insert": draw(st.sampled_from(snippets)) + text[start:end],
            "replace": draw(st.sampled_from(snippets)),
            "cut": "",
            "double": text[start:end] * 2,
            "move": text[end : end + 80] + text[start:end],
        }[change]
        text = text[:start] + middle + text[end + 80 * (change == "move") :]
    encoded = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(encoded)))
        encoded = (
            encoded[:place]
            + draw(st.sampled_from((b"\xff", b"\xfe\xff", b"\xed\xa0\x80", b"\x1f\x8b", b"PK\x03\x04")))
            + encoded[place:]
        )
    return encoded[: draw(st.integers(0, len(encoded)))] if draw(st.integers(0, 9)) == 0 else encoded


@st.composite
def changed_values(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value, changed in one to three of its places."""
    changed = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_list_places(changed))
        if not places:
            return draw(st.sampled_from(VALUES))
        holder, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(("value", "value", "value", "remove", "rename", "wrap")))
        if change == "value":
            holder[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))  # which the next change may alter
        elif change == "wrap":
            holder[key] = draw(st.sampled_from(([holder[key]], {"x": holder[key]})))
        elif change == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(("", "x", "\x1b[31m", "x" * 5000, f"{key} ", "__class__")))] = holder.pop(key)
        else:
            del holder[key]
    return changed


def _list_places(value: Any) -> list[tuple[Any, Any]]:
    """Every (dict or list, key or index) of a JSON value."""
    inside = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in inside] + [place for _, each in inside[:50] for place in _list_places(each)]


@st.composite
def json_files(draw: st.DrawFn, texts: Sequence[str]) -> bytes:
    """A JSON file of `texts`, changed as text or in its values."""
    text = draw(st.sampled_from(texts))
    if draw(st.integers(0, 3)) == 0:
        return draw(text_files([text]))
    return json.dumps(draw(changed_values(json.loads(text))), ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )


@st.composite
def json_lines(draw: st.DrawFn, texts: Sequence[str]) -> bytes:
    """A JSONL file of `texts`, changed as text or in the values of one of its rows."""
    text = draw(st.sampled_from(texts))
    if draw(st.booleans()):
        return draw(text_files([text]))
    rows = [json.loads(line) for line in text.splitlines()]
    place = draw(st.integers(0, len(rows) - 1))
    rows[place] = draw(changed_values(rows[place]))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@st.composite
def yaml_files(draw: st.DrawFn, texts: Sequence[str]) -> bytes:
    """A YAML file of `texts`, changed as text or in its values."""
    text = draw(st.sampled_from(texts))
    if draw(st.booleans()):
        return draw(text_files([text]))
    changed = draw(changed_values(yaml.safe_load(text)))
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def safetensors_files(draw: st.DrawFn, content: bytes) -> bytes:
    """A file of weights whose header, or whose length, was changed."""
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    changed = json.dumps(draw(changed_values(header))).encode()
    said = draw(st.sampled_from((len(changed), len(changed), len(changed), 0, 2**63, len(changed) + 10**6)))
    kept = draw(st.sampled_from((len(data), len(data), len(data) // 2, 0)))
    return struct.pack("<Q", said) + changed + data[:kept]
