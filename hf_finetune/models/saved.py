"""Saved models, loaded to generate or to predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.classification_head import (
    get_classifier_class,
    has_classification_head,
    is_classifier,
    unwrap_adapter,
)
from hf_finetune.models.classifiers import _format_names
from hf_finetune.models.files.adapter import fetch_adapter, is_adapter, read_base_record
from hf_finetune.models.files.locate import read_run_file
from hf_finetune.models.gguf_folders.reading import is_gguf_folder, load_gguf_weights
from hf_finetune.models.loading import hide_load_report, load_language_model, load_pretrained
from hf_finetune.models.onnx_folders.graph_models import open_classifier_graph, open_language_graph
from hf_finetune.models.onnx_folders.session import is_onnx_folder
from hf_finetune.models.tokenizer_probe import check_trained_tokenizer
from hf_finetune.models.tokenizers import check_tokenizer_fits, load_tokenizer
from hf_finetune.models.verification import refuse_non_finite


def load_for_prediction(path: str, *, base: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a trained classifier, folder or Hub id, in evaluation mode, and its tokenizer.

    An adapter is loaded over its base, as a `PeftModel`; `base` is the base's folder or Hub id if it has moved. Both
    have the precision of their training: see `find_trained_dtype`. Raises `ModelError` for anything but a classifier:
    transformers would give a language model a random head.
    """
    if is_adapter(path):
        from hf_finetune.models.adapters.loading import load_adapter  # not needed for a whole model

        adapted: Any
        adapted, tokenizer = load_adapter(path, base)
        if not is_classifier(unwrap_adapter(adapted)):
            raise _make_no_classifier_error(path, "the adapter of a language model")
        return adapted, tokenizer
    refuse_base(path, base)
    model = ModelSection(path=path)
    config = load_pretrained(AutoConfig, model)
    get_classifier_class(config, path)
    loaded = _load_classifier(path, model, config)
    tokenizer = load_tokenizer(model, needs_end=False)
    check_tokenizer_fits(tokenizer, loaded.config)
    check_trained_tokenizer(tokenizer, path)
    refuse_non_finite(loaded, path)
    return loaded.eval(), tokenizer


def _load_classifier(path: str, model: ModelSection, config: PreTrainedConfig) -> PreTrainedModel:
    """Load a whole classifier. Raises `ModelError` where its head is not in the files."""
    if is_onnx_folder(path):
        if not has_classification_head(config):
            raise _make_no_classifier_error(path, "a language model")
        return open_classifier_graph(path, config)
    loaded: PreTrainedModel
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    with hide_load_report():
        loaded, info = load_pretrained(
            AutoModelForSequenceClassification,
            model,
            dtype=find_trained_dtype(path),
            device_map=device,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if missing:
        raise _make_no_classifier_error(path, f"a model without {_format_names(missing)}")
    return loaded


def _make_no_classifier_error(path: str, what: str) -> ModelError:
    remedy = "name a folder that recipes/classification.py has written, or a classifier of the Hub"
    return ModelError(Problem(f"is no text classifier but {what}", remedy, path=path, code="HF524"))


def load_for_generation(
    path: str,
    *,
    base: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    first: Callable[[PreTrainedTokenizerFast], object] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a language model, folder or Hub id, in evaluation mode, and its tokenizer.

    An adapter is loaded over its base, as a `PeftModel`, in the precision of its training; `base` is the base's folder
    or Hub id if it has moved. `revision` and `dtype` apply to a full model, which is loaded in the precision of its
    files by default. `first` is called with the tokenizer before any weights are loaded, and may refuse it: its chat
    template, or what is to be asked under it. Raises `ModelError` where there is no such model, or it is a classifier.
    """
    if is_adapter(path):
        # peft: only for an adapter
        from hf_finetune.models.adapters.loading import load_adapter, load_adapter_tokenizer, read_adapter_record

        fetch_adapter(path)
        tokenizer = load_adapter_tokenizer(path, read_adapter_record(path, base))
        if first is not None:
            first(tokenizer)
        adapted: Any
        adapted, tokenizer = load_adapter(path, base, tokenizer)  # a PeftModel generates as its base does
        return adapted, tokenizer
    refuse_base(path, base)
    model = ModelSection(path=path, revision=revision)
    tokenizer = load_tokenizer(model)
    if first is not None:
        first(tokenizer)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    config = load_pretrained(AutoConfig, model)
    if has_classification_head(config):
        remedy = "it can be asked with hf-finetune predict"
        raise ModelError(Problem("is a text classifier, not a language model", remedy, path=path, code="HF523"))
    if is_onnx_folder(path):
        loaded: PreTrainedModel = open_language_graph(path, config)
    elif is_gguf_folder(path):
        loaded = load_gguf_weights(path, config).to(device)  # type: ignore[arg-type]
    else:
        loaded = load_language_model(model, config=config, dtype=dtype, device_map=device)
    check_tokenizer_fits(tokenizer, loaded.config)
    check_trained_tokenizer(tokenizer, path, revision)
    refuse_non_finite(loaded, path)
    return loaded.eval(), tokenizer


def find_trained_dtype(path: str) -> torch.dtype | Literal["auto"]:
    """Find the precision in which the run of the model in `path` held, and evaluated, its weights.

    They may be saved in another: in 16 bits, in which the sums of a forward pass would be rounded, too. "auto", that of
    the files, where they are of no run.
    """
    model = read_run_file(path).get("model")
    name = model.get("dtype") if isinstance(model, dict) else None
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(str(name), "auto")


def refuse_base(path: str, base: str | None) -> None:
    """Raise `ModelError` where a base is named for a full model."""
    if base is not None:
        raise ModelError(
            Problem("is a whole model, which takes no base", "leave --base-path out", path=path, code="HF534")
        )


def is_sequence_classifier(path: str) -> bool:
    """Whether a model folder, adapter or Hub id is a sequence classifier; otherwise it is a language model.

    Raises `ModelError` where there is no model, or one of a type that transformers does not know.
    """
    if is_adapter(path):
        return read_base_record(path).classifier is not None
    config = load_pretrained(AutoConfig, ModelSection(path=path))
    return has_classification_head(config)


def is_regression_model(path: str) -> bool:
    """Whether a model folder, adapter or Hub id predicts a number. Raises as `is_sequence_classifier` does."""
    if not is_sequence_classifier(path):
        return False
    if is_adapter(path):
        described = read_base_record(path).classifier or {}
        return described.get("problem_type") == "regression"
    return bool(load_pretrained(AutoConfig, ModelSection(path=path)).problem_type == "regression")
