"""The target `gguf`: one file, opened in llama.cpp and compared there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.template import get_default_template
from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.folders import CARD
from hf_finetune.folders.exported import ADAPTER_GGUF
from hf_finetune.models.adapters.loading import load_base
from hf_finetune.models.classification_head import has_classification_head
from hf_finetune.models.files.adapter import fetch_adapter, is_adapter
from hf_finetune.models.gguf_folders.reading import MODEL, add_adapter
from hf_finetune.models.saved import load_for_generation
from hf_finetune.release.export.conversations import Conversation
from hf_finetune.release.export.gguf.adapters import check_adapter, write_adapter
from hf_finetune.release.export.gguf.llama_cpp import LlamaCpp, RequestRefused
from hf_finetune.release.export.gguf.odd_texts import check_tokens
from hf_finetune.release.export.gguf.writing import About, check_model, write_model
from hf_finetune.release.export.llama.on_the_way import publish_model
from hf_finetune.release.export.options import ExportOptions
from hf_finetune.release.export.runtimes import Floats, Runtime, TransformersLanguageModel
from hf_finetune.release.export.source import Source, save_companions
from hf_finetune.release.export.targets import Tolerance, Written
from hf_finetune.release.export.template_parity import Refused, Renderer, check_templates
from hf_finetune.release.hub.card import read_license

DEFAULT_QUANT = "f16"
LEFT_OUT = "what the run keeps of its rows (row_prints.npz), its checkpoints and its report"
IN_FLOAT32 = Tolerance("logits", 1e-4)
# Of the mean loss; what the bits of each cost, and a margin.
TOLERANCES = {"f16": 0.01, "bf16": 0.01, "q8_0": 0.01, "q5_1": 0.05, "q5_0": 0.05, "q4_1": 0.2, "q4_0": 0.2}
BY_LLAMA_CPP = "llama.cpp"


def check(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, options: ExportOptions, path: str) -> None:
    """Raise `ConfigError` for a quantization or option that there is not, `ModelError` for what GGUF cannot hold."""
    if has_classification_head(config):
        what = "is a classifier, and llama.cpp continues texts"
        raise ModelError(Problem(what, "export it with --to onnx", path=path, code="HF972"))
    # A base of which a chat template has added tokens has got rows for them.
    grown = {"vocab_size": max(config.vocab_size, len(tokenizer))}
    check_model(type(config).from_dict(config.to_dict() | grown), tokenizer, get_quant(options))
    if options.adapter_only:
        if not is_adapter(path):
            what = "is a whole model, and --adapter-only is for an adapter"
            raise ConfigError(Problem(what, "leave it out", path=path, key="--adapter-only", code="HF607"))
        check_adapter(fetch_adapter(path), config)


def get_quant(options: ExportOptions) -> str:
    """The quantization that was asked for, or 16 bits."""
    return DEFAULT_QUANT if options.quant is None else options.quant


def get_tolerance(options: ExportOptions) -> Tolerance:
    quant = get_quant(options)
    return Tolerance("loss", TOLERANCES[quant]) if quant in TOLERANCES else IN_FLOAT32


def write(source: Source, folder: Path, options: ExportOptions) -> Written:
    """Write the file, and hold llama.cpp's tokens and prompts against the run's."""
    return write_with(source, folder, options, {})


def write_with(
    source: Source, folder: Path, options: ExportOptions, more: Mapping[str, Renderer], not_offered: Sequence[str] = ()
) -> Written:
    """`write`, where `more` render prompts as well, of which they may refuse those named by `not_offered`."""
    quant, tokenizer = get_quant(options), source.tokenizer
    base = _load_base(source) if options.adapter_only else source.model
    assert isinstance(base, PreTrainedModel)
    about = About(source.folder.name, find_license(source), find_template(tokenizer))
    written = write_model(folder / MODEL, base, tokenizer, quant, about)
    save_companions(source, folder)
    figures: dict[str, Any] = {"quant": quant, "bytes": written.bytes, "stored": dict(written.types)}
    if options.adapter_only:
        assert source.adapter is not None
        # Of the base nothing is kept: it is there to be compared over.
        del figures["stored"]
        figures["bytes"] = write_adapter(folder / ADAPTER_GGUF, source.adapter, base.config, about.name)
    # Before minutes of answers: a vocabulary or a template that is taken otherwise spoils all of them.
    with LlamaCpp(folder / MODEL) as theirs:
        figures["texts_with_equal_tokens"] = check_tokens(theirs, tokenizer)
        begin = str(tokenizer.bos_token) if written.add_bos else ""
        found = check_templates(tokenizer, {BY_LLAMA_CPP: render_by_llama_cpp(theirs, begin)})
    found += check_templates(tokenizer, more, not_offered)
    return Written((LEFT_OUT, *written.notes), figures, tuple(found))


def _load_base(source: Source) -> PreTrainedModel:
    """The base alone: the adapter has been added to the one that was loaded."""
    assert source.record is not None
    whole = replace(source.record, dtype="float32", quantization=None)
    base: PreTrainedModel = load_base(whole, device=torch.device("cpu"))
    base.generation_config = source.model.generation_config
    return publish_model(base.eval())


def find_license(source: Source) -> str | None:
    """The license that the card in the folder names; None without a card."""
    return read_license(source.folder) if (source.folder / CARD).is_file() else None


def find_template(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The chat template as llama.cpp renders it alike."""
    if not tokenizer.chat_template:
        return None
    template = get_default_template(tokenizer)
    # llama.cpp takes some other token for the begin token of a tokenizer that has none.
    absent = "" if tokenizer.bos_token else "{%- set bos_token = '' %}"
    return absent + template


def render_by_llama_cpp(theirs: LlamaCpp, begin: str) -> Renderer:
    """A renderer by llama.cpp; `begin` is the token that it writes before a prompt."""

    def render(conversation: Conversation) -> str:
        try:
            return begin + theirs.render(conversation.messages, conversation.tools)
        except RequestRefused as refusal:
            raise Refused(str(refusal)) from refusal

    return render


def open_runtime(folder: Path, options: ExportOptions) -> Runtime:
    """Open the file in llama.cpp; an adapter over the file of its base, which is removed at the end."""
    return _GgufRuntime(folder, adapter=options.adapter_only)


class _GgufRuntime:
    """Answers by llama.cpp, and logits by the file's weights in transformers: llama.cpp says none of a whole text."""

    def __init__(self, folder: Path, *, adapter: bool) -> None:
        self.alone = folder / MODEL if adapter else None
        model, tokenizer = load_for_generation(str(folder))
        if adapter:
            add_adapter(folder / ADAPTER_GGUF, model)
        self.weights = TransformersLanguageModel(model, tokenizer)
        self.theirs = LlamaCpp(
            folder / MODEL, folder / ADAPTER_GGUF if adapter else None, threads=torch.get_num_threads()
        )

    def compute_logits(self, ids: Sequence[int]) -> Floats:
        return self.weights.compute_logits(ids)

    def continue_greedily(self, ids: Sequence[int], tokens: int) -> list[int]:
        return self.theirs.continue_greedily(ids, tokens)

    def close(self) -> None:
        self.theirs.close()
        if self.alone is not None:
            self.alone.unlink()
