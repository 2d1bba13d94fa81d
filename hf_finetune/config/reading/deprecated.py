"""Names that the stack has deprecated or removed: translated if the meaning is the same, refused with a remedy if not.

Checked against transformers 5.23, trl 1.16 and peft 0.21 (https://github.com/huggingface/transformers/blob/main/MIGRATION_GUIDE_V5.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hf_finetune.config.reading.document import Key, RunDocument, format_key_path, format_value
from hf_finetune.config.sections import RecipeName


class Untranslatable(Exception):
    """The new setting has no equivalent for a value of the deprecated one; the text is the remedy."""


class Renamed(NamedTuple):
    """The new name of a setting, and how its values are converted."""

    new: str
    convert: Callable[[Any], Any] = lambda value: value
    why: str = "this name is deprecated"


def _convert_warmup_ratio(value: Any) -> Any:
    # transformers 5.15 removed warmup_ratio: https://github.com/vllm-project/semantic-router/issues/3925
    # warmup_steps below 1 is a share of all steps, but 1.0 is one step, not all of them:
    # https://github.com/vllm-project/semantic-router/issues/3940
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1:
        return value
    raise Untranslatable("warmup_steps takes a share of all steps in [0, 1), or a number of steps from 1")


def _convert_length_grouping(value: Any) -> Any:
    return {True: "group_by_length", False: "random"}.get(value, value) if isinstance(value, bool) else value


def _convert_dtype(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _convert_assistant_only(assistant_only: Any) -> Any:
    # A number is no boolean here either, though {True: ...}[1] would find it, since 1 == True.
    return {True: "assistant", False: "all"}[assistant_only] if isinstance(assistant_only, bool) else assistant_only


def _convert_truncation_mode(mode: Any) -> Any:
    if mode == "keep_end":
        raise Untranslatable("a conversation is cut at its end, or write data.too_long: drop")
    return {"keep_start": "cut"}.get(mode, mode) if isinstance(mode, str) else mode


def _convert_packing_strategy(strategy: Any) -> Any:
    # "wrapped" cuts the stream of tokens at every max_length, so that documents attend to each other:
    # https://github.com/huggingface/trl/issues/3067
    if strategy == "wrapped":
        raise Untranslatable("packed conversations never see each other; write data.too_long: cut or split")
    return {"bfd": "cut", "bfd_split": "split", "bfd-requeue": "split"}.get(str(strategy), strategy)


RENAMED: dict[str, Renamed] = {
    "tokenizer": Renamed("model.tokenizer"),
    "model.torch_dtype": Renamed("model.dtype", _convert_dtype),
    "train.evaluation_strategy": Renamed("train.eval_strategy"),
    "train.warmup_ratio": Renamed("train.warmup_steps", _convert_warmup_ratio),
    "train.no_cuda": Renamed("train.use_cpu"),
    "train.per_gpu_train_batch_size": Renamed("train.per_device_train_batch_size"),
    "train.per_gpu_eval_batch_size": Renamed("train.per_device_eval_batch_size"),
    "train.group_by_length": Renamed("train.train_sampling_strategy", _convert_length_grouping),
    "train.include_tokens_per_second": Renamed("train.include_num_input_tokens_seen"),
    "train.xpu_backend": Renamed("train.ddp_backend"),
}

# trl's own renames, for the recipes whose `train:` is an SFTConfig; continued pretraining has data.block_size instead.
SFT_RENAMED: dict[str, Renamed] = {"train.max_seq_length": Renamed("train.max_length")}

# Settings of SFTConfig that have a key of their own in a run file: the rows are prepared before TRL sees them.
_REPLACED = "a run file says it with another key"
SFT_REPLACED: dict[str, Renamed] = {
    "train.assistant_only_loss": Renamed("data.loss_on", _convert_assistant_only, _REPLACED),
    "train.dataset_num_proc": Renamed("data.num_proc", why=_REPLACED),
    "train.chat_template_path": Renamed("data.chat_template", why=_REPLACED),
    "train.truncation_mode": Renamed("data.too_long", _convert_truncation_mode, _REPLACED),
    "train.packing_strategy": Renamed("data.too_long", _convert_packing_strategy, _REPLACED),
}
# Values that trl has renamed; "chunked_nll" is an alias until trl 2.
SFT_RENAMED_VALUES: dict[Key, dict[str, str]] = {("train", "loss_type"): {"chunked_nll": "nll"}}

PRETRAINING_RENAMED: dict[str, Renamed] = {
    "train.max_seq_length": Renamed("data.block_size"),
    "train.max_length": Renamed("data.block_size"),
}

_HUB = "pushing belongs to the section hub"
_TOKENIZER = "the tokenizer is model.tokenizer; the trainer gets it as its processing_class"
_NO_EFFECT = "it has had no effect since transformers 5; leave it out"

# Keys that are not settings of a run, each with its remedy.
REFUSED: dict[str, str] = {
    "train.output_dir": "the run folder is the top-level output_dir",
    "train.push_to_hub": _HUB,
    "train.hub_token": f"{_HUB}; a token is never written into a run file: log in with `hf auth login`",
    "train.hub_private_repo": _HUB,
    "train.hub_model_id": _HUB,
    "train.hub_strategy": _HUB,
    "train.hub_always_push": _HUB,
    "train.hub_revision": _HUB,
    "train.push_to_hub_token": f"{_HUB}; a token is never written into a run file: log in with `hf auth login`",
    "train.push_to_hub_model_id": _HUB,
    "train.push_to_hub_organization": _HUB,
    "train.batch_eval_metrics": "the metrics are computed over all rows at once; each row is a few sums",
    "train.eval_do_concat_batches": "the metrics are computed over all rows at once; each row is a few sums",
    "train.trust_remote_code": "code from a model repository is never run; use a model that needs none",
    "model.trust_remote_code": "code from a model repository is never run; use a model that needs none",
    "data.trust_remote_code": "code from a data set repository is never run",
    "model.num_labels": "the labels are those of the training rows; leave it out",
    "train.tokenizer": _TOKENIZER,
    "train.processing_class": _TOKENIZER,
    "train.model_init_kwargs": "the model is described in the section model",
    "train.overwrite_output_dir": "transformers 5 removed it; leave it out, and name a new output_dir for a new run",
    "train.logging_dir": "transformers 5 removed it; set the environment variable TENSORBOARD_LOGGING_DIR",
    "train.save_safetensors": "weights are always safetensors; leave it out",
    "train.jit_mode_eval": _NO_EFFECT,
    "train.use_ipex": _NO_EFFECT,
    "train.use_mps_device": "an Apple GPU is used where there is one; leave it out, or set train.use_cpu",
    "train.half_precision_backend": "mixed precision has one engine now; leave it out and set train.bf16 or train.fp16",
    "train.fp16_backend": "mixed precision has one engine now; leave it out and set train.fp16",
    "train.fp16_opt_level": "it was a setting of Apex, which is gone; leave it out and set train.fp16",
    "train.adafactor": "write train.optim: adafactor",
    "train.sharded_ddp": "use train.fsdp",
    "train.past_index": _NO_EFFECT,
    "train.ray_scope": _NO_EFFECT,
    "train.torchdynamo": "write train.torch_compile: true and train.torch_compile_backend",
    "train.fsdp_min_num_params": "write it as min_num_params in train.fsdp_config",
    "train.fsdp_transformer_layer_cls_to_wrap": "write it as transformer_layer_cls_to_wrap in train.fsdp_config",
    "train.dispatch_batches": "write it in train.accelerator_config",
    "train.split_batches": "write it in train.accelerator_config",
    "train.tpu_metrics_debug": "write train.debug: tpu_metrics_debug",
    "train.include_inputs_for_metrics": "the metrics of a recipe read no inputs; leave it out",
    "train.do_train": "the recipe decides what is run; leave it out",
    "train.do_eval": "the recipe decides what is run; set train.eval_strategy",
    "train.do_predict": "the recipe decides what is run; leave it out",
    "train.local_rank": "the launcher sets it; leave it out",
    "train.parallelism_config": "it belongs to the accelerate config of the launch line",
    "train.include_for_metrics": "the metrics of a recipe read no inputs; leave it out",
    "train.length_column_name": "the tokens of each row are counted as it is tokenized; leave it out",
    "train.label_names": "the recipe names the labels of its rows; data.columns says which field has them",
    "train.pad_token": "the tokenizer's own pad token is used; leave it out",
    "train.eos_token": "a turn ends as the chat template says; name another in data.chat_template",
    "train.completion_only_loss": "prompt_completion rows train the completion; data.loss_on: all trains both parts",
    "train.dataset_text_field": "data.format says which field holds what",
    "train.dataset_kwargs": "the rows are tokenized before the trainer gets them, as the section data says",
    "train.shuffle_dataset": "the rows are shuffled anew in each epoch; see train.train_sampling_strategy",
    "train.padding_free": "it follows from train.packing under flash_attention_2; leave it out",
    "train.eval_packing": "evaluation gives the same loss packed or not; leave it out",
}

SET_BY_RECIPE: dict[str, str] = {
    f"lora.{name}": "the recipe sets it; leave it out"
    for name in (
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    )
}


def translate_deprecated_names(document: RunDocument, recipe: RecipeName) -> None:
    """Replace every deprecated name by its new one, with a note in `document`, and refuse those that have none."""
    # max_seq_length means max_length in SFT and block_size in continued pretraining, so the recipe decides.
    own = PRETRAINING_RENAMED if recipe == "continued_pretraining" else {}
    if recipe in ("sft", "lora"):
        own = SFT_RENAMED | SFT_REPLACED
        _translate_values(document)
    for old, renamed in (RENAMED | own).items():
        if document.contains(old):
            _rename(document, tuple(old.split(".")), renamed)
    for old, remedy in (REFUSED | SET_BY_RECIPE).items():
        if document.contains(old):
            key = tuple(old.split("."))
            if not document.is_refused(old):
                document.refuse(key, "is not a setting of a run file", remedy, code="HF617")


def _rename(document: RunDocument, old: Key, renamed: Renamed) -> None:
    new: Key = tuple(renamed.new.split("."))
    section = _find_section(document.values, old)
    if section is None or document.is_refused(format_key_path(old)):
        return
    if document.contains(renamed.new):
        what = f"says the same as {renamed.new}, which is given too"
        document.refuse(old, what, f"keep {renamed.new} alone", code="HF612")
        return
    target = document.values if len(new) == 1 else document.values.setdefault(str(new[0]), {})
    try:
        value = renamed.convert(section[str(old[-1])])
    except Untranslatable as why:
        found = format_value(section[str(old[-1])])
        document.refuse(old, f"{renamed.why}, and {found} has no equivalent in {renamed.new}", str(why), code="HF617")
        return
    if not isinstance(target, dict):
        return
    document.note(old, f"{renamed.why}; read as {renamed.new}: {format_value(value)}", code="HF616")
    del section[str(old[-1])]
    target[str(new[-1])] = value
    _move_places(document, old, new)


def _translate_values(document: RunDocument) -> None:
    for key, renamed in SFT_RENAMED_VALUES.items():
        section = _find_section(document.values, key)
        value = section[str(key[-1])] if section is not None else None
        if section is not None and isinstance(value, str) and value in renamed:
            section[str(key[-1])] = renamed[value]
            document.note(key, f"{value} is a deprecated name; read as {renamed[value]}", code="HF616")


def _find_section(values: Any, key: Key) -> dict[str, Any] | None:
    """Return the mapping that holds `key`, or None if there is something else in its place."""
    for name in key[:-1]:
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) and key[-1] in values else None


def _move_places(document: RunDocument, old: Key, new: Key) -> None:
    # A message about the new name must point to the line on which the user wrote the old one.
    for key in [key for key in document.places if key[: len(old)] == old]:
        document.places[new + key[len(old) :]] = document.places.pop(key)
