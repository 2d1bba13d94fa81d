"""`hf-finetune export`: a model for another runtime, compared with the run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hf_finetune.cli.terminal import Json, Model, Trust, announce, print_json, say_pairs


def export(
    model: Model,
    output: Annotated[str, typer.Argument(help="The folder of the export.")],
    to: Annotated[
        str, typer.Option(help="onnx, gguf, ollama, vllm; or llama: a ScratchGPT as a published architecture.")
    ],
    int8: Annotated[bool, typer.Option("--int8", help="onnx: weights in 8 bits.")] = False,
    opset: Annotated[int | None, typer.Option(help="onnx: the version of its operators.")] = None,
    quant: Annotated[
        str | None, typer.Option(help="gguf, ollama: f16 (default), q8_0 ...; vllm: fp8 (default), int8, int4.")
    ] = None,
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="gguf: the adapter without its base.")] = False,
    base_path: Annotated[
        str | None, typer.Option("--base", "--base-path", help="Where an adapter's base is now.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Held-out rows to compare on; else the run's validation split.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="So many of them at most.")] = 64,
    tolerance: Annotated[float | None, typer.Option(min=0.0, help="How far it may be from the run.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    trust_chat_template: Trust = None,
    as_json: Json = False,
) -> None:
    """Export a model for another runtime, open it there, and compare it with the run before it is kept."""
    from hf_finetune.release import ExportOptions, check_export

    own: dict[str, Any] = {"int8": int8, "opset": opset, "quant": quant, "adapter_only": adapter_only}
    options = ExportOptions(base_path, data, tolerance, rows, overwrite, trust_chat_template, **own)
    # Before torch is imported.
    check_export(model, output, to, options)
    announce(model)
    from hf_finetune.environment import set_up_logging
    from hf_finetune.interruption import unwind_when_stopped
    from hf_finetune.models import hold_commits
    from hf_finetune.release import export_model

    set_up_logging()
    hold_commits()
    unwind_when_stopped()
    result = export_model(model, output, to, options)
    if as_json:
        print_json(result.as_dict())
        return
    from hf_finetune.release import describe_result

    say_pairs(describe_result(result))
