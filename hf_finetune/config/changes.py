"""Settings of a run that is typed again which are not those that it began with: what each may do, and what happens.

Every key of a run file has one class. `data` and `model` by their names are none of it: their content is compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hf_finetune.config.dump import dump_dict
from hf_finetune.config.reading.document import format_value
from hf_finetune.config.reading.yaml_reader import read_document
from hf_finetune.config.sections import (
    CardSection,
    DataSection,
    EvalSection,
    HubSection,
    ModelSection,
    Run,
    ScratchSection,
    Section,
)
from hf_finetune.config.validation.hf_settings import build_lora_section, build_train_section
from hf_finetune.errors import ConfigError
from hf_finetune.folders.record_kinds import show_key
from hf_finetune.privacy import escape_control_characters

Kind = Literal["safe", "schedule", "unsafe", "fixed", "content"]
"""`safe` goes on, `schedule` and `unsafe` where they are allowed (a longer run always), `fixed` never; `content` is
compared by hash elsewhere."""

WORDS: dict[Kind, str] = {
    "safe": "is safe, and holds from here on",
    "schedule": "changes the schedule, from the next step on",
    "unsafe": "is unsafe: what is trained from here on is not what the run began with",
    "fixed": "cannot change within a run",
    "content": "is compared by content",
}
LONGER = "trains on; the learning rate follows the schedule of the new length, from the next step on"

_SECTION_NAMES = ("model", "data", "train", "lora", "eval", "card", "hub", "model.scratch")
# Sections all of whose keys are of one class.
_SECTIONS: dict[str, Kind] = {"eval": "safe", "card": "safe", "hub": "safe"}
_MODEL: dict[Kind, str] = {
    "safe": "save_dtype scratch.initializer_range",
    "unsafe": "dtype attn_implementation load_in_4bit load_in_8bit new_head scratch.hidden_act scratch.rope_theta "
    "scratch.norm_eps scratch.attention_dropout scratch.hidden_dropout",
    "fixed": "train_only scratch scratch.preset scratch.family scratch.hidden_size scratch.num_hidden_layers "
    "scratch.num_attention_heads scratch.num_key_value_heads scratch.intermediate_size "
    "scratch.max_position_embeddings scratch.ngram_order scratch.ngram_vocab_size scratch.gated_mlp scratch.qk_norm "
    "scratch.tie_word_embeddings",
    "content": "path adapter revision tokenizer",
}
_DATA: dict[Kind, str] = {
    "safe": "max_line_bytes trust_chat_template max_dropped num_proc",
    "unsafe": "group_by format columns on_bad_line block_size isolate_documents chat_template chat_template_kwargs "
    "system fold_system template_date loss_on train_on_prefill too_long allow_empty max_length balance",
    "fixed": "validation_fraction test_fraction stratify_by task stream stream_part",
    "content": "train validation test labels",
}
_TRAIN: dict[Kind, str] = {
    "safe": "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter "
    "include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name project "
    "trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay "
    "per_device_eval_batch_size prediction_loss_only eval_on_start eval_use_gather_object eval_accumulation_steps "
    "include_for_metrics bf16_full_eval fp16_full_eval eval_packing save_only_model save_strategy save_steps "
    "save_on_each_node save_total_limit enable_jit_checkpoint load_best_model_at_end "
    "restore_callback_states_from_checkpoint dataloader_num_workers dataloader_pin_memory "
    "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context "
    "dataloader_in_order dataset_num_proc ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
    "ddp_static_graph ddp_backend ddp_timeout debug skip_memory_metrics do_train do_eval do_predict local_rank "
    "use_cache gradient_checkpointing gradient_checkpointing_kwargs activation_checkpointing "
    "activation_checkpointing_kwargs activation_offloading torch_empty_cache_steps on_nonfinite max_nonfinite_skips",
    "schedule": "max_steps num_train_epochs learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps "
    "weight_decay adam_beta1 adam_beta2 adam_epsilon early_stopping_patience early_stopping_threshold",
    "unsafe": "per_device_train_batch_size gradient_accumulation_steps auto_find_batch_size train_sampling_strategy "
    "average_tokens_across_devices max_grad_norm label_smoothing_factor bf16 fp16 tf32 torch_compile "
    "torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config neftune_noise_alpha "
    "metric_for_best_model greater_is_better ignore_data_skip full_determinism seed data_seed use_cpu "
    "accelerator_config dataloader_drop_last remove_unused_columns label_names length_column_name "
    "router_aux_loss_coef dataset_text_field dataset_kwargs eos_token max_length shuffle_dataset packing "
    "padding_free pad_to_multiple_of completion_only_loss loss_type pad_token",
    "fixed": "optim optim_args optim_target_modules fsdp fsdp_config deepspeed parallelism_config",
    "content": "resume_from_checkpoint",
}
_LORA: dict[Kind, str] = {"unsafe": "lora_alpha lora_dropout use_rslora alpha_pattern"}  # the others are its shape

# What the defaults take from the machine: on another one they are said, and not refused.
OF_THE_MACHINE = ("train.use_cpu", "train.bf16", "train.dataloader_pin_memory")
# Their rate is in the state of the schedule, not in the settings.
STATEFUL_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
_HELD_BY_THE_SCHEDULE = ("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps")


@dataclass(frozen=True)
class Change:
    """One setting of a run that is typed again, and what it was before."""

    key: str
    old: Any
    new: Any
    kind: Kind
    words: str

    @property
    def asks(self) -> bool:
        """Whether it is taken only where it is allowed."""
        return self.kind in ("schedule", "unsafe") and self.words != LONGER

    @property
    def shown(self) -> str:
        """`60 -> 120`."""
        return f"{_show(self.old)} -> {_show(self.new)}"

    def __str__(self) -> str:
        return f"{self.key}: {self.shown}: {self.words}"


def read_settings(run_file: Path) -> dict[str, Any] | None:
    """Every resolved setting of a run by its run.yaml, in sections; None where that cannot be read."""
    if not run_file.is_file():
        return None
    try:
        document = read_document(str(run_file))
    except ConfigError:
        return None
    return None if document.problems or not _has_sections(document.values) else document.values


def _has_sections(values: Any) -> bool:
    """Whether what stands under the names of sections are sections: the file may be anybody's."""
    sections = (values.get(name) for name in _SECTION_NAMES if "." not in name)
    model = values.get("model")
    inner = (model or {}).get("scratch") if isinstance(model, Mapping) else None
    return all(each is None or isinstance(each, Mapping) for each in (*sections, inner))


def find_changes(before: Mapping[str, Any], run: Run, planned: int | None, *, same_machine: bool) -> list[Change]:
    """What of `run`, its defaults filled in, is another setting than `before`, as `read_settings` has it.

    `planned` is the number of steps that the run was to take. What came from the machine alone is only of a machine
    that is another. Names of data and models are left out.
    """
    old, new = (dict(_flatten(each)) for each in (before, dump_dict(run)))
    stateful = any(each.get("train.lr_scheduler_type") in STATEFUL_SCHEDULES for each in (old, new))
    changes = []
    for key in sorted({*old, *new}, key=lambda key: (key.split(".")[0] != "train", key)):
        before_it, now = (each.get(key, _get_default(key, run)) for each in (old, new))
        if before_it == now:
            continue
        try:
            kind = classify(key, before_it, now)
            words = WORDS[kind]
        except KeyError:
            # Of another version, or of nobody: `now` has none that is unknown.
            kind, words = "safe", "is no setting of this version, and is left out"
        if key in OF_THE_MACHINE and not same_machine:
            kind, words = "safe", "is that of this machine, so that the figures differ in their last digits"
        elif kind == "schedule" and stateful and key.split(".")[-1] in _HELD_BY_THE_SCHEDULE:
            kind, words = "fixed", f"{WORDS['fixed']}: its schedule keeps its own rate"
        elif _is_longer(key, before_it, now, planned):
            words = LONGER
        if kind != "content":
            changes.append(Change(show_key(key), before_it, now, kind, words))
    return changes


def classify(key: str, old: Any = "", new: Any = "") -> Kind:
    """The class of a setting such as `train.max_steps`. Raises KeyError for one that has none."""
    section, _, name = key.partition(".")
    if section in _SECTIONS:
        return _SECTIONS[section]
    if section in ("recipe", "lora"):
        return _find_kind(_LORA, name) or "fixed"
    if section == "output_dir":
        return "content"
    table = {"model": _MODEL, "data": _DATA, "train": _TRAIN}[section]
    kind = _find_kind(table, name)
    if kind is None:
        raise KeyError(key)
    if key == "model.tokenizer" and not (isinstance(old, str) and isinstance(new, str)):
        return "fixed"  # one that was trained on the text, or the model's own: nothing else compares it
    if key in ("data.train", "data.validation", "data.test") and not _reads_alike(old, new):
        return "unsafe"
    return kind


def _find_kind(table: Mapping[Kind, str], name: str) -> Kind | None:
    return next((kind for kind in get_args(Kind) if name in table.get(kind, "").split()), None)


def _reads_alike(old: Any, new: Any) -> bool:
    """Whether two settings name as many files with the same weights: what is in them is compared by hash.

    Under other names, too; files of the same names in another order are rows in another order.
    """
    weights = []
    for value in (old, new):
        listed = value if isinstance(value, list) else [value]
        weights.append([each.get("weight", 1.0) if isinstance(each, dict) else 1.0 for each in listed])
    names = [[_name_of(each) for each in value] if isinstance(value, list) else None for value in (old, new)]
    reordered = None not in names and names[0] != names[1] and sorted(names[0] or ()) == sorted(names[1] or ())
    return weights[0] == weights[1] and not reordered


def _name_of(source: Any) -> str:
    return Path(str(source.get("path") if isinstance(source, dict) else source)).name


def _is_longer(key: str, old: Any, new: Any, planned: int | None) -> bool:
    if not (isinstance(old, int | float) and isinstance(new, int | float)):
        return False
    if key == "train.num_train_epochs":
        return bool(new > old)
    if key != "train.max_steps":
        return False
    # -1, the default, is by epochs: how many steps those are is known of the run that was, and not of the new one.
    return bool(new > (planned or old) if new > 0 else True)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`train.max_steps` and so on; of a section that need not be there, whether it is."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key in _SECTION_NAMES:
            if key in ("lora", "model.scratch"):
                yield key, value is not None
            yield from _flatten(value or {}, f"{key}.")
        else:
            yield key, value


def _get_default(key: str, run: Run) -> Any:
    section, _, name = key.rpartition(".")
    sections: dict[str, type[Section]] = {
        "model": ModelSection, "model.scratch": ScratchSection, "data": DataSection, "eval": EvalSection,
        "card": CardSection, "hub": HubSection, "lora": build_lora_section(), "train": build_train_section(run.recipe),
    }  # fmt: skip
    if section not in sections:
        return False if key in ("lora", "model.scratch") else None
    field = sections[section].model_fields.get(name)
    return None if field is None or field.is_required() else field.default


def _show(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else format_value(value)
    except (TypeError, ValueError):  # a day, or a number of thousands of digits
        text = format_value(value)
    # Before it is cut: an escape may be ten times as long as what it stands for.
    text = escape_control_characters(text)
    return text if len(text) <= 60 else f"{text[:57]}..."
