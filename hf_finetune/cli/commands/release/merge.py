"""`hf-finetune merge`: one model of an adapter and its base."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hf_finetune.cli.terminal import Json, Trust, announce, print_json, say

Dtype = Literal["float32", "bfloat16", "float16"]


def merge(
    adapter: Annotated[str, typer.Argument(help="An adapter's folder or Hub id.")],
    output: Annotated[str, typer.Argument(help="The folder of the merged model.")],
    base_path: Annotated[str | None, typer.Option("--base", "--base-path", help="Where its base is now.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of the merged weights; else that of the base's files.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Held-out rows to compare on; else the run's validation split.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Largest relative difference of the loss.")] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    trust_chat_template: Trust = None,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base, and measure what that changes on held-out rows."""
    from hf_finetune.config import check_saved_model, check_template_hash
    from hf_finetune.folders import check_replaceable

    check_template_hash(trust_chat_template)
    check_saved_model(adapter, "merge", base_path)
    check_replaceable(output, overwrite=overwrite)  # before torch is imported
    if data is not None:
        from hf_finetune.data import check_compared_rows  # datasets: not for what is refused without it

        check_compared_rows(adapter, data)
    announce(adapter)
    from hf_finetune.environment import set_up_logging
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.models import hold_commits
    from hf_finetune.release import merge_adapter

    set_up_logging()
    hold_commits()
    unwind_when_stopped()
    facts = merge_adapter(
        adapter,
        output,
        base=base_path,
        dtype=dtype,
        data=data,
        tolerance=tolerance,
        overwrite=overwrite,
        trust_chat_template=trust_chat_template,
    ).as_dict()
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        say(f"{name.replace('_', ' '):>24}  {value:.3g}" if isinstance(value, float) else f"{name:>24}  {value}")
