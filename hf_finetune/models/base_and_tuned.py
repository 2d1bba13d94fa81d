"""A tuned model and the base that it was trained from, one after the other, with the same tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.reading.yaml_reader import read_document
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.folders import RUN_FILE
from hf_finetune.models.embeddings import grow_for_added_tokens
from hf_finetune.models.files.adapter import BASE_RECORD, is_adapter, read_base_name, read_base_record
from hf_finetune.models.saved import find_trained_dtype, load_for_generation
from hf_finetune.models.tokenizers import check_tokenizer_fits

logger = logging.getLogger(__name__)

Model = PreTrainedModel
Tokenizer = PreTrainedTokenizerFast
Before = TypeVar("Before")
After = TypeVar("After")


def run_base_and_tuned(
    path: str,
    base: str | None,
    ask_base: Callable[[Model, Tokenizer], Before],
    ask_tuned: Callable[[Model, Tokenizer], After],
    first: Callable[[Tokenizer], object] | None = None,
) -> tuple[Before, After]:
    """Call `ask_base` with the base of the model in `path`, and `ask_tuned` with that model; return both results.

    Both get the tuned model's tokenizer, and the precision of its training. The base of an adapter is the model that it
    adapts; that of a full model is `base`, or what its run.yaml names. `first` is called as `load_for_generation` does.
    Raises `ConfigError` if neither names
    it, and `ModelError` if one of them cannot be loaded.
    """
    if is_adapter(path):
        return _run_base_and_adapter(path, base, ask_base, ask_tuned, first)
    base, revision = (base, None) if base else find_base_of_run(path)
    dtype = find_trained_dtype(path)
    tuned, tokenizer = load_for_generation(path, dtype=dtype, first=first)
    logger.info("the tuned model, %s", path)
    after = ask_tuned(tuned, tokenizer)
    del tuned  # memory may hold one model and not two
    logger.info("the base, %s", base)
    untuned, _ = load_for_generation(base, revision=revision, dtype=dtype)
    grow_for_added_tokens(untuned, tokenizer)
    check_tokenizer_fits(tokenizer, untuned.config)
    before = ask_base(untuned, tokenizer)
    return before, after


def _run_base_and_adapter(
    path: str,
    base: str | None,
    ask_base: Callable[[Model, Tokenizer], Before],
    ask_tuned: Callable[[Model, Tokenizer], After],
    first: Callable[[Tokenizer], object] | None,
) -> tuple[Before, After]:
    from hf_finetune.models.adapters.loading import load_base, read_adapter_record  # peft: only for an adapter
    from hf_finetune.models.adapters.switching_off import is_base_when_off, switch_adapter_off

    adapted: Any
    adapted, tokenizer = load_for_generation(path, base=base, first=first)
    if is_base_when_off(adapted.peft_config["default"], trained=True):  # one load for both
        logger.info("the base, %s", read_base_name(path))
        with switch_adapter_off(adapted):
            before = ask_base(adapted, tokenizer)
        logger.info("the tuned model, %s", path)
        return before, ask_tuned(adapted, tokenizer)
    logger.info("the tuned model, %s", path)
    after, device = ask_tuned(adapted, tokenizer), adapted.device
    del adapted  # memory may hold one model and not two
    logger.info("the base, %s", read_base_name(path))
    return ask_base(load_base(read_adapter_record(path, base), device=device), tokenizer), after


def find_base(path: str) -> str:
    """Return name or path of the base of the model or adapter in `path`. Raises `ConfigError` if nothing names it."""
    return read_base_name(path) if is_adapter(path) else find_base_of_run(path)[0]


def find_origin(path: str) -> str | None:
    """Return name or path of the adapter that training of the adapter in `path` went on with; None for any other."""
    started_from = read_base_record(path).started_from if is_adapter(path) else None
    return None if started_from is None else started_from["name_or_path"]


def find_base_of_run(path: str) -> tuple[str, str | None]:
    """Return name or path of the model that the run in `path` started from, and the revision of one from the Hub.

    That of a merged model is the base of its adapter. Raises `ConfigError` if neither is recorded there, or if the run
    started from random weights.
    """
    file = Path(path) / RUN_FILE
    remedy = "say which model it was trained from with --base-path"
    if not file.is_file():
        if (Path(path) / BASE_RECORD).is_file():  # of a merged adapter
            record = read_base_record(path)
            return record.name_or_path, record.revision
        raise ConfigError(Problem("there is no run.yaml, which names the base", remedy, path=path, code="HF533"))
    model = read_document(str(file)).values.get("model", {})
    if not model.get("path"):
        remedy = "a GPT from scratch has no base; compare with another model through --base-path"
        raise ConfigError(Problem("the run began with random weights", remedy, path=str(file), code="HF533"))
    return str(Path(model["path"]).expanduser()), model.get("revision")
