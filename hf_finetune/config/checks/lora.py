"""Settings of LoraConfig that conflict or have no effect, which peft checks too late or not at all."""

from __future__ import annotations

import re
from typing import Any

from hf_finetune.config.bounds import LARGEST_FACTOR, LARGEST_RANK
from hf_finetune.config.model_files.patterns import find_wrong_patterns
from hf_finetune.config.reading.document import RunDocument, format_value
from hf_finetune.errors import suggest

# Values of init_lora_weights that need nothing but the base model, and those that need batches of data besides.
_INITS = ("gaussian", "olora", "orthogonal", "pissa")
_PISSA_STEPS = re.compile(r"pissa_niter_[1-9][0-9]{0,3}")
NEED_DATA = ("corda", "eva", "loftq", "lora_ga")
_NAMING = (
    "target_modules",
    "target_parameters",
    "modules_to_save",
    "exclude_modules",
    "trainable_token_indices",
    "layers_to_transform",
)
# Settings of peft (0.21) for initializations that the recipes do not make, and for what is not trained here.
OF_INITIALIZATION = ("corda_config", "eva_config", "loftq_config", "lora_ga_config")
NOT_OFFERED = {
    "alora_invocation_tokens": "an adapter that is switched on by tokens can neither be checked nor merged",
    "arrow_config": "routes between adapters that are there, and trains none",
    "kasa_config": "takes a part out of the base for good",
    "layer_replication": "repeats layers of the base, which transformers 5 does not train",
    "megatron_config": "is for models of Megatron",
    "megatron_core": "is for models of Megatron",
    "monteclora_config": "adds a loss of its own, which this recipe does not compute",
    "qalora_group_size": "is for bases of GPTQ, which are not loaded here",
    "runtime_config": "is for programs, not for files",
    "use_bdlora": "is for servers that split an adapter",
    "use_qalora": "is for bases of GPTQ, which are not loaded here",
    "velora_config": "changes the gradients of the adapter",
}


def check_lora(document: RunDocument, run: Any) -> None:
    """Check LoraConfig's own rules, and the initializations of an adapter that the recipe does not support."""
    if run.lora is None:
        return
    lora = run.lora
    for name in _NAMING:
        if getattr(lora, name) in ([], "", {}):
            document.refuse(("lora", name), "names nothing", "leave it out, or name what the model has", code="HF650")
    for key, what, remedy in find_wrong_patterns(lora.model_dump()):
        document.refuse(("lora", key), what, remedy, code="HF588")
    _check_offered(document, lora)
    _check_rank_patterns(document, lora)
    _check_layers(document, lora)
    _check_init_lora_weights(document, lora.init_lora_weights, run.model)
    if lora.lora_bias and lora.use_dora:
        document.refuse(("lora", "lora_bias"), "is given together with lora.use_dora", "keep one", code="HF606")


def _check_offered(document: RunDocument, lora: Any) -> None:
    defaults = type(lora).model_fields
    for name, why in NOT_OFFERED.items():
        if getattr(lora, name) != defaults[name].default:
            document.refuse(("lora", name), why, "leave it out", code="HF652")
    for name in OF_INITIALIZATION:
        if getattr(lora, name) != defaults[name].default:
            what = f"belongs to lora.init_lora_weights: {name.removesuffix('_config')}, which this recipe does not do"
            document.refuse(("lora", name), what, "leave it out", code="HF652")
    if lora.init_lora_weights == "orthogonal" and lora.r % 2:
        what = f"the initialization orthogonal needs an even rank, not {lora.r}"
        document.refuse(("lora", "r"), what, f"write {lora.r + 1}", code="HF606")


def _check_rank_patterns(document: RunDocument, lora: Any) -> None:
    for key, most in (("rank_pattern", LARGEST_RANK), ("alpha_pattern", int(LARGEST_FACTOR))):
        for pattern, value in (getattr(lora, key) or {}).items():
            if type(value) is not int or not 1 <= value <= most:
                what = f"{format_value(value)} for {format_value(pattern)} is no whole number from 1 to {most:,}"
                document.refuse(("lora", key), what, "write a pattern of module names, and its number", code="HF603")


def _check_layers(document: RunDocument, lora: Any) -> None:
    # LoraConfig raises for these too, but the recipe creates it only once the base model is loaded.
    if lora.layers_pattern is not None and lora.layers_to_transform is None:
        what = "has no effect without lora.layers_to_transform"
        document.refuse(("lora", "layers_pattern"), what, "add layers_to_transform, or leave it out", code="HF607")
    elif lora.layers_to_transform is not None and not isinstance(lora.target_modules, list):
        what = "needs lora.target_modules as a list of module names"
        document.refuse(
            ("lora", "layers_to_transform"), what, "write lora.target_modules: [q_proj, v_proj]", code="HF609"
        )


def _check_init_lora_weights(document: RunDocument, start: bool | str, model: Any) -> None:
    key = ("lora", "init_lora_weights")
    if isinstance(start, bool):
        return
    if start in NEED_DATA:
        what = f"{start} measures the model on data before training, which this recipe does not do"
        document.refuse(key, what, "leave it out, or choose pissa", code="HF652")
    elif start not in _INITS and not _PISSA_STEPS.fullmatch(start):
        remedy = suggest(start, _INITS, f"choose true, {', '.join(_INITS)} or pissa_niter_16")
        document.refuse(key, f"{format_value(start)} is no initialization of an adapter", remedy, code="HF604")
    elif start.startswith("pissa") and (model.load_in_4bit or model.load_in_8bit):
        what = f"{start} needs the base's weights as they are, and these are quantized"
        document.refuse(key, what, "leave it out, or load the base in 16 bit", code="HF606")
