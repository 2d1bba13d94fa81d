"""A ScratchGPT that another target than `llama` is made of: put into a published architecture on the way there."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.classification_head import has_classification_head
from hf_finetune.models.scratch_gpt import ScratchGPTConfig
from hf_finetune.release.export.llama.conversion import Fit, convert_to_published, describe_published, find_architecture
from hf_finetune.release.export.source import Source
from hf_finetune.release.export.targets import Written

logger = logging.getLogger(__name__)


def foresee_published(config: PreTrainedConfig, among: Collection[str], path: str) -> PreTrainedConfig:
    """The configuration that the model in `path` is exported with: its own, or that of one of `among`.

    Raises `ModelError` for a ScratchGPT that none of these computes; `among` is empty for a target that takes it as it
    is.
    """
    if not among or not _is_scratch(config):
        return config
    fit = find_architecture(config, among)  # type: ignore[arg-type]
    check_fit(fit, f"none of {', '.join(among)}", path)
    return describe_published(config, fit.architecture)  # type: ignore[arg-type]


def publish(source: Source, among: Collection[str]) -> tuple[Source, Written]:
    """The merged source as `foresee_published` says, and what there is to say of that step, if there is one."""
    config: Any = source.config
    if not among or not _is_scratch(config):
        return source, Written()
    published = publish_model(source.model)
    architecture = type(published).__name__
    logger.info("the ScratchGPT is made a %s first, as --to llama does it", architecture)
    said = Written(tuple(list_left_out(config, architecture)), {"architecture": architecture})
    return replace(source, model=published), said


def publish_model(model: Any) -> PreTrainedModel:
    """A ScratchGPT as the model that computes the same; any other one as it is."""
    whole: PreTrainedModel = convert_to_published(model) if _is_scratch(model.config) else model
    return whole


def check_fit(fit: Fit, none: str, path: str) -> None:
    """Raise `ModelError` with every field in the way, where the nearest architecture is another model.

    `none` says of which there is none, such as "no published architecture".
    """
    if fit.obstacles:
        what = (
            f"{none} computes this ScratchGPT; in the way of the nearest, {fit.architecture}, "
            f"{'is' if len(fit.obstacles) == 1 else 'are'} {', '.join(fit.obstacles)}"
        )
        remedy = "train one with other fields, such as model.scratch.preset: llama-like"
        raise ModelError(Problem(what, remedy, path=path, code="HF972"))


def list_left_out(config: ScratchGPTConfig, architecture: str) -> list[str]:
    """What a ScratchGPT has and a published architecture has no field for."""
    if not config.hidden_dropout or architecture == "GPT2LMHeadModel":
        return []
    return [f"hidden_dropout={config.hidden_dropout:g}, of which only more training would take note"]


def _is_scratch(config: PreTrainedConfig) -> bool:
    return isinstance(config, ScratchGPTConfig) and not has_classification_head(config)
