"""Suggestions for unknown names: the closest known one, or the setting that another tool calls so."""

from __future__ import annotations

from hf_finetune.errors import find_closest

# Names of settings in axolotl, LLaMA-Factory, nanoGPT and the examples of transformers, and what people say for them.
OTHER_NAMES = {
    "lr": "train.learning_rate",
    "epochs": "train.num_train_epochs",
    "num_epochs": "train.num_train_epochs",
    "steps": "train.max_steps",
    "batch_size": "train.per_device_train_batch_size",
    "train_batch_size": "train.per_device_train_batch_size",
    "micro_batch_size": "train.per_device_train_batch_size",
    "eval_batch_size": "train.per_device_eval_batch_size",
    "grad_clip": "train.max_grad_norm",
    "optimizer": "train.optim",
    "scheduler": "train.lr_scheduler_type",
    "lr_scheduler": "train.lr_scheduler_type",
    "patience": "train.early_stopping_patience",
    "model_name_or_path": "model.path",
    "base_model": "model.path",
    "dataset": "data.train",
    "datasets": "data.train",
    "train_file": "data.train",
    "validation_file": "data.validation",
    "val_set_size": "data.validation_fraction",
    "sequence_len": "data.block_size",
    "cutoff_len": "data.block_size",
    "context_length": "data.block_size",
    "class_weight": "data.balance",
    "class_weights": "data.balance",
    "pos_weight": "data.balance",
    "problem_type": "data.task",
    "n_layer": "model.scratch.num_hidden_layers",
    "n_head": "model.scratch.num_attention_heads",
    "n_embd": "model.scratch.hidden_size",
    "dropout": "model.scratch.hidden_dropout",
    "output": "output_dir",
    "out_dir": "output_dir",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "rank": "lora.r",
    "alpha": "lora.lora_alpha",
}


def suggest_key(name: str, section: str, keys: dict[str, set[str]]) -> str | None:
    """Suggest the full key that `section.name` was meant to be, or None.

    `keys` maps each section ("" is the top level) to its keys. A key of the same name in another section is preferred
    to a similar name in this one.
    """
    # ("max_steps", "") -> "train.max_steps"; ("lr", "train") and ("learning_rat", "train") -> "train.learning_rate"
    for other, names in keys.items():
        if name in names and other != section:
            return _join_key(other, name)
    if name in OTHER_NAMES and _exists(OTHER_NAMES[name], keys):
        return OTHER_NAMES[name]
    if close := find_closest(name, keys.get(section, set())):
        return _join_key(section, close)
    for other, names in keys.items():
        if close := find_closest(name, names, cutoff=0.8):
            return _join_key(other, close)
    return None


def _exists(key: str, keys: dict[str, set[str]]) -> bool:
    section, _, name = key.rpartition(".")
    return name in keys.get(section, set())


def _join_key(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
