"""Load a saved adapter over its base: the model as it was trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
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

from hf_finetune.config.checks.lora import NEED_DATA, NOT_OFFERED, OF_INITIALIZATION
from hf_finetune.config.model_files.regular import read_object
from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.adapters.effect import check_effect
from hf_finetune.models.adapters.patterns import name_what_matches
from hf_finetune.models.classification_head import (
    PEFT_PREFIX,
    configure_labels,
    find_classification_head,
    get_classifier_class,
    get_new_weights,
    is_classifier,
    record_new_weights,
)
from hf_finetune.models.embeddings import grow_embeddings
from hf_finetune.models.files.adapter import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BaseRecord,
    check_base_around,
    fetch_adapter,
    is_adapter,
    read_base_record,
)
from hf_finetune.models.files.foreign_errors import ForeignError, foreign_errors, shorten_reason
from hf_finetune.models.files.locate import find_file
from hf_finetune.models.files.quantized import disable_4bit_repacking
from hf_finetune.models.loading import (
    hide_load_report,
    load_safely,
    refuse_missing_weights,
)
from hf_finetune.models.tokenizer_probe import check_tokenizer_probe, check_trained_tokenizer
from hf_finetune.models.tokenizers import check_tokenizer_fits, load_tokenizer
from hf_finetune.models.verification import refuse_non_finite

_REFUSALS = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError)
# Settings of peft that no run of ours has, or only with another: what fails with one of them is not the base's fault.
UNUSUAL = (*NOT_OFFERED, *OF_INITIALIZATION, "layers_to_transform", "layers_pattern", "target_parameters")


def load_adapter(
    path: str,
    base: str | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    load: Callable[..., PreTrainedModel] | None = None,
) -> tuple[PeftModel, PreTrainedTokenizerFast]:
    """Load an adapter over its base, in evaluation mode, with the tokenizer in its folder, or else its base's.

    `base` is the base's folder or Hub id today, if it has moved; `tokenizer` that of `load_adapter_tokenizer`, where it
    was loaded before; `load` takes the place of `load_base`. Raises `ModelError` where adapter, base or tokenizer
    cannot be loaded, the base is not the one that the adapter was trained on, the tokenizer is another, or the adapter
    changes nothing.
    """
    folder, record = fetch_adapter(path), read_adapter_record(path, base)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    with check_base_around(record, path):
        loaded = (load or load_base)(record, device=device)
    tokenizer = load_adapter_tokenizer(path, record) if tokenizer is None else tokenizer
    check_tokenizer_fits(tokenizer, loaded.config)
    if record.tokenizer_probe is not None:
        check_tokenizer_probe(tokenizer, record.tokenizer_probe, path)
    elif not _has_tokenizer(path):
        check_trained_tokenizer(tokenizer, record.name_or_path, record.revision)
    if record.classifier is not None and record.classifier["pad_token_id"] is None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    adapted = attach_saved_adapter(loaded, folder)
    refuse_non_finite(adapted, path)
    check_effect(adapted, path)
    return adapted, tokenizer


def load_adapter_tokenizer(path: str, record: BaseRecord) -> PreTrainedTokenizerFast:
    """Load the tokenizer in an adapter's folder, or else its base's; no weights. Raises `ModelError`."""
    section = ModelSection(path=path if _has_tokenizer(path) else record.name_or_path)
    return load_tokenizer(section, needs_end=record.classifier is None)


def _has_tokenizer(path: str) -> bool:
    return find_file(path, "tokenizer_config.json") is not None


def read_adapter_record(path: str, base: str | None = None) -> BaseRecord:
    """Read which base the adapter in `path` has, and for a classifier its labels.

    Raises `ModelError` for a classifier from another tool that was saved without the weights of its head.
    """
    record = read_base_record(path, base)
    if record.classifier != {}:
        return record
    with _base_errors(record):
        config: PreTrainedConfig = load_safely(AutoConfig, record.name_or_path, record.revision)
    get_classifier_class(config, record.name_or_path)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    head = find_classification_head(model)
    name = next(name for name, module in model.named_modules() if module is head)
    weights = load_file(fetch_adapter(path) / ADAPTER_WEIGHTS)
    if (weight := weights.get(f"{PEFT_PREFIX}{name}.weight")) is None:
        what = f"is the adapter of a classifier without its head ({name})"
        raise ModelError(Problem(what, "train it with the head in modules_to_save", path=path, code="HF537"))
    known = len(weight) == config.num_labels
    labels = config.id2label if known else {number: f"LABEL_{number}" for number in range(len(weight))}
    described = {"id2label": labels, "problem_type": config.problem_type, "pad_token_id": config.pad_token_id}
    return replace(record, classifier=described)


def load_base(record: BaseRecord, *, device: torch.device, attention: str | None = None) -> PreTrainedModel:
    """Load the model that `record` names with the precision and quantization that it had in training.

    Raises `ModelError` where it cannot be loaded, lacks weights of a language model, or is an adapter itself.
    """
    options: dict[str, Any] = {"dtype": record.dtype, "attn_implementation": attention, "device_map": {"": device}}
    if record.quantization:
        with _base_errors(record), foreign_errors():
            options["quantization_config"] = BitsAndBytesConfig.from_dict(record.quantization)
    if is_adapter(record.name_or_path):
        what = f"{record.name_or_path!r} is an adapter, not a model"
        raise ModelError(
            Problem(what, "name the model that both were trained on, or merge the first one", code="HF522")
        )
    loaded: PreTrainedModel
    with _base_errors(record):
        if record.classifier is None:
            loaded = _load_language_base(record, options)
        else:
            loaded = _load_classifier_base(record, options)
    disable_4bit_repacking(loaded)
    if record.vocab_size is not None:
        grow_embeddings(loaded, record.vocab_size)
    return loaded


@contextmanager
def _base_errors(record: BaseRecord) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        what = f"the adapter's base {record.name_or_path!r} cannot be loaded ({reason})"
        raise ModelError(Problem(what, "say where it is now with --base-path", code="HF532")) from problem


def _load_language_base(record: BaseRecord, options: dict[str, Any]) -> PreTrainedModel:
    """Load a language model's base, with all of its weights: transformers draws those at random that are not there."""
    source = record.name_or_path, record.revision
    loaded: PreTrainedModel
    with hide_load_report():
        loaded, info = load_safely(AutoModelForCausalLM, *source, output_loading_info=True, **options)
    refuse_missing_weights(loaded, info, record.name_or_path)
    return loaded


def _load_classifier_base(record: BaseRecord, options: dict[str, Any]) -> PreTrainedModel:
    """Load a classifier's base; a head that is not in its files is drawn at random, and later set from the adapter."""
    described = dict(record.classifier or {})
    labels = {int(number): name for number, name in described.pop("id2label").items()}
    source = record.name_or_path, record.revision
    config = configure_labels(load_safely(AutoConfig, *source), labels, **described)
    with torch.random.fork_rng(devices=[]), hide_load_report():
        loaded: PreTrainedModel
        loaded, info = load_safely(
            AutoModelForSequenceClassification,
            *source,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    record_new_weights(loaded, {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    return loaded


def attach_saved_adapter(base: PreTrainedModel, folder: Path, *, trains: bool = False) -> PeftModel:
    """Attach the adapter in `folder` to a loaded base, in evaluation mode; every stored weight is used.

    With `trains` its weights get gradients.

    The process's random state stays as it is. Raises `ModelError` for an unfinished PiSSA checkpoint, and where
    module names or shapes do not match the base.
    """
    config = _read_saved_settings(folder, trains=trains)
    weights = load_file(folder / ADAPTER_WEIGHTS)
    absent = [name for name in get_new_weights(base) if f"{PEFT_PREFIX}{name}" not in weights]
    if absent:
        what = f"lacks weights that its base does not have either: {len(absent)}, first {absent[0]}"
        raise ModelError(
            Problem(what, "train it with all that is new in modules_to_save", path=str(folder), code="HF537")
        )
    kind = PeftModelForSequenceClassification if is_classifier(base) else PeftModelForCausalLM
    try:
        with torch.random.fork_rng(devices=[]), suppress_peft_warnings(), name_what_matches(base, config):
            model: PeftModel = kind(base, config)
    except _REFUSALS as problem:
        raise _make_settings_error(folder, str(problem)) from problem
    _set_saved_weights(model, weights, folder)
    return model.eval()


def add_saved_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Put the adapter in `folder` beside those of `model`, under `name`. Raises as `attach_saved_adapter` does."""
    config = _read_saved_settings(folder)
    try:
        with torch.random.fork_rng(devices=[]), suppress_peft_warnings():
            model.add_adapter(name, config)
    except _REFUSALS as problem:
        raise _make_settings_error(folder, str(problem)) from problem
    _set_saved_weights(model, load_file(folder / ADAPTER_WEIGHTS), folder, name)
    model.eval()


def _read_saved_settings(folder: Path, *, trains: bool = False) -> LoraConfig:
    try:
        with foreign_errors():
            config = PeftConfig.from_pretrained(str(folder))
    except ForeignError as problem:
        raise _make_settings_error(folder, str(problem)) from problem
    assert isinstance(config, LoraConfig)  # `fetch_adapter` refuses others
    if str(config.init_lora_weights).startswith("pissa_niter"):
        what = "was initialized with pissa_niter (a random SVD) and stores only the difference from it"
        raise ModelError(
            Problem(what, "resume training from it, or use the folder of the finished run", str(folder), code="HF539")
        )
    config.inference_mode = not trains
    return config


def _set_saved_weights(model: PeftModel, weights: dict[str, torch.Tensor], folder: Path, name: str = "default") -> None:
    """Set the weights of the adapter `name`. Raises `ModelError` where one is missing or left over."""
    try:
        result: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    except _REFUSALS as problem:
        raise _make_mismatch_error(folder, str(problem).strip().splitlines()[-1].strip()) from problem
    # peft 0.21 only warns of such keys, and the model runs untrained: https://github.com/huggingface/peft/issues/2699
    lost = [*result.unexpected_keys, *(key for key in result.missing_keys if _is_of_adapter(key, name))]
    if lost:
        raise _make_mismatch_error(folder, f"{len(lost)} weights are missing or unexpected, first {lost[0]}")


def _is_of_adapter(key: str, name: str) -> bool:
    """Whether a weight of a `PeftModel` is one that the files of its adapter `name` must have."""
    # "...q_proj.lora_A.default.weight", "...score.modules_to_save.default.weight"; of tokens whose rows are trained a
    # head that shares them has none.
    return f".{name}." in key and ("lora_" in key or "modules_to_save" in key)


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether the model's weights are held in 4 or 8 bits."""
    return getattr(model, "is_quantized", False)  # transformers sets it on quantized models and on no others


@contextmanager
def suppress_peft_warnings() -> Iterator[None]:
    """Hide warnings of peft 0.21 that ask nothing of a user."""
    with warnings.catch_warnings():
        # It reads a property that transformers 5.23 has renamed; can go with a peft that reads the new name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        # It corrects this setting by itself for the transposed weights of GPT-2.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        # It compares patterns with modules alone, and those that name experts are of parameters; `check_attached` does
        # not.
        warnings.filterwarnings("ignore", r"The following \w+ keys did not match any targeted", RuntimeWarning)
        # `check_attached` refuses it.
        warnings.filterwarnings("ignore", "`lora_bias=True` was passed", UserWarning)
        # It takes the bias of a lora_B, which has one dimension, for a weight of the wrong shape.
        warnings.filterwarnings("ignore", r".*have invalid shape: .*\.lora_B\.\w+\.bias", UserWarning)
        yield


def _make_settings_error(folder: Path, reason: str) -> ModelError:
    """Say that peft cannot build the adapter: by its own settings, where they are unusual, else by another base."""
    given = read_object(folder / ADAPTER_CONFIG) or {}
    usual = vars(LoraConfig())
    unusual = [name for name in UNUSUAL if given.get(name) and given[name] != usual.get(name)]
    if str(given.get("init_lora_weights")) in NEED_DATA:
        unusual.append("init_lora_weights")
    if not unusual:
        return _make_mismatch_error(folder, shorten_reason(reason))
    what = f"peft builds no adapter with these settings over this base ({shorten_reason(reason)})"
    remedy = "correct them in a copy of the adapter, or name the base that it was trained on"
    return ModelError(Problem(what, remedy, path=str(folder / ADAPTER_CONFIG), key=", ".join(unusual), code="HF536"))


def _make_mismatch_error(folder: Path, reason: str) -> ModelError:
    what = f"the adapter does not fit this base ({reason})"
    return ModelError(Problem(what, "name the base that it was trained on", path=str(folder), code="HF536"))
