"""`hf-finetune explain`, and the page of all codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.codes import CODES, find_code
from hf_finetune.errors import ConfigError

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("written", ["HF101", "hf101", "[HF101]", "101", " HF101 "])
def test_a_code_is_read_as_it_is_typed(written):
    assert find_code(written) == "HF101"


def test_the_page_says_what_why_and_what_to_do():
    shown = CliRunner().invoke(app, ["explain", "HF101", "401"])
    assert shown.exit_code == 0
    for name in ("HF101", "HF401"):
        for part in (name, CODES[name].title, CODES[name].why, CODES[name].remedy):
            assert part in " ".join(shown.output.split())
    listed = CliRunner().invoke(app, ["explain"]).output
    assert sorted(re.findall(r"^  (HF\d{3})  \S", listed, re.M)) == sorted(CODES)
    assert set(json.loads(CliRunner().invoke(app, ["explain", "--json"]).output)) == set(CODES)


def test_what_is_no_code_is_said():
    with pytest.raises(ConfigError) as refused:
        CliRunner().invoke(app, ["explain", "HF999", "HF101", "word", "", "10100"], catch_exceptions=False)
    assert [problem.what for problem in refused.value.problems] == [
        f"{written!r} is no code of a message" for written in ("HF999", "word", "", "10100")
    ]
    assert str(refused.value).startswith("'HF999' is no code of a message; `hf-finetune explain` lists them [HF601]\n")


def test_codes_are_three_digits_and_their_texts_are_sentences():
    for name, code in CODES.items():
        assert re.fullmatch(r"HF\d{3}", name)
        assert re.fullmatch(r"[A-Z0-9].*\.", code.why), name
        assert re.fullmatch(r"[a-z`].*[^.]", code.remedy), name
        assert re.fullmatch(r".{3,79}[^.]", code.title), name
    assert len({code.title for code in CODES.values()}) == len(CODES)


def test_the_page_of_codes_is_the_table():
    printed = CliRunner().invoke(app, ["explain", "--markdown"]).output
    assert (DOCS / "codes.md").read_text("utf-8") == printed, "hf-finetune explain --markdown > docs/codes.md"
