"""Rows of the embedding and of the output head that are trained with an adapter: those of tokens that are new."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from peft import PeftModel
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import PreTrainedModel

from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.models.embeddings import get_added_ids, has_grown

KEY = "trainable_token_indices"


def select_token_rows(model: PreTrainedModel, lora: Mapping[str, Any]) -> dict[str, list[int]] | list[int] | None:
    """Ids for `trainable_token_indices`: the run's own, and those that the chat template has added, by module.

    An embedding or head that the run trains in whole needs none. Raises `ConfigError` where it has LoRA on it, and
    `ModelError` for a head that peft would take the bias from.
    """
    added, named = get_added_ids(model), lora.get(KEY)
    if not added:
        return named
    modules = _find_vocabulary_modules(model)
    # A list is of the embedding alone, as in peft: [5, 7] of the run and the new token 320 become
    # {"model.embed_tokens": [5, 7, 320], "lm_head": [320]}.
    rows = dict(named) if isinstance(named, Mapping) else {next(iter(modules)): list(named or ())}
    for name, module in modules.items():
        if _is_named(name, lora.get("target_modules")):
            what = f"{name} gets LoRA, and the tokens that the chat template adds need whole rows of it"
            raise ConfigError(
                Problem(what, "name it in lora.modules_to_save instead", key="lora.target_modules", code="HF586")
            )
        if _is_named(name, lora.get("modules_to_save")):
            continue
        if getattr(module, "bias", None) is not None:
            # peft 0.21 multiplies by the rows and leaves the bias out: `TrainableTokensLayer.forward_adapters`.
            what = f"{name} has a bias, which training rows of it for the chat template's tokens would leave out"
            raise ModelError(
                Problem(what, f"name {name} in lora.modules_to_save", key="lora.modules_to_save", code="HF586")
            )
        rows[name] = list(dict.fromkeys([*rows.get(name, ()), *added]))
    return {name: ids for name, ids in rows.items() if ids} or None


def _find_vocabulary_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The embedding and, where its weight is another, the head, by their names in the model."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = [embedding, *([head] if head is not None and head.weight is not embedding.weight else [])]
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(module)]: module for module in wanted}


def _is_named(name: str, settings: Any) -> bool:
    """Whether a list of module names has this one, whole or from its end on."""
    # "lm_head" names model.lm_head, and not model.my_lm_head.
    return isinstance(settings, list) and any(f".{name}".endswith(f".{each}") for each in settings)


def settle_token_rows(model: PeftModel) -> None:
    """Keep a grown embedding out of the adapter's files, which have its new rows, and let the loss read the head."""
    # TRL 1.16 reads `bias` of the head for its loss on a GPU, which peft 0.21's wrapper does not pass on. Can go when
    # `AuxiliaryTrainingWrapper.__getattr__` does.
    head: Any = model.get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        head.bias = getattr(head.original_module, "bias", None)  # type: ignore[assignment]
    # peft 0.21 saves all of embedding and head as soon as the base has another number of rows in its files. Can go when
    # it looks at `trainable_token_indices` there: `get_peft_model_state_dict`.
    if has_grown(model.get_base_model()):  # type: ignore[arg-type]
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)  # type: ignore[method-assign]


def count_token_rows(model: PeftModel) -> int:
    """Count the tokens whose rows an adapter trains."""
    rows = getattr(model.peft_config["default"], KEY) or []
    return len({index for ids in rows.values() for index in ids} if isinstance(rows, Mapping) else set(rows))
