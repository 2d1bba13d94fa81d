"""Attach LoRA to a base model, and save it with proof that the files hold what was trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_finetune.errors import ConfigError, ModelError, Problem
from hf_finetune.metric_info import format_share
from hf_finetune.models.adapters.continuing import ALL_LINEAR, describe_origin
from hf_finetune.models.adapters.loading import (
    attach_saved_adapter,
    is_quantized,
    load_base,
    suppress_peft_warnings,
)
from hf_finetune.models.adapters.patterns import name_what_matches
from hf_finetune.models.adapters.targets import (
    check_attached,
    check_targets,
    has_tied_targets,
    list_linear_modules,
    list_unadaptable,
)
from hf_finetune.models.adapters.token_rows import count_token_rows, select_token_rows, settle_token_rows
from hf_finetune.models.adapters.whole_weights import check_engine
from hf_finetune.models.classification_head import find_head_modules, is_classifier, unwrap_adapter
from hf_finetune.models.embeddings import get_added_ids, has_grown
from hf_finetune.models.files.adapter import (
    ADAPTER_WEIGHTS,
    BaseRecord,
    compute_fingerprint,
    edit_adapter_config,
    fetch_adapter,
    write_base_record,
)
from hf_finetune.models.files.stamps import refuse_changed_files
from hf_finetune.models.tokenizer_probe import probe_tokenizer
from hf_finetune.models.verification import compute_probe_logits, plan_reload, use_class_forward
from hf_finetune.models.weights.parameters import count_parameters

logger = logging.getLogger(__name__)

# These subtract the adapter's initial weights from the base's: a freshly loaded base is not the one in training.
REWRITE_BASE = ("pissa", "olora")
# These look at data, gradients or a full-precision base before training, which no recipe does; peft 0.21
# trains on without it. Can go when peft raises.
NEED_DATA_PASS = ("eva", "corda", "lora_ga", "loftq")
INITIAL_WEIGHTS = "initial_adapter"
"""Attribute under which a model in training keeps the initial weights of a PiSSA or OLoRA adapter."""

FINGERPRINT = "fingerprint_of_its_files"
"""Attribute under which an adapter's base keeps what its files were when it was loaded: they may change later."""

ORIGIN = "started_from"
"""Attribute under which a model in training keeps which saved adapter it goes on with."""

EXACT_TOLERANCE = 1e-5

# Whatever peft raises while it builds an adapter is about the settings: nothing else is new there.
PEFT_ERRORS = (ValueError, TypeError, NotImplementedError, ImportError, AttributeError, LookupError)
# The last part of the name of a linear layer that weighs experts, in transformers' models; `gate_proj` is none.
ROUTERS = ("gate", "router", "shared_expert_gate", "router_proj")

CLASSIFIER_FIELDS = ("id2label", "problem_type", "pad_token_id")


def attach_adapter(model: PreTrainedModel, lora: Mapping[str, Any] | None, saved: str | None = None) -> PeftModel:
    """Attach an adapter with peft's `LoraConfig(**lora)` to a loaded model; only the adapter is trained, in float32.

    With `saved`, the folder or Hub id of an adapter, that one is trained on, with its own settings. The rows of tokens
    that the chat template has added are trained and saved with it, and the new modules of a classifier in full
    (`modules_to_save`), whatever their names. `target_modules` is "all-linear" unless the run names others. Raises
    `ConfigError` for settings that match no module or that peft refuses, and `ModelError` for a base that is stored
    nowhere.
    """
    # No prepare_model_for_kbit_training for a 4- or 8-bit base: it casts embeddings and norms to float32, and the base
    # that is loaded for inference later would differ from the trained one. `model.dtype` decides that here.
    _check_stored(model)
    object.__setattr__(model, FINGERPRINT, _compute_fingerprint(model))
    if saved is not None:
        return _attach_to_continue(model, lora or {}, saved)
    config = _build_lora_config(model, lora or {})
    check_targets(model, config)
    try:
        with suppress_peft_warnings(), torch.random.fork_rng(devices=[]), name_what_matches(model, config):
            torch.manual_seed(torch.initial_seed())  # whatever was drawn before: a resumed run starts alike
            adapted = get_peft_model(model, config)
    except PEFT_ERRORS as problem:
        raise _make_peft_error(problem) from problem
    check_attached(adapted, lora or {})
    saved_whole = _select_modules_to_save(model, lora or {})  # without those that peft adds
    get_lora_config(adapted).modules_to_save = saved_whole
    _check_head_is_trained(adapted)
    _check_trained(adapted)
    check_engine(adapted)
    if _rewrites_base(config):
        initial = {key: value.clone() for key, value in _get_lora_weights(adapted).items()}
        object.__setattr__(adapted, INITIAL_WEIGHTS, initial)
    settle_token_rows(adapted)
    _log_adapter(adapted)
    return adapted


def _attach_to_continue(model: PreTrainedModel, lora: Mapping[str, Any], saved: str) -> PeftModel:
    """Attach the adapter in `saved` to go on with it. Raises as `attach_adapter` does."""
    folder = fetch_adapter(saved)
    if get_added_ids(model):
        what = "adds tokens to the tokenizer, which the adapter in model.adapter has no embeddings for"
        raise ConfigError(
            Problem(what, "merge that adapter, and train a new one on it", key="data.chat_template", code="HF589")
        )
    config = PeftConfig.from_pretrained(str(folder))
    if isinstance(config, LoraConfig) and _rewrites_base(config):
        what = "is a checkpoint of an adapter that rewrites its base"
        raise ModelError(
            Problem(what, "name the folder of the finished run", path=saved, key="model.adapter", code="HF539")
        )
    all_linear = set() if lora.get("target_modules") != ALL_LINEAR else list_linear_modules(model)
    with refuse_changed_files(saved):
        adapted = attach_saved_adapter(model, folder, trains=True)
    targeted: list[str] = adapted.base_model.targeted_module_names  # type: ignore[assignment]
    if left := sorted(all_linear - set(targeted)):
        what = f"{ALL_LINEAR!r} contradicts the adapter, which leaves out {len(left)}, first {left[0]}"
        remedy = "leave it out: an adapter that is trained on keeps its settings"
        raise ConfigError(Problem(what, remedy, key="lora.target_modules", code="HF589"))
    _check_head_is_trained(adapted)
    _check_trained(adapted)
    check_engine(adapted)
    object.__setattr__(adapted, ORIGIN, describe_origin(saved))
    settle_token_rows(adapted)
    _log_adapter(adapted)
    return adapted


def save_adapter(model: PeftModel, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """Complete the files of `PeftModel.save_pretrained`: record the base, and convert PiSSA and OLoRA to plain LoRA."""
    if _rewrites_base(get_lora_config(model)):
        _write_as_plain_lora(model, folder)
    record_base(model, folder, tokenizer)
    base = unwrap_adapter(model)
    if not is_classifier(base) and base.generation_config is not None:
        base.generation_config.save_pretrained(folder)  # with the end of a turn, which its base may not know


def name_saved_weights(model: PeftModel, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the file of `save_adapter` must hold, by its names there, of the trained weights by those of `state_dict`.

    What peft saves under no name keeps that of `state_dict`.
    """
    saved: dict[str, Tensor] = get_peft_model_state_dict(model, dict(whole), save_embedding_layers=False)
    named = {id(tensor) for tensor in saved.values()}
    left = {name: tensor for name, tensor in whole.items() if id(tensor) not in named}
    joined = _join_initial(model, saved) if _rewrites_base(get_lora_config(model)) else {}
    return left | saved | joined


def record_base(model: PeftModel, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """Write beside the saved adapter in `folder` which base it has, so that another one is refused at load.

    With `tokenizer`, which it was trained with, so is another tokenizer.
    """
    probe = None if tokenizer is None else probe_tokenizer(tokenizer)
    write_base_record(folder, replace(build_base_record(model), tokenizer_probe=probe))


@torch.no_grad()
def verify_adapter(
    model: PeftModel, folder: str | Path, tolerance: float = EXACT_TOLERANCE, *, shown: Path | None = None
) -> None:
    """Load the adapter in `folder` over a freshly loaded base and compare its logits with the live model's.

    The base is loaded as the live one was: same quantization, precision and attention. The tolerance is relative to the
    largest logit if that exceeds 1. `shown` is the folder that an adapter which is still aside is for. Raises
    `ModelError` where the logits differ by more.
    """
    base = unwrap_adapter(model)
    with use_class_forward(base):
        trained = compute_probe_logits(model)
    plan = plan_reload(base, tolerance)
    fresh = load_base(build_base_record(model), attention=plan.attention, device=plan.device)
    difference = plan.measure(trained, compute_probe_logits(attach_saved_adapter(fresh, Path(folder))))
    tolerance = plan.tolerance
    if not difference <= tolerance * max(1.0, trained.abs().max().item()):
        raise ModelError(
            Problem(
                f"the saved adapter's logits differ from the trained model's by {difference:.2e}",
                f"at most {tolerance:.0e} was expected; adapter and base in the folder are not what was trained",
                path=str(shown or folder),
                code="HF514",
            )
        )
    logger.info("adapter saved to %s, loaded again: largest logit difference %.1e", shown or folder, difference)


def _compute_fingerprint(base: PreTrainedModel) -> str | None:
    return compute_fingerprint(base.config._name_or_path, getattr(base.config, "_commit_hash", None))


def build_base_record(model: PeftModel) -> BaseRecord:
    """Describe the base under a live adapter and how it was loaded."""
    base = unwrap_adapter(model)
    name, revision = base.config._name_or_path, getattr(base.config, "_commit_hash", None)  # only a Hub model has one
    stored: Any = base.config
    quantizer: Any = getattr(base, "hf_quantizer", None)  # as with is_quantized
    asked_for = is_quantized(base) and not quantizer.pre_quantized
    return BaseRecord(
        name_or_path=name,
        revision=revision,
        fingerprint=vars(base)[FINGERPRINT] if FINGERPRINT in vars(base) else _compute_fingerprint(base),
        dtype=str(base.config.dtype).removeprefix("torch."),
        quantization=stored.quantization_config.to_dict() if asked_for else None,
        classifier={name: getattr(stored, name) for name in CLASSIFIER_FIELDS} if is_classifier(base) else None,
        vocab_size=stored.get_text_config().vocab_size if has_grown(base) else None,
        started_from=getattr(model, ORIGIN, None),
    )


def get_lora_config(model: PeftModel) -> LoraConfig:
    """Return the settings of a model's one adapter."""
    config: LoraConfig = model.peft_config["default"]  # type: ignore[assignment]
    return config


def _check_stored(model: PreTrainedModel) -> None:
    if not model.config._name_or_path:
        what = "an adapter needs a base that is stored: nothing could load these random weights again"
        raise ModelError(Problem(what, "train and save the model first, then name it", key="model.path", code="HF535"))


def _build_lora_config(model: PreTrainedModel, lora: Mapping[str, Any]) -> LoraConfig:
    settings = {**lora, "task_type": "SEQ_CLS" if is_classifier(model) else "CAUSAL_LM"}
    settings["modules_to_save"] = _select_modules_to_save(model, lora)
    settings["trainable_token_indices"] = select_token_rows(model, lora)
    method = str(lora.get("init_lora_weights")).lower()
    if method in NEED_DATA_PASS:
        what = f"{method} needs a pass over data or weights before training, which this recipe does not make"
        raise ConfigError(
            Problem(what, "use true, gaussian, orthogonal, pissa or olora", key="lora.init_lora_weights", code="HF584")
        )
    if settings.get("target_modules") is None and not settings.get("target_parameters"):
        settings["target_modules"] = ALL_LINEAR
    if settings.get("target_modules") == ALL_LINEAR and not isinstance(settings.get("exclude_modules"), str):
        excluded = {*(settings.get("exclude_modules") or ()), *_take_suffixes(list_unadaptable(model))}
        settings["exclude_modules"] = sorted(excluded) or None
    if has_tied_targets(model, settings):
        settings.setdefault("ensure_weight_tying", True)
    elif settings.get("ensure_weight_tying"):
        what = "lora names neither an embedding nor a head, or the two of this model share no weight"
        raise ConfigError(Problem(what, "leave it out", key="lora.ensure_weight_tying", code="HF582"))
    try:
        config = LoraConfig(**settings)
    except PEFT_ERRORS as problem:
        raise _make_peft_error(problem) from problem
    _check_quantized_base(model, config)
    if _rewrites_base(config) and (is_quantized(model) or model.config.dtype != torch.float32):
        what = f"{method} rewrites the base's weights, and quantized or 16-bit weights would be rounded a second time"
        remedy = "set model.dtype: float32 without 4 or 8 bits, or lora.init_lora_weights: true"
        raise ConfigError(Problem(what, remedy, key="lora.init_lora_weights", code="HF583"))
    return config


def _check_quantized_base(model: PreTrainedModel, config: LoraConfig) -> None:
    """Raise `ConfigError` for what peft 0.21 and bitsandbytes 0.50 cannot compute with a quantized base."""
    if config.init_lora_weights == "orthogonal" and is_quantized(model):
        what, remedy = "orthogonal is not drawn for quantized weights", "leave it out, or choose gaussian"
        raise ConfigError(Problem(what, remedy, key="lora.init_lora_weights", code="HF583"))
    in_8_bits = is_quantized(model) and getattr(model, "is_loaded_in_8bit", False)
    if config.use_dora and in_8_bits and model.device.type == "cpu":
        what = "DoRA needs the scales of 8-bit weights, which bitsandbytes does not keep on a CPU"
        raise ConfigError(Problem(what, "load the base in 4 bits, or in 16", key="lora.use_dora", code="HF583"))


def _take_suffixes(modules: Iterable[str]) -> set[str]:
    """The last two names of each module: `model.layers.0.mamba.out_proj` is one of `mamba.out_proj`."""
    return {".".join(name.split(".")[-2:]) for name in modules}


def _select_modules_to_save(model: PreTrainedModel, lora: Mapping[str, Any]) -> list[str] | None:
    """Names for `modules_to_save`: the run's own, and a classifier's new modules."""
    # peft 0.21 adds modules called `classifier` and `score` by itself, and misses heads of any other name.
    named = lora.get("modules_to_save")
    if not is_classifier(model):
        return named
    return list(dict.fromkeys([*find_head_modules(model), *([named] if isinstance(named, str) else named or ())]))


def _make_peft_error(problem: Exception) -> ConfigError:
    reason = " ".join(str(problem).split())
    return ConfigError(
        Problem(f"peft refuses these settings ({reason})", "see peft's LoraConfig", key="lora", code="HF584")
    )


def _rewrites_base(config: LoraConfig) -> bool:
    return str(config.init_lora_weights).lower().startswith(REWRITE_BASE)


def _check_head_is_trained(model: PeftModel) -> None:
    # TRL 1.16's loss multiplies by the head's own weight and skips an adapter on it; can go when it calls the module:
    # https://github.com/huggingface/trl/blob/v1.16.0/trl/trainer/sft_trainer.py
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        what = "an adapter on the output head, or on an embedding that shares its weight, would never be trained"
        remedy = "the loss reads the head's own weight: name the module in lora.modules_to_save instead"
        raise ConfigError(Problem(what, remedy, key="lora.target_modules", code="HF585"))


def _check_trained(model: PeftModel) -> None:
    """Raise `ModelError` where nothing is trained, or trained weights are not float32."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ModelError(
            Problem("the adapter has 0 parameters to train", "name target modules", key="lora", code="HF585")
        )
    rounded = [name for name, parameter in trained.items() if parameter.dtype != torch.float32]
    if rounded:
        what = f"{len(rounded)} trained weights would be {trained[rounded[0]].dtype}, first {rounded[0]}"
        remedy = "set model.dtype: float32 (train.bf16 still computes in bfloat16), or train LoRA's weights only"
        raise ModelError(Problem(what, remedy, key="model.dtype", code="HF583"))


def _log_adapter(model: PeftModel) -> None:
    counts = count_parameters(model)  # type: ignore[arg-type]  # a PeftModel forwards all that is read
    config = get_lora_config(model)
    targeted: list[str] = model.base_model.targeted_module_names  # type: ignore[assignment]
    names = [name.rpartition(".")[2] for name in targeted]
    parts = [f"{name} ({names.count(name)})" for name in dict.fromkeys(names)]
    parts += [f"all of {name}" for name in sorted(config.modules_to_save or ())]
    parts += [f"the embeddings of {tokens} tokens"] if (tokens := count_token_rows(model)) else []
    where = ", ".join(parts)
    _warn_of_routers(config, targeted)
    share = format_share(counts.trainable / counts.total)
    logger.info("adapter: %s of %s parameters trained, r=%d on %s", share, f"{counts.total:,}", config.r, where)


def _warn_of_routers(config: LoraConfig, targeted: Sequence[str]) -> None:
    """Name the routers of a mixture of experts among the modules that get LoRA, where nobody has named them."""
    routers = [name for name in targeted if name.rpartition(".")[2] in ROUTERS]
    if not routers or any(each in ROUTERS for each in config.target_modules or ()):
        return
    kinds = sorted({name.rpartition(".")[2] for name in routers})
    logger.warning(
        "adapter: %s includes %d routers, which choose the experts (first %s): training them may unbalance these; "
        "lora.exclude_modules: [%s] leaves them as they are",
        *(ALL_LINEAR, len(routers), routers[0], ", ".join(kinds)),
        extra={"code": "HF587"},
    )


def _get_lora_weights(model: PeftModel) -> dict[str, Tensor]:
    """The weights lora_A, (rank, in) each, and lora_B, (out, rank) each, by the names under which peft saves them."""
    weights: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {key: value for key, value in weights.items() if "lora_A" in key or "lora_B" in key}


def _join_initial(model: PeftModel, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a PiSSA or OLoRA adapter beside its initial ones, by the names under which peft saves them.

    A lora_A grows from (rank, in) to (2 rank, in), a lora_B from (out, rank) to (out, 2 rank).
    """
    # With initial weights A0, B0 the model computes W - s B0 A0 + s B A = W + s [B | -B0] [A ; A0].
    initial: dict[str, Tensor] = getattr(model, INITIAL_WEIGHTS)
    joined = {}
    for key, first in initial.items():
        sign, dim = (1, 0) if "lora_A" in key else (-1, 1)
        joined[key] = torch.cat([trained[key], sign * first.to(trained[key])], dim=dim).contiguous()
    return joined


def _write_as_plain_lora(model: PeftModel, folder: Path) -> None:
    """Convert the PiSSA or OLoRA adapter in `folder` to one of twice the rank on the original base."""
    # peft 0.21's own conversion (path_initial_model_for_weight_conversion) drops modules_to_save and DoRA's magnitudes.
    weights = load_file(folder / ADAPTER_WEIGHTS)
    weights |= _join_initial(model, weights)
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = get_lora_config(model)
    growth = 2**0.5 if config.use_rslora else 2  # keeps the scale s: alpha / sqrt(r), or alpha / r
    changes = {
        "init_lora_weights": True,
        "r": 2 * config.r,
        "lora_alpha": growth * config.lora_alpha,
        "rank_pattern": {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()},
        "alpha_pattern": {name: growth * alpha for name, alpha in (config.alpha_pattern or {}).items()},
    }
    edit_adapter_config(folder, changes)
