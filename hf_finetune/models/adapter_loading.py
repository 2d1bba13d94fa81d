"""An adapter's folder and its base -> the model that was trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftModelForCausalLM, PeftModelForSequenceClassification
from peft.utils.save_and_load import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.adapter_files import (
    ADAPTER_WEIGHTS,
    BaseRecord,
    adapter_folder,
    check_base,
    is_adapter,
    read_base_record,
)
from hf_finetune.models.heads import (
    PEFT_PREFIX,
    classification_head,
    is_classifier,
    labelled,
    new_weights,
    remember_new,
    sequence_classifier,
)
from hf_finetune.models.loading import from_stored, keep_quantized_weights, quiet_loading
from hf_finetune.models.stored import stored_file
from hf_finetune.models.tokenizers import check_fits, load_tokenizer


def load_adapter(path: str, base: str | None = None) -> tuple[PeftModel, PreTrainedTokenizerFast]:
    """Load an adapter over its base, in evaluation mode, and the tokenizer beside it, else that of its base.

    Raises `ModelError` where the base is not the one that the adapter was trained on.
    """
    folder, record = adapter_folder(path), adapter_record(path, base)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    loaded = load_base(record, device=device)
    check_base(record, path)
    has_tokenizer = stored_file(path, "tokenizer_config.json") is not None
    section = ModelSection(path=path if has_tokenizer else record.name_or_path)
    tokenizer = load_tokenizer(section, needs_end=record.classifier is None)
    check_fits(tokenizer, loaded.config)
    if record.classifier is not None and record.classifier["pad_token_id"] is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return put_adapter_on(loaded, folder), tokenizer


def adapter_record(path: str, base: str | None = None) -> BaseRecord:
    """What the adapter in `path` says about its base, and in the case of a classifier about its labels.

    Raises `ModelError` for a classifier of others without the weights of its head.
    """
    record = read_base_record(path, base)
    if record.classifier != {}:
        return record
    config: PreTrainedConfig = from_stored(AutoConfig, record.name_or_path, record.revision)
    sequence_classifier(config, record.name_or_path)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    head = classification_head(model)
    name = next(name for name, module in model.named_modules() if module is head)
    weights = load_file(adapter_folder(path) / ADAPTER_WEIGHTS)
    if (weight := weights.get(f"{PEFT_PREFIX}{name}.weight")) is None:
        what = f"is the adapter of a classifier without its head ({name})"
        raise ModelError(Problem(what, "train it with the head in modules_to_save", path=path))
    known = len(weight) == config.num_labels
    labels = config.id2label if known else {number: f"LABEL_{number}" for number in range(len(weight))}
    described = {"id2label": labels, "problem_type": config.problem_type, "pad_token_id": config.pad_token_id}
    return replace(record, classifier=described)


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
        if record.classifier is None:
            loaded: PreTrainedModel = from_stored(AutoModelForCausalLM, record.name_or_path, record.revision, **options)
        else:
            loaded = _load_under_head(record, options)
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        what = f"the adapter's base {record.name_or_path!r} cannot be loaded ({reason})"
        raise ModelError(Problem(what, "say where it is now with --base-path")) from problem
    keep_quantized_weights(loaded)
    return loaded


def _load_under_head(record: BaseRecord, options: dict[str, Any]) -> PreTrainedModel:
    """A classifier whose head, where the base has none of this size, is still to come from the adapter."""
    said = dict(record.classifier or {})
    labels = {int(number): name for number, name in said.pop("id2label").items()}
    source = record.name_or_path, record.revision
    config = labelled(from_stored(AutoConfig, *source), labels, **said)
    with torch.random.fork_rng(devices=[]), quiet_loading():
        loaded: PreTrainedModel
        loaded, info = from_stored(
            AutoModelForSequenceClassification,
            *source,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    remember_new(loaded, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
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
    weights = load_file(folder / ADAPTER_WEIGHTS)
    absent = [name for name in new_weights(base) if f"{PEFT_PREFIX}{name}" not in weights]
    if absent:
        what = f"lacks weights that its base has not: {len(absent)}, first {absent[0]}"
        raise ModelError(Problem(what, "train it with all that is new in modules_to_save", path=str(folder)))
    kind = PeftModelForSequenceClassification if is_classifier(base) else PeftModelForCausalLM
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            model: PeftModel = kind(base, config)
        result: Any = set_peft_model_state_dict(model, weights)
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
    """peft 0.21 asks for a property that transformers 5.23 has renamed, and tells of what it sets right for GPT-2."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        yield


def _another_base(folder: Path, reason: str) -> ModelError:
    what = f"the adapter does not fit this base ({reason})"
    return ModelError(Problem(what, "name the base that it was trained on", path=str(folder)))
