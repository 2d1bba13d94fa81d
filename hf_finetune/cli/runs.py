"""`hf-finetune train` and `merge`: launch a run, and merge its adapter into the base model."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hf_finetune.cli.terminal import Json, print_json

Dtype = Literal["float32", "bfloat16", "float16"]


def train(
    run_file: Annotated[str, typer.Argument(help="The run's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, as many as wanted.")] = None,
    where: Annotated[
        str, typer.Option("--on", help="Where it runs: a file of accelerate_configs, or its name.")
    ] = "cpu",
    show_data: Annotated[bool, typer.Option("--show-data", help="Show rows' text: sets eval.show_data.")] = False,
) -> None:
    """Check a run file, then launch its recipe under Accelerate. The launch line is printed first."""
    from hf_finetune.launching import launch

    shown = ["eval.show_data=true"] if show_data else []
    raise typer.Exit(launch([run_file, *(overrides or []), *shown], where))


def merge(
    adapter: Annotated[str, typer.Argument(help="An adapter's folder or Hub id.")],
    output: Annotated[str, typer.Argument(help="The folder of the merged model.")],
    base_path: Annotated[str | None, typer.Option("--base", "--base-path", help="Where its base is now.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the merged weights.")] = "float32",
    data: Annotated[
        str | None, typer.Option(help="Held-out rows to compare on; else the run's validation split.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest relative difference of the loss.")] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base, and measure what that changes on held-out rows."""
    from hf_finetune.folders import check_replaceable

    check_replaceable(output, overwrite=overwrite)  # before torch is imported
    from hf_finetune.release.merge import merge_adapter
    from hf_finetune.training.settings import set_up_logging

    set_up_logging()
    facts = merge_adapter(
        adapter, output, base=base_path, dtype=dtype, data=data, tolerance=tolerance, overwrite=overwrite
    ).as_dict()
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):>24}  {value:.3g}" if isinstance(value, float) else f"{name:>24}  {value}")
