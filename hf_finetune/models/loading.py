"""Load a causal language model that fits its tokenizer, and verify that a saved model is the one that was trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_finetune.config.model_files.description import CONFIG
from hf_finetune.config.model_files.values import CORRECT
from hf_finetune.config.paths import find_ready_made
from hf_finetune.config.sections import ModelSection
from hf_finetune.environment.logs import hide_messages
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.embeddings import fit_embeddings
from hf_finetune.models.files.adapter import is_adapter, read_base_name, read_base_record
from hf_finetune.models.files.config_faults import check_config
from hf_finetune.models.files.foreign_errors import foreign_errors
from hf_finetune.models.files.held import check_held
from hf_finetune.models.files.locate import find_weight_files, refuse_pickles
from hf_finetune.models.files.quantized import disable_4bit_repacking, load_quantized
from hf_finetune.models.files.stamps import refuse_changed_files
from hf_finetune.models.files.untrusted import check_untrusted_files, find_local_folder
from hf_finetune.models.generation_config import check_generation_file, check_savable, settle_generation
from hf_finetune.models.scratch_presets import build_scratch_config
from hf_finetune.models.tokenizer_probe import check_tokenizer_probe, check_trained_tokenizer
from hf_finetune.models.tokenizers import check_tokenizer_fits
from hf_finetune.models.verification import keep_save_dtype
from hf_finetune.models.weights.parameters import count_parameters
from hf_finetune.models.weights.sending import draw_on_first, load_on_first
from hf_finetune.shell import shell_path

logger = logging.getLogger(__name__)


# On a CPU under bf16, PyTorch's flash kernel is slower than eager attention up to this length: by a third of a step at
# 64 tokens, by a fifth at 256. In float32 they are equal at 64 tokens, and flash is faster from 256 on.
LONGEST_EAGER_BLOCK = 256


def load_config(model: ModelSection, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """Read the configuration of `model.path`, or build that of `model.scratch`; no weights are loaded.

    Raises `ModelError` where it cannot be loaded or built, or does not fit the tokenizer.
    """
    if model.scratch is not None:
        built: PreTrainedConfig = build_scratch_config(
            model.scratch,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        return built
    config: PreTrainedConfig = load_pretrained(AutoConfig, model)
    # The tokenizer of an adapter that is trained on may have tokens for which its base has no embedding.
    record = None if model.adapter is None else read_base_record(model.adapter, model.path)
    check_tokenizer_fits(tokenizer, config, None if record is None else record.vocab_size)
    if model.tokenizer is None:  # else another one was asked for
        check_trained_tokenizer(tokenizer, str(model.path), model.revision)
    elif record is not None and record.tokenizer_probe is not None and model.tokenizer == model.adapter:
        check_tokenizer_probe(tokenizer, record.tokenizer_probe, str(model.adapter))
    return config


def load_causal_lm(
    model: ModelSection,
    config: PreTrainedConfig,
    block: int,
    *,
    bf16: bool,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> PreTrainedModel:
    """Load the weights of `model.path`, or draw those of `model.scratch` (set the seed first).

    Linear layers except the head are quantized to 4 or 8 bits where the run asks for it, on CPU and CUDA. `block`:
    tokens of the longest row. The embedding grows to the size of `tokenizer`, where one is given. Raises `ModelError`
    where the model cannot be loaded, or its settings could not be saved again.
    """
    options: dict[str, Any] = {
        "dtype": getattr(torch, model.dtype),
        "attn_implementation": choose_attention(model, block, bf16=bf16),
    }
    stored = None if model.scratch is not None else config.dtype  # loading sets it to `model.dtype`
    quantization = build_quantization_config(model, bf16=bf16)
    if quantization is not None:
        options |= {"quantization_config": quantization, "device_map": {"": PartialState().device}}
    if model.scratch is not None:
        loaded: PreTrainedModel = draw_on_first(
            lambda: AutoModelForCausalLM.from_config(config, **options), config, options
        )
    else:
        with refuse_changed_files(model.path):
            loaded = load_on_first(
                lambda given: load_language_model(model, **given), config, options | {"config": config}
            )
        check_reads_text_alone(loaded, str(model.path))
        settle_generation(loaded, str(model.path))
        check_savable(loaded, str(model.path))
    disable_4bit_repacking(loaded)
    keep_save_dtype(loaded, model.save_dtype, stored)
    if tokenizer is not None:
        fit_embeddings(loaded, tokenizer)
    log_parameters(loaded)
    return loaded


def load_language_model(model: ModelSection, **options: object) -> PreTrainedModel:
    """Load `model.path` as a causal language model. Raises `ModelError` as `load_pretrained`, and for missing weights.

    transformers draws those at random, as the output head of a folder that holds a classifier or an encoder's body.
    """
    loaded: PreTrainedModel
    with hide_load_report():
        loaded, info = load_pretrained(AutoModelForCausalLM, model, output_loading_info=True, **options)
    refuse_missing_weights(loaded, info, str(model.path), key="model.path")
    return loaded


def refuse_missing_weights(
    model: PreTrainedModel, info: Mapping[str, Any], name: str, *, key: str | None = None
) -> None:
    """Raise `ModelError` for a language model of which weights were drawn at random, or whole layers left out.

    `info` is what transformers says of its loading (`output_loading_info`), `name` the folder or Hub id, and `key` the
    setting that names it.
    """
    if missing := sorted(info["missing_keys"]):
        what = f"{name!r} lacks {len(missing)} weights of a {type(model).__name__}, first {missing[0]}"
        raise ModelError(Problem(what, "name a folder that holds the whole language model", key=key, code="HF527"))
    refuse_layers_left_out(info, name)


def refuse_layers_left_out(info: Mapping[str, Any], name: str) -> None:
    """Raise `ModelError` where the files hold weights of numbered layers for which the configuration has no place."""
    if left := sorted(weight for weight in info["unexpected_keys"] if any(map(str.isdigit, weight.split(".")))):
        what = f"has no place for {len(left)} weights of layers that the files hold, first {left[0]}"
        raise ModelError(Problem(what, CORRECT, path=str(Path(name, CONFIG)), code="HF527"))


def check_reads_text_alone(model: PreTrainedModel, name: str) -> None:
    """Raise `ModelError` for a model with parts for images or sounds, which no text reaches and so nothing trains."""
    if model.config.get_text_config() is not model.config:
        what = f"{name!r} is a {model.config.model_type}, of which only a part reads text"
        raise ModelError(Problem(what, "name a model of text alone", key="model.path", code="HF526"))


def log_parameters(model: PreTrainedModel) -> None:
    """Log the number of parameters, in total and by component."""
    counts = count_parameters(model).as_dict()
    total, _ = counts.pop("total"), counts.pop("trainable")
    parts = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in counts.items() if count)
    logger.info("%s parameters: %s", f"{total:,}", parts)


def build_quantization_config(model: ModelSection, *, bf16: bool) -> BitsAndBytesConfig | None:
    """Build the settings of NF4 with double quantization (QLoRA, https://arxiv.org/abs/2305.14314) or LLM.int8().

    None where the run asks for neither. Only stored weights are quantized: they can be, in the same way, for inference.
    """
    if not (model.load_in_4bit or model.load_in_8bit):
        return None
    if model.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )


def choose_attention(model: ModelSection, block: int, *, bf16: bool) -> str | None:
    """Choose the attention implementation: the requested one, else the fastest for device, row length and precision.

    None leaves the choice to transformers: "sdpa" where the architecture has it, else "eager".
    """
    # Mamba, Bloom, Gemma 2, gpt-oss and many encoders have no "sdpa", and are refused where it is asked for by name.
    if model.attn_implementation != "auto":
        return model.attn_implementation
    on_cpu = not torch.accelerator.is_available()
    return "eager" if on_cpu and bf16 and block <= LONGEST_EAGER_BLOCK else None


def hide_load_report() -> AbstractContextManager[None]:
    """Hide transformers' table of new and unused weights, which the caller logs in one line."""
    return hide_messages("transformers.modeling_utils", "LOAD REPORT")


def load_pretrained(auto_class: Any, model: ModelSection, **options: object) -> Any:
    """Call `auto_class.from_pretrained` on `model.path`. Raises `ModelError` where it fails, and for an adapter."""
    assert model.path is not None
    if is_adapter(model.path):  # transformers would load its base and attach the adapter unasked
        what = f"{model.path!r} is an adapter, not a model (its base is {read_base_name(model.path)!r})"
        remedy = f"merge it first: hf-finetune merge {shell_path(model.path)} MERGED"
        raise ModelError(Problem(what, remedy, key="model.path", code="HF522"))
    try:
        return load_safely(auto_class, model.path, model.revision, **options)
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        command = find_ready_made(model.path)
        remedy = "give a folder with config.json and model.safetensors, or a Hub id that this machine can reach"
        remedy = remedy if command is None else f"make it with: {command}"
        raise ModelError(
            Problem(f"{model.path!r} cannot be loaded ({reason})", remedy, key="model.path", code="HF521")
        ) from problem


def load_safely(auto_class: Any, name: str, revision: str | None, **options: object) -> Any:
    """Call `auto_class.from_pretrained` on a folder or Hub id: only safetensors are read, and no code of it is run.

    All files are of one commit. Raises `ModelError` for pickled or damaged weights and for settings that
    `check_untrusted_files` refuses; errors of transformers pass through.
    """
    commit = check_untrusted_files(name, revision)
    if auto_class is not AutoConfig:
        if find_local_folder(name, commit) is not None and not find_weight_files(name, commit):
            refuse_pickles(name, commit)
        options["use_safetensors"] = True
    if auto_class is AutoModelForCausalLM:
        check_generation_file(name, commit or revision)
    # Without `trust_remote_code=False` transformers asks on the terminal whether the repository's code may run.
    source = {"revision": commit or revision or "main", "trust_remote_code": False}
    check_config(name, commit)
    if auto_class is not AutoConfig:
        config: Any = options.get("config") or load_safely(AutoConfig, name, revision)
        check_held(auto_class, name, commit, config)
        if "quantization_config" not in options and getattr(config, "quantization_config", None) is not None:
            return load_quantized(auto_class, name, source | options)
    with foreign_errors():
        loaded = auto_class.from_pretrained(name, **source, **options)
    if auto_class is AutoConfig and not isinstance(loaded.get_text_config(), PreTrainedConfig):
        raise ValueError(f"a {loaded.model_type} has no section text_config")
    if auto_class is AutoConfig and commit is not None:
        loaded._commit_hash = commit  # transformers 5.23 no longer sets it; it is not saved
    return loaded
