"""What was saved is what was trained: reload it, and compare the logits."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
)

from hf_finetune.errors import ModelError, NonFiniteError, Problem
from hf_finetune.models.classification_head import get_auto_class

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)


def verify_saved(
    model: PreTrainedModel, folder: str | Path, tolerance: float = 1e-5, *, name: str | None = None
) -> None:
    """Reload the model in `folder` and compare its logits with the live ones. Raises `ModelError` where they differ.

    `name`: what to call the model where its folder is still written aside.
    """
    trained = compute_probe_logits(model)
    attention = model.config._attn_implementation
    reloaded = get_auto_class(model).from_pretrained(
        folder, dtype=model.dtype, attn_implementation=attention, device_map=model.device
    )
    difference = (trained - compute_probe_logits(reloaded)).abs().max().item()
    if not difference <= tolerance:
        raise ModelError(
            Problem(
                f"the saved model's logits differ from the trained model's by {difference:.2e}",
                f"at most {tolerance:.0e} was expected; the weights in the folder are not those that were trained",
                path=name or str(folder),
            )
        )
    where = f"{name} is converted" if name else f"saved to {folder}"
    logger.info("%s, loaded again: largest logit difference %.1e", where, difference)


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
    with use_class_forward(model):
        logits: Tensor = model.eval()(input_ids).logits
    if not logits.isfinite().all():
        remedy = "lower train.learning_rate tenfold, and keep train.max_grad_norm at 1.0"
        raise NonFiniteError(Problem("the trained model gives no finite numbers", remedy))
    return logits


@contextmanager
def use_class_forward(*modules: torch.nn.Module) -> Iterator[None]:
    """Undo, inside the `with`, what other libraries have patched in place of `forward` on these instances."""
    patched = [(own, own.pop("forward")) for own in (module.__dict__ for module in modules) if "forward" in own]
    try:
        yield
    finally:
        for own, forward in patched:
            own["forward"] = forward
