"""Every number of a run file has a largest value: what is allocated by it is refused before anything is."""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import pytest

from hf_finetune.config.reading.document import Place, RunDocument
from hf_finetune.config.sections import SHIPPED_RECIPES, Section
from hf_finetune.config.validation.run_file import build_run_file_section, check_sections

LARGE = (10**9, 2**31 - 1, 10**18)
SMALL = (0, -1)
# A number that is only compared with steps, rows, bytes or seconds that there are: "never", or "as many as there are".
COMPARED = (
    *("train.max_steps", "train.warmup_steps", "train.logging_steps", "train.eval_steps", "train.eval_delay"),
    *("train.save_steps", "train.save_total_limit", "train.eval_accumulation_steps", "train.torch_empty_cache_steps"),
    *("train.early_stopping_patience", "train.max_nonfinite_skips", "train.ddp_timeout", "hub.push_every"),
    *("eval.top_k", "eval.generate_rows", "lora.qalora_group_size", "data.stream_part"),
)
OF_TRL = "train.router_aux_loss_coef"
HARMLESS: dict[int, tuple[str, ...]] = {
    # Seeds are hashed; ids of tokens are compared with the tokenizer's; a gradient is clipped to its own norm at most.
    10**9: (
        *COMPARED,
        *("train.seed", "train.data_seed", "eval.seed", "data.max_line_bytes", "train.max_grad_norm"),
        *("lora.trainable_token_indices", "lora.alora_invocation_tokens", "model.scratch.rope_theta", "data.labels"),
    ),
    2**31 - 1: (
        *COMPARED,
        *("train.seed", "train.data_seed", "eval.seed", "train.max_grad_norm"),
        *("lora.trainable_token_indices", "lora.alora_invocation_tokens", "model.scratch.rope_theta", "data.labels"),
    ),
    10**18: ("data.labels",),
    # None of it, or the first.
    0: (
        *("train.seed", "train.data_seed", "eval.seed", "train.warmup_steps", "train.eval_delay", "train.max_steps"),
        *("train.weight_decay", "train.max_grad_norm", "train.adam_beta1", "train.adam_beta2", "eval.generate_rows"),
        *("train.label_smoothing_factor", "train.neftune_noise_alpha", OF_TRL, "eval.temperature"),
        *("train.early_stopping_threshold", "train.dataloader_num_workers", "lora.lora_dropout", "data.max_dropped"),
        *("lora.layers_to_transform", "lora.trainable_token_indices", "lora.alora_invocation_tokens", "data.labels"),
        *("model.scratch.attention_dropout", "model.scratch.hidden_dropout"),
    ),
    # `max_steps: -1` is the stack's word for none, and checks/train.py refuses what else is below 1.
    -1: ("train.max_steps", "lora.trainable_token_indices", "lora.alora_invocation_tokens", "data.labels"),
}


def fill(annotation: Any, value: int) -> Any:
    """A value of an annotation with `value` in the place of each number; None where it has none."""
    if get_origin(annotation) is Annotated:
        return fill(get_args(annotation)[0], value)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return fill_section(annotation, value) or None
    parts = get_args(annotation)
    if get_origin(annotation) is list:
        return None if (item := fill(parts[0], value)) is None else [item]
    if get_origin(annotation) is dict:
        return None if (item := fill(parts[1], value)) is None else {"a": item}
    found = [filled for part in parts if part is not NoneType and (filled := fill(part, value)) is not None]
    # Of a union the section with the numbers rather than a list of such.
    return value if annotation in (int, float) else next(iter(found), None)


def fill_section(section: type[Section], value: int) -> dict[str, Any]:
    filled = {name: fill(field.annotation, value) for name, field in section.model_fields.items()}
    return {name: each for name, each in filled.items() if each is not None}


def list_numbers(values: Any, key: tuple[str, ...] = ()) -> list[str]:
    """The settings that were filled, as `section.key`; what is in a list or under a name that a user gives is one."""
    if not isinstance(values, dict) or key in (("data", "balance"), ("data", "labels")):
        return [".".join(key)]
    return [each for name, value in values.items() for each in list_numbers(value, (*key, name))]


@pytest.mark.parametrize("recipe", SHIPPED_RECIPES)
@pytest.mark.parametrize("value", [*LARGE, *SMALL])
def test_every_number_of_a_run_file_is_refused_or_known_to_be_harmless(recipe, value):
    values = fill_section(build_run_file_section(recipe), value)
    numbers = list_numbers(values)
    assert len(numbers) > 70
    document = RunDocument("run.yaml", values={"recipe": recipe, "output_dir": "out", **values})
    document.places = {(name,): Place("run.yaml", 1) for name in values}
    check_sections(document, recipe)
    refused = {problem.key.partition("[")[0] for problem in document.problems if problem.key is not None}
    accepted = {key for key in numbers if not any(each == key or each.startswith(f"{key}.") for each in refused)}
    assert accepted - set(HARMLESS[value]) == set()
    assert all("must be" in problem.what or problem.key not in numbers for problem in document.problems)
    # A row of the table that is refused by now says something that is not so.
    assert set(HARMLESS[value]) - accepted <= (set() if recipe in ("sft", "lora") else {OF_TRL})
