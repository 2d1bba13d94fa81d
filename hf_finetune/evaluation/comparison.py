"""The same prompts before and after fine-tuning: a tuned model beside the base that it was trained from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.yaml_lines import read_document
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.models.adapter_files import base_of, is_adapter
from hf_finetune.models.loading import load_for_generation
from hf_finetune.models.tokenizers import check_fits

Model = PreTrainedModel
Tokenizer = PreTrainedTokenizerFast
Before = TypeVar("Before")
After = TypeVar("After")


def before_and_after(
    path: str,
    base: str | None,
    ask_base: Callable[[Model, Tokenizer], Before],
    ask_tuned: Callable[[Model, Tokenizer], After],
) -> tuple[Before, After]:
    """Ask the base of the model in `path` and that model itself, both with the tuned model's tokenizer.

    The base of an adapter is the model under it, the adapter switched off; that of a whole model is `base`, or what
    its run.yaml names. Raises `ConfigError` where neither says which it is, and `ModelError` where one cannot be
    loaded.
    """
    if is_adapter(path):
        adapted: Any
        adapted, tokenizer = load_for_generation(path, base=base)
        with adapted.disable_adapter():
            before = ask_base(adapted, tokenizer)
        after = ask_tuned(adapted, tokenizer)
    else:
        base, revision = (base, None) if base else base_of_run(path)
        tuned, tokenizer = load_for_generation(path)
        after = ask_tuned(tuned, tokenizer)
        del tuned  # two models at a time may not fit where one does
        untuned, _ = load_for_generation(base, revision=revision)
        check_fits(tokenizer, untuned.config)
        before = ask_base(untuned, tokenizer)
    return before, after


def base_of_model(path: str) -> str:
    """Name or path of what the model or adapter in `path` was tuned from. Raises `ConfigError` where nothing says."""
    return base_of(path) if is_adapter(path) else base_of_run(path)[0]


def base_of_run(path: str) -> tuple[str, str | None]:
    """Name or path of the model that the run in `path` went on from, and its revision where it is one of the Hub.

    Raises `ConfigError` where it names none.
    """
    file = Path(path) / "run.yaml"
    remedy = "say which model it was trained from with --base-path"
    if not file.is_file():
        raise ConfigError(Problem("there is no run.yaml, which names the base", remedy, path=path))
    model = read_document(str(file)).values.get("model", {})
    if not model.get("path"):
        remedy = "a GPT from scratch has no base; compare with another model through --base-path"
        raise ConfigError(Problem("the run began with random weights", remedy, path=str(file)))
    return str(Path(model["path"]).expanduser()), model.get("revision")
