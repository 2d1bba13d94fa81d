"""Every line of a file is accepted, rejected with its own reason, or blank."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from hf_finetune.data.reading.formats import FORMATS
from hf_finetune.data.reading.reader import LineCounts, describe_rejected_lines, read_first_row, read_rows, read_text
from hf_finetune.data.reading.row_decoder import RowDecoder
from hf_finetune.data.reading.row_lines import RowSettings
from hf_finetune.data.reading.row_types import TextRow
from hf_finetune.errors import DataError

LIMIT = 16 * 1024 * 1024
GOOD = b'{"text": "good"}'


def read(path, format_name="text", limit=LIMIT):
    """Rows of a JSONL file with their line numbers, and the tally, whose sum is checked."""
    tally = LineCounts()
    decoder = RowDecoder(FORMATS[format_name], (), {})
    blocks = list(read_rows(path, path.name, decoder, RowSettings(limit), tally))
    assert tally.accepted + tally.rejected + tally.blank == tally.lines
    rows = [row for block in blocks for row in block.rows]
    numbers = [number for block in blocks for number in block.line_numbers]
    assert len(rows) == len(numbers) == tally.accepted == tally.rows
    return rows, numbers, tally


def read_lines(tmp_path, *lines, format_name="text", limit=LIMIT):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    return read(path, format_name, limit)


def only_reason(tmp_path, line, format_name="text", good=GOOD):
    """The reason for which `line` is rejected between two good ones."""
    _, numbers, tally = read_lines(tmp_path, good, line, good, format_name=format_name)
    assert numbers == [1, 3]
    assert [rejected.line for rejected in tally.first] == [2]
    return tally.first[0].reason


# What is wrong with a line


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a" "b"}', "not valid JSON: Expecting ',' delimiter (character 14)"),
        (b'{"text": "cut of', "the line ends inside the row"),
        (b'{"text": "a"', "the line ends inside the row"),
        (b"{'text': 'a'}", "Expecting property name enclosed in double quotes"),
        (b'{"text": "a"}{"text": "b"}', "more than one JSON value on the line"),
        (b'{"text": "a"}, {"text": "b"}', "more than one JSON value on the line"),
        (b'{"text": "a"}\r{"text": "b"}', "more than one JSON value on the line"),
        (b'{"text": "a"},', "the object ends at character"),
        (b'{"text": "a\tb"}', "Invalid control character"),
        (b'{"text": "a\rb"}', "Invalid control character"),
        (b"[]", "a row must be a JSON object, found an array"),
        (b'[{"text": "a"}]', "a row must be a JSON object, found an array"),
        (b"null", "a row must be a JSON object, found null"),
        (b"3", "a row must be a JSON object, found a number"),
        (b'"x"', "a row must be a JSON object, found a string"),
        (b"true", "a row must be a JSON object, found a boolean"),
        (b'{"text": "a", "text": "a"}', "the key `text` occurs twice in one object"),
        (b'{"text": "a", "te\\u0078t": "b"}', "the key `text` occurs twice in one object"),
        (b'{"text": "a", "text" : "b"}', "the key `text` occurs twice in one object"),
        (b'{"text": "a", "meta": {"k": 1, "k": 2}}', "the key `k` occurs twice in one object"),
        (b'{"text": "a", "score": NaN}', "NaN is not JSON (in `score`)"),
        (b'{"text": "a", "score": -Infinity}', "-Infinity is not JSON"),
        (b'{"text": "a", "id": 9223372036854775808}', "an integer of 19 digits does not fit 64 bits (in `id`)"),
        (b'{"text": "a", "id": -9223372036854775809}', "an integer of 19 digits does not fit 64 bits (in `id`)"),
        (b'{"text": "a", "o": {"id": [1, ' + b"9" * 21 + b"]}}", "of 21 digits does not fit 64 bits (in `o.id[1]`)"),
        (b'{"text": "a", "id": ' + b"9" * 21 + b'} {"text": "b"}', "an integer of 21 digits does not fit 64 bits"),
        (b'{"text": "a", "id": ' + b"9" * 5000 + b"}", "an integer of 5,000 digits does not fit 64 bits (in `id`)"),
        (b'{"text": "a", "score": 1e999}', "a number is too large for double precision"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
        (b'{"text": "a", "meta": ["\\udfff"]}', "half of a surrogate pair"),
        (b'{"text": "a", "meta": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than 128 levels deep"),
        (b"[" * 100_000, "nested more than 128 levels deep"),
        (b'{"text": "caf\xe9"}', "byte 14 of the line is 0xE9, which is not UTF-8"),
        (b'{"text": "\xed\xa0\x80"}', "byte 11 of the line is 0xED, which is not UTF-8"),
        (b'{"text": "a", "meta": ["\xff"]}', "byte 25 of the line is 0xFF, which is not UTF-8"),
        (b'{"te\0xt": "a"}', "NUL bytes"),
        (b'{"text": 3}', "`text` must be string, found int"),
        (b'{"text": null}', "`text` must be string, found null"),
        (b'{"text": ["a"]}', "`text` must be string, found array"),
        (b'{"txet": "a"}', "the key `txet` is not known"),
        (b'{"label": "a"}', "the key `text` is missing"),
        (b"{}", "the key `text` is missing"),
        (b"\x0b", "not valid JSON"),
        (b'\xef\xbb\xbf{"text": "a"}', "not valid JSON"),
    ],
)
def test_each_way_to_break_a_line_has_its_own_reason(tmp_path, line, reason):
    assert reason in only_reason(tmp_path, line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "a", "score": 1.5, "meta": {"k": [1, null]}}',
        b'\t {"text" : "a" } \r',
        b'{"text": "\\ud83d\\ude00"}',
        b'{"text": "she said \\"text\\": yes \\\\", "note": "text"}',
        b'{"text": "text", "source": "x"}',
        b'{"te\\u0078t": "a"}',
        b'{"text": "a", "id": 9223372036854775807, "low": -9223372036854775808}',
        b'{"text": "a", "meta": ' + b"[" * 127 + b"]" * 127 + b"}",
        b'{"text": "' + b"[" * 1000 + b'"}',
        b'{"text": ""}',
    ],
)
def test_unusual_but_sound_lines_are_accepted(tmp_path, line):
    rows, _, tally = read_lines(tmp_path, GOOD, line)
    assert not tally.rejected
    assert rows[1].text == json.loads(line)["text"]


def test_no_reason_or_remedy_shows_text_of_a_row(tmp_path):
    secret = "Xyzzy-secret"
    lines = [
        f'{{"text": "{secret}"',
        f'{{"text": ["{secret}"]}}',
        f'{{"text": "{secret}"}} {secret}',
        f"{{'text': '{secret}'}}",
        f'{{"label": "{secret}"}}',
        f'{{"text": "{secret}\\ud800"}}',
        secret,
        f'{{"text": "{secret}\\q"}}',
    ]
    _, _, tally = read_lines(tmp_path, *(line.encode() for line in lines))
    assert tally.rejected == len(lines)
    problems = "\n".join(map(str, describe_rejected_lines("rows.jsonl", tally, 100)))
    assert secret not in problems
    assert problems.count("rows.jsonl:") == len(lines)


def test_control_characters_in_a_key_are_escaped_in_the_message(tmp_path):
    _, _, tally = read_lines(tmp_path, rb'{"\u001b[31mtext": "a"}')
    [problem] = describe_rejected_lines("rows.jsonl", tally, 100)
    assert "\x1b" not in str(problem)
    assert "\\x1b[31mtext" in str(problem)


def test_a_misspelt_key_says_how_many_rows_have_it(tmp_path):
    _, _, tally = read_lines(tmp_path, GOOD, b'{"txet": "a"}', GOOD, b'{"txet": "b"}')
    assert [str(problem) for problem in describe_rejected_lines("rows.jsonl", tally, 1)] == [
        "rows.jsonl:2: text: the key `txet` is not known (2 rows have it); did you mean `text`? [HF025]"
    ]


def test_one_bad_line_far_into_a_file_is_named_by_its_number(tmp_path):
    lines = [b'{"text": "row %d"}' % number for number in range(200_000)]
    lines[173_204] = b'{"text": "row"'
    rows, _, tally = read_lines(tmp_path, *lines)
    assert [rejected.line for rejected in tally.first] == [173_205]
    assert len(rows) == 199_999
    assert tally.lines == 200_000


# Line ends, encodings, compression


LINE_BREAKS = ["\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize(
    ("character", "escaped"),
    [(each, True) for each in LINE_BREAKS] + [(each, False) for each in LINE_BREAKS if each > " "],
)
def test_unicode_line_breaks_inside_strings_are_text(tmp_path, character, escaped):
    line = json.dumps({"text": f"a{character}b"}, ensure_ascii=escaped).encode()
    rows, _, tally = read_lines(tmp_path, line, GOOD)
    assert [row.text for row in rows] == [f"a{character}b", "good"]
    assert tally.lines == 2


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"end"])
def test_line_ends_blank_lines_and_a_missing_last_one_are_counted(tmp_path, end, last):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(end.join([GOOD, b"", b" \t ", GOOD]) + (end if last else b""))
    rows, numbers, tally = read(path)
    assert [row.text for row in rows] == ["good", "good"]
    assert numbers == [1, 4]
    assert (tally.lines, tally.accepted, tally.blank) == (4, 2, 2)


def test_a_hundred_million_blank_lines_are_counted_in_seconds(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(b"\n" * 1_000_000)
        file.write(GOOD)
    started = time.process_time()
    rows, numbers, tally = read(path)
    assert time.process_time() - started < 10
    assert ([row.text for row in rows], numbers) == (["good"], [100_000_001])
    assert (tally.lines, tally.accepted, tally.blank) == (100_000_001, 1, 100_000_000)


def test_a_byte_order_mark_is_dropped_and_noted(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD)
    rows, _, _ = read(path)
    assert [row.text for row in rows] == ["good"]
    assert caplog.text.count("byte order mark") == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named_with_the_command_that_converts(tmp_path, encoding):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"text": "Grüße"}\n'.encode(encoding))
    with pytest.raises(DataError, match=r"rows.jsonl:1: byte 1 starts UTF-\d\d.*iconv -f UTF-\d\d"):
        read(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.bin"])
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_compression_is_recognized_by_content_and_not_by_name(tmp_path, name, pack):
    path = tmp_path / name
    lines = b"\n".join(b'{"text": "row %d"}' % number for number in range(50_000))
    path.write_bytes(pack(lines[:400_000]) + pack(lines[400_000:]))  # two members, as `cat a.gz b.gz` makes
    rows, _, _ = read(path)
    assert [row.text for row in rows] == [f"row {number}" for number in range(50_000)]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_compressed_file_is_refused(tmp_path, pack, damage):
    packed = pack(b"\n".join(b'{"text": "%x"}' % random.Random(n).getrandbits(256) for n in range(5_000)))
    half = len(packed) // 2
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(packed[:half] if damage == "cut off" else packed[:half] + bytes(64) + packed[half + 64 :])
    with pytest.raises(DataError, match=r"rows.jsonl.gz: the compressed file is damaged or cut off"):
        read(path)


@pytest.mark.parametrize(("head", "kind"), [(b"PK\x03\x04", "zip"), (b"PAR1", "Parquet"), (b"BZh9", "bzip2")])
def test_files_of_another_kind_are_named(tmp_path, head, kind):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(head + b"\x15\x04\x90")
    with pytest.raises(DataError, match=kind):
        read(path)


# JSON in another form


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (json.dumps([{"text": "a\n"}, {"text": "é"}]), "one JSON array"),
        (json.dumps([{"text": "a\n"}, {"text": "é"}], indent=2), "one JSON array"),
        (json.dumps({"text": "a\n"}, indent=2) + "\n" + json.dumps({"text": "é"}, indent=4), "pretty-printed"),
    ],
)
def test_the_command_named_for_another_form_of_json_makes_a_file_that_is_read(tmp_path, content, form):
    path = tmp_path / "my rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=form) as refused:
        read(path)
    command = refused.value.problems[0].remedy.split("`")[1]
    command = re.sub(r"^python ", f"{sys.executable} ", command)
    command = re.sub(r"^hf-finetune ", f"{sys.executable} -m hf_finetune.cli ", command)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    rows, _, _ = read(next(made for made in tmp_path.glob("*.jsonl") if made != path))
    assert [row.text for row in rows] == ["a\n", "é"]


def test_a_large_array_is_recognized_by_its_first_megabyte(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps([{"text": "a" * 600_000}] * 4))
    with pytest.raises(DataError, match="one JSON array"):
        read(path)


def test_a_first_line_that_is_cut_off_does_not_make_the_file_pretty_printed(tmp_path):
    rows, _, tally = read_lines(tmp_path, b'{"text": "cut', GOOD)
    assert len(rows) == 1
    assert tally.first[0].line == 1


# Long lines and memory


def test_a_line_above_the_limit_is_rejected_with_its_size_and_not_held(tmp_path):
    path = tmp_path / "rows.jsonl"
    limit = 1024 * 1024
    with path.open("wb") as file:
        file.write(GOOD + b"\n" + b'{"text": "')
        for _ in range(100):
            file.write(b"x" * limit)
        file.write(b'"}\n' + GOOD)
    tracemalloc.start()
    _, numbers, tally = read(path, limit=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert numbers == [1, 3]
    assert f"the line has {100 * limit + 12:,} bytes, more than the limit of {limit:,}" == tally.first[0].reason
    assert peak <= 3 * limit


@pytest.mark.parametrize("size", [99, 100, 101])
@pytest.mark.parametrize("last", [True, False])
def test_the_limit_is_the_longest_line_that_is_accepted(tmp_path, size, last):
    line = b'{"text": "' + b"x" * (size - 12) + b'"}'
    lines = (GOOD, line) if last else (GOOD, line, GOOD)
    rows, _, tally = read_lines(tmp_path, *lines, limit=100)
    assert tally.rejected == (size > 100)
    assert len(rows) == len(lines) - (size > 100)


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak_of(count):
        path = tmp_path / f"{count}.jsonl"
        path.write_bytes(b'{"text": "%s"}\n' % (b"x" * 500) * count)
        decoder = RowDecoder(FORMATS["text"], (), {})
        tracemalloc.start()
        for _ in read_rows(path, path.name, decoder, RowSettings(LIMIT), LineCounts()):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_of(40_000) < 1.2 * peak_of(4_000)


# The first row


def test_the_first_row_is_the_first_sound_object(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\n[]\n{"text": "a", "text": "b"}\n{"a": 1}\n{"b": 2}')
    assert read_first_row(path, "rows.jsonl", RowSettings(LIMIT)) == ({"a": 1}, 4)


def test_a_file_without_an_object_has_no_first_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\nnull\n")
    assert read_first_row(path, "rows.jsonl", RowSettings(LIMIT)) is None


# Plain text

TEXT = "First line\r\nsecond line\n\n \nThird, Grüße\u2028still third\n\n\n  indented\nlast"


def texts_of(path, cut, limit=LIMIT):
    tally = LineCounts()
    blocks = list(read_text(path, path.name, cut, limit, tally))
    assert tally.accepted + tally.rejected + tally.blank == tally.lines
    assert all(isinstance(row, TextRow) for block in blocks for row in block.rows)
    texts = [row.text for block in blocks for row in block.rows]
    assert len(texts) == tally.rows
    return texts, [number for block in blocks for number in block.line_numbers], tally


@pytest.mark.parametrize(
    ("cut", "texts", "numbers"),
    [
        (
            "lines",
            ["First line", "second line", "Third, Grüße\u2028still third", "  indented", "last"],
            [1, 2, 5, 8, 9],
        ),
        ("paragraphs", ["First line\nsecond line", "Third, Grüße\u2028still third", "  indented\nlast"], [1, 5, 8]),
        ("file", [TEXT.replace("\r\n", "\n")], [1]),
    ],
)
def test_plain_text_is_cut_as_named(tmp_path, cut, texts, numbers):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    assert texts_of(path, cut)[:2] == (texts, numbers)
    assert texts_of(path, cut)[2].lines == 9


def test_a_whole_file_is_one_document_to_the_last_character(tmp_path):
    path = tmp_path / "text.txt"
    for text in ("a\nb", "a\nb\n", "a\nb\n\n", "\n\na", "x" * 300_000 + "\n" + "y" * 300_000 + "\n"):
        path.write_bytes(text.encode())
        assert texts_of(path, "file")[0] == [text]


@pytest.mark.parametrize("cut", ["lines", "paragraphs", "file"])
def test_a_bad_byte_in_plain_text_is_named_by_line(tmp_path, cut):
    path = tmp_path / "text.txt"
    path.write_bytes(b"one\ncaf\xe9\nthree")
    _, _, tally = texts_of(path, cut)
    assert [(rejected.line, rejected.reason) for rejected in tally.first] == [
        (2, "byte 4 of the line is 0xE9, which is not UTF-8")
    ]


@pytest.mark.parametrize("cut", ["lines", "paragraphs", "file"])
@pytest.mark.parametrize("content", [b"", b"\n \n\t\n"])
def test_text_without_a_character_gives_no_document(tmp_path, cut, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert texts_of(path, cut)[0] == []


def test_paragraphs_that_cross_a_chunk_border_stay_whole(tmp_path):
    paragraphs = [f"paragraph {number}\n" + "word " * 40 + "end" for number in range(10_000)]
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(paragraphs))
    assert texts_of(path, "paragraphs")[0] == paragraphs


def test_a_file_that_cannot_be_opened_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read(Path(tmp_path / "none.jsonl"))
