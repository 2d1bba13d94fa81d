"""The same prompts before and after fine-tuning: a tuned model beside the base that it was trained from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.config.yaml_lines import read_document
from hf_finetune.errors import ConfigError, Problem
from hf_finetune.evaluation.generation import Sample
from hf_finetune.models.adapter_files import is_adapter
from hf_finetune.models.loading import load_for_generation
from hf_finetune.models.tokenizers import check_fits

Speak = Callable[[PreTrainedModel, PreTrainedTokenizerFast], list[Sample]]


def before_and_after(path: str, base: str | None, speak: Speak) -> list[tuple[Sample, Sample]]:
    """Let the base of the model in `path`, then that model, `speak`; both with the tuned model's tokenizer.

    The base of an adapter is the model under it, the adapter switched off; that of a whole model is `base`, or what
    its run.yaml names. Raises `ConfigError` where neither says which it is, and `ModelError` where one cannot be
    loaded.
    """
    if is_adapter(path):
        adapted: Any
        adapted, tokenizer = load_for_generation(path, base=base)
        with adapted.disable_adapter():
            before = speak(adapted, tokenizer)
        after = speak(adapted, tokenizer)
    else:
        base = base or base_of_run(path)
        tuned, tokenizer = load_for_generation(path)
        after = speak(tuned, tokenizer)
        del tuned  # two models at a time may not fit where one does
        untuned, _ = load_for_generation(base)
        check_fits(tokenizer, untuned.config)
        before = speak(untuned, tokenizer)
    return list(zip(before, after, strict=True))


def base_of_run(path: str) -> str:
    """Name or path of the model that the run in `path` went on from. Raises `ConfigError` where it names none."""
    file = Path(path) / "run.yaml"
    remedy = "say which model it was trained from with --base-path"
    if not file.is_file():
        raise ConfigError(Problem("there is no run.yaml, which names the base", remedy, path=path))
    model = read_document(str(file)).values.get("model", {})
    if not model.get("path"):
        remedy = "a GPT from scratch has no base; compare with another model through --base-path"
        raise ConfigError(Problem("the run began with random weights", remedy, path=str(file)))
    if model.get("revision"):
        what = f"the run went on from revision {model['revision']} of {model['path']}"
        raise ConfigError(Problem(what, "name a folder that holds it with --base-path", path=str(file)))
    return str(Path(model["path"]).expanduser())
