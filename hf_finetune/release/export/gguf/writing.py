"""A model and its tokenizer -> one GGUF file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_VERSION, GGMLQuantizationType
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.errors import ModelError
from hf_finetune.models.gguf_folders.families import find_family
from hf_finetune.models.gguf_folders.weights import iterate_weights, list_weights
from hf_finetune.models.ready_made.gguf_header import read_gguf_header
from hf_finetune.release.export.gguf.quantization import QUANTS, check_quant, choose_type, count_bytes, store
from hf_finetune.release.export.gguf.settings import describe_settings, find_rope_factors
from hf_finetune.release.export.gguf.vocabulary import Vocabulary, describe_vocabulary

ROPE_FACTORS = "rope_freqs.weight"
# llama.cpp has sampling of its own, and takes what a file says for its defaults.
SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
INTEGERS = {"top_k"}


@dataclass(frozen=True, slots=True)
class About:
    """What a file says of itself."""

    name: str
    license: str | None = None
    template: str | None = None
    """The chat template, in Jinja."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    bytes: int
    types: Mapping[str, int]
    """How many weights are stored in which way: `{"Q8_0": 210, "F32": 61}`."""
    notes: Sequence[str]
    add_bos: bool
    """Whether llama.cpp writes the begin token before a text."""


def check_model(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, quant: str) -> Vocabulary:
    """What can be refused before a weight is read: raises `ConfigError` or `ModelError`."""
    check_quant(quant)
    describe_settings(config)
    check_quant(quant, config)
    return describe_vocabulary(tokenizer, config.vocab_size)


def write_model(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, quant: str, about: About
) -> Written:
    """Write `model` with `tokenizer` to `path`, its weights as `quant` says.

    Weights are converted one at a time: beside the model, the memory of the largest is needed. Raises what
    `check_model` does, and `OSError` where the file cannot be written.
    """
    vocabulary = check_model(model.config, tokenizer, quant)
    with open_writer(path, model.config) as writer:
        _add_about(writer, about, quant)
        for key, value in describe_settings(model.config).items():
            add_value(writer, key, value)
        add_vocabulary(writer, vocabulary, tokenizer, model.generation_config)
        if about.template is not None:
            writer.add_chat_template(about.template)
        types = _write_weights(writer, model, quant)
    return Written(path.stat().st_size, types, vocabulary.notes, vocabulary.add_bos)


@contextmanager
def open_writer(path: Path, config: PreTrainedConfig) -> Iterator[gguf.GGUFWriter]:
    """Yield a writer of the file `path` for a model with `config`. Raises OSError where it cannot be written."""
    writer = gguf.GGUFWriter(path, find_family(config).architecture)
    try:
        try:
            yield writer
        finally:
            writer.close()
        # numpy closes a file of its own for each weight, and is silent where the end of it finds no room.
        read_gguf_header(path)
    except (OSError, ModelError) as problem:
        if isinstance(problem, ModelError) or problem.errno is None:
            # It says how many bytes it wrote and not why no more: one more byte fails for the same reason.
            with path.open("ab", buffering=0) as file:
                file.write(b"\0")
        raise


def _add_about(writer: gguf.GGUFWriter, about: About, quant: str) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(about.name)
    if about.license:
        writer.add_license(about.license)
    writer.add_file_type(QUANTS[quant][1])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def add_value(writer: gguf.GGUFWriter, key: str, value: int | float | bool | str) -> None:
    """Add a value under the type that llama.cpp reads it as."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def add_vocabulary(
    writer: gguf.GGUFWriter,
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerFast,
    generation: GenerationConfig | None,
) -> None:
    """Add the tokenizer, the tokens at which an answer ends, and how answers are sampled."""
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.split)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.add_space)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    ends = find_end_ids(tokenizer, generation)
    named = {"bos": tokenizer.bos_token_id, "unknown": tokenizer.unk_token_id, "padding": tokenizer.pad_token_id}
    named |= dict(zip(("eos", "eot", "eom"), ends, strict=False))
    for name, number in named.items():
        if number is not None:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    for ours, value in find_sampling(generation).items():
        add_value(writer, f"general.sampling.{SAMPLING[ours]}", value)


def find_end_ids(tokenizer: PreTrainedTokenizerFast, generation: GenerationConfig | None) -> list[int]:
    """The tokens at which an answer ends, the tokenizer's own first."""
    named: Any = None if generation is None else generation.eos_token_id
    listed = [] if named is None else [named] if isinstance(named, int) else list(named)
    own: Any = tokenizer.eos_token_id
    return [*([own] if own is not None else []), *(number for number in listed if number != own)]


def find_sampling(generation: GenerationConfig | None) -> dict[str, int | float]:
    """What the generation settings say of sampling; greedy where they ask for no sampling."""
    if generation is None:
        return {}
    # llama.cpp and Ollama sample unless they are told otherwise, transformers does not.
    if not generation.do_sample:
        return {"temperature": 0.0}
    named = {name: getattr(generation, name, None) for name in SAMPLING}
    given = {name: value for name, value in named.items() if value is not None}
    return {name: int(value) if name in INTEGERS else float(value) for name, value in given.items()}


def _write_weights(writer: gguf.GGUFWriter, model: PreTrainedModel, quant: str) -> dict[str, int]:
    factors = find_rope_factors(model.config)
    kinds: dict[str, GGMLQuantizationType] = {}
    if factors is not None:
        writer.add_tensor(ROPE_FACTORS, factors)
    for name, (_, shape) in list_weights(model).items():
        kinds[name] = choose_type(name, shape, quant)
        dtype = np.dtype(np.float16 if kinds[name] == GGMLQuantizationType.F16 else np.float32)
        writer.add_tensor_info(name, shape, dtype, count_bytes(shape, kinds[name]), raw_dtype=kinds[name])
    # The list of all weights first, then one after the other: with `add_tensor` the writer would keep them all.
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for name, weight in iterate_weights(model):
        writer.write_tensor_data(store(name, weight, kinds[name]))
    counted = [kind.name for kind in kinds.values()]
    return {name: counted.count(name) for name in sorted(set(counted))}
