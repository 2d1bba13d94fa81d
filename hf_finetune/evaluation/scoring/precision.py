"""In which precision the run of a saved model has evaluated: `score` computes in the same, for one figure of both.

In 16 bits the third or fourth digit follows from the kernel too: with the attention of the run, its figures come out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from hf_finetune.config.model_files.regular import read_object
from hf_finetune.folders import REPORT
from hf_finetune.models.files.locate import find_file, read_run_file

logger = logging.getLogger(__name__)

KERNELS = ("eager", "sdpa")
"""Of attention, that every machine has."""


@dataclass(frozen=True, slots=True)
class Precision:
    """How a model computes."""

    autocast: torch.dtype | None = None
    """16 bits, where that is safe; None for the precision of the weights alone."""
    attention: str | None = None
    """Its implementation; None for that with which the model is loaded."""

    def of_forward(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """The context of a forward pass."""
        # Around each: autocast would hold the weights in 16 bits beside the others until it ends.
        return torch.autocast(model.device.type, self.autocast, enabled=self.autocast is not None)

    @contextmanager
    def of_model(self, model: PreTrainedModel) -> Iterator[None]:
        """Compute with its attention inside the `with`, and with the model's own behind it."""
        own = model.config._attn_implementation
        if self.attention is None or self.attention == own:
            yield
            return
        model.set_attn_implementation(self.attention)
        try:
            yield
        finally:
            model.set_attn_implementation(own)


def find_precision(path: str) -> Precision:
    """Find how the run of the model in `path` has evaluated, and log it where that was under autocast.

    float16 takes an accelerator, as in training. Raises `ConfigError` where the run.yaml is torn.
    """
    train = read_run_file(path).get("train")
    given = train if isinstance(train, dict) else {}
    if given.get("bf16") is True:
        logger.info("computed under autocast in bfloat16, as its run has evaluated it (train.bf16)")
        return Precision(torch.bfloat16, _find_attention(path))
    if given.get("fp16") is not True:
        return Precision()
    if torch.accelerator.current_accelerator() is None:
        logger.warning(
            "computed without float16, in which its run has evaluated it (train.fp16): a GPU can do that",
            extra={"code": "HF328"},
        )
        return Precision()
    logger.info("computed under autocast in float16, as its run has evaluated it (train.fp16)")
    return Precision(torch.float16, _find_attention(path))


def _find_attention(path: str) -> str | None:
    report = find_file(path, REPORT)
    train = ((read_object(Path(report)) if report is not None else None) or {}).get("train")
    named = train.get("attention") if isinstance(train, dict) else None
    return named if named in KERNELS else None
