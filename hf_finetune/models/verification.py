"""What was saved is what was trained: reload it, and compare the logits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
)

from hf_finetune.errors import ModelError, NonFiniteError, Problem
from hf_finetune.models.classification_head import find_classification_head, get_auto_class, is_classifier

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

SAVE_DTYPE = "dtype_of_its_files"
"""Attribute under which a model in training keeps in which precision its weights are to be saved."""


def keep_save_dtype(model: PreTrainedModel, asked: str | None, stored: str | torch.dtype | None) -> None:
    """Remember the precision to save in: `asked` of the run, else that `stored` in the base's files.

    Weights that are held in 16 bits are saved as they are unless the run asks for another precision.
    """
    chosen = asked or (stored if model.dtype == torch.float32 else None) or model.dtype
    object.__setattr__(model, SAVE_DTYPE, getattr(torch, chosen) if isinstance(chosen, str) else chosen)


def find_save_dtype(model: PreTrainedModel) -> torch.dtype:
    """Find the precision in which a model's weights are to be saved: its own where nothing was remembered."""
    dtype: torch.dtype = vars(model).get(SAVE_DTYPE, model.dtype)
    return dtype


ROOM = 1.1
"""Times its weights that a model needs on a device."""
# Other kernels sum in another order.
OTHER_DEVICE = 1e-3
OTHER_DEVICE_IN_LOW_PRECISION = 0.1


def verify_saved(
    model: PreTrainedModel,
    folder: str | Path,
    tolerance: float = 1e-5,
    *,
    name: str | None = None,
    shown: Path | None = None,
) -> None:
    """Reload the model in `folder` and compare its logits with the live ones. Raises `ModelError` where they differ.

    Where it is still written aside, `shown` is the folder that it is for, or `name` what the model is called.
    """
    trained = compute_probe_logits(model)
    plan = plan_reload(model, tolerance)
    reloaded = get_auto_class(model).from_pretrained(
        folder, dtype=model.dtype, attn_implementation=plan.attention, device_map=plan.device
    )
    difference, tolerance = plan.measure(trained, compute_probe_logits(reloaded)), plan.tolerance
    if not difference <= tolerance:
        raise ModelError(
            Problem(
                f"the saved model's logits differ from the trained model's by {difference:.2e}",
                f"at most {tolerance:.0e} was expected; the weights in the folder are not those that were trained",
                path=name or str(shown or folder),
                code="HF514",
            )
        )
    where = f"{name} is converted" if name else f"saved to {shown or folder}"
    logger.info("%s, loaded again: largest logit difference %.1e", where, difference)


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """Where a saved model is loaded to be compared with the live one, and how closely the logits have to agree."""

    device: torch.device
    attention: str | None
    tolerance: float

    def measure(self, trained: Tensor, reloaded: Tensor) -> float:
        """The largest difference of two tensors of logits, wherever they are."""
        return (trained.to(reloaded.device) - reloaded).abs().max().item()


def plan_reload(model: PreTrainedModel, tolerance: float, free_bytes: int | None = None) -> ReloadPlan:
    """Load it beside the live model if that device has room for a second one, else on the CPU, which rounds otherwise.

    `free_bytes`: room on the device; by default what CUDA says.
    """
    attention = model.config._attn_implementation
    if free_bytes is None and model.device.type == "cuda":
        torch.cuda.empty_cache()
        free_bytes = torch.cuda.mem_get_info(model.device)[0]
    if free_bytes is None or free_bytes > ROOM * model.get_memory_footprint():
        return ReloadPlan(model.device, attention, tolerance)
    rounded = model.dtype != torch.float32 or uses_flash(model)
    other = OTHER_DEVICE_IN_LOW_PRECISION if rounded else OTHER_DEVICE
    logger.info("what was saved is compared on the CPU: %s has no room for a second model", model.device)
    return ReloadPlan(torch.device("cpu"), "sdpa" if uses_flash(model) else attention, max(tolerance, other))


@torch.no_grad()
def compute_probe_logits(model: PreTrainedModel | PeftModel) -> Tensor:
    """Compute a model's logits, (2, 16, vocab) or (2, labels), for two fixed rows of random tokens.

    The model stays in evaluation mode. Raises `NonFiniteError` where a logit is NaN or infinite.
    """
    # Accelerate 1.15 patches `forward` of a trained instance to round to the run's mixed precision, and TRL 1.16 to
    # return no logits: `use_class_forward` calls the method of the class.
    generator, config = torch.Generator().manual_seed(0), model.config.get_text_config()
    input_ids = torch.randint(config.vocab_size, (2, 16), generator=generator)
    if model.config.is_encoder_decoder:  # its classifier reads the states at the one end token of a text
        input_ids[input_ids == config.eos_token_id] = config.pad_token_id
        input_ids[:, -1] = config.eos_token_id
    input_ids = input_ids.to(model.device)
    with use_class_forward(model), round_for_flash(model):
        logits: Tensor = model.eval()(input_ids).logits.float()
    if not logits.isfinite().all():
        remedy = "lower train.learning_rate tenfold, and keep train.max_grad_norm at 1.0"
        raise NonFiniteError(Problem("the trained model gives no finite numbers", remedy, code="HF513"))
    return logits


def refuse_non_finite(model: PreTrainedModel | PeftModel, name: str) -> None:
    """Raise `NonFiniteError` in the first forward pass of the model loaded from `name` if a weight is no number.

    That costs a look at the logits, once; the weights are read only where those are not finite. A row that overflows
    by itself is left to those who know which one it is.
    """
    inner: Any = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    head = find_classification_head(model) if is_classifier(inner) else inner.get_output_embeddings()
    if head is None:
        return

    def look(_: torch.nn.Module, __: Any, logits: Tensor) -> None:
        # Minus infinity is what a model may say of a token that never comes.
        if not (logits.isnan() | (logits == torch.inf)).any():
            handle.remove()
            if logits.numel() > 1 and logits.amin() == logits.amax():
                _refuse_overflowing(inner, name)
            return
        wrong = next((key for key, weight in inner.named_parameters() if not weight.isfinite().all()), None)
        if wrong is not None:
            what = f"has numbers in {wrong} that are not finite, so that nothing it says means anything"
            raise NonFiniteError(Problem(what, _WHOLE_COPY, path=name, code="HF513"))

    handle = head.register_forward_hook(look)


def _refuse_overflowing(model: PreTrainedModel, name: str) -> None:
    """Raise `NonFiniteError` for weights so large that a norm makes nothing of them: it divides by an infinite square.

    Of a model whose answer is one number for everything, which need not be such a one.
    """
    wrong = next(
        (key for key, weight in model.named_parameters() if weight.numel() and weight.abs().amax() > LARGEST_SQUARED),
        None,
    )
    if wrong is not None:
        what = f"has numbers in {wrong} of which the squares are not finite, so that all it says is alike"
        raise NonFiniteError(Problem(what, _WHOLE_COPY, path=name, code="HF513"))


LARGEST_SQUARED = 1e18
_WHOLE_COPY = "copy the model's folder again, or name another model"


def uses_flash(model: PreTrainedModel | PeftModel) -> bool:
    """Whether a model attends through a flash kernel."""
    return "flash" in (model.config._attn_implementation or "")


def round_for_flash(model: PreTrainedModel | PeftModel) -> AbstractContextManager[object]:
    """Compute in bfloat16 inside the `with` where weights are float32 and the attention takes none.

    That is so in mixed-precision training, wherever the forward of the class runs and not the Trainer's.
    """
    if not uses_flash(model) or model.dtype != torch.float32:
        return nullcontext()
    return torch.autocast(model.device.type, torch.bfloat16)


@contextmanager
def use_class_forward(*modules: torch.nn.Module) -> Iterator[None]:
    """Undo, inside the `with`, what other libraries have patched in place of `forward` on these instances."""
    patched = [(own, own.pop("forward")) for own in (module.__dict__ for module in modules) if "forward" in own]
    try:
        yield
    finally:
        for own, forward in patched:
            own["forward"] = forward
