"""`hf-finetune explain`: what a code in a message stands for."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_finetune.cli.terminal import Json, print_json, say


def explain(
    codes: Annotated[
        list[str] | None, typer.Argument(metavar="[CODE]...", help="Such as HF602; without one, all are listed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a code in a message stands for, why it matters and what to do."""
    from dataclasses import asdict

    from hf_finetune.codes import CODES, format_list, format_page, read_code

    names = [read_code(each) for each in codes or ()]
    if as_json:
        print_json({name: asdict(CODES[name]) for name in names or CODES})
    else:
        shown = "\n\n".join(map(format_page, names)) if names else format_list()
        for line in shown.splitlines():
            say(line)
