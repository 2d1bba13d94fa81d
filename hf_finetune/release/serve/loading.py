"""Folders and Hub ids -> the models and adapters that are served, by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerFast

from hf_finetune.chat import trust_named_template
from hf_finetune.errors import ModelError, Problem
from hf_finetune.evaluation.generation.prompts import try_template
from hf_finetune.models.base_and_tuned import find_base_of_run
from hf_finetune.models.embeddings import grow_for_added_tokens
from hf_finetune.models.files.adapter import BaseRecord, check_base, fetch_adapter, is_adapter
from hf_finetune.models.saved import find_trained_dtype, load_for_generation, refuse_base
from hf_finetune.models.tokenizers import check_tokenizer_fits
from hf_finetune.release.serve.engine.lanes import Lane, make_lane
from hf_finetune.release.serve.options import BASE, ServeOptions, check_names

logger = logging.getLogger(__name__)

Trust = Callable[[PreTrainedTokenizerFast], object]


def name_model(options: ServeOptions) -> str:
    """What the model is served as: the name that was given, else that of its folder. Raises `ConfigError`."""
    return check_names(options, over_adapter=is_adapter(options.model))


def load_lanes(options: ServeOptions) -> dict[str, Lane]:
    """Load all that `options` names, each base once. Raises `ModelError` and `ConfigError`."""
    name = name_model(options)
    if not (options.base or is_adapter(options.model)):
        refuse_base(options.model, options.base_path)
    if options.adapters or is_adapter(options.model):
        return _load_adapters(options, name)
    trust = partial(_look_at_template, options.trust_chat_template)
    model, tokenizer = load_for_generation(options.model, dtype=_find_dtype(options), first=trust)
    lanes = {name: make_lane(name, model, tokenizer, _stay, "tuned")}
    if options.base:
        base, revision = (options.base_path, None) if options.base_path else find_base_of_run(options.model)
        # As `generate --base` compares them: with the tuned model's tokenizer, in the precision of its training.
        untuned, _ = load_for_generation(str(base), revision=revision, dtype=find_trained_dtype(options.model))
        grow_for_added_tokens(untuned, tokenizer)
        check_tokenizer_fits(tokenizer, untuned.config)
        lanes[BASE] = make_lane(BASE, untuned, tokenizer, _stay, "base")
    return lanes


def _look_at_template(trusted: str | None, tokenizer: PreTrainedTokenizerFast) -> None:
    trust_named_template(tokenizer, trusted)
    if tokenizer.chat_template:
        try_template(tokenizer, [])


def _find_dtype(options: ServeOptions) -> Any:
    return find_trained_dtype(options.model) if options.base else "auto"


def _stay() -> None:
    """A model without adapters is always what it is."""


@dataclass(slots=True)
class _Switch:
    """One adapter of a `PeftModel` at a time, or none."""

    model: Any
    current: str | None = "default"

    def turn(self, name: str | None) -> None:
        if name == self.current:
            return
        if name is None:
            self.model.base_model.disable_adapter_layers()
        else:
            if self.current is None:
                self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(name, inference_mode=True)
        self.current = name


def _load_adapters(options: ServeOptions, name: str) -> dict[str, Lane]:
    """Load one base and all adapters over it; what is served without any is the base, where they leave it as it is."""
    # peft: only for an adapter
    from hf_finetune.models.adapters.loading import (
        add_saved_adapter,
        load_adapter,
        load_adapter_tokenizer,
        read_adapter_record,
    )
    from hf_finetune.models.adapters.switching_off import is_base_when_off

    over_adapter = is_adapter(options.model)
    base = options.base_path if over_adapter else options.model
    paths = ({name: options.model} if over_adapter else {}) | options.adapters
    for path in paths.values():
        fetch_adapter(path)
    records = {served: read_adapter_record(path, base) for served, path in paths.items()}
    _check_shared(records, paths)
    tokenizers = {served: load_adapter_tokenizer(path, records[served]) for served, path in paths.items()}
    for tokenizer in tokenizers.values():
        _look_at_template(options.trust_chat_template, tokenizer)
    first, *others = paths
    model: Any
    model, tokenizer = load_adapter(paths[first], base, tokenizers[first])
    for number, served in enumerate(others, start=1):
        check_tokenizer_fits(tokenizers[served], model.config)
        add_saved_adapter(model, fetch_adapter(paths[served]), f"served_{number}")
    switch = _Switch(model)
    # peft has names of its own: those that are served may hold dots, or be words of torch.
    own_names = {first: "default"} | {served: f"served_{number}" for number, served in enumerate(others, start=1)}
    lanes = {
        served: make_lane(served, model, tokenizers[served], partial(switch.turn, own), "tuned")
        for served, own in own_names.items()
    }
    if all(is_base_when_off(model.peft_config[own], trained=True) for own in own_names.values()):
        served = BASE if over_adapter else name
        lanes[served] = make_lane(served, model, tokenizer, partial(switch.turn, None), "base")
    elif len(lanes) > 1 or not over_adapter:
        what = "an adapter changes the base itself, so that others could not be put over it"
        raise ModelError(Problem(what, "merge it, and serve what that makes", key="--adapters", code="HF874"))
    switch.turn("default")
    return lanes


def _check_shared(records: Mapping[str, BaseRecord], paths: Mapping[str, str]) -> None:
    """Raise `ModelError` where adapters are not of one base, loaded in one way, or are of classifiers."""
    [first, *others] = records
    mine = records[first]
    for served, record in records.items():
        if record.classifier is not None:
            what = "is the adapter of a classifier"
            raise ModelError(Problem(what, "serve it by itself: POST /classify", paths[served], code="HF523"))
    for served in others:
        record = records[served]
        # Where its base is called otherwise, the weights are what tells whether it is the same.
        check_base(replace(record, name_or_path=mine.name_or_path, revision=mine.revision), paths[served])
        for field in ("dtype", "quantization", "vocab_size"):
            if getattr(record, field) != getattr(mine, field):
                what = f"{served} and {first} were trained over their base with another {field.replace('_', ' ')}"
                raise ModelError(
                    Problem(what, "serve them apart, each at a port of its own", paths[served], code="HF874")
                )
