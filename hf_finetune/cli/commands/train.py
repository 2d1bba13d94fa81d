"""`hf-finetune train` and `merge`: launch a run, and merge its adapter into the base model."""

from __future__ import annotations

from typing import Annotated

import typer


def train(
    run_file: Annotated[str, typer.Argument(help="The run's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, as many as wanted.")] = None,
    where: Annotated[
        str, typer.Option("--on", help="Where it runs: a file of accelerate_configs, or its name.")
    ] = "cpu",
    show_data: Annotated[bool, typer.Option("--show-data", help="Show rows' text: sets eval.show_data.")] = False,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="Go on with a run under other settings than it began with.")
    ] = False,
) -> None:
    """Check a run file, then launch its recipe under Accelerate. The launch line is printed first.

    Typed again, the run goes on from its newest checkpoint.
    """
    from hf_finetune.cli.launcher import launch

    shown = ["eval.show_data=true"] if show_data else []
    raise typer.Exit(launch([run_file, *(overrides or []), *shown], where, allow_changed=allow_changed))
