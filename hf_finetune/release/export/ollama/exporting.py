"""The target `ollama`: what `gguf` writes, and a Modelfile whose template is proved to be the run's."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from hf_finetune.release.export.gguf import exporting as gguf
from hf_finetune.release.export.gguf.vocabulary import writes_begin
from hf_finetune.release.export.gguf.writing import find_end_ids, find_sampling
from hf_finetune.release.export.ollama.modelfile import MODELFILE, write_modelfile
from hf_finetune.release.export.ollama.rendering import make_ollama_renderer
from hf_finetune.release.export.ollama.shapes import find_shape, write_go
from hf_finetune.release.export.options import ExportOptions
from hf_finetune.release.export.runtimes import Runtime
from hf_finetune.release.export.source import Source
from hf_finetune.release.export.targets import Tolerance, Written

# Ollama drops the order of a tool's parameters, and keys that it does not know, before a template sees it
# (api.ToolFunction, templateProperties): none can write the run's bytes. One that names no tools makes it refuse them.
WITH_TOOLS = ("tools", "a tool that was called")


def check(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, options: ExportOptions, path: str) -> None:
    """Raise what the target `gguf` does, and `ModelError` for a template that cannot be said in Go."""
    gguf.check(config, tokenizer, options, path)
    if tokenizer.chat_template:
        find_shape(tokenizer)


def get_tolerance(options: ExportOptions) -> Tolerance:
    return gguf.get_tolerance(options)


def write(source: Source, folder: Path, options: ExportOptions) -> Written:
    """Write the GGUF file and the Modelfile, and hold the prompts of its template against the run's."""
    tokenizer, template, renderers = source.tokenizer, None, {}
    if tokenizer.chat_template:
        begin = str(tokenizer.bos_token) if writes_begin(tokenizer) else ""
        template = write_go(find_shape(tokenizer), begin)
        renderers = dict([make_ollama_renderer(template, begin)])
    generation = source.model.generation_config
    ends = find_end_ids(tokenizer, generation)
    stops = [str(tokenizer.convert_ids_to_tokens(number)) for number in ends]
    sampling = find_sampling(generation)
    text = write_modelfile(template, stops, sampling, gguf.find_license(source))
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    return gguf.write_with(source, folder, options, renderers, WITH_TOOLS)


def open_runtime(folder: Path, options: ExportOptions) -> Runtime:
    """Open the file in llama.cpp, which Ollama is built on."""
    return gguf.open_runtime(folder, options)
