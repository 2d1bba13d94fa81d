"""`hf-finetune explain`: what a code in a message stands for."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_finetune.cli.terminal import Json, print_json, say
from hf_finetune.errors import ConfigError, Problem


def explain(
    codes: Annotated[
        list[str] | None, typer.Argument(metavar="[CODE]...", help="Such as HF602; without one, all are listed.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of all codes, docs/codes.md.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a code in a message stands for, why it matters and what to do."""
    from dataclasses import asdict

    from hf_finetune.codes import CODES, format_list, format_markdown, format_page

    names = _read_codes(codes or [])
    if as_json:
        print_json({name: asdict(CODES[name]) for name in names or CODES})
        return
    shown = format_markdown() if markdown else "\n\n".join(map(format_page, names)) if names else format_list()
    for line in shown.splitlines():
        say(line)


def _read_codes(written: list[str]) -> list[str]:
    """Read codes as they are typed. Raises `ConfigError` naming each that is none."""
    from hf_finetune.codes import find_code

    found = {each: find_code(each) for each in written}
    problems = [
        Problem(f"{each!r} is no code of a message", "`hf-finetune explain` lists them", code="HF601")
        for each, name in found.items()
        if name is None
    ]
    if problems:
        raise ConfigError(problems)
    return [name for name in found.values() if name is not None]
