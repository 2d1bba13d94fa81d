"""Names and files -> a causal language model that fits its tokenizer, and proof that what is saved is what trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_finetune.config.sections import DataSection, ModelSection
from hf_finetune.errors import ConfigError, ModelError, NonFiniteError, Problem
from hf_finetune.models.adapter_files import base_of, is_adapter
from hf_finetune.models.foreign import check_folder, folder_of
from hf_finetune.models.heads import auto_class_of
from hf_finetune.models.parameters import count_parameters
from hf_finetune.models.presets import scratch_config
from hf_finetune.models.stored import refuse_pickles, weight_files
from hf_finetune.models.tokenizers import check_fits, effective_max_length, load_tokenizer
from hf_finetune.shell import shell_path

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

DEFAULT_BLOCK_SIZE = 1_024
# On a CPU under bf16, PyTorch's flash kernel spends more than it saves on blocks up to this length: a third of a step
# at 64 tokens, a fifth at 256. In float32 it draws even at 64 and wins from 256 on.
LONGEST_EAGER_BLOCK = 256


def load_config(model: ModelSection, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """Read the configuration of `model.path`, or make that of `model.scratch`; no weights are touched.

    Raises `ModelError` where it cannot be had, or does not fit the tokenizer.
    """
    if model.scratch is not None:
        made: PreTrainedConfig = scratch_config(
            model.scratch,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        return made
    config: PreTrainedConfig = load_or_refuse(AutoConfig, model)
    check_fits(tokenizer, config)
    return config


def block_size(data: DataSection, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens per block: `data.block_size`, or what model and tokenizer take, 1,024 at most."""
    longest = effective_max_length(tokenizer, config)
    if data.block_size is None:
        return DEFAULT_BLOCK_SIZE if longest is None else min(longest, DEFAULT_BLOCK_SIZE)
    if longest is not None and data.block_size > longest:
        raise ConfigError(
            Problem(
                f"{data.block_size:,} tokens are longer than the {longest:,} that the model takes",
                "set a smaller data.block_size (or, for model.scratch, a larger max_position_embeddings)",
                key="data.block_size",
            )
        )
    return data.block_size


def load_causal_lm(model: ModelSection, config: PreTrainedConfig, block: int, *, bf16: bool) -> PreTrainedModel:
    """Load the weights of `model.path`, or draw those of `model.scratch`; the caller has set the seed.

    Linear layers but the head are held in 4 or 8 bits where the run asks for it, on CPU and CUDA alike.
    """
    options: dict[str, Any] = {
        "dtype": getattr(torch, model.dtype),
        "attn_implementation": attention_for(model, block, bf16=bf16),
    }
    quantization = quantization_for(model, bf16=bf16)
    if quantization is not None:
        options |= {"quantization_config": quantization, "device_map": {"": PartialState().device}}
    if model.scratch is not None:
        loaded: PreTrainedModel = AutoModelForCausalLM.from_config(config, **options)
    else:
        loaded = load_or_refuse(AutoModelForCausalLM, model, config=config, **options)
    keep_quantized_weights(loaded)
    log_parameters(loaded)
    return loaded


def log_parameters(model: PreTrainedModel) -> None:
    counts = count_parameters(model).as_dict()
    total, _ = counts.pop("total"), counts.pop("trainable")
    parts = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in counts.items() if count)
    logger.info("%s parameters: %s", f"{total:,}", parts)


def keep_quantized_weights(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from rewriting 4-bit weights on a CPU with AVX512-BF16 in the first forward of an evaluation.

    Its packing for that kernel rounds the scales to bfloat16, lets no gradient through once training goes on, is read
    as garbage by `dequantize`, and fails on sizes that are no multiples of 32 and 64: bitsandbytes 0.50,
    https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1804.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.__dict__["support_avx512bf16_for_cpu"] = False


def quantization_for(model: ModelSection, *, bf16: bool) -> BitsAndBytesConfig | None:
    """NF4 with double quantisation (QLoRA, https://arxiv.org/abs/2305.14314), LLM.int8(), or neither.

    Raises `ConfigError` for random weights: a base that is nowhere stored cannot be rounded the same way again.
    """
    if not (model.load_in_4bit or model.load_in_8bit):
        return None
    if model.scratch is not None:
        key = "model.load_in_4bit" if model.load_in_4bit else "model.load_in_8bit"
        raise ConfigError(Problem("random weights are not held in 4 or 8 bits", "name a model.path", key=key))
    if model.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
    )


def load_for_generation(
    path: str, *, base: str | None = None, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a folder or Hub id to talk to: model in evaluation mode, and its tokenizer. Raises `ModelError`.

    An adapter comes over its base (a `PeftModel`), loaded as it was trained on; `base` says where that is now.
    `revision` is of a whole model of the Hub.
    """
    if is_adapter(path):
        from hf_finetune.models.adapter_loading import load_adapter  # peft is not needed to talk to a whole model

        adapted: Any
        adapted, tokenizer = load_adapter(path, base)  # a PeftModel does all that its base does
        return adapted, tokenizer
    refuse_base(path, base)
    model = ModelSection(path=path, revision=revision)
    tokenizer = load_tokenizer(model)
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    config = load_or_refuse(AutoConfig, model)
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        remedy = "it can be asked with hf-finetune predict"
        raise ModelError(Problem("is a text classifier, not a language model", remedy, path=path))
    loaded: PreTrainedModel = load_or_refuse(AutoModelForCausalLM, model, config=config, device_map=device)
    check_fits(tokenizer, loaded.config)
    return loaded.eval(), tokenizer


def refuse_base(path: str, base: str | None) -> None:
    if base is not None:
        raise ModelError(Problem("is a whole model, which takes no base", "leave --base-path out", path=path))


def attention_for(model: ModelSection, block: int, *, bf16: bool) -> str:
    """The attention that runs: the one asked for, else the faster one for this device, block and precision."""
    if model.attn_implementation != "auto":
        return model.attn_implementation
    on_cpu = not torch.accelerator.is_available()
    return "eager" if on_cpu and bf16 and block <= LONGEST_EAGER_BLOCK else "sdpa"


def verify_saved(model: PreTrainedModel, folder: str | Path, tolerance: float = 1e-5) -> None:
    """Load `folder` again and compare its logits with the live model's; raises `ModelError` where they differ."""
    trained = probe(model)
    attention = model.config._attn_implementation
    reloaded = auto_class_of(model).from_pretrained(
        folder, dtype=model.dtype, attn_implementation=attention, device_map=model.device
    )
    difference = (trained - probe(reloaded)).abs().max().item()
    if not difference <= tolerance:
        raise ModelError(
            Problem(
                f"the saved model's logits differ from the trained model's by {difference:.2e}",
                f"at most {tolerance:.0e} was expected; the weights in the folder are not those that were trained",
                path=str(folder),
            )
        )
    logger.info("saved to %s, loaded again: largest logit difference %.1e", folder, difference)


@torch.no_grad()
def probe(model: PreTrainedModel | PeftModel) -> Tensor:
    """Logits of a model, in evaluation mode from here on, for the same two rows of random tokens each time.

    Computed by the class's own forward: Accelerate has put one that rounds to the run's mixed precision on a trained
    instance, and TRL one without logits. Raises `NonFiniteError` where they are no finite numbers.
    """
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(model.config.vocab_size, (2, 16), generator=generator).to(model.device)
    with own_forward(model):
        logits: Tensor = model.eval()(input_ids).logits
    if not logits.isfinite().all():
        remedy = "lower train.learning_rate tenfold, and keep train.max_grad_norm at 1.0"
        raise NonFiniteError(Problem("the trained model gives no finite numbers", remedy))
    return logits


@contextmanager
def own_forward(*modules: torch.nn.Module) -> Iterator[None]:
    """Set aside what others have put in place of `forward` on these instances."""
    patched = [(own, own.pop("forward")) for own in (module.__dict__ for module in modules) if "forward" in own]
    try:
        yield
    finally:
        for own, forward in patched:
            own["forward"] = forward


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from telling in a table what we tell in a line."""
    theirs = logging.getLogger("transformers.modeling_utils")
    theirs.addFilter(_is_no_load_report)  # a higher level would make it check a plan that no model of ours has
    try:
        yield
    finally:
        theirs.removeFilter(_is_no_load_report)


def _is_no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def load_or_refuse(auto_class: Any, model: ModelSection, **options: object) -> Any:
    """`auto_class.from_pretrained` of `model.path`; raises `ModelError` where it fails, and for an adapter."""
    assert model.path is not None
    if is_adapter(model.path):  # transformers would load its base and put the adapter into it, unasked
        what = f"{model.path!r} is an adapter, not a model (its base is {base_of(model.path)!r})"
        remedy = f"merge it first: hf-finetune merge {shell_path(model.path)} MERGED"
        raise ModelError(Problem(what, remedy, key="model.path"))
    try:
        return from_stored(auto_class, model.path, model.revision, **options)
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise ModelError(
            Problem(
                f"{model.path!r} cannot be loaded ({reason})",
                "give a folder with config.json and model.safetensors, or a Hub id that this machine can reach",
                key="model.path",
            )
        ) from problem


def from_stored(auto_class: Any, name: str, revision: str | None, **options: object) -> Any:
    """`auto_class.from_pretrained` of a folder or Hub id: safetensors alone are read, and code of its own never run.

    All files are of one commit. Raises `ModelError` for what others may not bring with a model, or is damaged, and
    what transformers raises.
    """
    commit = check_folder(name, revision)
    if auto_class is not AutoConfig:
        if folder_of(name, commit) is not None and not weight_files(name, commit):
            refuse_pickles(name, commit)
        options["use_safetensors"] = True
    # Left to itself transformers asks on the terminal whether code of a repository may run.
    loaded = auto_class.from_pretrained(name, revision=commit or revision or "main", trust_remote_code=False, **options)
    if auto_class is AutoConfig and commit is not None:
        loaded._commit_hash = commit  # transformers 5.23 does not say it any more; it is not saved
    return loaded
