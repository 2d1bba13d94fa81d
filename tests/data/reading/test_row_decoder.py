"""The reader and Python's own decoder under the strict definition agree on every line of broken files."""

from __future__ import annotations

import difflib
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from hf_finetune.data.reading import reader, row_lines
from hf_finetune.data.reading.formats import FORMATS
from hf_finetune.data.reading.reader import LineCounts
from hf_finetune.data.reading.row_checks.labels import LabelRule
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings

LIMIT = 1024 * 1024


class Refused(Exception):
    pass


# The oracle: json.loads and plain Python checks, written from the definition alone.


def pairs_hook(pairs):
    if len({key for key, _ in pairs}) < len(pairs):
        raise Refused("duplicate key")
    return dict(pairs)


def constant_hook(name):
    raise Refused(name)


def check_values(value, depth):
    if isinstance(value, (dict, list)):
        depth += 1
        if depth > 128:
            raise Refused("depth")
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, float):
        require(abs(value) != float("inf"))
    elif isinstance(value, int):
        require(-(2**63) <= value <= 2**63 - 1)
    elif isinstance(value, dict):
        for key, each in value.items():
            check_values(key, depth)
            check_values(each, depth)
    elif isinstance(value, list):
        for each in value:
            check_values(each, depth)


def require(condition):
    if not condition:
        raise Refused("type")


def check_slips(value, optional, known):
    unknown = [key for key in value if key not in known]
    for key in optional:
        require(key in value or not difflib.get_close_matches(key, unknown, 1, 0.8))


def check_text(row, state):
    require(isinstance(row.get("text"), str))
    return {"text": row["text"]}


def check_labelled(row, state):
    require(isinstance(row.get("text"), str) and "label" in row)
    check_slips(row, ["text_pair"], ["text", "label", "text_pair"])
    require(row.get("text_pair") is None or isinstance(row["text_pair"], str))
    label = row["label"]
    require(type(label) in (str, int, list))
    values = label if isinstance(label, list) else [label]
    require(values and len(set(map(repr, values))) == len(values))
    require(not any(isinstance(each, str) and not each.strip() for each in values))
    kind = [type(label)]
    if isinstance(label, list):
        require(all(type(each) in (str, int) for each in label) and len({type(each) for each in label}) <= 1)
        kind += [type(each) for each in label[:1]]
    first = state.setdefault("kind", kind)
    require(kind[0] is first[0] and (len(kind) < 2 or len(first) < 2 or kind == first))
    if len(kind) > len(first):
        state["kind"] = kind
    return {"text": row["text"], "label": label}


def check_messages(row, state):
    require(isinstance(row.get("messages"), list) and row["messages"])
    check_slips(row, ["tools"], ["messages", "tools"])
    require(row.get("tools") is None or isinstance(row["tools"], list))
    extras = ["name", "tool_calls", "tool_call_id", "function_call", "reasoning_content"]
    for message in row["messages"]:
        require(isinstance(message, dict))
        require(isinstance(message.get("role"), str) and message["role"])
        calls = "tool_calls" in message or "function_call" in message
        require(isinstance(message.get("content"), str) or (calls and message.get("content") is None))
        require(message.get("train") in (True, False, None) and type(message.get("train")) in (bool, type(None)))
        require(type(message.get("weight")) in (int, float, type(None)))
        check_slips(message, ["train", "weight", *extras], ["role", "content", "train", "weight", *extras])
    check_turns(row["messages"])
    return {"roles": [message["role"] for message in row["messages"]]}


def check_turns(messages):
    roles = [message["role"] for message in messages]
    require(set(roles) <= {"system", "developer", "user", "assistant", "tool", "function"})
    opening = len(list(itertools.takewhile(lambda role: role in ("system", "developer"), roles)))
    require(not {"system", "developer"} & set(roles[opening:]))
    require(("assistant", "assistant") not in itertools.pairwise(roles))
    answers = [message for message in messages if message["role"] == "assistant"]
    for answer in answers:
        require((answer.get("content") or "").strip() or answer.get("tool_calls") or answer.get("function_call"))
    require(any(answer.get("train") is not False and answer.get("weight") not in (0, 0.0) for answer in answers))


CHECKS = {"text": check_text, "labelled": check_labelled, "messages": check_messages}


def oracle(line, format_name, state):
    """The row as far as it is compared, or None where the definition rejects the line."""
    try:
        value = json.loads(line.decode("utf-8"), object_pairs_hook=pairs_hook, parse_constant=constant_hook)
        require(isinstance(value, dict))
        check_values(value, 0)
        return CHECKS[format_name](value, state)
    except (Refused, ValueError, RecursionError):
        return None


def seen(row, format_name):
    if format_name == "messages":
        return {"roles": [message.role for message in row.messages]}
    names = ["text", "label"] if format_name == "labelled" else ["text"]
    return {name: getattr(row, name) for name in names}


CORPUS = {
    "text": [
        b'{"text": "a plain row", "source": "web", "id": 17}',
        '{"text":"Gr\u00fc\u00dfe \u2028 \u4f60\u597d \U0001f600","source":"x"}'.encode(),
        b'{"text": "say \\"text\\": \\n \\\\ \\u0041 \\ud83d\\ude00 \\u2028"}',
        b'{"source": "text", "text": "source", "id": -1.5e3}',
        b'{"te\\u0078t": "escaped", "id": null}',
        b'{"text": "a", "meta": {"k": [1, 2.5, {"z": null}], "source": true}}',
        b'{"text" : "spaced" , "source" :"b"}\r',
        b'{"text": "a", "text": "b"}',
        b'{"text": "\\ud800", "id": 9999999999999999999}',
        b'{"text": "big", "meta": {"n": 9223372036854775808}}',
        b'{"text": "deep", "meta": ' + b"[" * 127 + b"]" * 127 + b"}",
        b'{"text": "deeper", "meta": ' + b"[" * 128 + b"]" * 128 + b"}",
        b'{"text": "a"} {"text": "b"}',
    ],
    "labelled": [
        b'{"text": "fine", "label": "ham"}',
        b'{"text": "fine", "label": 1, "text_pair": "two"}',
        b'{"text": "many", "label": ["a", "b"]}',
        b'{"text": "many", "label": []}',
        b'{"text": "many", "label": [1, 2]}',
        b'{"label":"text","text":"label","text_pair":null}',
        b'{"text": "float", "label": 1.0}',
        b'{"text": "mixed", "label": [1, "a"]}',
        b'{"text": "big", "label": 9223372036854775807}',
        b'{"text": "blank", "label": " \\u00a0"}',
        b'{"text": "twice", "label": ["a", "b", "a"]}',
        b'{"text": "blank among others", "label": ["a", ""]}',
    ],
    "messages": [
        b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "train": true}]}',
        b'{"messages": [{"role": "assistant", "content": "role"}, {"content": "x", "role": "user", "weight": 0}]}',
        b'{"messages": [{"role": "assistant", "content": null, "tool_calls": [{"f": {"a": 1}}]}], "tools": [{"n": 2}]}',
        b'{"messages": [{"role": "assistant", "tool_calls": []}], "tools": null}',
        b'{"messages":[{"role":"system","content":""},{"role":"assistant","content":"a"},'
        b'{"role":"tool","name":"f","content":"{\\"x\\": 1}","tool_call_id":"1"},{"role":"assistant","content":"b"}]}',
        b'{"messages": [{"role": "assistant", "content": "q", "train": null, "weight": 0.5}], "id": "x"}',
        b'{"messages":[{"role":"user","role":"assistant","content":"q"}],"messages_id":3}',
        b'{"messages":[{"role":"user","content":"q"},{"role":"user","content":"r"},{"role":"assistant","content":"a"}]}',
        b'{"messages":[{"role":"assistant","content":"q"},{"role":"assistant","content":"a"}]}',
        b'{"messages":[{"role":"assistant","content":" \\n\\u00a0"}],"id":1}',
        b'{"messages":[{"role":"assistant","content":"q","weight":0.0}],"id":1}',
        b'{"messages":[{"role":"user","content":"q"},{"role":"system","content":"s"},{"role":"assistant","content":"a"}]}',
        b'{"messages":[{"role":"user","content":"q"},{"role":"bot","content":"a"},{"role":"assistant","content":"a"}]}',
        b'{"messages":[{"role":"user","content":"q"}]}',
        b'{"messages": []}',
    ],
}

PIECES = [
    b"", b'"', b"{", b"}", b"[", b"]", b",", b":", b" ", b"\\", b"\0", b"\t", b"\r", b"\n", b"\xff", b"\xc3",
    b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xc2\x85", b"1", b"-", b".", b"e9", b"NaN", b"null", b"true", b"1e999",
    b"18446744073709551616", b'"text": 1, ', b'"text": "b", ', b'"label": "x", ', b'"role": "tool", ', b'"id": 0, ',
    b'"te\\u0078t": "c", ', b'"x" : 1, ', b"\\u0000", b"\\ud800", b"\\udc00", b"\\u0074", b"[" * 130, b'{"a":' * 130,
    b"\xef\xbb\xbf",
]  # fmt: skip

DECODERS = {name: RowDecoder(FORMATS[name], (), {"source": "x", "id": 1}) for name in CORPUS}

# One drawn value for a whole file: as lists of tuples it is drawn ten times as slowly.
PLAN = st.binary(min_size=4 * 11 + 2, max_size=4 * 11 + 2)


def planned_line(plan, corpus):
    """A line of the corpus with up to three edits, each given by a place, how many bytes go and which piece comes."""
    line = corpus[plan[0] % len(corpus)]
    for place, removed, piece in (plan[2:5], plan[5:8], plan[8:11])[: plan[1] % 4]:
        place %= len(line) + 1
        line = line[:place] + PIECES[piece % len(PIECES)] + line[place + removed % 4 :]
    return line


def planned_file(plan, corpus):
    lines = [planned_line(plan[start : start + 11], corpus) for start in range(2, len(plan), 11)]
    # A first line that is sound: a file in another encoding or form is refused as a whole, which is tested elsewhere.
    return b"\n".join([corpus[plan[0] // 8 % 2], *lines[: 1 + plan[0] % 4]]) + b"\n" * (plan[0] // 4 % 2)


@settings(max_examples=4_000, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(format_name=st.sampled_from(sorted(CORPUS)), plan=PLAN)
def test_broken_files_are_judged_as_json_loads_judges_them_line_by_line(format_name, plan):
    check_file(planned_file(plan, CORPUS[format_name]), format_name, chunk=(3, 50, 10_000)[plan[1] % 3])


def check_file(content, format_name, chunk):
    chunks = (content[start : start + chunk] for start in range(0, len(content), chunk))
    tally, state = LineCounts(), {}
    decoder = DECODERS[format_name]
    decoder.labels = LabelRule()
    with pytest.MonkeyPatch.context() as patched:
        # Opening a file takes longer than all the rest.
        patched.setattr(row_lines, "decompress", lambda path, shown, place: chunks)
        blocks = list(reader.read_rows(Path("rows.jsonl"), "rows.jsonl", decoder, RowSettings(LIMIT), tally))
    accepted = {
        number: seen(row, format_name)
        for block in blocks
        for number, row in zip(block.line_numbers, block.rows, strict=True)
    }
    rejected = {line.line for line in tally.first}
    lines = content.removesuffix(b"\n").split(b"\n") if content.endswith(b"\n") else content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip(b" \t\r"):
            assert number not in accepted
            assert number not in rejected
            continue
        expected = oracle(line, format_name, state)
        if expected is None:
            assert number in rejected, line
        else:
            assert accepted.get(number) == expected, line
    assert tally.lines == len(lines)
    assert tally.accepted + tally.rejected + tally.blank == tally.lines


@pytest.mark.parametrize("format_name", sorted(CORPUS))
def test_the_corpus_itself_holds_sound_and_broken_lines(format_name):
    results = [oracle(line, format_name, {}) for line in CORPUS[format_name]]
    assert None in results
    assert len(results) - results.count(None) > 3
    check_file(b"\n".join(CORPUS[format_name]), format_name, 10_000)


def test_plain_blocks_take_the_fast_way_and_suspicious_ones_do_not():
    decoder = RowDecoder(FORMATS["text"], (), {"source": "x"})

    def is_fast(line):
        return decoder.decode_block(line, 1) is not None

    assert is_fast(b'{"text": "a", "source": "b"}')
    assert is_fast(b'{"text": "she said: \\"text\\": x", "source": "b"}')
    assert is_fast(b'{"text" : "a"}')
    assert is_fast(b'{"text": "\\u001b[1m"}')
    assert not is_fast(b'{"text": "a", "source": "b", "source": "b"}')
    assert not is_fast(b'{"text": "a", "te\\u0078t": "b"}')
    assert not is_fast(b'{"text": "a", "text" : "b"}')
    assert not is_fast(b'{"text": "a", "unknown": "b"}')


def test_two_lines_whose_faults_cancel_out_are_not_taken_for_sound():
    decoder = RowDecoder(FORMATS["text"], (), {"source": "x"})
    lines = [b'{"text": "a", "source": "b", "source": "c"}', b'{"text": "a"}']
    assert decoder.decode_block(b"\n".join(lines), len(lines)) is None


def test_fields_that_a_split_needs_are_kept_and_others_noted():
    decoder = RowDecoder(FORMATS["text"], ("lang", "größe"), {"text": "a", "lang": "de", "source": "x", "meta": {}})
    row = decoder.decode_line(
        '{"text": "a", "lang": "de", "größe": 3, "meta": {}, "source": "x"}'.encode(), "rows.jsonl:1"
    )
    assert decoder.get_field_getter("lang")(row) == "de"
    assert decoder.get_field_getter("größe")(row) == 3
    assert decoder.unused_keys == {"source", "meta"}
    assert decoder.get_field_getter("lang")(decoder.decode_line(b'{"text": "a"}', "rows.jsonl:2")) is UNSET


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"text": "a"} {"text": "b"}', b'{"text":', b'"c"}'],
        [b'{"text": "a"} {"text": "b"}', b""],
        [b'{"text": "a"} {"text": "b"}', b'{"text": "c"', b"}"],
        [b"", b'{"text": "a"} {"text": "b"}', b'{"text": "c"}'],
        [b'{"text": "a"}{"text": "}', b'{"}'],
    ],
)
def test_as_many_rows_as_lines_are_not_enough_where_one_has_two_and_another_none(lines):
    assert RowDecoder(FORMATS["text"], (), {}).decode_block(b"\n".join(lines), len(lines)) is None


def test_lines_that_end_as_on_windows_or_begin_with_a_space_take_the_fast_way_too():
    lines = [b'{"text": "a"}\r', b' {"text": "b"}\r']
    rows = RowDecoder(FORMATS["text"], (), {}).decode_block(b"\n".join(lines), len(lines))
    assert [row.text for row in rows] == ["a", "b"]
