"""The task of a saved model, read from its configuration before any weight is loaded."""

from __future__ import annotations

from transformers import AutoConfig

from hf_finetune.config.sections import ModelSection
from hf_finetune.models.adapter_files import is_adapter, read_base_record
from hf_finetune.models.loading import load_or_refuse


def reads_labels(path: str) -> bool:
    """Whether a model folder, adapter or Hub id is a sequence classifier; otherwise it is a language model.

    Raises `ModelError` where there is no model, or one of a type that transformers does not know.
    """
    if is_adapter(path):
        return read_base_record(path).classifier is not None
    config = load_or_refuse(AutoConfig, ModelSection(path=path))
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])


def predicts_numbers(path: str) -> bool:
    """Whether a model folder, adapter or Hub id is a regression model. Raises `ModelError` as `reads_labels` does."""
    if not reads_labels(path):
        return False
    if is_adapter(path):
        described = read_base_record(path).classifier or {}
        return described.get("problem_type") == "regression"
    return bool(load_or_refuse(AutoConfig, ModelSection(path=path)).problem_type == "regression")
