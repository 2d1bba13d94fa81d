"""A GGUF file becomes an ordinary model folder: weights dequantized, its own tokenizer and chat template."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from hf_finetune.config.model_files.description import find_faults
from hf_finetune.errors import FinetuneError, ModelError, NonFiniteError, Problem
from hf_finetune.files import raise_write_errors
from hf_finetune.models.files.foreign_errors import ForeignError, foreign_errors
from hf_finetune.models.generation_config import stop_after_turns
from hf_finetune.models.loading import hide_load_report
from hf_finetune.models.ready_made.gguf_header import GgufHeader, read_gguf_header
from hf_finetune.models.ready_made.gguf_tokenizer import load_gguf_tokenizer
from hf_finetune.models.tokenizers import check_tokenizer_fits
from hf_finetune.models.verification import verify_saved

ALONE = "model.gguf"
FULL_PRECISION = {"F32", "F16", "BF16", "F64"}
ANOTHER = "take the original's own folder or Hub id, or another conversion of it"


@dataclass(frozen=True, slots=True)
class ConvertedGguf:
    """What was made of a GGUF file."""

    parameters: int
    quantization: str | None
    """How most of its weights were stored, such as `Q4_1`; None where they were not quantized."""
    notes: tuple[str, ...]
    """What a user of the model should know."""


def convert_gguf(path: Path, folder: Path, dtype: str) -> ConvertedGguf:
    """Write the model in the GGUF file `path` to `folder` as safetensors in `dtype`, load it again and compare.

    Raises `ModelError`, which names the file, where it is damaged, cannot be read by transformers, or would lose
    something on the way; `OSError` where the folder cannot be written.
    """
    header = read_gguf_header(path)
    try:
        return _convert(path, header, folder, dtype)
    except FinetuneError as problem:
        problems = [Problem(each.what, each.remedy, path=str(path), code=each.code) for each in problem.problems]
        raise ModelError(problems) from problem


def _convert(path: Path, header: GgufHeader, folder: Path, dtype: str) -> ConvertedGguf:
    with _place_alone(path) as place:
        with _raise_model_errors():
            config = AutoConfig.from_pretrained(place, gguf_file=ALONE)
        _check_complete(header, config)
        with _raise_model_errors():
            tokenizer, notes = load_gguf_tokenizer(place, ALONE, header)
        check_tokenizer_fits(tokenizer, config)
        with _raise_model_errors():
            model = _load(place, config, dtype)
    _save(model, tokenizer, folder)
    if faults := find_faults(folder, path.name):  # a model that no command would take
        raise ModelError(
            [
                Problem(f"its {each.key} is not one that a model has: {each.what}", ANOTHER, code=each.code)
                for each in faults
            ]
        )
    try:
        verify_saved(model, folder, name=path.name)
    except NonFiniteError as problem:
        raise ModelError(Problem("is a model that gives no finite numbers", ANOTHER, code="HF513")) from problem
    return ConvertedGguf(model.num_parameters(), _find_quantization(header), tuple(notes))


@contextmanager
def _place_alone(path: Path) -> Iterator[Path]:
    """Yield a folder with nothing but the file in it, by the name `ALONE`."""
    # transformers would also read a tokenizer_config.json beside the file, which may be another model's.
    with TemporaryDirectory() as folder:
        try:
            Path(folder, ALONE).symlink_to(path.resolve())
        except OSError:  # Windows lets administrators make links, and developers
            shutil.copyfile(path, Path(folder, ALONE))
        yield Path(folder)


@contextmanager
def _raise_model_errors() -> Iterator[None]:
    """Turn what transformers raises on a file that it does not read into a `ModelError`."""
    try:
        with foreign_errors():
            yield
    except (ForeignError, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:  # the system's own, and not transformers'
            raise
        raise ModelError(Problem(f"cannot be read by transformers ({problem})", ANOTHER, code="HF561")) from problem


def _check_complete(header: GgufHeader, config: PreTrainedConfig) -> None:
    """Raise `ModelError` where the settings describe another model than the tensors, or one that would not be the same.

    transformers drops tensors that it has no place for, and draws those at random that the file lacks.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = f"is a model of the kind {config.model_type!r}, which does not continue text"
        raise ModelError(Problem(what, "name a language model", code="HF523"))
    scaling = header.text(f"{header.architecture}.rope.scaling.type")
    rotated: Any = getattr(config, "rope_parameters", None) or {}
    scaled = scaling not in (None, "none") and rotated.get("rope_type", "default") == "default"
    if scaled or any(name.startswith("rope_f") for name in header.tensors):
        # As of Llama 3.1: https://github.com/ggml-org/llama.cpp/pull/8676. Can go when transformers reads them.
        raise ModelError(
            Problem(
                "scales its positions in a way that transformers 5.23 does not read from GGUF", ANOTHER, code="HF562"
            )
        )
    layers = header.metadata.get(f"{header.architecture}.block_count", 0)
    if not isinstance(layers, int) or layers > len(header.tensors):
        said = f"{layers:,}" if isinstance(layers, int) else repr(layers)
        what = f"says that it has {said} layers, and holds {len(header.tensors):,} tensors"
        raise ModelError(Problem(what, "copy or download it again", code="HF561"))
    with torch.device("meta"), _raise_model_errors():  # no memory, whatever the settings say
        described = AutoModelForCausalLM.from_config(config).num_parameters()
    tied = config.tie_word_embeddings
    # With tied weights some converters write the head once more, as output.weight: the embedding is it already.
    held = sum(count for name, count in header.tensors.items() if not (tied and name == "output.weight"))
    if described != held:
        what = f"holds {held:,} weights, of which transformers makes a model of {described:,}"
        raise ModelError(Problem(what, ANOTHER, code="HF562"))


def _load(place: Path, config: PreTrainedConfig, dtype: str) -> PreTrainedModel:
    """Load the weights in `dtype`."""
    options: dict[str, Any] = {"config": config, "gguf_file": ALONE, "dtype": getattr(torch, dtype)}
    with hide_load_report(), _hide_progress():
        answer: Any = AutoModelForCausalLM.from_pretrained(place, output_loading_info=True, **options)
    loaded, info = answer
    lost = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if lost:
        raise ModelError(Problem(f"lacks, or has no place for, {', '.join(map(str, lost[:3]))}", ANOTHER, code="HF562"))
    # The weights are dequantized, and config.json would say that they are not.
    del loaded.config.quantization_config
    model: PreTrainedModel = loaded
    return model


def _hide_progress() -> AbstractContextManager[Any]:
    """Keep a progress bar out of a log file."""
    # transformers 5.23 shows this one whatever `disable_progress_bar` says. Logging keeps its own hold of the stream.
    return nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())


def _save(loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    # transformers 5.23 refuses to save a model that came from GGUF ("not serializable"), though nothing of it is
    # quantized any more: its weights go into a model of the same settings that does not know of GGUF.
    with torch.device("meta"):
        model = type(loaded)(loaded.config)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=model.config.bos_token_id)
    stop_after_turns(model, tokenizer)
    with raise_write_errors():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _find_quantization(header: GgufHeader) -> str | None:
    """The quantized type that holds most elements."""
    held: dict[str, int] = {}
    for name, count in header.tensors.items():
        held[header.types[name]] = held.get(header.types[name], 0) + count
    quantized = {kind: count for kind, count in held.items() if kind not in FULL_PRECISION}
    return max(quantized, key=lambda kind: quantized[kind]) if quantized else None
