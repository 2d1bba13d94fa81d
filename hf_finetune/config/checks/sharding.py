"""`train.fsdp`, `train.fsdp_config` and `train.deepspeed`, which the stack looks at once a process group is there."""

from __future__ import annotations

from typing import Any

from hf_finetune.config.checks.mappings import check_mapping, check_words, read_mapping
from hf_finetune.config.reading.document import RunDocument, format_value

# What `TrainingArguments._process_fsdp_args` (transformers 5.23) reads, which no signature says; those of XLA are left
# out, for no recipe runs there.
FSDP_CONFIG = {
    "version": ("int",),
    "cpu_offload": ("bool",),
    "auto_wrap_policy": ("str",),
    "min_num_params": ("int",),
    "transformer_layer_cls_to_wrap": ("str", "list"),
    "cpu_ram_efficient_loading": ("bool",),
    "state_dict_type": ("str",),
    "activation_checkpointing": ("bool",),
    "reshard_after_forward": ("bool", "str"),
    "forward_prefetch": ("bool",),
    "backward_prefetch": ("str",),
    "use_orig_params": ("bool",),
    "sync_module_states": ("bool",),
    "limit_all_gathers": ("bool",),
}
# Of accelerate's constants (1.15), and what its plugin takes in their place.
_SHARDINGS = ("full_shard", "shard_grad_op", "no_shard", "hybrid_shard", "hybrid_shard_zero2")
_ONE_OF: dict[str, tuple[object, ...]] = {
    "version": (1, 2),
    "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP"),
    "state_dict_type": ("FULL_STATE_DICT", "SHARDED_STATE_DICT", "LOCAL_STATE_DICT"),
    "reshard_after_forward": (True, False, *_SHARDINGS),
    "backward_prefetch": ("BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH"),
}
# Of FSDP2, which is the one that runs where fsdp_config names no version.
_OF_THE_FIRST = ("no_shard", "hybrid_shard", "hybrid_shard_zero2")


def check_sharding(document: RunDocument, run: Any) -> None:
    """Check what splits a model over processes: the words of it, its options, and that no two engines do it."""
    train = run.train
    check_words(document, run, "fsdp")
    config = read_mapping(document, run, "fsdp_config")
    read_mapping(document, run, "deepspeed")
    if train.fsdp_config and not train.fsdp and not document.is_refused("train.fsdp", "train.fsdp_config"):
        document.refuse(
            ("train", "fsdp_config"), "has no effect without train.fsdp", "add train.fsdp: true", code="HF607"
        )
        return
    if train.fsdp and train.deepspeed and not document.is_refused("train.fsdp", "train.deepspeed"):
        document.refuse(("train", "deepspeed"), "is given together with train.fsdp", "keep one", code="HF606")
    plain = {name.removeprefix("fsdp_"): value for name, value in config.items()}
    check_mapping(document, "fsdp_config", plain, FSDP_CONFIG)
    for name, words in _ONE_OF.items():
        if name in plain and plain[name] not in words and not document.is_refused(f"train.fsdp_config.{name}"):
            known = ", ".join(format_value(word).strip("'") for word in words)
            what = f"expected one of {known}, found {format_value(plain[name])}"
            document.refuse(("train", "fsdp_config", name), what, "choose one of them", code="HF604")
    first = set(train.fsdp.split()) & set(_OF_THE_FIRST) if isinstance(train.fsdp, str) else set()
    if first and plain.get("version") != 1 and not document.is_refused("train.fsdp", "train.fsdp_config"):
        what = f"{', '.join(sorted(first))} is of FSDP1 alone, and FSDP2 runs"
        document.refuse(
            ("train", "fsdp"), what, "write true, with train.fsdp_config: {reshard_after_forward: true}", code="HF606"
        )
