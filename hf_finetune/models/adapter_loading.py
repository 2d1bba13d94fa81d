"""An adapter's folder and its base -> the model that was trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftModelForCausalLM
from peft.utils.save_and_load import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.adapter_files import (
    ADAPTER_WEIGHTS,
    BaseRecord,
    adapter_folder,
    check_base,
    is_adapter,
    read_base_record,
    stored_file,
)
from hf_finetune.models.loading import keep_quantized_weights
from hf_finetune.models.tokenizers import check_fits, load_tokenizer


def load_adapter(path: str, base: str | None = None) -> tuple[PeftModel, PreTrainedTokenizerFast]:
    """Load an adapter over its base, in evaluation mode, and the tokenizer beside it, else that of its base.

    Raises `ModelError` where the base is not the one that the adapter was trained on.
    """
    folder, record = adapter_folder(path), read_base_record(path, base)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    loaded = load_base(record, device=device)
    check_base(record, path)
    has_tokenizer = stored_file(path, "tokenizer_config.json") is not None
    tokenizer = load_tokenizer(ModelSection(path=path if has_tokenizer else record.name_or_path))
    check_fits(tokenizer, loaded.config)
    return put_adapter_on(loaded, folder), tokenizer


def load_base(record: BaseRecord, *, device: torch.device, attention: str | None = None) -> PreTrainedModel:
    """Load the model that `record` names as it was loaded for training. Raises `ModelError`."""
    quantization = record.quantization and BitsAndBytesConfig.from_dict(record.quantization)
    options: dict[str, Any] = {"dtype": record.dtype, "attn_implementation": attention, "device_map": {"": device}}
    if quantization:
        options["quantization_config"] = quantization
    if is_adapter(record.name_or_path):
        what = f"{record.name_or_path!r} is an adapter, not a model"
        raise ModelError(Problem(what, "name the model that both were trained on, or merge the first one"))
    try:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            record.name_or_path, revision=record.revision or "main", **options
        )
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        what = f"the adapter's base {record.name_or_path!r} cannot be loaded ({reason})"
        raise ModelError(Problem(what, "say where it is now with --base-path")) from problem
    keep_quantized_weights(loaded)
    return loaded


def put_adapter_on(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The adapter of `folder` over a loaded base, in evaluation mode; every stored weight has its place.

    Draws nothing from the process's random numbers. Raises `ModelError` where shapes or modules are another model's.
    """
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        what = f"is an adapter of the kind {config.peft_type}"
        raise ModelError(Problem(what, "only LoRA's are loaded and merged", path=str(folder)))
    if str(config.init_lora_weights).startswith("pissa_niter"):
        what = "was begun by a random decomposition (pissa_niter) of its base and holds only what came after"
        raise ModelError(Problem(what, "resume training from it, or use the folder of the finished run", str(folder)))
    config.inference_mode = True
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            model = PeftModelForCausalLM(base, config)
        result: Any = set_peft_model_state_dict(model, load_file(folder / ADAPTER_WEIGHTS))
    except (ValueError, RuntimeError, KeyError) as problem:
        raise _another_base(folder, str(problem).strip().splitlines()[-1].strip()) from problem
    lost = [*result.unexpected_keys, *(key for key in result.missing_keys if ".default." in key and "lora_" in key)]
    if lost:
        raise _another_base(folder, f"{len(lost)} of its weights have no place there, first {lost[0]}")
    return model.eval()


def base_model(model: PeftModel) -> PreTrainedModel:
    base: PreTrainedModel = model.get_base_model()  # type: ignore[assignment]
    return base


def is_quantized(model: PreTrainedModel) -> bool:
    return getattr(model, "is_quantized", False)  # transformers sets it on those that are, and on no other


@contextmanager
def quiet() -> Iterator[None]:
    """peft 0.21 asks for a property that transformers 5.23 has renamed, which neither user nor run can change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _another_base(folder: Path, reason: str) -> ModelError:
    what = f"the adapter does not fit this base ({reason})"
    return ModelError(Problem(what, "name the base that it was trained on", path=str(folder)))
