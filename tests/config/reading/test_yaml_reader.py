from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_finetune.config.reading.yaml_reader import MAX_BYTES, parse_plain, read_document
from hf_finetune.errors import ConfigError


def refusal(workspace, content: bytes | str) -> str:
    data = content.encode() if isinstance(content, str) else content
    (workspace / "run.yaml").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_document("run.yaml")
    assert len(caught.value.problems) == 1
    return str(caught.value)


def document_problems(workspace, text: str) -> list[str]:
    (workspace / "run.yaml").write_text(text, encoding="utf-8")
    return [str(problem) for problem in read_document("run.yaml").problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("2e5", 2e5),
        ("1_000", 1000),
        ("010", 10),
        ("-3", -3),
        (".5", 0.5),
        ("1.", 1.0),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x1f", "0x1f"),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_a_plain_word_is_what_a_person_means_by_it(text, value):
    assert parse_plain(text) == value
    assert type(parse_plain(text)) is type(value)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_as_python_writes_them_are_numbers(number):
    if abs(number) < 10**99:
        assert parse_plain(repr(number)) == number


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers(0, 99) | st.booleans(), min_size=1))
def test_values_agree_with_pyyaml_where_the_rules_agree(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert read_document(str(path)).values == values


def test_every_key_has_its_line(workspace):
    text = "# first\nrecipe: a\n\nmodel:\n  scratch: {preset: b,\n    qk_norm: true}\n"
    text += "data:\n  train:\n    - one\n    - two\n"
    (workspace / "run.yaml").write_text(text, encoding="utf-8")
    places = read_document("run.yaml").places
    assert {key: place.line for key, place in places.items()} == {
        ("recipe",): 2,
        ("model",): 4,
        ("model", "scratch"): 5,
        ("model", "scratch", "preset"): 5,
        ("model", "scratch", "qk_norm"): 6,
        ("data",): 7,
        ("data", "train"): 8,
        ("data", "train", 0): 9,
        ("data", "train", 1): 10,
    }


def test_a_duplicate_key_names_both_lines(workspace):
    found = document_problems(workspace, "train:\n  seed: 1\n  bf16: true\n  seed: 2\n")
    assert found == ["run.yaml:4: train.seed: is given twice, first in line 2; keep one of them [HF612]"]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!mine 3", "!!int '3'", "!!binary aGk="])
def test_tags_are_refused_and_nothing_is_constructed(workspace, tag):
    (problem,) = document_problems(workspace, f"train:\n  seed: {tag}\n")
    assert problem.startswith("run.yaml:2: train.seed: has the tag !")


def test_merge_keys_and_keys_that_are_no_words_are_refused(workspace):
    found = document_problems(workspace, "a: &a {b: 1}\nc:\n  <<: *a\n? [d, e]\n: 1\n")
    assert [problem.split(";")[0] for problem in found] == [
        "run.yaml:3: c.<<: merge keys are not read",
        "run.yaml:4: has a key that is not a word",
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: 1\n\tb: 2\n", "run.yaml:2: column 1: a tab; indent with spaces"),
        ("a: b: c\n", "run.yaml:1: column 5: not valid YAML (a second colon)"),
        ("a: 'b\n", "run.yaml:2: column 1: not valid YAML (found unexpected end of stream)"),
        ("a: [1\nb: 2\n", "run.yaml:2: column 2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "run.yaml:2: column 1: not valid YAML (a second document begins)"),
        ("a: *b\n", "run.yaml:1: column 4: not valid YAML (found undefined alias 'b')"),
        ("", "run.yaml:1: the file is empty"),
        ("# nothing\n\n", "run.yaml:1: the file is empty"),
        ("- a\n", "run.yaml:1: the file is not a mapping"),
        ("word\n", "run.yaml:1: the file is not a mapping"),
        ("a: 1\nb: \x07\n", "run.yaml:2: the character U+0007 is not allowed"),
        (b"a: 1\nb: \xff\n", "run.yaml:2: byte 8 is not UTF-8"),
        ("a: 1".encode("utf-16"), "run.yaml:1: byte 0 is not UTF-8"),
    ],
)
def test_a_file_that_is_not_a_run_file_gets_one_clear_message(workspace, text, start):
    assert refusal(workspace, text).startswith(start)


def test_a_byte_order_mark_and_windows_line_ends_are_read(workspace):
    (workspace / "run.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: two\r\n")
    assert read_document("run.yaml").values == {"a": 1, "b": "two"}


def test_aliases_that_multiply_are_stopped(workspace):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "more than 10,000 values" in refusal(workspace, "\n".join(lines))


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: " + "[" * 40 + "]" * 40, "a: " + "[" * 100_000])
def test_deep_and_endless_nesting_is_stopped(workspace, text):
    assert "nested too deeply" in refusal(workspace, text)


def test_a_missing_file_names_the_one_that_was_meant(workspace):
    (workspace / "shakespeare.yaml").touch()
    with pytest.raises(ConfigError, match=r"shakespear\.yaml: no such run file; did you mean shakespeare\.yaml\?"):
        read_document("shakespear.yaml")
    with pytest.raises(ConfigError, match="the folder configs does not exist"):
        read_document("configs/a.yaml")


def test_a_folder_a_data_file_and_an_impossible_name_are_refused(workspace):
    (workspace / "one.yaml").touch()
    with pytest.raises(ConfigError, match=r"is a folder, not a run file; YAML files there: one\.yaml"):
        read_document(".")
    (workspace / "big.jsonl").write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="is this a data file"):
        read_document("big.jsonl")
    with pytest.raises(ConfigError, match="no such run file"):
        read_document("a\0b")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_document("x" * 300)
