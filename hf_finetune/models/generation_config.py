"""The generation config that a saved model carries."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.template import find_end_token_ids
from hf_finetune.errors import ModelError, Problem
from hf_finetune.models.files.locate import find_file

logger = logging.getLogger(__name__)

FILE = "generation_config.json"
REMEDY = "correct it in a copy of the model"

# What does nothing in greedy generation, and what does nothing without beams, each with the value that says nothing.
OF_SAMPLING: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
OF_BEAMS: Mapping[str, Any] = {"length_penalty": 1.0, "early_stopping": False}
OF_CACHE: Mapping[str, Any] = {"cache_implementation": None, "cache_config": None}


def check_generation_file(name: str, revision: str | None) -> None:
    """Raise `ModelError` for a `generation_config.json`, in a folder or on the Hub, that transformers cannot load."""
    path = find_file(name, FILE, revision)
    if path is None:
        return
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        GenerationConfig.from_dict(values)
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise _unusable(name, problem) from problem


def settle_generation(model: PreTrainedModel, name: str) -> None:
    """Make the generation settings that came with `model` consistent, say so, and see that they can be saved.

    What the file says is kept: values of sampling get `do_sample: true`, unless it asks for greedy generation. What has
    no effect is left out. Raises `ModelError` where this does not do.
    """
    if not model.can_generate() or model.generation_config is None:
        return
    settings = model.generation_config
    try:
        changes = _changes(settings)
        for key, value in changes.items():
            setattr(settings, key, value)
        settings.validate(strict=True)
    except (ValueError, TypeError, AttributeError) as problem:
        raise _unusable(name, problem) from problem
    if changes:
        logger.warning("%s of %s contradicts itself: %s", FILE, name, _in_words(changes), extra={"code": "HF512"})


def check_savable(model: PreTrainedModel, name: str) -> None:
    """Raise `ModelError` now where the settings of a model that was just loaded could not be saved after training."""
    with TemporaryDirectory() as folder:
        try:
            copy.deepcopy(model.config).save_pretrained(folder)
            if model.can_generate() and model.generation_config is not None:
                model.generation_config.save_pretrained(folder)
        except (ValueError, TypeError, AttributeError) as problem:
            what = f"cannot be saved again once it is trained ({_reason(problem)})"
            raise ModelError(
                Problem(what, "correct its config.json in a copy of the model", path=name, code="HF504")
            ) from problem


def _changes(settings: GenerationConfig) -> dict[str, Any]:
    """What to set, None to leave out, so that nothing is set that has no effect."""
    said = settings.to_dict()
    changes: dict[str, Any] = {}
    sampling = _set(said, OF_SAMPLING)
    if sampling and said["do_sample"] is None and said["temperature"] != 0:
        changes["do_sample"] = True
    elif said["do_sample"] is not True:
        changes |= dict.fromkeys(sampling)
    if said["num_beams"] in (None, 1):
        changes |= dict.fromkeys(_set(said, OF_BEAMS))
    if said["use_cache"] is False:
        changes |= dict.fromkeys(_set(said, OF_CACHE))
    if said["return_dict_in_generate"] is not True:
        changes |= dict.fromkeys(flag for flag in settings.extra_output_flags if said.get(flag) is True)
    if (said["pad_token_id"] or 0) < 0:
        changes["pad_token_id"] = None
    return changes


def _set(said: Mapping[str, Any], idle: Mapping[str, Any]) -> list[str]:
    return [key for key, nothing in idle.items() if said.get(key) not in (None, nothing)]


def _in_words(changes: Mapping[str, Any]) -> str:
    left_out = [key for key, value in changes.items() if value is None]
    words = ["do_sample: true is added, since values of sampling are set"] if "do_sample" in changes else []
    words += [f"{', '.join(left_out)} left out, which had no effect"] if left_out else []
    return "; ".join(words)


def _unusable(name: str, problem: Exception) -> ModelError:
    what = f"cannot be used, nor saved with the trained model ({_reason(problem)})"
    return ModelError(Problem(what, REMEDY, path=str(Path(name, FILE)), code="HF504"))


def _reason(problem: Exception) -> str:
    lines = [line.strip("- ") for line in str(problem).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] if lines else type(problem).__name__


def stop_after_turns(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Set the end tokens of an answer in the model's generation config, so that a server stops where training did."""
    generation = model.generation_config or GenerationConfig()
    generation.eos_token_id = find_end_token_ids(tokenizer)
    # Into the model's config too, where batched inference looks for it; transformers 5.23 does not take it from the
    # tokenizer: https://github.com/huggingface/transformers/issues/34055
    generation.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = generation
