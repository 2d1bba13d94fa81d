"""`hf-finetune init` and `corpus`: files to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_finetune.cli.terminal import Json, print_json


def corpus(
    kind: Annotated[str, typer.Argument(help="source (text rows), docstrings (instruction) or modules (labelled).")],
    file: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Stop before the file grows larger.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a real corpus, without a network, from the Python installation itself."""
    from dataclasses import asdict

    from hf_finetune.data.corpus import write_corpus

    facts = write_corpus(kind, file, max_bytes=max_bytes, overwrite=overwrite)
    if as_json:
        print_json(asdict(facts))
        return
    print(f"{file}: {facts.rows:,} rows, {facts.bytes / 1e6:.1f} MB from {facts.files:,} files ({facts.licence})")


def init(directory: Annotated[Path, typer.Argument(help="The folder to fill; made where it is missing.")]) -> None:
    """Copy recipes, configurations and data templates into a folder of your own."""
    from hf_finetune.project_files import init_project

    written = init_project(directory)
    print(f"{directory}: {len(written)} files. Next: cd {directory} and")
    print("  hf-finetune train recipes/configs/continued_pretraining.yaml --on cpu")
