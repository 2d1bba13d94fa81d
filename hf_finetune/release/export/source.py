"""The run, model or adapter that is exported: loaded in float32 on the CPU, and what goes beside its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.chat.template import find_end_token_ids, trust_named_template
from hf_finetune.config.model_files.description import CONFIG
from hf_finetune.config.sections import ModelSection
from hf_finetune.evaluation.prediction.predict import resolve_decision
from hf_finetune.folders.decision_record import DECISION
from hf_finetune.label_set import Labels
from hf_finetune.models.adapters.loading import load_adapter, load_adapter_tokenizer, read_adapter_record
from hf_finetune.models.classification_head import has_classification_head, is_classifier, read_labels, unwrap_adapter
from hf_finetune.models.decision import Decision, read_decision
from hf_finetune.models.files.adapter import BaseRecord, fetch_adapter, is_adapter
from hf_finetune.models.files.locate import find_file
from hf_finetune.models.files.provenance import describe_source
from hf_finetune.models.generation_config import settle_generation, stop_after_turns
from hf_finetune.models.loading import load_pretrained, load_safely
from hf_finetune.models.saved import load_for_generation, load_for_prediction, refuse_base
from hf_finetune.models.tokenizers import load_tokenizer
from hf_finetune.release.merge import add_to_base, load_base_in_float32

# Called with configuration and tokenizer before weights are read; it may refuse them.
First = Callable[[PreTrainedConfig, PreTrainedTokenizerFast], object]


@dataclass(frozen=True, slots=True)
class Source:
    path: str
    """A folder or Hub id, as the user named it."""
    folder: Path
    """Where its files are."""
    model: PreTrainedModel | PeftModel
    """In float32 on the CPU, in evaluation mode; a `PeftModel` until `merge_source`."""
    tokenizer: PreTrainedTokenizerFast
    labels: Labels | None
    """Of a classifier."""
    decision: Decision | None
    """Of a classifier that is no regression."""
    adapter: Path | None = None
    """The adapter's folder, of one over its base."""
    record: BaseRecord | None = None
    """That base."""

    @property
    def config(self) -> PreTrainedConfig:
        return unwrap_adapter(self.model).config


def load_source(path: str, base: str | None, trusted: str | None, first: First) -> Source:
    """Load a run folder, model folder, Hub id or adapter. Raises `ModelError` as loading does, and what `first` does.

    `trusted` is the hash of a chat template that is rendered without limits.
    """
    if is_adapter(path):
        return _load_adapter(path, base, trusted, first)
    refuse_base(path, base)
    section = ModelSection(path=path)
    config = load_pretrained(AutoConfig, section)
    classifies = has_classification_head(config)
    tokenizer = load_tokenizer(section, needs_end=not classifies)
    _look_first(config, tokenizer, trusted, first, classifies=classifies)
    model: PreTrainedModel
    if classifies:
        model, _ = load_for_prediction(path)
    else:
        model, _ = load_for_generation(path, dtype=torch.float32)
        settle_generation(model, path)
    return _describe(path, model, tokenizer, Path(str(find_file(path, CONFIG))).parent)


def _load_adapter(path: str, base: str | None, trusted: str | None, first: First) -> Source:
    folder, record = fetch_adapter(path), read_adapter_record(path, base)
    tokenizer = load_adapter_tokenizer(path, record)
    config = load_safely(AutoConfig, record.name_or_path, record.revision)
    _look_first(config, tokenizer, trusted, first, classifies=record.classifier is not None)
    model, _ = load_adapter(path, base, tokenizer, load_base_in_float32)
    inside = unwrap_adapter(model)
    if record.classifier is None:
        settle_generation(inside, record.name_or_path)
        stop_after_turns(inside, tokenizer)
    return replace(_describe(path, model, tokenizer, folder), adapter=folder, record=record)


def _look_first(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    trusted: str | None,
    first: First,
    *,
    classifies: bool,
) -> None:
    trust_named_template(tokenizer, trusted)
    if tokenizer.chat_template and not classifies:
        # A template that cannot be rendered is refused before minutes of loading.
        find_end_token_ids(tokenizer)
    first(config, tokenizer)


def _describe(
    path: str, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> Source:
    inside = unwrap_adapter(model)
    # Where there is a GPU, it is loaded there.
    model = model.float().cpu().eval()
    if not is_classifier(inside):
        return Source(path, folder, model, tokenizer, None, None)
    decision = resolve_decision(read_decision(str(folder)), inside.config, path)
    return Source(path, folder, model, tokenizer, read_labels(inside.config), decision)


def merge_source(source: Source) -> Source:
    """Add an adapter to the weights of its base, in place; a whole model is returned as it is."""
    if not isinstance(source.model, PeftModel):
        return source
    return replace(source, model=add_to_base(source.model).eval())


def save_companions(source: Source, folder: Path) -> None:
    """Save what goes beside the weights: tokenizer, chat template, configuration, generation settings, decision."""
    model = unwrap_adapter(source.model)
    model.config.save_pretrained(folder)
    _forget_code(folder)
    if source.labels is None and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    source.tokenizer.save_pretrained(folder)
    if source.decision is not None and (source.folder / DECISION).exists():
        shutil.copy(source.folder / DECISION, folder)


def _forget_code(folder: Path) -> None:
    """Take out where a ScratchGPT's code is: other runtimes have no use for it, and its modules are not there."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if config.pop("auto_map", None) is not None:
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for file in folder.glob("*.py"):
            file.unlink()


def describe_weights(source: Source) -> dict[str, Any]:
    """Describe the files that were exported, by their sha256, or of the Hub by name and commit: no path."""
    named: dict[str, tuple[str, str | None]] = {"model" if source.adapter is None else "adapter": (source.path, None)}
    if source.record is not None:
        named["base"] = (source.record.name_or_path, source.record.revision)
    found = {}
    for role, (name, revision) in named.items():
        described = describe_source(name, revision)
        found[role] = described if described["revision"] else {"sha256": described["sha256"]}
    return found
