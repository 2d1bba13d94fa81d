"""What `hf-finetune explain` says of a code, and of all of them."""

from __future__ import annotations

import re
import textwrap
from itertools import groupby

from hf_finetune.codes.code import Code
from hf_finetune.codes.table import CODES

_GROUPS = {
    "0": "Files and rows",
    "1": "Lengths, tokens and chat templates",
    "2": "Duplicates and leakage between splits",
    "3": "Labels and evaluation",
    "4": "Personal data and secrets",
    "5": "Models and tokenizers",
    "6": "The run file and the command line",
    "7": "The machine and its folders",
    "8": "The Hub",
    "9": "Training, its checkpoints, and what comes of it",
}
"""By the first digit of a code."""


def find_code(written: str) -> str | None:
    """Find a code as somebody types it: `HF012`, `hf012`, `12` or `[HF012]`; None where there is none."""
    name = written.strip().strip("[]").upper()
    if re.fullmatch(r"\d{1,3}", name):
        name = f"HF{name:>03}"
    return name if name in CODES else None


def format_page(name: str) -> str:
    """The page of a code, in lines of 80 characters."""
    code = CODES[name]
    paragraphs = (f"{name} ({code.level}): {code.title}", code.why, f"What to do: {code.remedy}.")
    return "\n\n".join(textwrap.fill(each, 80, break_on_hyphens=False) for each in paragraphs)


def format_list() -> str:
    """All codes with their titles, by groups."""
    return "\n\n".join(
        "\n".join([group, *(f"  {name}  {code.title}" for name, code in codes)]) for group, codes in _iterate_groups()
    )


def format_markdown() -> str:
    """docs/codes.md, which is made of the table: `hf-finetune explain --markdown > docs/codes.md`."""
    parts = ["# Codes", _INTRODUCTION]
    for group, codes in _iterate_groups():
        parts.append(f"## {group}")
        parts += [
            f"### {name}\n\n**{_capitalize(code.title)}** ({code.level}). {code.why} What to do: {code.remedy}."
            for name, code in codes
        ]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """\
Every message about a file, a row, a setting, a model or a machine ends with a code, and `hf-finetune explain HF601`
says what it stands for. A code is given once and never given again; what it is about may be said in other words.
Errors end a command; warnings and notes do not."""


def _iterate_groups() -> list[tuple[str, list[tuple[str, Code]]]]:
    return [
        (_GROUPS[digit], list(codes)) for digit, codes in groupby(sorted(CODES.items()), key=lambda each: each[0][2])
    ]


def _capitalize(title: str) -> str:
    return title[:1].upper() + title[1:]
