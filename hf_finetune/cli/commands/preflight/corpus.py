"""`hf-finetune init` and `corpus`: recipes, run files and data to start with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_finetune.cli.terminal import Json, print_json, say


def corpus(
    kind: Annotated[
        str,
        typer.Argument(
            help="source (text rows), docstrings, tools (instruction), modules, topics (labelled), canaries."
        ),
    ],
    file: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Stop before the file grows larger.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    copies: Annotated[
        str | None, typer.Option(help="Canaries: how often a secret is repeated; by default 1,10,100")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Canaries: secrets of each number; by default 10")
    ] = None,
    row_format: Annotated[
        str | None, typer.Option("--format", help="Canaries: the row format; by default messages")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Canaries: draws the secrets; by default 0")] = None,
    as_json: Json = False,
) -> None:
    """Write a real corpus from the Python installation, without a network, or canaries to add to the training rows."""
    from dataclasses import asdict

    from hf_finetune.data import CANARIES, write_corpus

    canary_options = {"copies": copies, "count": count, "row_format": row_format, "seed": seed}
    given = {name: value for name, value in canary_options.items() if value is not None}
    if kind == CANARIES:
        _plant_canaries(file, given, overwrite=overwrite, limited=max_bytes is not None, as_json=as_json)
        return
    _refuse_options(kind, given)
    facts = write_corpus(kind, file, max_bytes=max_bytes, overwrite=overwrite)
    if as_json:
        print_json(asdict(facts))
        return
    say(f"{file}: {facts.rows:,} rows, {facts.bytes / 1e6:.1f} MB from {facts.files:,} files ({facts.license})")


def _plant_canaries(file: Path, given: dict[str, Any], *, overwrite: bool, limited: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from hf_finetune.data import COPIES, make_canaries, write_canaries
    from hf_finetune.errors import ConfigError, Problem

    if limited:
        raise ConfigError(
            Problem("canaries are as many as you ask for", "set --count or --copies", key="--max-bytes", code="HF601")
        )
    row_format, seed = given.pop("row_format", "messages"), given.pop("seed", 0)
    copies = _parse_numbers(given.pop("copies")) if "copies" in given else COPIES
    canaries = make_canaries(copies=copies, row_format=row_format, seed=seed, **given)
    facts = write_canaries(file, canaries, row_format=row_format, seed=seed, overwrite=overwrite)
    if as_json:
        print_json(asdict(facts))
        return
    times = ", ".join(f"{number:,}" for number in facts.copies)
    say(f"{file}: {facts.rows:,} rows of {facts.canaries:,} secrets, planted so many times: {times}. Train with")
    say(f"  data.train: [your rows, {file}]   and score with   eval.canaries: {file}")


def _parse_numbers(listed: str) -> list[int]:
    from hf_finetune.errors import ConfigError, Problem

    try:
        return [int(number) for number in listed.split(",")]
    except ValueError:
        raise ConfigError(
            Problem(f"{listed} is not a list of numbers", "write 1,10,100", key="--copies", code="HF603")
        ) from None


def _refuse_options(kind: str, given: dict[str, Any]) -> None:
    from hf_finetune.errors import ConfigError, Problem

    if given:
        options = ", ".join("--format" if name == "row_format" else f"--{name}" for name in given)
        raise ConfigError(Problem(f"{options}: only for canaries", f"leave it out for {kind}", code="HF601"))
