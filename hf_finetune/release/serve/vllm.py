"""The command by which other servers serve a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.files.adapter import ADAPTER_CONFIG, is_adapter, read_base_name
from hf_finetune.release.serve.loading import name_model
from hf_finetune.release.serve.options import ServeOptions
from hf_finetune.shell import shell_path

OURS = "scratch_gpt"
PUBLISHED = {"apertus": "xielu"}
"""Of architectures that `export --to llama` writes, those that vLLM computes with this activation alone."""


def format_other_servers(options: ServeOptions) -> list[str]:
    """The lines that serve a model by vLLM and by TGI. Raises `ModelError` for a model that these do not know."""
    name, over_adapter = name_model(options), is_adapter(options.model)
    adapters = ({name: options.model} if over_adapter else {}) | options.adapters
    base = options.base_path or (read_base_name(options.model) if over_adapter else options.model)
    config = read_object(Path(base) / "config.json") or {}
    if config.get("model_type") == OURS:
        remedy = (
            "export it first as one that they know, which a GPT of the preset llama-like is: "
            f"hf-finetune export {shell_path(base)} EXPORTED --to llama; any other is served with hf-finetune serve"
        )
        raise ModelError(Problem("is a ScratchGPT, which vLLM and TGI do not know", remedy, base, code="HF878"))
    if (known := PUBLISHED.get(str(config.get("model_type")))) is not None and config.get("hidden_act") != known:
        what = f"is of the kind {config['model_type']} with another activation than {known}, the one that vLLM computes"
        remedy = "serve it with hf-finetune serve, or train with model.scratch.preset: llama-like"
        raise ModelError(Problem(what, remedy, base, code="HF878"))
    place = ["--host", options.host, "--port", str(options.port)]
    served = "base" if over_adapter else name
    vllm = ["vllm", "serve", shell_path(base), "--served-model-name", served, *place]
    if adapters:
        # It refuses an adapter of a higher rank than it was told.
        ranks = [_read_rank(path) for path in adapters.values()]
        vllm += ["--enable-lora", "--max-lora-rank", str(max(ranks)), "--lora-modules"]
        vllm += [f"{each}={shell_path(path)}" for each, path in adapters.items()]
    tgi = ["text-generation-launcher", "--model-id", shell_path(base), "--hostname", *place[1:]]
    if adapters:
        tgi += ["--lora-adapters", ",".join(f"{each}={shell_path(path)}" for each, path in adapters.items())]
    return [" ".join(vllm), " ".join(tgi)]


def _read_rank(path: str) -> int:
    config: Any = read_object(Path(path) / ADAPTER_CONFIG) or {}
    rank = config.get("r")
    # vLLM takes these ranks alone.
    return next((each for each in (8, 16, 32, 64, 128, 256, 320, 512) if isinstance(rank, int) and each >= rank), 16)
